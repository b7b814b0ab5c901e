#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# As cli/plan.sh, with models of the published shape: strategies, micro-batches, recomputation, precisions and numbers of ranks.
. "$DINO_SOURCE/tests/cli/lib.sh"
. "$DINO_SOURCE/tests/cli/plan_combinations.bash"
S="--preset vits14 --crops 2x112,4x42 --prototypes 8192 --head-hidden 1024"
T="--preset vit_tiny --crops 2x128,4x64 --prototypes 16384 --head-hidden 512"
combinations <<EOF
1 $S --batch 8 --precision fp32
1 $S --batch 8 --precision bf16 --drop-path 0.3
1 $S --batch 8 --precision fp32 --recompute block
1 $T --batch 16 --precision fp32 --accumulate 4
2 $S --batch 8 --precision fp32 --strategy replicate
2 $S --batch 8 --precision bf16 --strategy full
2 $T --batch 16 --precision fp32 --strategy optimizer --recompute selective
2 $T --batch 16 --precision bf16 --strategy gradients --accumulate 2
3 $S --batch 9 --precision fp32 --strategy full --recompute block
3 $T --batch 12 --precision fp32 --strategy gradients --drop-path 0.3
4 $S --batch 8 --precision fp32 --strategy hybrid --shard-group 2
4 $T --batch 16 --precision bf16 --strategy full --accumulate 2 --recompute selective
EOF
finish
