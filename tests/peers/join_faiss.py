# SPDX-License-Identifier: Apache-2.0
"""dino-curate dedup finds the pairs that an exhaustive FAISS range search finds."""

import os
import tempfile

import faiss
import h5py
import numpy as np
from common import clustered_rows, run

ROWS, WIDTH, THRESHOLD, BORDER = 20000, 64, 0.95, 1e-6


def make_rows():
    """Clustered unit rows; a tenth of them are copies at cosines on both sides of the threshold."""
    rng = np.random.default_rng(3)
    x = clustered_rows(ROWS, WIDTH, 200, 0.7, seed=4)
    source = rng.integers(0, ROWS * 9 // 10, ROWS // 10)
    amount = rng.uniform(0.02, 0.45, (ROWS // 10, 1)).astype(np.float32) / np.sqrt(np.float32(WIDTH))
    x[ROWS * 9 // 10 :] = x[source] + amount * rng.standard_normal((ROWS // 10, WIDTH), np.float32)
    x = x[rng.permutation(ROWS)]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def faiss_pairs(x, threshold):
    index = faiss.IndexFlatIP(WIDTH)
    index.add(x)
    limits, _, neighbours = index.range_search(x, threshold)
    rows = np.repeat(np.arange(len(x)), np.diff(limits.astype(np.int64)))
    return {(int(a), int(b)) for a, b in zip(rows, neighbours) if a < b}


def our_pairs(path, work, name, *flags):
    output = os.path.join(work, name)
    run("dino-curate", "dedup", "--embeddings", path, "--threshold", THRESHOLD, "--output", output, *flags)
    with h5py.File(os.path.join(output, "dedup.h5")) as f:
        source, target = f["edges/source"][:], f["edges/target"][:]
        similarity = f["edges/similarity"][:]
    return {(min(int(a), int(b)), max(int(a), int(b))): float(s) for a, b, s in zip(source, target, similarity)}


def main():
    x = make_rows()
    # Pairs within BORDER of the threshold may fall on either side: sums of f32 in another order.
    certain, possible = faiss_pairs(x, THRESHOLD + BORDER), faiss_pairs(x, THRESHOLD - BORDER)
    if len(certain) < 1000:
        raise SystemExit(f"only {len(certain)} pairs: nothing was checked")
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "rows.npy")
        np.save(path, x)
        exhaustive = our_pairs(path, work, "exhaustive", "--lists", 64, "--probes", 64)
        default = our_pairs(path, work, "default")
    missed, extra = certain - set(exhaustive), set(exhaustive) - possible
    if missed or extra:
        raise SystemExit(f"exhaustive search: {len(missed)} pairs missed, {len(extra)} too many: "
                         f"{sorted(missed)[:3]} {sorted(extra)[:3]}")  # fmt: skip
    wide = x.astype(np.float64)
    error = max(abs(wide[a] @ wide[b] - s) for (a, b), s in exhaustive.items())
    if error > 2e-6:
        raise SystemExit(f"similarities are off by {error:.1e}")
    if set(default) - possible:
        raise SystemExit(f"default search: {len(set(default) - possible)} pairs that do not exist")
    found = len(certain & set(default)) / len(certain)
    if found < 0.99:
        raise SystemExit(f"default search: recall {found:.4f} is below 0.99")
    print(f"{len(exhaustive)} pairs, the same as FAISS; largest error of a cosine {error:.1e}; "
          f"recall of the default search {found:.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
