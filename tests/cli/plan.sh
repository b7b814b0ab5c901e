#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What plan says of ranks that are not there, against the same steps when they are: bytes by kind as bench counts them, the resident peak of a rank less that of an
# idle one, and the time of a step (by a factor of three, since other work comes and goes). cli/long/plan_large.sh and plan_time.sh have more and larger combinations.
. "$(dirname "$0")/lib.sh"
. "$DINO_SOURCE/tests/cli/plan_combinations.bash"
. "$DINO_SOURCE/tests/cli/plan_times.bash"
SMALL="--prototypes 16384 --head-hidden 512 --bottleneck 128 --crops 2x64,4x32"
combinations <<EOF
1 --preset vit_demo --batch 32 $SMALL --precision fp32
2 --preset vit_demo --batch 32 $SMALL --precision bf16 --strategy full --recompute selective
3 --preset vit_demo --batch 24 $SMALL --precision fp32 --strategy gradients --accumulate 2
4 --preset vit_demo --batch 32 $SMALL --precision fp32 --strategy hybrid --shard-group 2 --drop-path 0.3
EOF
times 3 3 <<EOF
1 --preset vit_demo --batch 32 $SMALL --precision fp32
1 --preset vit_tiny --batch 16 $SMALL --precision bf16 --accumulate 2 --drop-path 0.3
2 --preset vit_tiny --batch 16 $SMALL --precision fp32 --strategy full --recompute block
EOF
# -- ranks that are not all of them time together as those of a training would, and send nothing
for n in 2 4; do
  ranks 2 dino-pretrain plan --ranks $n --preset vit_demo --batch 32 $SMALL --strategy full --recompute block --json >here.json 2>here.err && [ "$(grep -c "with all that they send each other" here.json)" = $((n == 2)) ] &&
    grep -q "timed their steps together" here.json && ok "two ranks time steps of $n" || { fail "two ranks time steps of $n"; cat here.json here.err; }
done
# -- at a rate that is given nothing is timed: what a published training is told to have reached
dino-pretrain plan --preset vitg14 --ranks 8 --batch 128 --strategy full --drop-path 0.4 --prototypes 131072 --bottleneck 384 --gflops 121000 --network 1000 --json >rate.json &&
  "$DINO_PYTHON" -c 'import json; r = json.load(open("rate.json"))["images_per_second_per_rank"]; assert abs(r / 24.2 - 1) < 0.1, r' && ok "images/s at 121 TFLOP/s" || fail "images/s at 121 TFLOP/s"
finish
