#!/usr/bin/env bash
# One table of speed and memory, ours beside PyTorch and FAISS on the same threads (make bench). --quick: one repeat.
# BENCH_BATCH (8), BENCH_ROWS (200000), BENCH_THREADS (all cores), BENCH_STEPS (5) change the sizes. The peers live in
# build/peers-venv, which make peers installs; without it their columns stay empty. Each number is a median; run it on a
# quiet machine.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
BIN=${DINO_BIN:-build/release/bin}
BATCH=${BENCH_BATCH:-8} ROWS=${BENCH_ROWS:-200000} THREADS=${BENCH_THREADS:-$(nproc)} STEPS=${BENCH_STEPS:-5} WARMUP=2
case "${1:-}" in --quick) STEPS=1 WARMUP=1 ;; '') ;; *) echo "usage: tests/bench/run.sh [--quick]" >&2; exit 64 ;; esac
[ -x "$BIN/dino-pretrain" ] || { echo "bench: no programs in $BIN; run make build first" >&2; exit 1; }
PEERS=build/peers-venv/bin/python
PYTHON=$PEERS
"$PEERS" -c 'import torch, faiss, h5py' 2>/dev/null || PEERS='' PYTHON=${DINO_PYTHON:-/usr/bin/python3}
export OMP_NUM_THREADS=$THREADS PYTHONDONTWRITEBYTECODE=1
WORK=$(mktemp -d) && trap 'rm -rf "$WORK"' EXIT
failed=0

# measure NAME command...: the command's JSON in $WORK/NAME, or a message.
measure() {
  local name=$1; shift
  "$@" >"$WORK/$name" 2>"$WORK/$name.log" && return 0
  echo "bench: failed: $*" >&2; tail -n 3 "$WORK/$name.log" >&2; rm -f "$WORK/$name"; failed=1
}

echo "vits14, batch $BATCH, f32, $THREADS threads, median of $STEPS; join of $ROWS x 512 at cosine 0.97"
measure step "$BIN/dino-pretrain" bench --preset vits14 --batch "$BATCH" --precision fp32 --steps "$STEPS" --warmup "$WARMUP" --threads "$THREADS" --json
[ -n "$PEERS" ] && measure step-peer "$PEERS" tests/bench/torch_step.py step --batch "$BATCH" --steps "$STEPS" --warmup "$WARMUP" --threads "$THREADS"
measure forward "$BIN/dino-eval" bench --preset vits14 --batch "$BATCH" --size 224 --precision fp32 --repeats "$STEPS" --threads "$THREADS" --json
[ -n "$PEERS" ] && measure forward-peer "$PEERS" tests/bench/torch_step.py forward --batch "$BATCH" --size 224 --steps "$STEPS" --threads "$THREADS"
measure join "$PYTHON" tests/bench/join_bench.py --bin "$BIN" --rows "$ROWS" --threads "$THREADS"

"$PYTHON" - "$WORK" <<'PY'
import json, os, sys

def load(name):
    path = os.path.join(sys.argv[1], name)
    return json.load(open(path)) if os.path.exists(path) else {}

def cell(value, scale=1, digits=2):
    return "-" if value is None else f"{value / scale:.{digits}f}"

join = load("join")
rows = [(what, unit, *(load(n).get(key) for key in ("images_per_second", "peak_rss_bytes") for n in (name, name + "-peer")))
        for what, unit, name in (("training step", "images/s", "step"), ("forward pass", "images/s", "forward"))]
rows.append(("near-duplicate join", "rows/s", join.get("dino_points_per_second"), join.get("faiss_points_per_second"),
             join.get("dino_peak_rss_bytes"), None))
print(f"{'':20} {'unit':9} {'ours':>10} {'peer':>10} {'ratio':>6} {'ours GiB':>9} {'peer GiB':>9}")
for what, unit, ours, peer, memory, peer_memory in rows:
    ratio = ours / peer if ours and peer else None
    print(f"{what:20} {unit:9} {cell(ours):>10} {cell(peer):>10} {cell(ratio):>6} {cell(memory, 2**30):>9} {cell(peer_memory, 2**30):>9}")
PY
[ -n "$PEERS" ] || echo "no PyTorch and FAISS in build/peers-venv: make peers installs them"
exit "$failed"
