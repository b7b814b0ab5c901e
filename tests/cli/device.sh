#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# --device where there is no GPU: auto computes on the CPU, cuda is refused before anything is written, and says why.
. "$(dirname "$0")/lib.sh"
if dino-eval bench --preset vits14 --batch 1 --size 28 --repeats 1 --device cuda --json >probe.txt 2>&1; then echo "this machine has a GPU"; exit 77; fi
images pictures 12
SMALL=(--config "$DINO_SHARE/recipes/tiny.cfg" --data pictures --batch 4 --steps 2 --precision fp32 --progress off)
FEATURES=(dino-eval features --weights random:vits14 --data pictures --size 28 --progress off)

# refused COMMAND...: exit 64 and one line that says what to do
refused() {
  expect 64 "no GPU: --device cuda: " "$@"
  grep -qF "use --device cpu, or auto" err.txt || fail "no way out in the message of: $*"
  [ "$(grep -c 'error:' err.txt)" = 1 ] || fail "not one line for: $*"
}
refused dino-pretrain train "${SMALL[@]}" --device cuda --output run
[ ! -e run/config.ini ] || fail "a run was begun"
refused ranks 2 dino-pretrain train "${SMALL[@]}" --device cuda --output run
refused dino-pretrain bench --preset vits14 --batch 1 --crops 2x28 --prototypes 16 --device cuda
refused dino-pretrain plan --preset vits14 --ranks 8 --batch 64 --gflops 100 --device cuda
refused "${FEATURES[@]}" --device cuda --output f.h5
[ ! -e f.h5 ] || fail "features were written"
refused ranks 3 "${FEATURES[@]}" --device cuda --output f.h5
refused dino-eval bench --preset vits14 --batch 1 --size 28 --device cuda
refused dino-curate run --input pictures --device cuda --output curated --progress off
[ ! -e curated ] || fail "a curation was begun"
expect 64 "device" dino-eval bench --preset vits14 --batch 1 --size 28 --device gpu

# auto and cpu are the same there, and a run may go on with another choice
expect 0 "" "${FEATURES[@]}" --output auto.h5
expect 0 "" "${FEATURES[@]}" --device cpu --output cpu.h5
cmp -s auto.h5 cpu.h5 && ok "features by auto and cpu" || fail "features differ between auto and cpu"
expect 75 "" dino-pretrain train "${SMALL[@]}" --stop-after 1 --device cpu --output run
expect 0 "" dino-pretrain train "${SMALL[@]}" --output run
"$DINO_PYTHON" -c 'import json; s = json.load(open("run/run.json"))["starts"]; assert [x["device"] for x in s] == ["cpu", "cpu"], s' || fail "run.json names no device"
expect 0 "" dino-eval bench --preset vits14 --batch 1 --size 28 --repeats 1 --json
"$DINO_PYTHON" -c 'import json; assert json.load(open("out.txt"))["device"] == "cpu"' || fail "bench names no device"
expect 0 "" dino-curate run --input pictures --min-size 0 --embedding copy --output curated --progress off
expect 0 "" dino-curate run --input pictures --min-size 0 --embedding copy --device cpu --output curated --progress off
grep -q "embed: complete" err.txt && ok "the device is no setting of the folder" || fail "--device took a stage back"
finish
