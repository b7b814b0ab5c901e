#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains share/recipes/learning_curve.cfg and learning_curve_batch64.cfg (about five minutes on two quiet cores) and compares k-NN and losses with the reference's curve
# (make learning-curve).
#   learning_curve.sh [--steps N] [--seeds "0 1"] [--output DIR]    --steps N: the images of the first N of the reference's 320 steps
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
export DINO_SHARE=${DINO_SHARE:-$root/share} PYTHONDONTWRITEBYTECODE=1
BIN=${DINO_BIN:-$root/build/release/bin}
steps=320 seeds=0 output=
while [ $# -gt 0 ]; do
  case $1 in
    --steps) steps=$2; shift ;;
    --seeds) seeds=$2; shift ;;
    --output) output=$2; shift ;;
    *) echo "learning_curve.sh: error: unknown option: $1: takes --steps N, --seeds \"0 1\" and --output DIR" >&2; exit 64 ;;
  esac
  shift
done
[ -x "$BIN/dino-pretrain" ] || { echo "learning_curve.sh: error: no programs in $BIN: not built; run make build" >&2; exit 66; }
"$DINO_SHARE/datasets/fetch.sh" fashion-mnist || exit $?
if [ -z "$output" ]; then output=$(mktemp -d) && trap 'rm -rf "$output"' EXIT; fi
# train RECIPE STEPS: with every seed; the runs' folders in $runs
train() {
  local seed run code
  runs=()
  for seed in $seeds; do
    run=$output/$1.seed$seed
    "$BIN/dino-pretrain" train --config "$DINO_SHARE/recipes/$1.cfg" --data fashion-mnist/trainval --output "$run" --seed "$seed" --stop-after "$2"
    code=$?
    # 75: stopped before the end, as asked.
    [ $code = 0 ] || { [ $code = 75 ] && [ "$steps" -lt 320 ]; } || exit $code
    runs+=("$run")
  done
}
compare() { "${DINO_PYTHON:-/usr/bin/python3}" "$here/learning_curve.py" "$@"; }

train learning_curve "$steps"
echo "The reference's settings (learning_curve.cfg):"
compare "${runs[@]}" || failed=1
# Batches of 64 take twice the steps.
train learning_curve_batch64 $((2 * steps))
echo "The same model on the same images in batches of 64 (learning_curve_batch64.cfg):"
compare --knn "${runs[@]}" || failed=1
exit "${failed:-0}"
