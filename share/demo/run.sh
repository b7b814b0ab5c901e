#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole chain on real images: fetch, curate, pretrain, evaluate, report. Run again, it goes on where it stopped.
#   run.sh [--short | --showcase] [--output DIR]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DINO_SHARE=${DINO_SHARE:-$(cd "$here/.." && pwd)}
variant=
output=
while [ $# -gt 0 ]; do
  case $1 in
    --short | --showcase) variant=${1#--} ;;
    --output) output=${2:?run.sh: error: missing value: --output: give a folder}; shift ;;
    *) echo "run.sh: error: unknown option: $1: run.sh takes --short or --showcase, and --output DIR" >&2; exit 64 ;;
  esac
  shift
done
for bin in "$here/../../build/release/bin" "$here/../../../bin"; do
  if [ -x "$bin/dino-jobs" ]; then PATH=$(cd "$bin" && pwd):$PATH; break; fi
done
command -v dino-jobs >/dev/null || { echo "run.sh: error: programs not found: dino-jobs: not built; run make build" >&2; exit 66; }

export DINO_DEMO_SETS="demo-pool openclipart wesnoth-terrain wesnoth-units fashion-mnist sweethome3d-furniture icons"
export DINO_DEMO_EVAL="fashion-mnist openclipart wesnoth-terrain wesnoth-units icons sweethome3d-furniture"
export DINO_DEMO_NAME=demo DINO_DEMO_RECIPE=demo.cfg DINO_DEMO_CURATE_RECIPE=curate_demo.cfg
export DINO_DEMO_PROBES="--epochs 4" DINO_DEMO_SEGMENT="--size 64 --patch 8"
export DINO_DEMO_CURATE="" DINO_DEMO_PRETRAIN="--knn-train wesnoth-terrain/train --knn-test wesnoth-terrain/val --knn-every 100"
if [ "$variant" = short ]; then
  # The same chain with fewer training steps and two evaluation sets, so that CI stays quick.
  DINO_DEMO_NAME=demo-short
  DINO_DEMO_EVAL="openclipart sweethome3d-furniture"
  DINO_DEMO_PRETRAIN="--steps 60 --warmup 10 --checkpoint-every 30"
  DINO_DEMO_SEGMENT+=" --epochs 5"
elif [ "$variant" = showcase ]; then
  # A longer training, on a pool from which the validation parts are kept out too, so that they can be watched.
  DINO_DEMO_NAME=showcase DINO_DEMO_RECIPE=showcase.cfg DINO_DEMO_CURATE_RECIPE=curate_showcase.cfg
  DINO_DEMO_PROBES="--epochs 10" DINO_DEMO_SEGMENT="--size 48 --patch 6"
  DINO_DEMO_PRETRAIN="--knn-train icons/train --knn-test icons/val --knn-every 1000 --knn-limit 4000"
fi
export DINO_DEMO_RUN=${output:-$PWD/runs/$DINO_DEMO_NAME}
mkdir -p "$DINO_DEMO_RUN"
dino-jobs local "$here/chain.cfg" --ranks 2
echo
echo "report: $DINO_DEMO_RUN/report.html"
