# SPDX-License-Identifier: Apache-2.0
"""Sizes, settings and names of the sets that golden_oracle.py writes. Nothing in them equals tests/golden."""

import numpy as np
from transformers import (
    CLIPConfig,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)


def vit(width, heads, depth, patch, grid, ffn, hidden, registers=0, offset=0.1, antialias=0, full="", eps=1e-6):
    return {"embed_dim": width, "num_heads": heads, "depth": depth, "patch_size": patch, "img_size": grid * patch,
            "ffn": ffn, "ffn_hidden": hidden, "num_register_tokens": registers, "interpolate_offset": offset,
            "interpolate_antialias": antialias, "layernorm_eps": eps, "full_grad_case": full}  # fmt: skip


def training(backbone, batch, n_local, steps, local, **changes):
    """The settings of train_steps.h5; `changes` names what differs from DINOv2's."""
    ramp = np.minimum((np.arange(steps) + 1) / 3, 1)
    s = {"batch": batch, "n_local": n_local, "steps": steps, "global_size": backbone["img_size"], "local_size": local,
         "adam_eps": 1e-8, "beta1": 0.9, "beta2": 0.999, "center_momentum": 0.9, "clip_eps": 1e-6, "clip_grad": 3.0,
         "dino_weight": 1.0, "ibot_weight": 1.0, "koleo_weight": 0.1, "layerwise_decay": 0.9,
         "patch_embed_lr_mult": 0.2, "student_temp": 0.1, "separate_ibot_head": 1, "period": 3,
         "modes": ["sinkhorn_knopp", "centering"],
         "schedule": {"lr": 8e-4 * ramp, "last_layer_lr": np.where(np.arange(steps) < 2, 0, 8e-4 * ramp),
                      "teacher_temp": np.linspace(0.04, 0.07, steps), "weight_decay": np.linspace(0.04, 0.06, steps),
                      "ema_momentum": np.linspace(0.99, 0.995, steps)}}  # fmt: skip
    keep = ("embed_dim", "num_heads", "depth", "patch_size", "img_size", "ffn", "ffn_hidden", "num_register_tokens",
            "interpolate_offset", "interpolate_antialias")  # fmt: skip
    return s | {k: backbone[k] for k in keep} | changes


def schedule(ranks, per_rank, base, epoch, epochs, warmup, temperature_epochs, frozen, momentum, decay):
    return {"ranks": ranks, "batch_per_rank": per_rank, "base_lr": base, "min_lr": 2e-6, "epoch_length": epoch,
            "epochs": epochs, "warmup_epochs": warmup, "warmup_teacher_temp": 0.03, "teacher_temp": 0.06,
            "warmup_teacher_temp_epochs": temperature_epochs, "freeze_last_layer_epochs": frozen,
            "momentum_teacher": momentum, "final_momentum_teacher": 1.0, "weight_decay": decay[0],
            "weight_decay_end": decay[1]}  # fmt: skip


def dinov2(width, depth, heads, side, patch, **more):
    return {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "image_size": side,
            "patch_size": patch, **more}  # fmt: skip


def clip(side):
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPConfig(text_config=tower, vision_config={**tower, "image_size": side, "patch_size": 8})


