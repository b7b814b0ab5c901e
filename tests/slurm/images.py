#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a small labelled image folder: 3 classes of textures, 16 PNG images each."""
import os
import struct
import sys
import zlib

import numpy as np


def write_png(path, pixels):
    """8-bit RGB; every row begins with filter type 0."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
                           (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]:
            f.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


out = sys.argv[1]
rng = np.random.default_rng(5)
y, x = np.mgrid[0:48, 0:48] / 48.0
for label, frequency in [("stripes", (9, 0)), ("waves", (3, 5)), ("rings", None)]:
    os.makedirs(os.path.join(out, label), exist_ok=True)
    for i in range(16):
        a, b, phase = rng.uniform(0.6, 1.4), rng.uniform(0.6, 1.4), rng.uniform(0, 6.28)
        if frequency:
            wave = np.sin(6.28 * (frequency[0] * a * x + frequency[1] * b * y) + phase)
        else:
            wave = np.sin(40 * a * np.hypot(x - b / 2, y - 0.5) + phase)
        colour = rng.uniform(40, 215, 3)
        pixels = colour + 40 * wave[..., None] + rng.normal(0, 8, (48, 48, 3))
        write_png(os.path.join(out, label, f"{label}_{i:02d}.png"), np.clip(pixels, 0, 255).astype(np.uint8))
