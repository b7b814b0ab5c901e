# SPDX-License-Identifier: Apache-2.0
"""dino-eval retrieval and copydetect give scikit-learn's average precision on the same features."""

import json
import os
import tempfile

import h5py
import numpy as np
from common import make_pictures, run
from sklearn.metrics import average_precision_score


def unit(x):
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def features(work, name, count, seed):
    """Raw pixels of pictures in folders that name three classes."""
    folder = os.path.join(work, name)
    for label in range(3):
        make_pictures(os.path.join(folder, str(label)), 32, count, seed=3 * seed + label)
    path = os.path.join(work, name + ".h5")
    run("dino-eval", "features", "--weights", "raw-pixels", "--size", 32, "--data", folder, "--output", path)
    with h5py.File(path) as f:
        return path, unit(f["features"][:]), f["labels"][:], [key.decode() for key in f["keys"][:]]


def rows(output):
    with open(os.path.join(output, "results.jsonl")) as lines:
        return {row["metric"]: row["value"] for row in map(json.loads, lines) if "threshold" not in row["card"]}


def main():
    with tempfile.TemporaryDirectory() as work:
        query_path, queries, query_labels, _ = features(work, "queries", 20, 1)
        bank_path, bank, bank_labels, _ = features(work, "bank", 40, 2)
        output = os.path.join(work, "results")
        run("dino-eval", "retrieval", "--queries", query_path, "--database", bank_path, "--output", output)
        run("dino-eval", "copydetect", "--originals", bank_path, "--copies", query_path, "--match", "label",
            "--candidates", len(bank), "--output", output)  # fmt: skip
        ours = rows(output)
    scores = queries @ bank.T
    relevant = query_labels[:, None] == bank_labels[None, :]
    theirs = {
        "map": np.mean([average_precision_score(r, s) for r, s in zip(relevant, scores)]),
        "micro_ap": average_precision_score(relevant.ravel(), scores.ravel()),
    }
    best = scores.argmax(1)
    right = relevant[np.arange(len(best)), best]
    # Every query has an answer, so that recall ends at the share of right ones.
    theirs["gap"] = average_precision_score(right, scores.max(1)) * right.mean()
    for name, value in theirs.items():
        # Products in f32 may swap neighbours that f64 tells apart.
        if abs(ours[name] - value) > 1e-4:
            raise SystemExit(f"{name}: {ours[name]} here, {value} by scikit-learn")
    print(", ".join(f"{name} {ours[name]:.4f} ({value:.4f})" for name, value in theirs.items()))


main()
