#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The time of a step as plan tells it, against bench: presets, precisions, recomputation, micro-batches, stochastic depth, strategies. DINO_PLAN_FACTOR: what is still right.
. "$DINO_SOURCE/tests/cli/lib.sh"
. "$DINO_SOURCE/tests/cli/plan_times.bash"
T="--preset vit_tiny --crops 2x128,4x64 --prototypes 16384 --head-hidden 512"
S="--preset vits14 --crops 2x112,4x42 --prototypes 8192 --head-hidden 1024"
B="--preset vitb14 --crops 2x112,4x42 --prototypes 8192 --head-hidden 1024"
times "${DINO_PLAN_FACTOR:-1.15}" 3 <<COMBINATIONS
1 $T --batch 16 --precision fp32
1 $T --batch 32 --precision bf16 --accumulate 4
1 $T --batch 32 --precision fp32 --drop-path 0.3
1 $S --batch 8 --precision fp32
1 $S --batch 8 --precision bf16
1 $S --batch 8 --precision fp32 --recompute block
1 $S --batch 16 --precision bf16 --recompute selective --accumulate 2
1 $S --batch 32 --precision fp32
1 $B --batch 4 --precision fp32
1 $B --batch 16 --precision bf16
1 $B --batch 16 --precision bf16 --accumulate 4 --recompute block --drop-path 0.3
1 $B --batch 24 --precision fp32 --drop-path 0.3
2 $T --batch 32 --precision fp32 --strategy replicate
2 $S --batch 8 --precision fp32 --strategy full
2 $S --batch 16 --precision bf16 --strategy optimizer --recompute selective
2 $B --batch 16 --precision bf16 --strategy full --accumulate 2
COMBINATIONS
finish
