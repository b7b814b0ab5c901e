# SPDX-License-Identifier: Apache-2.0
"""Small backbones of two blocks under the reference's names, and .safetensors written by hand: weights of others for the shell tests."""
import json
import struct

import numpy as np


def backbone(seed=0, width=96, patch=8, grid=2, registers=0, layerscale=False):
    """name -> float32 array. No tensor tells the number of heads."""
    r = np.random.default_rng(seed)
    n = lambda *shape: (0.3 * r.normal(size=shape)).astype("f4")
    t = {"cls_token": n(1, 1, width), "pos_embed": n(1, 1 + grid * grid, width), "patch_embed.proj.weight": n(width, 3, patch, patch),
         "patch_embed.proj.bias": n(width), "norm.weight": 1 + n(width), "norm.bias": n(width)}
    if registers:
        t["register_tokens"] = n(1, registers, width)
    for i in range(2):
        b = f"blocks.{i}."
        for name, rows, columns in (("attn.qkv", 3 * width, width), ("attn.proj", width, width), ("mlp.fc1", 2 * width, width), ("mlp.fc2", width, 2 * width)):
            t[f"{b}{name}.weight"], t[f"{b}{name}.bias"] = n(rows, columns), n(rows)
        for norm in ("norm1", "norm2"):
            t[f"{b}{norm}.weight"], t[f"{b}{norm}.bias"] = 1 + n(width), n(width)
        if layerscale:
            t[b + "ls1.gamma"], t[b + "ls2.gamma"] = 1 + n(width), 1 + n(width)
    return t


def save(path, tensors, metadata=None):
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(data), len(data) + value.nbytes]}
        data += value.tobytes()
    text = json.dumps(header).encode()
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + data)
