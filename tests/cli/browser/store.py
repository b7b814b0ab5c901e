# SPDX-License-Identifier: Apache-2.0
"""Writes what a report is made from into the current folder: pool/ (images), results/, pretrain/, chain/."""
import hashlib
import json
import os
import struct
import zlib

import h5py
import numpy as np

rng = np.random.default_rng(5)
MODELS = {"pretrain/step_00004000": 0.74, "dinov2_vits14": 0.76, "mae <b>": 0.66, "random-weights": 0.45, "raw-pixels": 0.52}
SETS = {"photos/test": 0.0, "openclipart/test": -0.11, "fashion-mnist/test": 0.12, "wesnoth-units/test": -0.2}


def png(path, a):
    h, w, c = a.shape
    raw = b"".join(b"\0" + a[y].tobytes() for y in range(h))

    def chunk(t, d):
        return struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))

    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2 if c == 3 else 6, 0, 0, 0)) +
                chunk(b"IDAT", zlib.compress(raw, 1)) + chunk(b"IEND", b""))


def scene(r, side=96):
    """Sky, hills and a sun: smooth areas with grain, as in photographs."""
    y, x = np.mgrid[0:side, 0:side] / side
    sky, ground = r.uniform(60, 230, 3), r.uniform(20, 160, 3)
    a = sky * (1 - 0.5 * y[..., None]) + 40 * y[..., None]
    for k in range(3):
        hill = r.uniform(0.4, 0.8) + 0.12 * np.sin(r.uniform(2, 9) * x + r.uniform(0, 6))
        a[y > hill + 0.08 * k] = ground * (1 - 0.2 * k)
    cx, cy, s = r.uniform(0.1, 0.9), r.uniform(0.05, 0.5), r.uniform(0.03, 0.12)
    a[(x - cx) ** 2 + (y - cy) ** 2 < s * s] = r.uniform(170, 255, 3)
    return (a + r.normal(0, 6, a.shape)).clip(0, 255).astype(np.uint8)


def pool():
    for i in range(90):
        a = scene(rng)
        png(f"pool/{('coast', 'hills')[i % 2]}/scene {i:03d} <&>.png", a)
        if i % 5 == 0:  # brighter, cropped, shifted: on both sides of the threshold
            b = a.astype(float) * rng.uniform(0.8, 1.2)
            cut = int(rng.integers(0, 14))
            png(f"pool/copies/of_{i:03d}.png", b.clip(0, 255).astype(np.uint8)[cut:, : 96 - cut].copy())
    open("pool/coast/broken.png", "wb").write(b"\x89PNG\r\n\x1a\nno")


def add_row(out, task, dataset, model, metric, value, n, card, **more):
    text = json.dumps(card, sort_keys=True, separators=(",", ":"))
    half = 1.96 * (value * (1 - value) / n) ** 0.5
    row = dict(task=task, dataset=dataset, model=model, metric=metric, value=value, low=max(0, value - half), high=min(1, value + half),
               n=n, card=card, card_hash=hashlib.sha256(text.encode()).hexdigest(), seconds=4.5,
               weights="" if model == "raw-pixels" else hashlib.sha256(model.encode()).hexdigest(), **more)
    row["command"] = f"dino-eval {task} --weights '{model}' --data {dataset} --output results"
    row["cpu"], row["cores"] = "Example(R) Processor 9000 @ 2.40GHz", 48
    out.write(json.dumps(row) + "\n")


def predictions(name, classes, labels, right):
    os.makedirs("results/predictions", exist_ok=True)
    with h5py.File("results/" + name, "w") as f:
        wrong = (labels + 1 + rng.integers(0, len(classes) - 1, len(labels))) % len(classes)
        f["labels"] = labels.astype(np.int32)
        f["predicted"] = np.where(right, labels, wrong).astype(np.int32)
        f.create_dataset("keys", data=[f"k{i}" for i in range(len(labels))], dtype=h5py.string_dtype())
        f.attrs.create("classes", classes, dtype=h5py.string_dtype())


