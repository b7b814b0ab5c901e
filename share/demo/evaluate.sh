#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every evaluation set x {pretrained, random weights of the same shape, raw pixels}: features, k-NN, linear probe; then segmentation and pictures.
#   evaluate.sh RUN   (the run folder of the demo's chain)
set -euo pipefail
run=${1:?evaluate.sh: error: missing argument: RUN: the run folder of the demo}
results=$run/eval
features=$results/features
mkdir -p "$features"
view=(--size 48 --pad --background 128,128,128)
for set in ${DINO_DEMO_EVAL:?}; do
  for model in pretrained random-weights raw-pixels; do
    case $model in
      pretrained) weights=$run/pretrain ;;
      random-weights) weights=random:$run/pretrain ;;
      raw-pixels) weights=raw-pixels ;;
    esac
    for part in trainval test; do
      file=$features/$set-$model-$part.h5
      [ -s "$file" ] || dino-eval features --weights "$weights" --name "$model" --data "$set/$part" "${view[@]}" --tokens both --output "$file"
    done
    pair=(--train "$features/$set-$model-trainval.h5" --test "$features/$set-$model-test.h5" --dataset "$set" --output "$results")
    dino-eval knn "${pair[@]}" --k 5,10,20 --temperature 0.07
    dino-eval linear "${pair[@]}"
  done
done
