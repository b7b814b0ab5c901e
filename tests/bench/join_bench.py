#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times dino-curate dedup against FAISS on one synthetic fixture, and checks the edges before it reports.

    join_bench.py --bin build/release/bin [--rows 1000000] [--threads 2] [--threshold 0.97] [--work DIR]

The fixture has 2,000 Gaussian clusters in an effective 64-dimensional subspace of 512 dimensions, isotropic noise, and
one tenth of the rows are copies (10 of each source) at a cosine of 0.97 to 0.99. FAISS (faiss-cpu from PyPI) runs in the
configuration that was fastest for it: PCA, inverted lists and Panorama pruning, L2 range search, one probe; where this
version of FAISS has no Panorama, plain inverted lists. Without faiss only dino-curate is timed. Recall is measured
exhaustively on sampled rows.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time

import numpy as np


def make_fixture(rows, width=512, seed=0):
    rng = np.random.default_rng(seed)
    subspace, clusters, spread, noise, copies = 64, 2000, 0.6 / 8, 0.15, 10
    sources = rows // 100
    originals = rows - sources * copies
    basis = np.linalg.qr(rng.normal(size=(width, subspace)))[0].T.astype(np.float32)
    centres = rng.normal(size=(clusters, subspace)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    x = np.empty((rows, width), np.float32)
    for begin in range(0, originals, 50000):
        n = min(50000, originals - begin)
        low = centres[rng.integers(0, clusters, n)] + spread * rng.standard_normal((n, subspace), np.float32)
        x[begin : begin + n] = low @ basis + noise / np.sqrt(width) * rng.standard_normal((n, width), np.float32)
        x[begin : begin + n] /= np.linalg.norm(x[begin : begin + n], axis=1, keepdims=True)
    chosen = rng.permutation(originals)[:sources]
    for c in range(copies):
        amount = rng.uniform(0.14, 0.25, (sources, 1)).astype(np.float32) / np.sqrt(np.float32(width))
        copy = x[chosen] + amount * rng.standard_normal((sources, width), np.float32)
        x[originals + c * sources : originals + (c + 1) * sources] = copy / np.linalg.norm(copy, axis=1, keepdims=True)
    order = rng.permutation(rows)
    x = x[order]
    copied = np.flatnonzero(order >= originals)
    return x, copied


def exhaustive_edges(x, queries, threshold):
    """All (query, other) with cosine >= threshold, away from the threshold by more than f32 rounding."""
    edges = set()
    for begin in range(0, len(x), 100000):
        cosine = x[queries] @ x[begin : begin + 100000].T
        for q, j in zip(*np.nonzero(cosine >= threshold + 2e-6)):
            a, b = int(queries[q]), begin + int(j)
            if a != b:
                edges.add((min(a, b), max(a, b)))
    return edges


def recall(found, expected):
    return len(expected & found) / max(1, len(expected))


def run_dino(binary, path, work, threshold, threads, ranks):
    command = [os.path.join(binary, "dino-curate"), "dedup", "--embeddings", path, "--threshold", str(threshold)]
    command += ["--output", os.path.join(work, "out"), "--json", "--progress", "off", "--threads", str(threads)]
    if ranks > 1:
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] + command
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    import h5py

    with h5py.File(os.path.join(work, "out", "dedup.h5")) as f:
        pairs = np.stack([f["edges/source"][:], f["edges/target"][:]], 1)
    return result, pairs


def run_faiss(x, threshold, threads):
    import faiss

    faiss.omp_set_num_threads(threads)
    lists = 1024 if len(x) >= 500000 else max(16, int(np.sqrt(len(x))) // 16 * 16)
    name = f"PCA{x.shape[1]},IVF{lists},FlatPanorama8"
    start = time.time()
    try:
        index = faiss.index_factory(x.shape[1], name, faiss.METRIC_L2)
    except RuntimeError:
        name = f"IVF{lists},Flat"
        index = faiss.index_factory(x.shape[1], name, faiss.METRIC_L2)
    index.train(x[np.random.default_rng(1).permutation(len(x))[: 64 * lists]])
    index.add(x)
    built = time.time()
    pairs = []
    for begin in range(0, len(x), 100000):
        # |x - y|^2 = 2 - 2 cos for unit rows.
        limits, _, neighbours = index.range_search(x[begin : begin + 100000], 2 - 2 * threshold)
        source = np.repeat(np.arange(begin, begin + len(limits) - 1), np.diff(limits).astype(np.int64))
        keep = source < neighbours
        pairs.append(np.stack([source[keep], neighbours[keep]], 1))
    return name, built - start, time.time() - built, np.concatenate(pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--rows", type=int, default=1000000)
    parser.add_argument("--threshold", type=float, default=0.97)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--audit", type=int, default=500, help="rows whose edges are checked exhaustively")
    parser.add_argument("--work", help="keep the fixture here (reused when it exists)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or temporary
        os.makedirs(work, exist_ok=True)
        path = os.path.join(work, f"fixture_{options.rows}.npy")
        x, copied = make_fixture(options.rows)
        if not os.path.exists(path):
            np.save(path, x)
        queries = np.random.default_rng(2).permutation(copied)[: options.audit]
        expected = exhaustive_edges(x, queries, options.threshold)
        audited = set(queries.tolist())

        def touching(pairs):
            return {(int(a), int(b)) for a, b in pairs if int(a) in audited or int(b) in audited}

        result, pairs = run_dino(options.bin, path, work, options.threshold, options.threads, options.ranks)
        compute = sum(result["phases"][p] for p in ("train", "assign", "join"))
        report = {
            "rows": options.rows,
            "threads": options.threads * options.ranks,
            "dino_points_per_second": options.rows / compute,
            "dino_seconds_with_files": result["seconds"],
            "dino_phases": result["phases"],
            "dino_edges": result["edges"],
            "dino_recall": recall(touching(pairs), expected),
            "dino_peak_rss_bytes": result["peak_rss_bytes"],
        }
        try:
            import faiss  # noqa: F401
        except ImportError:
            report["faiss"] = "not installed"
        else:
            name, build, search, pairs = run_faiss(x, options.threshold, options.threads * options.ranks)
            report |= {
                "faiss_index": name,
                "faiss_build_seconds": build,
                "faiss_search_seconds": search,
                "faiss_points_per_second_search_only": options.rows / search,
                "faiss_points_per_second": options.rows / (build + search),
                "faiss_recall": recall(touching(pairs), expected),
                "speedup_over_search_only": search / compute,
                "speedup": (build + search) / compute,
            }
        print(json.dumps(report, indent=1))
        if report["dino_recall"] < 0.99:
            raise SystemExit("recall below 0.99")


if __name__ == "__main__":
    main()
