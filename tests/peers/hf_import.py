# SPDX-License-Identifier: Apache-2.0
"""Models that transformers wrote give the same features in dino-eval as in transformers, at native and other sizes."""

import os
import tempfile

import torch
from common import compare_features, make_pictures, our_features, sides_of, transformers_features
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel


def shape(width, depth, heads, side, patch):
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "image_size": side,
        "patch_size": patch,
    }


MODELS = {
    "mlp": (Dinov2Model, Dinov2Config(**shape(64, 3, 4, 56, 14))),
    "vit-s": (Dinov2Model, Dinov2Config(**shape(384, 12, 6, 98, 14))),
    "swiglu": (Dinov2Model, Dinov2Config(**shape(96, 4, 3, 64, 8), use_swiglu_ffn=True)),
    "registers": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(**shape(96, 4, 3, 70, 14), num_register_tokens=4),
    ),
    "registers-swiglu": (
        Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(**shape(48, 2, 2, 48, 8), num_register_tokens=2, use_swiglu_ffn=True),
    ),
}


def randomise(model, seed):
    """Fresh models have zero biases and tokens near zero; noise everywhere makes every parameter count."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def main():
    lowest, largest = 1.0, 0.0
    with tempfile.TemporaryDirectory() as work:
        for seed, (name, (kind, config)) in enumerate(MODELS.items()):
            model = kind(config).eval()
            randomise(model, seed)
            folder = os.path.join(work, name)
            model.save_pretrained(os.path.join(folder, "model"))
            for side in sides_of(config):
                shown = os.path.join(folder, str(side))
                pictures = make_pictures(shown, side, 6, seed)
                ours = our_features(os.path.join(folder, "model"), shown, side, shown + ".h5")
                theirs = transformers_features(model, pictures)
                cosine, difference = compare_features(f"{name} at {side} px", ours, theirs)
                lowest, largest = min(lowest, cosine), max(largest, difference)
    print(f"{len(MODELS)} models of transformers at 3 sizes: lowest cosine {lowest:.8f}, largest difference {largest:.1e}")


if __name__ == "__main__":
    main()
