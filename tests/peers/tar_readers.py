# SPDX-License-Identifier: Apache-2.0
"""Exported tars in the readers that people train with: webdataset and Hugging Face's datasets decode pictures, sidecars and classes."""

import glob
import hashlib
import io
import json
import os
import tarfile
import tempfile

import numpy as np
import webdataset
from common import run
from datasets import ClassLabel, load_dataset
from PIL import Image

CLASSES = ["bird", "cat", "zebra"]


def picture(rng):
    y, x = np.mgrid[0:96, 0:96]
    a, b = rng.uniform(0.05, 0.6, 2)
    wave = 0.5 + 0.4 * np.sin(a * x + b * y)[..., None] * rng.uniform(-1, 1, 3)
    out = io.BytesIO()
    Image.fromarray((255 * wave + rng.normal(0, 8, (96, 96, 3))).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=92)
    return out.getvalue()


def make_inputs(work):
    """A folder per class; and a tar of another program: classes as text, and a sidecar."""
    rng = np.random.default_rng(1)
    classes = {}
    for i in range(18):
        name = CLASSES[i % 3]
        os.makedirs(f"{work}/in/{name}", exist_ok=True)
        data = picture(rng)
        open(f"{work}/in/{name}/{i:02d}.jpg", "wb").write(data)
        classes[hashlib.sha256(data).hexdigest()] = name
    with tarfile.open(f"{work}/theirs.tar", "w") as tar:
        for i in range(6):
            data = picture(rng)
            classes[hashlib.sha256(data).hexdigest()] = CLASSES[i % 2]
            for ending, content in (("jpg", data), ("cls", CLASSES[i % 2].encode()), ("json", json.dumps({"i": i}).encode())):
                info = tarfile.TarInfo(f"s{i}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return classes


def check(kind, found, classes):
    """found: [(bytes of the file, class)]"""
    if len(found) != len(classes):
        raise SystemExit(f"{kind}: {len(found)} of {len(classes)} pictures")
    for data, name in found:
        if classes[hashlib.sha256(data).hexdigest()] != name:
            raise SystemExit(f"{kind}: a picture of {classes[hashlib.sha256(data).hexdigest()]} is called {name}")


def main():
    with tempfile.TemporaryDirectory() as work:
        classes = make_inputs(work)
        both = {"in": 18, "theirs.tar": 6}
        for out, given in (("out", both), ("folder", {"in": 18})):
            run("dino-curate", "run", "--input", *[f"{work}/{i}" for i in given], "--output", f"{work}/{out}",
                "--dedup", "false", "--shard-records", 10)  # fmt: skip
        names = open(work + "/out/classes.txt").read().split("\n")[:-1]
        if names != CLASSES:
            raise SystemExit(f"classes.txt: {names}")
        shards = sorted(glob.glob(work + "/out/shards/*.tar"))

        raw = [(s["jpg"], names[int(s["cls"])]) for s in webdataset.WebDataset(shards, shardshuffle=False)]
        check("webdataset, bytes", raw, classes)
        decoded = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "cls"))
        if not all(isinstance(c, int) and i.size == (96, 96) for i, c in decoded):
            raise SystemExit("webdataset decodes something else")
        if [c for _, c in decoded] != [int(s["cls"]) for s in webdataset.WebDataset(shards, shardshuffle=False)]:
            raise SystemExit("webdataset decodes other classes")

        # datasets wants the same members in every sample: the folder's.
        folder = sorted(glob.glob(work + "/folder/shards/*.tar"))
        data = load_dataset("webdataset", data_files={"train": folder}, split="train", cache_dir=work + "/cache")
        if data.features["cls"].dtype != "int64":
            raise SystemExit(f"datasets takes .cls for {data.features['cls']}")
        data = data.cast_column("cls", ClassLabel(names=open(work + "/folder/classes.txt").read().split("\n")[:-1]))
        in_tars = [(s["jpg"], names[int(s["cls"])]) for s in webdataset.WebDataset(folder, shardshuffle=False)]
        by_key = {s["__key__"]: s for s in webdataset.WebDataset(folder, shardshuffle=False)}
        for row in data:
            sample = by_key[row["__key__"]]
            if np.abs(np.asarray(row["jpg"], float) - np.asarray(Image.open(io.BytesIO(sample["jpg"])), float)).max() > 0:
                raise SystemExit("datasets decodes another picture")
            if data.features["cls"].int2str(row["cls"]) != names[int(sample["cls"])]:
                raise SystemExit("datasets decodes another class")
        check("datasets", in_tars, {k: v for k, v in classes.items() if k in {hashlib.sha256(d).hexdigest() for d, _ in in_tars}})
        print(f"webdataset {webdataset.__version__} decodes {len(decoded)} samples, datasets {len(data)}, classes as in classes.txt")


if __name__ == "__main__":
    main()
