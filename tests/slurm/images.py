#!/usr/bin/env python3
"""Writes a small labelled image folder: 3 classes of textures, 16 PPM images each."""
import os
import sys

import numpy as np

out = sys.argv[1]
rng = np.random.default_rng(5)
y, x = np.mgrid[0:48, 0:48] / 48.0
for label, frequency in [("stripes", (9, 0)), ("waves", (3, 5)), ("rings", None)]:
    os.makedirs(os.path.join(out, label), exist_ok=True)
    for i in range(16):
        a, b, phase = rng.uniform(0.6, 1.4, 2).tolist() + [rng.uniform(0, 6.28)]
        if frequency:
            wave = np.sin(6.28 * (frequency[0] * a * x + frequency[1] * b * y) + phase)
        else:
            wave = np.sin(40 * a * np.hypot(x - b / 2, y - 0.5) + phase)
        colour = rng.uniform(40, 215, 3)
        pixels = colour + 40 * wave[..., None] + rng.normal(0, 8, (48, 48, 3))
        with open(os.path.join(out, label, f"{label}_{i:02d}.ppm"), "wb") as f:
            f.write(b"P6\n48 48\n255\n" + np.clip(pixels, 0, 255).astype(np.uint8).tobytes())
