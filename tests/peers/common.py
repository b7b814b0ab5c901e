# SPDX-License-Identifier: Apache-2.0
"""Shared by the checks against other software: running the programs, making pictures, comparing features."""

import os
import struct
import subprocess
import zlib

import h5py
import numpy as np

BIN = os.environ.get("DINO_BIN", "build/release/bin")
SHARE = os.environ.get("DINO_SHARE", "share")
# ImageNet's statistics, which the programs use where a model brings no others.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def run(program, *arguments):
    """Runs one of the programs; its messages appear only when it fails. Returns its standard output."""
    command = [os.path.join(BIN, program), *map(str, arguments), "--progress", "off"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"exit {done.returncode} of {' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout


def write_ppm(path, pixels):
    with open(path, "wb") as f:
        f.write(b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes())


def write_png(path, pixels):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def make_pictures(folder, side, count, seed=0):
    """Square pictures, every other one as PNG: gradients, waves and noise. Returns {key: u8 [side, side, 3]}."""
    rng = np.random.default_rng(seed)
    os.makedirs(folder, exist_ok=True)
    y, x = np.mgrid[0:side, 0:side] / side
    pictures = {}
    for i in range(count):
        a, b, c = rng.uniform(2, 25, 3)
        wave = 0.5 + 0.25 * np.sin(a * x + b * y)[..., None] * rng.uniform(-1, 1, 3)
        wave = wave + 0.25 * np.cos(c * (x - y))[..., None] * rng.uniform(-1, 1, 3)
        pixels = (255 * wave + rng.normal(0, 10, (side, side, 3))).clip(0, 255).astype(np.uint8)
        write, ending = ((write_ppm, ".ppm"), (write_png, ".png"))[i % 2]
        write(os.path.join(folder, f"{i:03d}{ending}"), pixels)
        pictures[f"{i:03d}"] = pixels
    return pictures


def our_features(weights, folder, side, output):
    """{key: [class token, mean patch token]}. The pictures have the asked side: nothing is resized."""
    run("dino-eval", "features", "--weights", weights, "--data", folder, "--size", side, "--resize", side,
        "--tokens", "both", "--precision", "fp32", "--output", output)  # fmt: skip
    with h5py.File(output) as f:
        keys = [k.decode() if isinstance(k, bytes) else k for k in f["keys"][:]]
        return {os.path.basename(k): row for k, row in zip(keys, f["features"][:])}


def sides_of(config):
    """Sides in pixels: the one of the position table, a smaller and a larger one."""
    return config.image_size, config.image_size - 2 * config.patch_size, config.image_size + 3 * config.patch_size


def transformers_features(model, pictures):
    import torch

    registers = getattr(model.config, "num_register_tokens", 0)
    x = np.stack([(p.astype(np.float32) / 255 - MEAN) / STD for p in pictures.values()])
    with torch.inference_mode():
        tokens = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).last_hidden_state
    both = torch.cat([tokens[:, 0], tokens[:, 1 + registers :].mean(1)], 1).numpy()
    return dict(zip(pictures, both))


def compare_features(what, ours, theirs, least_cosine=0.99999):
    """Class token and mean patch token of every picture; returns the lowest cosine and the largest difference."""
    if sorted(ours) != sorted(theirs):
        raise SystemExit(f"{what}: other pictures: {sorted(ours)} and {sorted(theirs)}")
    lowest, largest = 1.0, 0.0
    for name in theirs:
        if ours[name].shape != theirs[name].shape:
            raise SystemExit(f"{what}: {name}: shapes {ours[name].shape} and {theirs[name].shape}")
        largest = max(largest, float(np.abs(ours[name] - theirs[name]).max()))
        for a, b in zip(np.split(ours[name].astype(np.float64), 2), np.split(theirs[name].astype(np.float64), 2)):
            lowest = min(lowest, float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    if not lowest >= least_cosine:
        raise SystemExit(f"{what}: cosine {lowest:.8f} is below {least_cosine} (largest difference {largest:.2e})")
    # Pictures that all get one feature would agree trivially.
    features = np.stack(list(theirs.values()))
    if features.std(0).mean() < 1e-3:
        raise SystemExit(f"{what}: the features do not depend on the picture: nothing was checked")
    return lowest, largest


def clustered_rows(rows, width, clusters, spread, seed):
    """Unit rows around random directions."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, width), np.float32)
    x = centres[rng.integers(0, clusters, rows)] + spread * rng.standard_normal((rows, width), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)
