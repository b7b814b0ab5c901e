#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# dino-jobs doctor and dino-pretrain devices: a machine without a GPU, one whose GPU is the executor of tests/simt, and one that is broken.
. "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1

# state WHAT: its line in out.txt
state() { sed -n "s/^\([a-z]*\) *$1  *.*/\1/p" out.txt | head -n 1; }
expect 0 "" dino-jobs doctor
for program in dino-curate dino-pretrain dino-eval MPI "2 ranks of mpirun"; do [ "$(state "$program")" = ok ] || fail "$program: $(cat out.txt)"; done
expect 0 "" dino-pretrain devices --json
"$DINO_PYTHON" - <<'PY' || fail "devices --json"
import json
j = json.load(open("out.txt"))
assert j["gpus"] == [] and j["why_no_gpu"] or j["gpus"], j
PY
expect 0 "" ranks 2 dino-pretrain devices --json

# The same program where another version, or none, is beside it; a launcher whose ranks do not start.
mkdir bin && cp "$DINO_BIN/dino-jobs" bin/
for program in curate pretrain eval; do ln -s "$DINO_BIN/dino-$program" bin/dino-$program; done
expect 0 "" bin/dino-jobs doctor --json
rm bin/dino-eval; printf '#!/bin/sh\necho "dino-eval 0.0.7"\n' >bin/dino-eval; chmod +x bin/dino-eval
expect 70 "install them together" bin/dino-jobs doctor
[ "$(state dino-eval)" = failed ] && [ "$(state dino-curate)" = ok ] || fail "another version: $(cat out.txt)"
rm bin/dino-eval; ln -s "$DINO_BIN/dino-eval" bin/dino-eval
mkdir broken; printf '#!/bin/sh\n[ "$1" = --version ] && { echo "mpirun 1"; exit; }\necho "no daemon could be started" >&2; exit 9\n' >broken/mpirun; chmod +x broken/mpirun
PATH=$PWD/broken:$PATH expect 70 "no daemon could be started" bin/dino-jobs doctor

if command -v dino-pretrain-simt >/dev/null; then
  ln -sf "$(command -v dino-pretrain-simt)" bin/dino-pretrain
  expect 0 "" bin/dino-jobs doctor
  [ "$(state "GPU 0")" = ok ] && grep -q "SIMT executor.*and right" out.txt || fail "a GPU: $(cat out.txt)"
  grep -q "they start and meet; sums over their GPUs are right" out.txt || fail "ranks with GPUs: $(cat out.txt)"
  # What such a GPU cannot hold is refused before anything is made.
  PLAN=(dino-pretrain-simt plan --ranks 1 --gflops 1000 --device cuda)
  expect 0 "" "${PLAN[@]}" --preset vits14 --prototypes 4096 --batch 4 --json
  "$DINO_PYTHON" - <<'PY' || fail "the GPU's bytes of a plan"
import json
j = json.load(open("out.txt")); d = j["device_bytes"]; b = j["bytes"]
assert j["fits"] and j["device_memory"] == 16 << 30 and sum(v for k, v in d.items() if k != "total") == d["total"], j
assert d["state"] == b["parameters"] + b["gradients"] + b["optimizer"] and 0 <= d["activations"] - b["activations"] * 17 // 16 < 65
assert d["crops"] == 4 * 3 * 4 * (2 * 224**2 + 8 * 98**2) * 7 // 2, d["crops"]
PY
  expect 64 "too large for the GPU: --device cuda: " "${PLAN[@]}" --preset vitg14 --batch 64
  grep -q "are needed and 16.0 GiB are there: weights, gradients and moments .*context" err.txt || fail "no numbers: $(cat err.txt)"
  # And what it holds is what was planned, but for allowances.
  BENCH=(--preset vit_demo --batch 4 --crops 2x56,2x24 --prototypes 4096 --head-hidden 256 --bottleneck 64 --precision fp32 --device cuda --json)
  expect 0 "" dino-pretrain-simt plan "${BENCH[@]}" --ranks 1 --gflops 1000; mv out.txt plan.json
  expect 0 "" dino-pretrain-simt bench "${BENCH[@]}" --steps 1 --warmup 1; mv out.txt bench.json
  "$DINO_PYTHON" - <<'PY' || fail "a plan and what the GPU holds"
import json
d = json.load(open("plan.json"))["device_bytes"]; b = json.load(open("bench.json")); used = b["device_used_bytes"]
print("ok: planned", d, "used", used)
assert d["state"] + d["activations"] <= used <= d["total"] - d["context"], (d, used)
assert 0 < sum(b["phases"].values()) < b["step_seconds"], b["phases"]
PY
  images pictures 4
  expect 64 "too large for the GPU: --device cuda: " dino-pretrain-simt train --config "$DINO_SHARE/recipes/tiny.cfg" --preset vitg14 --global-size 28 --local-size 14 --data pictures --batch 4 --steps 2 --device cuda --progress off --output run
  [ ! -e run/config.ini ] || fail "a run was begun"
fi
finish
