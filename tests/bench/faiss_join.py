#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One FAISS configuration of the threshold self-join, measured in a process of its own (for its peak memory).

    faiss_join.py --data FILE.npy --index PCA512,IVF512,FlatPanorama32 [--sorted] [--probes 1] [--threshold 0.97]

Prints JSON: seconds to train, add and search, points per second, peak memory, and the edges of the audited rows. With
--queries fewer than there are rows the search is timed on the first ones, `repeats` times. With --sorted the queries are
transformed and assigned first and searched in the order of their lists, which keeps a list in the cache.
"""

import argparse
import json
import re
import resource
import time

import faiss
import numpy as np

BATCH = 100000


def build(options, data):
    index = faiss.index_factory(data.shape[1], options.index, faiss.METRIC_L2)
    lists = int(re.search(r"IVF(\d+)", options.index).group(1))
    sample = np.sort(np.random.default_rng(1).permutation(len(data))[: 64 * lists])
    start = time.perf_counter()
    index.train(np.ascontiguousarray(data[sample]))
    trained = time.perf_counter()
    for begin in range(0, len(data), BATCH):
        index.add(np.ascontiguousarray(data[begin : begin + BATCH]))
    faiss.extract_index_ivf(index).nprobe = options.probes
    return index, trained - start, time.perf_counter() - trained


def search(index, rows, radius, by_list):
    """The limits and neighbours of range_search, and the order in which the rows were searched."""
    if not by_list:
        limits, _, found = index.range_search(rows, radius)
        return limits, found, np.arange(len(rows))
    transform = faiss.downcast_index(index)
    if isinstance(transform, faiss.IndexPreTransform):
        rows = faiss.downcast_VectorTransform(transform.chain.at(0)).apply(rows)
    inverted = faiss.downcast_index(faiss.extract_index_ivf(index))
    distance, cell = faiss.downcast_index(inverted.quantizer).search(rows, inverted.nprobe)
    order = np.argsort(cell[:, 0], kind="stable")
    limits, _, found = inverted.range_search_preassigned(rows[order], radius, cell[order], distance[order])
    return limits, found, order


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--index", required=True)
    parser.add_argument("--sorted", action="store_true")
    parser.add_argument("--probes", type=int, default=1)
    parser.add_argument("--threshold", type=float, default=0.97)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--queries", type=int, default=200000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--audit", help="a .npy of rows whose edges are wanted")
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    data = np.load(options.data, mmap_mode="r")
    index, train, add = build(options, data)
    radius = 2 - 2 * options.threshold  # |x - y|^2 = 2 - 2 cos for unit rows
    queries = min(options.queries, len(data))
    batches = [np.ascontiguousarray(data[b : min(b + BATCH, queries)]) for b in range(0, queries, BATCH)]
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        for rows in batches:
            search(index, rows, radius, options.sorted)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    edges = []
    if options.audit:
        audited = np.load(options.audit)
        limits, found, order = search(index, np.ascontiguousarray(data[audited]), radius, options.sorted)
        source = np.repeat(audited[order], np.diff(limits).astype(np.int64))
        edges = sorted({(int(min(a, b)), int(max(a, b))) for a, b in zip(source, found) if a != b})
    median = float(np.median(seconds))
    report = {
        "index": options.index + (", queries by list" if options.sorted else "") + f", probes {options.probes}",
        "train_seconds": train,
        "add_seconds": add,
        "queries": queries,
        "search_seconds": seconds,
        "points_per_second_search_only": queries / median,
        "points_per_second": len(data) / (train + add + median * len(data) / queries),
        "peak_rss_bytes": peak,
        "edges": edges,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
