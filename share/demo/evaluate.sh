#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The demo's evaluation: every set x {pretrained, random weights of the same shape, raw pixels} by k-NN and linear probe, then segmentation and pictures.
#   evaluate.sh RUN   (the run folder of the demo's chain); run again, it does only what is missing
set -euo pipefail
run=${1:?evaluate.sh: error: missing argument: RUN: the run folder of the demo}
results=$run/eval
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
launch=(mpirun -n 2 --oversubscribe --bind-to none)

for set in ${DINO_DEMO_EVAL:?evaluate.sh: error: DINO_DEMO_EVAL is not set: start the demo with run.sh}; do
  "${launch[@]}" dino-eval sweep --weights "$run/pretrain" --train "$set/trainval" --test "$set/test" --max-pixels 1000000 $DINO_DEMO_PROBES --output "$results"
done
for weights in "$run/pretrain" "random:$run/pretrain" raw-pixels; do
  "${launch[@]}" dino-eval segment --weights "$weights" --train wesnoth-units/trainval --test wesnoth-units/test --limit 1500 $DINO_DEMO_SEGMENT --output "$results"
done
dino-eval pca --weights "$run/pretrain" --data wesnoth-units/test --images 8 --output "$results"
dino-eval attention --weights "$run/pretrain" --data wesnoth-units/test --images 4 --output "$results"
