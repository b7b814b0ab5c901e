# SPDX-License-Identifier: Apache-2.0
"""CLIP models that transformers and OpenCLIP wrote, with random weights: both towers and the tokenizer against what these
made (the golden test on fresh sets), and dino-eval's features against transformers'."""

import os
import subprocess
import tempfile

import clip_oracle
import numpy as np
import torch
from common import BIN, make_pictures, our_features
from transformers import CLIPModel

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def lowest_cosine(ours, theirs):
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def features_cosine(folder, work):
    pictures = make_pictures(os.path.join(work, "shown"), clip_oracle.SIDE, 6)
    ours = our_features(folder, os.path.join(work, "shown"), clip_oracle.SIDE, os.path.join(work, "shown.h5"))
    x = np.stack([(p.astype(np.float32) / 255 - MEAN) / STD for p in pictures.values()])
    with torch.inference_mode():
        model = CLIPModel.from_pretrained(folder)
        vision = model.vision_model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        theirs = model.visual_projection(vision.pooler_output).numpy()
    return lowest_cosine(np.stack([ours[k] for k in pictures])[:, : theirs.shape[1]], theirs)


def main():
    lowest = 1.0
    for seed in (11, 12, 13):
        with tempfile.TemporaryDirectory() as work:
            folder = os.path.join(work, "golden", "clip")
            clip_oracle.with_transformers(os.path.join(folder, "transformers"), seed)
            clip_oracle.with_open_clip(os.path.join(folder, "open_clip"), seed)
            test = [os.path.join(BIN, "test_model"), "--gtest_filter=ClipGolden.*"]
            done = subprocess.run(test, env={**os.environ, "DINO_GOLDEN_DIR": os.path.dirname(folder)},
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
            if done.returncode != 0 or "SKIPPED" in done.stdout:
                raise SystemExit(f"set {seed}: {done.stdout[-3000:]}")
            lowest = min(lowest, features_cosine(os.path.join(folder, "transformers"), work))
    if not lowest >= 0.99999:
        raise SystemExit(f"features: cosine {lowest:.8f} is below 0.99999")
    print(f"3 sets of two CLIP models: towers and tokens agree; features of dino-eval: lowest cosine {lowest:.8f}")


if __name__ == "__main__":
    main()
