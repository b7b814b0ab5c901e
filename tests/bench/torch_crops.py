#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ten crops of JPEG files in torchvision v2, as the peer of crops_bench: decoding, and the augmentations of DINOv2
(arXiv 2304.07193, App. B.2), on one thread. With tensors (v2's own kernels, JPEG by torchvision.io) and with PIL images,
whichever is faster. Prints one line of JSON.

    torch_crops.py FILE.jpg...
    torch_crops.py --draw FOLDER N     draws N pictures of 640 x 480 to measure with
"""

import json
import os
import sys
import time

import numpy
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def crop(side, scale, blur, solarize):
    return v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], blur),
            v2.RandomSolarize(128, solarize),
        ]
    )


CROPS = [crop(224, (0.32, 1.0), 1.0, 0.0), crop(224, (0.32, 1.0), 0.1, 0.2)] + [crop(98, (0.05, 0.32), 0.5, 0.0)] * 8
FINISH = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def draw(folder, count):
    """Soft backgrounds with noise and edges: files of some 60 KB."""
    os.makedirs(folder, exist_ok=True)
    rng = numpy.random.default_rng(1)
    for i in range(count):
        soft = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=numpy.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
        picture = numpy.asarray(soft).astype(float) + rng.normal(0, 8, (480, 640, 3))
        picture[100:300, 200:400] += 60
        Image.fromarray(picture.clip(0, 255).astype(numpy.uint8)).save(f"{folder}/{i:03}.jpg", quality=85)


def main():
    if sys.argv[1] == "--draw":
        return draw(sys.argv[2], int(sys.argv[3]))
    torch.set_num_threads(1)
    paths = sys.argv[1:]
    rates = {}
    for kind in ("tensor", "pil"):
        best = 1e9
        for _ in range(3):
            start = time.thread_time()
            for path in paths:
                image = decode_image(path, ImageReadMode.RGB) if kind == "tensor" else Image.open(path).convert("RGB")
                made = [FINISH(one(image)) for one in CROPS]
                assert made[0].shape == (3, 224, 224) and made[-1].shape == (3, 98, 98) and made[0].dtype == torch.float32
            best = min(best, time.thread_time() - start)
        rates[kind] = len(paths) / best
    print(json.dumps({"images_per_second": max(rates.values()), **rates}))


main()