def variant_a():
    """Heads of 32, registers, one head for both losses, few local crops."""
    small = vit(96, 3, 4, 14, 5, "mlp", 384, full="wide_masked")
    mlp = small | {"pos_sizes": {"offset0.1": ["70x70", "42x98", "140x28", "14x350"], "antialias": ["70x84", "28x28"],
                                 "offset0": ["98x42"]}}  # fmt: skip
    cases = {"wide_masked": (3, 42, 98, True), "own": (1, 70, 70, False), "tiny": (2, 28, 28, False)}
    train = vit(64, 2, 3, 14, 3, "mlp", 256, registers=2)
    return {
        "vit": {"vit_mlp": (mlp, cases),
                "vit_swiglu": (small | {"ffn": "swiglufused", "ffn_hidden": 256}, {"wide_masked": cases["wide_masked"]}),
                "vit_reg": (small | {"num_register_tokens": 2, "interpolate_offset": 0.0, "interpolate_antialias": 1},
                            cases)},
        "vit_full": {"vit_mlp": 2}, "full_gradients_up_to": 5000,
        "depth": (vit(48, 2, 3, 14, 4, "mlp", 96) | {"drop_rate": 0.3}, {"three": [(6, 56), (9, 28), (2, 42)],
                                                                         "alone": [(7, 70)]}),
        "head": {"rows": 7, "in_dim": 96, "hidden_dim": 160, "nlayers": 2, "bottleneck_dim": 48, "out_dim": 300},
        "losses": {"prototypes": 70, "batch": 3, "n_local": 3, "temperatures": [0.05, 0.09], "student_temp": 0.12,
                   "momentum": 0.8, "sinkhorn_rows": [2, 33], "calls": {"dino": [6, 6], "ibot": [4, 9, 1, 5]},
                   "masked": [3, 0, 1, 9, 0, 0], "tokens": 9, "koleo": [(3, 40), (24, 33)], "koleo_views": (10, 24),
                   "koleo_weight": 0.1},
        "train": training(train, 3, 3, 6, 28, separate_ibot_head=0, dino_head=(80, 3, 24, 200), layerwise_decay=0.8),
        "train_weights_at": {("student", 1), ("student", 2), ("student", 6), ("teacher", 6), ("teacher", 3)},
        "schedules": {"one": schedule(5, 24, 1e-3, 40, 30, 3, 10, 2, 0.99, (0.05, 0.3)),
                      "two": schedule(1, 96, 5e-4, 77, 12, 0, 12, 0, 0.9, (0.04, 0.04))},
        "param_groups": {"little": {"backbone": train, "dino_head": (80, 3, 24, 200), "layerwise_decay": 0.75,
                                    "patch_embed_lr_mult": 0.3}},
        "masks": {"grids": [((9, 9), 32), ((5, 5), 10)], "percents": [10, 30, 50], "draws": 1500, "batches": [2, 9],
                  "collate_draws": 150},
        "augment": {"images": {"wood": (90, 150, False), "paper": (64, 64, True)}, "boxes": 2, "sizes": [33, 70],
                    "mean": [0.5, 0.45, 0.4], "std": [0.25, 0.25, 0.3], "kernel": 7, "sequence_size": 40,
                    "operations": {"hflip": [0], "grayscale": [0], "brightness": [0.6, 1.4], "contrast": [0.75],
                                   "saturation": [0.8, 1.2], "hue": [-0.05, 0.1, 0], "blur": [0.5, 1.7],
                                   "solarize": [100, 200]},
                    "sequences": {"X": ("hue blur contrast solarize", [0.04, 0.8, 1.2, 90.0]),
                                  "Y": ("saturation brightness grayscale", [0.7, 1.1, 1.0])},
                    "flipped": ["Y"], "eval": (48, 42)},
        "knn": {"ks": [3, 7], "classes": 6, "width": 20, "train": 240, "test": 60, "temperature": 0.05},
        "hf": {"plain": (Dinov2Model, Dinov2Config(**dinov2(96, 3, 3, 70, 14)),
                         {"own": (2, 70, 70), "wide": (1, 42, 84)}, "own"),
               "registers_and_swiglu": (Dinov2WithRegistersModel,
                                        Dinov2WithRegistersConfig(**dinov2(48, 2, 2, 48, 8), num_register_tokens=3,
                                                                  use_swiglu_ffn=True),
                                        {"own": (1, 48, 48), "less": (2, 24, 32)}, "own")},
        "clip": clip(32),
    }  # fmt: skip


