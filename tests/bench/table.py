#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the table of tests/bench/run.sh from the JSON files it measured: medians over rounds, the ratio of ours to the
peer, and the share of the limit, which is the machine's own rate of matrix products measured in the same run. Fails when
a training step's loss is not that of the peer's graph."""

import argparse
import glob
import json
import os
import statistics

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder")
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--rows", type=int, required=True)
parser.add_argument("--threads", type=int, required=True)
options = parser.parse_args()


def rounds(name):
    return [json.load(open(path)) for path in sorted(glob.glob(os.path.join(options.folder, name + ".[0-9]*"))) if not path.endswith(".log")]


def median(runs, key):
    values = [run[key] for run in runs if run.get(key) is not None]
    return statistics.median(values) if values else None


def cell(value, digits=2, scale=1.0, suffix=""):
    return "-" if value is None else f"{value / scale:,.{digits}f}{suffix}"


def row(what, unit, ours, peer, share, memory, peer_memory, digits=2):
    ratio = ours / peer if ours and peer else None
    percent = None if share is None else 100 * share
    print(
        f"{what:34} {unit:9} {cell(ours, digits):>10} {cell(peer, digits):>10} {cell(ratio):>6} {cell(percent, 0, suffix=' %'):>9}"
        f" {cell(memory, 2, 2**30):>9} {cell(peer_memory, 2, 2**30):>9}"
    )


def check_losses(ours, theirs):
    """Both start untrained and take the same few steps on noise: the totals agree to some per cent."""
    for mine, other in zip(ours, theirs):
        expected = sum(other["losses"]["last"].values())
        if not abs(mine["loss"] - expected) < 0.1 * expected:
            raise SystemExit(f"bench: the losses differ: {mine['loss']:.2f} and {expected:.2f}: not the same step")


print(f"{options.threads} threads; vits14, batch {options.batch} (2 x 224 + 8 x 98 pixels; forward 224); join of {options.rows:,} x 512 at cosine 0.97")
print(f"{'':34} {'unit':9} {'ours':>10} {'peer':>10} {'ratio':>6} {'of limit':>9} {'ours GiB':>9} {'peer GiB':>9}")
steps = []
for precision in ("fp32", "bf16"):
    for what, name in (("training step", "step"), ("inference", "forward")):
        ours, peer = rounds(f"{name}-{precision}"), rounds(f"{name}-{precision}-peer")
        if not ours:
            continue
        if name == "step":
            check_losses(ours, peer)
            steps += ours
        achieved, limit = median(ours, "achieved_gflops"), median(ours, "gemm_peak_gflops")
        share = achieved / limit if achieved and limit else None
        row(f"{what}, {precision} (PyTorch)", "images/s", *(median(runs, "images_per_second") for runs in (ours, peer)), share, *(median(runs, "peak_rss_bytes") for runs in (ours, peer)))
ours, peer = rounds("crops"), rounds("crops-peer")
if ours and peer:
    row("ten crops of a JPEG, one thread", "images/s", *(median(runs, "images_per_second") for runs in (ours, peer)), None, None, None, digits=1)
path = os.path.join(options.folder, "join")
join = json.load(open(path)) if os.path.exists(path) else {}
memory = join.get("dino_peak_rss_bytes"), join.get("faiss_peak_rss_bytes")
ours, share = join.get("dino_points_per_second"), join.get("share_of_limit")
row("join (FAISS, its search alone)", "rows/s", ours, join.get("faiss_points_per_second_search_only"), share, *memory, digits=0)
row("join (FAISS, training included)", "rows/s", ours, join.get("faiss_points_per_second"), share, *memory, digits=0)
if steps:
    print(f"allocated by tensors in the timed training steps: {max(run['allocated_bytes'] for run in steps)} B; page faults: {max(run['page_faults'] for run in steps)}")
if "faiss_index" in join:
    print(f"join: recall {join['dino_recall']:.4f}, {join['faiss_index']} {join['faiss_recall']:.4f}")
