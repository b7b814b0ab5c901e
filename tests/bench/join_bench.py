#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times dino-curate dedup against FAISS on one synthetic fixture, and checks the edges before it reports.

    join_bench.py --bin build/release/bin [--rows 1000000] [--threads 2] [--threshold 0.97] [--work DIR]

The fixture has 2,000 Gaussian clusters in an effective 64-dimensional subspace of 512 dimensions, isotropic noise, and
one tenth of the rows are copies (10 of each source) at a cosine of 0.97 to 0.99. FAISS (faiss-cpu from PyPI) runs in the
configurations that were fastest for it: PCA, inverted lists and Panorama pruning (32 levels), L2 range search, queries in
the order of their lists, at the fewest probes that give the recall; the fastest counts. Both sides are medians of
--repeats runs; FAISS, whose time per query is constant, is timed on a part of the queries. Recall is measured exhaustively
on sampled rows, and both sides must have it. Without faiss only dino-curate is timed.

The limit is the rate of numpy's matrix product on the same threads: share_of_limit is the rate of the multiply-adds
that dino-curate needs for its whole join (from training to settled pairs), over that.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

PHASES = ("train", "assign", "join")
LEAST_RECALL = 0.99


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


def run_dino(options, path, work):
    command = [os.path.join(options.bin, "dino-curate"), "dedup", "--embeddings", path, "--threshold", str(options.threshold)]
    command += ["--output", os.path.join(work, "out"), "--json", "--progress", "off", "--threads", str(options.threads)]
    if options.ranks > 1:
        launch = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(options.ranks)]
        command = launch + command
    results = []
    for _ in range(options.repeats):
        results.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    results.sort(key=lambda result: sum(result["phases"][p] for p in PHASES))
    import h5py

    with h5py.File(os.path.join(work, "out", "dedup.h5")) as f:
        pairs = np.stack([f["edges/source"][:], f["edges/target"][:]], 1)
    return results[len(results) // 2], pairs


def run_faiss(options, index, probes, by_list, path, audit):
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "faiss_join.py")
    command = [sys.executable, script, "--data", path, "--index", index, "--threshold", str(options.threshold)]
    command += ["--threads", str(options.threads * options.ranks), "--repeats", str(options.repeats), "--audit", audit]
    command += ["--probes", str(probes)] + (["--sorted"] if by_list else [])
    # Settings for another OpenBLAS must not slow the one that FAISS brings.
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout)
    print(f"FAISS {result['index']}: {result['points_per_second_search_only']:.0f} points/s (search only)", file=sys.stderr)
    return result


def peers(rows, width):
    """(index, queries by list?): about sqrt(rows) lists, or half of them."""
    lists = 2 ** round(np.log2(max(16.0, np.sqrt(rows))))
    by_list = [(f"PCA{width},IVF{lists // part},FlatPanorama32", True) for part in (1, 2)]
    return by_list + [(f"PCA{width},IVF{lists},FlatPanorama8", False)]


def measure_faiss(options, path, width, audit, expected):
    """Every configuration at the fewest probes that give the recall; those that never do are no peers."""
    measured = []
    for index, by_list in peers(options.rows, width)[: options.peers]:
        for probes in (1, 2, 4):
            peer = run_faiss(options, index, probes, by_list, path, audit)
            peer["recall"] = recall({tuple(edge) for edge in peer.pop("edges")}, expected)
            measured.append(peer)
            if peer["recall"] >= LEAST_RECALL:
                break
    return measured


def product_rate(threads):
    """Multiply-adds per second of numpy's matrix product, in a process that may not use more threads."""
    code = """
import time, numpy as np
a = np.random.default_rng(0).random((4096, 2048), np.float32); b = a.T.copy(); best = 1e9
for _ in range(8):
    start = time.perf_counter(); a @ b; best = min(best, time.perf_counter() - start)
print(4096 * 4096 * 2048 / best)"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")} | {"OPENBLAS_NUM_THREADS": str(threads)}
    return float(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env=env).stdout)


def load_fixture(rows, work):
    path, copied_path = (os.path.join(work, f"{name}_{rows}.npy") for name in ("fixture", "copied"))
    if not (os.path.exists(path) and os.path.exists(copied_path)):
        x, copied = make_fixture(rows)
        np.save(path, x)
        np.save(copied_path, copied)
    return path, np.load(path, mmap_mode="r"), np.load(copied_path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--rows", type=int, default=1000000)
    parser.add_argument("--threshold", type=float, default=0.97)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--audit", type=int, default=500, help="rows whose edges are checked exhaustively")
    parser.add_argument("--peers", type=int, default=3, help="how many FAISS configurations run")
    parser.add_argument("--work", help="keep the fixture here (reused when it exists)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or temporary
        os.makedirs(work, exist_ok=True)
        path, x, copied = load_fixture(options.rows, work)
        queries = np.random.default_rng(2).permutation(copied)[: options.audit]
        audit = os.path.join(temporary, "audit.npy")
        np.save(audit, queries)
        expected = exhaustive_edges(x, queries, options.threshold)
        audited = set(queries.tolist())

        result, pairs = run_dino(options, path, work)
        touching = {(int(a), int(b)) for a, b in pairs if int(a) in audited or int(b) in audited}
        for a, b in touching - expected:
            assert x[a].astype(np.float64) @ x[b] >= options.threshold - 4e-6, "dino-curate found a pair that is none"
        compute = sum(result["phases"][p] for p in PHASES)
        rate = product_rate(options.threads * options.ranks)
        report = {
            "rows": options.rows,
            "threads": options.threads * options.ranks,
            "dino_points_per_second": options.rows / compute,
            "dino_points_per_second_search_only": options.rows / (compute - result["phases"]["train"]),
            "dino_seconds_with_files": result["seconds"],
            "dino_phases": result["phases"],
            "dino_edges": result["edges"],
            "dino_recall": recall(touching, expected),
            "dino_peak_rss_bytes": result["peak_rss_bytes"],
            "dino_multiply_adds": result["multiply_adds"],
            "product_multiply_adds_per_second": rate,
            "share_of_limit": result["multiply_adds"] / compute / rate,
        }
        if importlib.util.find_spec("faiss") is None:
            report["faiss"] = "not installed"
        else:
            measured = measure_faiss(options, path, x.shape[1], audit, expected)
            fair = [peer for peer in measured if peer["recall"] >= LEAST_RECALL]
            if not fair:
                raise SystemExit(f"no configuration of FAISS has a recall of {LEAST_RECALL}: nothing to compare with")
            best = max(fair, key=lambda peer: peer["points_per_second_search_only"])
            best_whole = max(fair, key=lambda peer: peer["points_per_second"])
            report |= {
                "faiss_index": best["index"],
                "faiss_points_per_second_search_only": best["points_per_second_search_only"],
                "faiss_points_per_second": best_whole["points_per_second"],
                "faiss_recall": best["recall"],
                "faiss_peak_rss_bytes": best["peak_rss_bytes"],
                "speedup_over_search_only": report["dino_points_per_second"] / best["points_per_second_search_only"],
                "speedup": report["dino_points_per_second"] / best_whole["points_per_second"],
                "faiss_configurations": measured,
            }
        print(json.dumps(report, indent=1))
        if report["dino_recall"] < max(LEAST_RECALL, report.get("faiss_recall", 0) - 0.002):
            raise SystemExit(f"the recall is below {LEAST_RECALL} or below FAISS's")


if __name__ == "__main__":
    main()
