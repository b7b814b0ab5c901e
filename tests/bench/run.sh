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
# bf16 where the CPU has it; elsewhere the peer emulates it.
PRECISIONS=fp32
grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo && PRECISIONS='fp32 bf16'
for round in $(seq "$ROUNDS"); do
  for precision in $PRECISIONS; do
    same=(--preset vits14 --batch "$BATCH" --precision "$precision" --threads "$THREADS")
    measure "step-$precision.$round" "$BIN/dino-pretrain" bench "${same[@]}" --steps "$STEPS" --warmup "$WARMUP" --json
    [ -n "$PEERS" ] && measure "step-$precision-peer.$round" "$PEERS" tests/bench/torch_step.py step "${same[@]}" --steps "$STEPS" --warmup "$WARMUP"
    measure "forward-$precision.$round" "$BIN/dino-eval" bench "${same[@]}" --size 224 --repeats 10 --json
    [ -n "$PEERS" ] && measure "forward-$precision-peer.$round" "$PEERS" tests/bench/torch_step.py forward "${same[@]}" --size 224 --steps 10
  done
done
measure join "$PYTHON" tests/bench/join_bench.py --bin "$BIN" --rows "$ROWS" --threads "$THREADS" --repeats "$ROUNDS"

if [ -n "$PEERS" ] && [ -x "$BIN/crops_bench" ]; then
  "$PEERS" tests/bench/torch_crops.py --draw "$WORK/photos" 40 || failed=1
  for round in $(seq "$ROUNDS"); do
    measure "crops.$round" "$BIN/crops_bench" "$WORK"/photos/*.jpg
    measure "crops-peer.$round" "$PEERS" tests/bench/torch_crops.py "$WORK"/photos/*.jpg
  done
fi
"$PYTHON" tests/bench/table.py "$WORK" --batch "$BATCH" --rows "$ROWS" --threads "$THREADS" || failed=1
[ -n "$PEERS" ] || echo "no PyTorch and FAISS in build/peers-venv: make peers installs them"
exit "$failed"
