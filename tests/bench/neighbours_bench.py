#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times exact nearest neighbours against FAISS's flat index, and checks them before it reports.

    neighbours_bench.py --bin build/release/bin [--bank 60000] [--queries 10000] [--width 768] [--threads 2]

Unit rows in 100 classes whose spectrum falls off, as features of images have it. Ours reads the bank in pieces of 65,536
rows (memory does not grow with it), once by products of floats and once as it chooses; the peer holds it in memory. They
take turns, medians of --repeats runs count, wall and processor time of the search alone. The neighbours must be the same
but for rows whose similarities differ by rounding, and those of both our ways the same bytes."""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import numpy as np


def unit_rows(rng, rows, width, centres, spectrum, basis, shift):
    x = np.empty((rows, width), np.float32)
    for begin in range(0, rows, 50000):
        n = min(50000, rows - begin)
        noise = rng.standard_normal((n, width), np.float32)
        x[begin : begin + n] = (centres[rng.integers(0, len(centres), n)] + noise) * spectrum @ basis + shift
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def make_fixture(bank, queries, width):
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, width + 1, dtype=np.float32) ** -0.5
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0].astype(np.float32)
    centres = 0.6 * rng.standard_normal((100, width), np.float32)
    shift = 0.1 * rng.standard_normal(width, np.float32)
    return [unit_rows(rng, n, width, centres, spectrum, basis, shift) for n in (bank, queries)]


def run_ours(options, paths, way, out):
    command = [os.path.join(options.bin, "neighbours_bench"), *paths, str(options.k), way, out]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=dict(os.environ, OMP_NUM_THREADS=str(options.threads)))
    return json.loads(done.stdout), np.fromfile(out, np.int64).reshape(-1, options.k)


def run_faiss(faiss, index, queries, k):
    wall, processor = time.perf_counter(), time.process_time()
    _, found = index.search(queries, k)
    return {"search_seconds": time.perf_counter() - wall, "search_processor_seconds": time.process_time() - processor}, found


def check(bank, queries, ours, theirs):
    for q, j in zip(*np.nonzero(ours != theirs)):
        difference = queries[q].astype(np.float64) @ (bank[ours[q, j]].astype(np.float64) - bank[theirs[q, j]])
        if abs(difference) > 2e-6:
            raise SystemExit(f"query {q}, place {j}: {ours[q, j]} and {theirs[q, j]} differ by {difference:.2e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/bin")
    for name, value in (("bank", 60000), ("queries", 10000), ("width", 768), ("k", 20), ("threads", os.cpu_count()), ("repeats", 3)):
        parser.add_argument("--" + name, type=int, default=value)
    options = parser.parse_args()
    try:
        import faiss
    except ImportError:
        faiss = None
    bank, queries = make_fixture(options.bank, options.queries, options.width)
    runs = {"floats": [], "automatic": [], "faiss": []}
    found = {}
    with tempfile.TemporaryDirectory() as work:
        paths = [os.path.join(work, name) for name in ("bank.npy", "queries.npy")]
        for path, rows in zip(paths, (bank, queries)):
            np.save(path, rows)
        if faiss:
            faiss.omp_set_num_threads(options.threads)
            index = faiss.IndexFlatIP(options.width)
            index.add(bank)
        for _ in range(options.repeats):
            for way in ("floats", "automatic"):
                result, found[way] = run_ours(options, paths, way, os.path.join(work, "found"))
                runs[way].append(result)
            if faiss:
                result, found["faiss"] = run_faiss(faiss, index, queries, options.k)
                runs["faiss"].append(result)
    if not (found["floats"] == found["automatic"]).all():
        raise SystemExit("the two ways find other neighbours")
    if faiss:
        check(bank, queries, found["automatic"], found["faiss"])
    report = {}
    for name, results in runs.items():
        for key in ("search_seconds", "search_processor_seconds", "read_seconds", "peak_rss_bytes"):
            values = [result[key] for result in results if key in result]
            if values:
                report[f"{name}_{key}"] = statistics.median(values)
    report["ordered_products_per_query"] = runs["automatic"][0]["ordered_products_per_query"]
    if faiss:
        for way in ("floats", "automatic"):
            for key in ("search_seconds", "search_processor_seconds"):
                report[f"{way}_ratio_of_{key}"] = report["faiss_" + key] / report[f"{way}_{key}"]
    print(json.dumps({key: round(value, 4) for key, value in report.items()}))


main()
