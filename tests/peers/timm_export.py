# SPDX-License-Identifier: Apache-2.0
"""The timm.safetensors of an exported folder loads by the call that export prints, and gives our features."""

import os
import re
import tempfile

import numpy as np
import torch
from common import BIN, MEAN, SHARE, STD, compare_features, make_pictures, our_features, run
import subprocess
import timm

MODELS = {
    "mlp": ["--patch", 14, "--global-size", 42, "--local-size", 28],
    "registers": ["--patch", 8, "--global-size", 32, "--local-size", 16, "--registers", 4],
    "other sizes": ["--patch", 8, "--global-size", 48, "--local-size", 16, "--registers", 2, "--depth", 3, "--heads", 2],
    "swiglu": ["--patch", 14, "--global-size", 56, "--local-size", 28, "--ffn", "swiglu", "--width", 96, "--heads", 3],
    "vits14": ["--preset", "vits14", "--global-size", 28, "--local-size", 14],
}


def timm_features(model, pictures):
    x = np.stack([(p.astype(np.float32) / 255 - MEAN) / STD for p in pictures.values()])
    with torch.inference_mode():
        tokens = model.forward_features(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    both = torch.cat([tokens[:, 0], tokens[:, model.num_prefix_tokens :].mean(1)], 1).numpy()
    return dict(zip(pictures, both))


def main():
    lowest, largest, calls = 1.0, 0.0, []
    recipe = os.path.join(SHARE, "recipes", "tiny.cfg")
    with tempfile.TemporaryDirectory() as work:
        make_pictures(work + "/data", 56, 16, seed=1)
        for name, options in MODELS.items():
            folder = os.path.join(work, name.replace(" ", "_"))
            steps = 2 if name == "vits14" else 10
            run("dino-pretrain", "train", "--config", recipe, "--data", work + "/data", "--output", folder + "-run",
                "--steps", steps, "--warmup", 1, "--batch", 4, *options)  # fmt: skip
            export = [os.path.join(BIN, "dino-pretrain"), "export", "--checkpoint", folder + "-run", "--format", "hf", "--output", folder]
            log = subprocess.run(export, stderr=subprocess.PIPE, text=True, check=True).stderr
            call = re.search(r"timm\.create_model\(.*\)", log).group(0)
            model = eval(call, {"timm": timm}).eval()  # our own program's words
            calls.append(call.replace(work, "."))
            side = model.patch_embed.img_size[0]
            shown = f"{folder}-pictures"
            pictures = make_pictures(shown, side, 6, seed=2)
            theirs = timm_features(model, pictures)
            for source, weights in (("checkpoint", folder + "-run"), ("timm.safetensors", folder + "/timm.safetensors")):
                ours = our_features(weights, shown, side, shown + ".h5")
                cosine, difference = compare_features(f"{name} {source}", ours, theirs)
                lowest, largest = min(lowest, cosine), max(largest, difference)
    print(f"{len(MODELS)} models in timm {timm.__version__}: lowest cosine {lowest:.8f}, largest difference {largest:.1e}; {calls[2]}")


if __name__ == "__main__":
    main()