def results():
    os.makedirs("results/pictures", exist_ok=True)
    with open("results/results.jsonl", "w") as out:
        for s, (dataset, shift) in enumerate(SETS.items()):
            n, classes = 800, [f"class <{i}> of a long name" if i == 0 else f"class {i}" for i in range(12 if s else 5)]
            labels, hard = rng.integers(0, len(classes), n), rng.uniform(0, 1, n)
            for model, skill in MODELS.items():
                right = hard + rng.normal(0, 0.05, n) < skill + shift
                for k in (5, 10, 20):
                    name = f"predictions/{s}_{len(model)}_{k}.h5" if k == 20 else ""
                    add_row(out, "knn", dataset, model, "top1", float(right.mean()) - 0.004 * (20 - k) / 5, n,
                            dict(k=k, size=224, test=dict(data=dataset, images=n)), **(dict(predictions=name) if name else {}))
                    if name:
                        predictions(name, classes, labels, right)
                for metric in ("top1", "top5", "mean_per_class"):
                    add_row(out, "linear", dataset, model, metric, min(0.99, skill + shift + 0.03 + 0.1 * (metric == "top5")), n,
                            dict(size=224, grid=[0.01, 0.1], test=dict(data=dataset)), oracle=0.9)
        for model, skill in MODELS.items():
            add_row(out, "segment", "wesnoth-units/test", model, "miou", skill - 0.1, 300, dict(size=64, patch=8))
    kinds = {"pca": ["image", "components"], "attention": ["image"] + [f"head {h}" for h in range(6)],
             "neighbours": ["query"] + [f"cat, 0.9{h}" for h in range(8)]}
    for kind, names in kinds.items():
        strips = []
        for i in range(3):
            entries = []
            for j, name in enumerate(names):
                file = f"pictures/{kind}_{i}_{j}.png"
                png("results/" + file, scene(rng))
                entries.append({"file": file, "caption": name, "class": "query" if name == "query" else "good" if kind == "neighbours" and j % 3 else ""})
            strips.append({"title": f"strip {i} of {kind}", "pictures": entries})
        json.dump(dict(kind=kind, task=kind, dataset="photos/test", model="pretrain/step_00004000", card_hash="0" * 64, strips=strips),
                  open(f"results/pictures/{kind}_0.json", "w"))


def run():
    os.makedirs("pretrain")
    steps = 4000
    with open("pretrain/metrics.jsonl", "w") as out:
        out.write(json.dumps(dict(event="start", step=0, ln_k=9.01, prototypes=8192, steps=steps, preset="vits14", batch=64, width=384, warmup=400)) + "\n")
        for s in range(10, steps + 1, 10):
            t, noise = s / steps, float(rng.normal(0, 0.06))
            out.write(json.dumps({"step": s, "samples": 64 * s, "loss": 12 - 5 * t + noise, "loss_dino_global": 9 - 2.5 * t + noise,
                                  "loss_dino_local": 9 - 2.1 * t + noise, "loss_ibot": 9 - 3 * t + noise, "loss_koleo": 2.3 - t,
                                  "information": 1.5 + 2 * t, "teacher_entropy": 6 - 2 * t, "kl": 1.5 - t, "prototype_usage": 0.01 + 0.004 * t,
                                  "effective_rank": 20 + 60 * t, "feature_std": 0.4 + 0.2 * t, "lr": 1e-3 * min(1, s / 400) * (1 - t / 1.2),
                                  "weight_decay": 0.04 + 0.3 * t, "momentum": 0.994 + 0.006 * t, "teacher_temperature": 0.04 + 0.03 * min(1, s / 400),
                                  "grad_norm_backbone": 1.5 + noise, "grad_norm_dino_head": 0.7 + noise, "grad_norm_ibot_head": 0.5 + noise,
                                  "images_per_second": 310 + 20 * noise, "data_wait_seconds": 0.01, "step_seconds": 0.2}) + "\n")
            if s % 1000 == 0:
                out.write(json.dumps(dict(event="knn", step=s, accuracy=0.5 + 0.2 * t)) + "\n")
    open("pretrain/config.ini", "w").write("preset = vits14\nbatch = 64\nlr = 0.001\n")
    start = dict(time="2026-01-31T10:00:00Z", host="node<7>", ranks=8, cpu="avx512", cpu_model="Example(R) Processor 9000 @ 2.40GHz", cores=48, from_step=0,
                 argv=["dino-pretrain", "train", "--data", "curated", "--output", "pretrain"], version="0.1.0", commit="abc")
    json.dump(dict(starts=[start]), open("pretrain/run.json", "w"))


def chain():
    times = dict(data="00", curate="05", pretrain="20", eval="45", report="59")
    os.makedirs("chain")
    open("chain/chain.cfg", "w").write("[chain]\nname = night\nrun = chain\n\n[pretrain]\nprogram = dino-pretrain\nargs = train --data ${run}/curate --output ${run}/pretrain\n")
    json.dump(dict(schema="dinohpc-chain-1", name="night", chain_file="chain/chain.cfg", stages=[dict(stage=s) for s in times]), open("chain/chain.json", "w"))
    minutes = list(times.values()) + ["59"]
    for i, stage in enumerate(times):
        os.makedirs(f"chain/{stage}")
        mark = dict(stage=stage, job=0, restarts=0, exit_code=0)
        json.dump(dict(mark, time=f"2026-01-31T10:{minutes[i]}:00Z"), open(f"chain/{stage}/started.json", "w"))
        if stage != "report":
            json.dump(dict(mark, time=f"2026-01-31T10:{minutes[i + 1]}:00Z"), open(f"chain/{stage}/done.json", "w"))


pool(), results(), run(), chain()
