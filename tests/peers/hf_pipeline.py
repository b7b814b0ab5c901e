# SPDX-License-Identifier: Apache-2.0
"""An exported folder as people use it: AutoModel, AutoImageProcessor and the pipeline of image features read the files
themselves (JPEG and PNG of many shapes) and give our features. Pixels have the training's mean and deviation, not ImageNet's."""

import json
import os
import tempfile

import h5py
import numpy as np
import torch
from common import SHARE, run
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, BitImageProcessor, pipeline

SIZE = 42
# Where the crop lies between two pixels, transformers rounds down and we as torchvision does: such a picture is one pixel apart.
LEAST = {"equal": 0.9999, "a pixel apart": 0.98}


def make_photos(folder, count=8):
    """Pictures of many shapes, larger than the model's input."""
    rng = np.random.default_rng(5)
    os.makedirs(folder)
    paths = []
    for i in range(count):
        width, height = rng.integers(60, 200, 2)
        y, x = np.mgrid[0:height, 0:width]
        a, b = rng.uniform(0.02, 0.3, 2)
        wave = 0.5 + 0.4 * np.sin(a * x + b * y)[..., None] * rng.uniform(-1, 1, 3)
        pixels = (255 * wave).clip(0, 255).astype(np.uint8)
        paths.append(os.path.join(folder, f"{i:02d}.{('jpg', 'png')[i % 2]}"))
        Image.fromarray(pixels).save(paths[-1], quality=95)
    return paths


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def main():
    with tempfile.TemporaryDirectory() as work:
        paths = make_photos(work + "/photos")
        recipe = os.path.join(SHARE, "recipes", "tiny.cfg")
        run("dino-pretrain", "train", "--config", recipe, "--data", work + "/photos", "--output", work + "/run", "--steps", 20,
            "--warmup", 2, "--batch", 8, "--patch", 14, "--global-size", SIZE, "--local-size", 28, "--registers", 2,
            "--mean", "0.4,0.5,0.6", "--std", "0.2,0.25,0.3")  # fmt: skip
        run("dino-pretrain", "export", "--checkpoint", work + "/run", "--format", "hf", "--output", work + "/hf")
        processor = AutoImageProcessor.from_pretrained(work + "/hf")
        told = json.load(open(work + "/hf/preprocessor_config.json"))
        if not isinstance(processor, BitImageProcessor) or told["crop_size"] != {"height": SIZE, "width": SIZE}:
            raise SystemExit(f"another processor: {processor}")
        if told["image_mean"] != [0.4, 0.5, 0.6] or told["image_std"] != [0.2, 0.25, 0.3]:
            raise SystemExit(f"not the training's pixels: {told}")
        edge = told["size"]["shortest_edge"]
        features = {}
        for name, weights in (("run", work + "/run"), ("hf", work + "/hf")):
            run("dino-eval", "features", "--weights", weights, "--data", work + "/photos", "--size", SIZE, "--resize", edge,
                "--tokens", "cls", "--precision", "fp32", "--output", f"{work}/{name}.h5")  # fmt: skip
            with h5py.File(f"{work}/{name}.h5") as f:
                features[name] = f["features"][:]
        if not (features["run"] == features["hf"]).all():
            raise SystemExit("we read our own export as another model, or prepare its pixels another way")

        model = AutoModel.from_pretrained(work + "/hf").eval()
        pipe = pipeline("image-feature-extraction", model=work + "/hf", device="cpu")
        lowest = {}
        for path, ours in zip(paths, features["run"]):
            image = Image.open(path)
            with torch.inference_mode():
                direct = model(**processor(image, return_tensors="pt")).last_hidden_state[0, 0].numpy()
            piped = np.array(pipe(path), np.float32)[0, 0]
            longer = edge * max(image.size) // min(image.size)
            place = "a pixel apart" if (longer - SIZE) % 2 else "equal"
            for kind, theirs in (("AutoModel", direct), ("pipeline", piped)):
                lowest[place, kind] = min(lowest.get((place, kind), 1.0), cosine(theirs, ours))
        spread = cosine(features["run"][0], features["run"][1])
        if len(lowest) != 4 or any(v < LEAST[k[0]] or v < spread for k, v in lowest.items()):
            raise SystemExit(f"features differ: lowest cosine {lowest}, two pictures have {spread:.5f}")
        shown = ", ".join(f"{kind} {value:.6f} ({place})" for (place, kind), value in sorted(lowest.items()))
        print(f"{len(paths)} pictures, lowest cosine to ours: {shown}; between two pictures {spread:.3f}")


if __name__ == "__main__":
    main()
