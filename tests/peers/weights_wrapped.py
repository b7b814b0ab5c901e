# SPDX-License-Identifier: Apache-2.0
"""Weights as PyTorch saves them from all kinds of trainings give the features of the plain file."""

import argparse
import collections
import enum
import os
import pathlib
import random
import tempfile

import h5py
import numpy as np
import torch
from common import compare_features, make_pictures, our_features, run, transformers_features
from transformers import ViTConfig, ViTModel

WIDTH, HEADS, DEPTH, PATCH, SIDE = 96, 3, 2, 8, 32


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads = HEADS
        self.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = torch.nn.Linear(WIDTH, WIDTH)


class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = torch.nn.Parameter(torch.ones(WIDTH))


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(WIDTH, 1e-6), torch.nn.LayerNorm(WIDTH, 1e-6)
        self.attn, self.ls1, self.ls2 = Attention(), Scale(), Scale()
        self.mlp = torch.nn.Module()
        self.mlp.fc1, self.mlp.fc2 = torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.Linear(2 * WIDTH, WIDTH)


class Net(torch.nn.Module):
    """Parameters under the reference's names; nothing here runs them."""

    def __init__(self):
        super().__init__()
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, 1 + (SIDE // PATCH) ** 2, WIDTH))
        self.mask_token = torch.nn.Parameter(torch.zeros(1, WIDTH))
        self.patch_embed = torch.nn.Module()
        self.patch_embed.proj = torch.nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = torch.nn.LayerNorm(WIDTH, 1e-6)


class Colour(enum.Enum):
    RED = 1


class Wrapped(torch.nn.Module):
    def __init__(self, inner, name):
        super().__init__()
        setattr(self, name, inner)


def randomised(seed):
    torch.manual_seed(seed)
    net = Net()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return net


def compiled(net):
    """The names that torch.compile leaves; nothing is compiled."""
    return torch._dynamo.eval_frame.OptimizedModule(net, torch._dynamo.disable)


def trained(net):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer


def checkpointed(net):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    net.blocks[0] = checkpoint_wrapper(net.blocks[0])
    net.blocks[1].attn = checkpoint_wrapper(net.blocks[1].attn)
    return net


def channels_last(net):
    return net.to(memory_format=torch.channels_last)


def cases():
    def plain():
        return randomised(0).state_dict()

    def prefixed(prefix, seed=0):
        return {prefix + name: value for name, value in randomised(seed).state_dict().items()}

    both = {**prefixed("student.backbone.", 1), **prefixed("teacher.backbone.")}
    yield "state dict", plain(), {}
    yield "DataParallel", torch.nn.DataParallel(randomised(0)).state_dict(), {}
    yield "compiled", compiled(randomised(0)).state_dict(), {}
    yield "compiled inside DataParallel", torch.nn.DataParallel(compiled(randomised(0))).state_dict(), {}
    yield "activation checkpoints", {"model": checkpointed(randomised(0)).state_dict()}, {}
    yield "averaged", {"n_averaged": 3, "ema": torch.optim.swa_utils.AveragedModel(randomised(0)).state_dict()}, {}
    yield "student and teacher", {"model": both, "iteration": 3}, {}
    yield "teacher and student", {"student": prefixed("module.", 0), "teacher": prefixed("", 1)}, {"which": "student"}
    yield "whole module", randomised(0), {}
    yield "wrapped module", {"net": Wrapped(Wrapped(randomised(0), "trunk"), "visual")}, {}
    yield "channels_last", channels_last(randomised(0)).state_dict(), {}
    yield "transposed", {k: v.T.contiguous().T if v.dim() == 2 else v for k, v in plain().items()}, {}
    yield "slices of one tensor", slices(plain()), {}
    yield "float64", {k: v.double() for k, v in plain().items()}, {}
    yield "parameters", dict(randomised(0).named_parameters()), {}
    net = randomised(0)
    yield "training state", {
        "args": argparse.Namespace(arch="vit_odd", out=pathlib.Path("/data"), colour=Colour.RED),
        "optimizer": trained(net).state_dict(),
        "model": net.state_dict(),
        "best": np.float64(0.5),
        "counts": collections.Counter("abc"),
        "default": collections.defaultdict(list, a=[1]),
        "numpy": np.arange(5),
        "rng": [torch.get_rng_state(), np.random.get_state(), random.getstate()],
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "big": 1 << 200,
        "set": {1, 2},
    }, {}  # fmt: skip
    for protocol in (1, 2, 3, 4, 5):
        content = {"model": plain(), "args": argparse.Namespace(a=1.5, b="é\n")}
        yield f"protocol {protocol}", content, {"pickle_protocol": protocol}
    yield "before 1.6", plain(), {"_use_new_zipfile_serialization": False}
    yield "before 1.6, with training state", {"model": net.state_dict(), "optimizer": trained(net).state_dict()}, {
        "_use_new_zipfile_serialization": False
    }


def slices(state):
    flat = torch.cat([v.reshape(-1) for v in state.values()])
    at, result = 0, {}
    for name, value in state.items():
        result[name] = flat[at : at + value.numel()].view(value.shape)
        at += value.numel()
    return result


def features(weights, pictures, output, *arguments):
    run("dino-eval", "features", "--weights", weights, "--data", pictures, "--size", SIDE, "--resize", SIDE,
        "--precision", "fp32", "--output", output, *arguments)  # fmt: skip
    with h5py.File(output) as file:
        return file["features"][:]


def vit_of_transformers(folder, pictures):
    """ViTModel has other names, another epsilon and no LayerScale."""
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=96, num_hidden_layers=3, num_attention_heads=6, intermediate_size=160,
                       image_size=SIDE, patch_size=PATCH)  # fmt: skip
    model = ViTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    for side in (SIDE, SIDE + 2 * PATCH):
        images = make_pictures(f"{folder}/pictures{side}", side, 4)
        ours = our_features(folder, f"{folder}/pictures{side}", side, f"{folder}/f.h5")
        compare_features(f"ViT at {side}", ours, transformers_features(Interpolating(model), images))


class Interpolating:
    def __init__(self, model):
        self.model, self.config = model, model.config

    def __call__(self, x):
        return self.model(x, interpolate_pos_encoding=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        pictures = os.path.join(folder, "pictures")
        make_pictures(pictures, SIDE, 3)
        expected = None
        count = 0
        for name, content, options in cases():
            path = os.path.join(folder, "w.pth")
            which = options.pop("which", "teacher")
            torch.save(content, path, **options)
            # Only a module that was saved whole tells its heads.
            told = isinstance(content, torch.nn.Module) or name == "wrapped module"
            heads = [] if told else ["--heads", HEADS]
            found = features(path, pictures, os.path.join(folder, "f.h5"), "--which", which, *heads)
            expected = found if expected is None else expected
            if not np.array_equal(found, expected):
                raise SystemExit(f"{name}: other features than the plain file's: {np.abs(found - expected).max():.3g}")
            count += 1
        vit_of_transformers(os.path.join(folder, "vit"), pictures)
    print(f"{count} ways to save one network give the same features; ViTModel of transformers agrees")


if __name__ == "__main__":
    main()
