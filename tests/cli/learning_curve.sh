#!/usr/bin/env bash
# The first 40 steps of the reference's learning curve on real pictures; `make learning-curve` runs all 320.
. "$(dirname "$0")/lib.sh"
[ -z "${ASAN_OPTIONS:-}" ] || { echo "skipped under the sanitizers, which cli.pretrain and the training tests run under"; exit 77; }
"$DINO_SHARE/datasets/fetch.sh" fashion-mnist >log.txt 2>&1 || { tail -n 3 log.txt; echo "skipped: Fashion-MNIST cannot be fetched here"; exit 77; }
bash "$DINO_SOURCE/tests/bench/learning_curve.sh" --steps 40 --output "$WORK/curve" || fail "the training does not follow the reference's learning curve"
finish
