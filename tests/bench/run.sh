#!/usr/bin/env bash
# One table of speed and memory, ours beside PyTorch and FAISS on the same threads (make bench). --quick: one round.
# Results are checked before they are timed: features against transformers, losses against those of an untrained
# network, edges against an exhaustive search. Ours and the peer take turns for BENCH_ROUNDS (3) rounds, and the medians
# count. BENCH_BATCH (8), BENCH_ROWS (1000000), BENCH_THREADS (all cores) and BENCH_STEPS (3) change the sizes. The peers
# live in build/peers-venv, which make peers installs; without it their columns stay empty. Run it on a quiet machine.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
BIN=${DINO_BIN:-build/release/bin}
BATCH=${BENCH_BATCH:-8} ROWS=${BENCH_ROWS:-1000000} THREADS=${BENCH_THREADS:-$(nproc)} STEPS=${BENCH_STEPS:-3}
ROUNDS=${BENCH_ROUNDS:-3} WARMUP=2
case "${1:-}" in --quick) STEPS=1 ROUNDS=1 ;; '') ;; *) echo "usage: tests/bench/run.sh [--quick]" >&2; exit 64 ;; esac
[ -x "$BIN/dino-pretrain" ] || { echo "bench: no programs in $BIN; run make build first" >&2; exit 1; }
PEERS=build/peers-venv/bin/python
PYTHON=$PEERS
"$PEERS" -c 'import torch, faiss, h5py' 2>/dev/null || PEERS='' PYTHON=${DINO_PYTHON:-/usr/bin/python3}
export OMP_NUM_THREADS=$THREADS PYTHONDONTWRITEBYTECODE=1
# A kernel choice that suits an older OpenBLAS would slow down the FAISS of PyPI.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
WORK=$(mktemp -d) && trap 'rm -rf "$WORK"' EXIT
failed=0

# measure NAME command...: the command's JSON in $WORK/NAME, or a message.
measure() {
  local name=$1; shift
  "$@" >"$WORK/$name" 2>"$WORK/$name.log" && return 0
  echo "bench: failed: $*" >&2; tail -n 3 "$WORK/$name.log" >&2; rm -f "$WORK/$name"; failed=1
}

if [ -n "$PEERS" ]; then
  tests/peers/run.sh hf_import || failed=1
fi
for round in $(seq "$ROUNDS"); do
  measure "step.$round" "$BIN/dino-pretrain" bench --preset vits14 --batch "$BATCH" --precision fp32 --steps "$STEPS" --warmup "$WARMUP" --threads "$THREADS" --json
  [ -n "$PEERS" ] && measure "step-peer.$round" "$PEERS" tests/bench/torch_step.py step --batch "$BATCH" --steps "$STEPS" --warmup "$WARMUP" --threads "$THREADS"
  measure "forward.$round" "$BIN/dino-eval" bench --preset vits14 --batch "$BATCH" --size 224 --precision fp32 --repeats 10 --threads "$THREADS" --json
  [ -n "$PEERS" ] && measure "forward-peer.$round" "$PEERS" tests/bench/torch_step.py forward --batch "$BATCH" --size 224 --steps 10 --threads "$THREADS"
done
measure join "$PYTHON" tests/bench/join_bench.py --bin "$BIN" --rows "$ROWS" --threads "$THREADS" --repeats "$ROUNDS"

"$PYTHON" tests/bench/table.py "$WORK" --batch "$BATCH" --rows "$ROWS" --threads "$THREADS" || failed=1
[ -n "$PEERS" ] || echo "no PyTorch and FAISS in build/peers-venv: make peers installs them"
exit "$failed"
