#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What plan says of ranks that are not there, against the same steps when they are: bytes by kind as bench counts them, and the resident peak of a rank less that of an
# idle one. cli/long/plan_large.sh has more and larger combinations.
. "$(dirname "$0")/lib.sh"
. "$DINO_SOURCE/tests/cli/plan_combinations.bash"
SMALL="--prototypes 16384 --head-hidden 512 --bottleneck 128 --crops 2x64,4x32"
combinations <<EOF
1 --preset vit_demo --batch 32 $SMALL --precision fp32
2 --preset vit_demo --batch 32 $SMALL --precision bf16 --strategy full --recompute selective
3 --preset vit_demo --batch 24 $SMALL --precision fp32 --strategy gradients --accumulate 2
4 --preset vit_demo --batch 32 $SMALL --precision fp32 --strategy hybrid --shard-group 2 --drop-path 0.3
EOF
finish