def variant_b():
    """Heads of 80, patches of 8, an odd hidden width, another head for iBOT, softmax centring alone, no local crops."""
    small = vit(160, 2, 2, 8, 6, "mlp", 320, full="m2", eps=1e-5)
    mlp = small | {"pos_sizes": {"offset0.2": ["48x48", "24x72", "96x16"], "antialias": ["16x16", "8x288"]}}
    cases = {"m1": (2, 48, 48, True), "m2": (1, 32, 64, True), "u": (2, 48, 48, False)}
    train = vit(80, 1, 2, 8, 5, "swiglufused", 101)
    return {
        "vit": {"vit_mlp": (mlp, cases), "vit_swiglu": (small | {"ffn": "swiglufused", "ffn_hidden": 219}, cases),
                "vit_reg": (small | {"num_register_tokens": 5, "interpolate_antialias": 1}, {"m2": cases["m2"]})},
        "vit_full": {"vit_mlp": 0, "vit_reg": 1}, "full_gradients_up_to": 12000,
        "depth": (vit(80, 1, 2, 8, 4, "swiglufused", 75) | {"drop_rate": 0.5, "num_register_tokens": 0},
                  {"x": [(5, 32), (3, 16)]}),
        "head": {"rows": 3, "in_dim": 80, "hidden_dim": 40, "nlayers": 4, "bottleneck_dim": 33, "out_dim": 257},
        "losses": {"prototypes": 131, "batch": 2, "n_local": 0, "temperatures": [0.06], "student_temp": 0.1,
                   "momentum": 0.95, "sinkhorn_rows": [1, 5, 64], "calls": {"dino": [4], "ibot": [3, 7]},
                   "masked": [4, 2, 0, 0], "tokens": 25, "koleo": [(2, 8), (7, 50)], "koleo_views": (4, 80),
                   "koleo_weight": 0.25},
        "train": training(train, 4, 0, 5, 16, modes=["centering"], dino_head=(64, 2, 32, 150),
                          ibot_head=(48, 3, 20, 90), koleo_weight=0.2, ibot_weight=0.5, clip_grad=0.5,
                          layerwise_decay=1.0),
        "train_weights_at": {("student", 1), ("student", 5), ("teacher", 5)},
        "schedules": {"only": schedule(12, 8, 2e-3, 25, 80, 10, 40, 1, 0.996, (0.04, 0.4))},
        "param_groups": {"b": {"backbone": train, "dino_head": (64, 2, 32, 150), "ibot_head": (48, 3, 20, 90),
                               "layerwise_decay": 1.0, "patch_embed_lr_mult": 0.2},
                         "b_decay": {"backbone": small, "dino_head": (64, 2, 32, 150), "layerwise_decay": 0.65,
                                     "patch_embed_lr_mult": 1.0}},
        "masks": {"grids": [((14, 14), 98), ((6, 11), 20)], "percents": [15, 40], "draws": 1500, "batches": [5],
                  "collate_draws": 120},
        "augment": {"images": {"only": (77, 210, False)}, "boxes": 1, "sizes": [56], "mean": [0.485, 0.456, 0.406],
                    "std": [0.229, 0.224, 0.225], "kernel": 11, "sequence_size": 51,
                    "operations": {"hflip": [0], "brightness": [1.25], "contrast": [0.61, 1.39], "hue": [0.02],
                                   "saturation": [1.19], "grayscale": [0], "blur": [0.1, 1.1], "solarize": [128]},
                    "sequences": {"1": ("contrast saturation hue brightness blur grayscale solarize",
                                        [1.3, 0.85, -0.09, 0.66, 0.4, 1.0, 140.0])},
                    "flipped": ["1"], "eval": (70, 56)},
        "knn": {"ks": [1, 4, 9], "classes": 15, "width": 48, "train": 300, "test": 40, "temperature": 0.1},
        "hf": {"gated": (Dinov2Model, Dinov2Config(**dinov2(80, 2, 1, 40, 8), use_swiglu_ffn=True, mlp_ratio=3),
                         {"a": (1, 40, 40), "b": (1, 24, 56)}, "a"),
               "no_mask_token": (Dinov2Model, Dinov2Config(**dinov2(60, 2, 5, 30, 10), use_mask_token=False,
                                                          mlp_ratio=2, layer_norm_eps=1e-5),
                                 {"n": (2, 30, 30)}, "n")},
        "clip": clip(24),
    }  # fmt: skip


def variant_c():
    """Many narrow heads (12 and 20), patches of 16, ten local crops, one layer in a head, Sinkhorn alone."""
    small = vit(60, 5, 3, 16, 4, "mlp", 90, full="k3")
    mlp = small | {"pos_sizes": {"offset0.1": ["64x64", "96x32"], "antialias": ["64x128"]}}
    cases = {"k1": (4, 64, 64, False), "k2": (1, 16, 256, False), "k3": (2, 48, 32, True)}
    train = vit(40, 2, 2, 16, 3, "mlp", 120, registers=1, offset=0.0, antialias=1)
    return {
        "vit": {"vit_mlp": (mlp, cases), "vit_swiglu": (small | {"ffn": "swiglufused", "ffn_hidden": 104}, cases),
                "vit_reg": (small | {"num_register_tokens": 1, "interpolate_offset": 0.1, "interpolate_antialias": 1},
                            cases)},
        "vit_full": {"vit_swiglu": 1}, "full_gradients_up_to": 2000,
        "depth": (vit(60, 3, 1, 16, 3, "mlp", 64) | {"drop_rate": 0.15}, {"pair": [(10, 48), (20, 16)], "one": [(1, 32)]}),
        "head": {"rows": 18, "in_dim": 60, "hidden_dim": 1, "nlayers": 1, "bottleneck_dim": 24, "out_dim": 100},
        "losses": {"prototypes": 48, "batch": 8, "n_local": 10, "temperatures": [0.04, 0.055, 0.07],
                   "student_temp": 0.1, "momentum": 0.9, "sinkhorn_rows": [17], "calls": {"dino": [16] * 3, "ibot": [2] * 3},
                   "masked": [1, 2, 3, 4, 5, 6, 7, 8] + [0] * 8, "tokens": 12, "koleo": [(40, 17)],
                   "koleo_views": (16, 60), "koleo_weight": 0.1},
        "train": training(train, 2, 10, 8, 32, modes=["sinkhorn_knopp"], dino_head=(72, 3, 16, 64),
                          ibot_head=(24, 1, 16, 128), student_temp=0.12, dino_weight=0.8),
        "train_weights_at": {("student", 1), ("student", 8), ("teacher", 8)},
        "schedules": {"p": schedule(3, 64, 3e-3, 10, 50, 5, 20, 1, 0.95, (0.1, 0.2)),
                      "q": schedule(64, 32, 1e-4, 13, 40, 1, 1, 3, 0.999, (0.0, 0.1)),
                      "r": schedule(7, 1, 1e-2, 9, 30, 2, 3, 0, 0.5, (0.04, 0.4))},
        "param_groups": {"narrow": {"backbone": train, "dino_head": (72, 3, 16, 64), "ibot_head": (24, 1, 16, 128),
                                    "layerwise_decay": 0.9, "patch_embed_lr_mult": 0.5}},
        "masks": {"grids": [((12, 8), 40)], "percents": [20, 35, 50], "draws": 1500, "batches": [4, 16],
                  "collate_draws": 100},
        "augment": {"images": {"p1": (50, 40, False), "p2": (41, 97, False), "p3": (120, 33, True)}, "boxes": 2,
                    "sizes": [24, 49], "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.3, 0.2], "kernel": 5, "sequence_size": 28,
                    "operations": {"hflip": [0], "grayscale": [0], "brightness": [0.9], "contrast": [1.1],
                                   "saturation": [0.5], "hue": [-0.1, 0.5], "blur": [2], "solarize": [64]},
                    "sequences": {"Q": ("brightness contrast", [0.8, 1.3])}, "flipped": [], "eval": (36, 28)},
        "knn": {"ks": [2, 50], "classes": 4, "width": 8, "train": 90, "test": 30, "temperature": 0.07},
        "hf": {"with_registers": (Dinov2WithRegistersModel,
                                  Dinov2WithRegistersConfig(**dinov2(60, 3, 5, 64, 16), num_register_tokens=1),
                                  {"z": (1, 64, 64), "y": (2, 32, 96)}, "z")},
        "clip": clip(16),
    }  # fmt: skip


VARIANTS = {"a": variant_a, "b": variant_b, "c": variant_c}
