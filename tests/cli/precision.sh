#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Precisions of a training: fp16 with dynamic loss scaling learns what fp32 does, overflows cost steps and nothing else, gradients travel in 16 bits, and all
# of it goes on from a checkpoint with the same bits.
. "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
images data 64
TRAIN=(dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --data "$WORK/data" --progress off --seed 3 --steps 24 --checkpoint-every 10 --warmup 4)
run() { local name=$1; shift; "${TRAIN[@]}" --output "$name" "$@" >"$name.log" 2>&1 || { fail "$name"; tail -n 5 "$name.log"; }; }
run2() { local name=$1; shift; ranks 2 "${TRAIN[@]}" --output "$name" "$@" >"$name.log" 2>&1 || { fail "$name"; tail -n 5 "$name.log"; }; }
cat >near.py <<'PY'
# near.py A B BOUND: the largest relative difference of the losses of the steps that both have.
import json, sys
a, b = ({l["step"]: l for l in map(json.loads, open(f"{run}/metrics.jsonl")) if "event" not in l} for run in sys.argv[1:3])
assert len(set(a) & set(b)) >= 15 and all(a[s]["batch_crc"] == b[s]["batch_crc"] for s in set(a) & set(b))
worst = max(abs(a[s]["loss"] - b[s]["loss"]) / abs(a[s]["loss"]) for s in set(a) & set(b))
print(f"{worst:.1e}"); sys.exit(not 0 < worst <= float(sys.argv[3]))
PY
near() { local difference; difference=$("$DINO_PYTHON" near.py "$1" "$2" "$3") && ok "$4: $difference" || fail "$4: $difference is above $3, or 0"; }

run fp32
run fp16 --precision fp16
near fp32 fp16 5e-3 "losses in fp16 are those in fp32 but for rounding"
run2 sent --reduce-precision bf16
near fp32 sent 5e-3 "so are those of gradients that travel in bf16"
run2 fp16on2 --precision fp16
near fp16 fp16on2 2e-3 "fp16 is on two ranks what it is on one"
grep -q '"loss_scale":65536.0' fp16/metrics.jsonl && grep -q '"loss_scale":1.0' fp32/metrics.jsonl || fail "the loss scale is not logged"

# -- a scale that is far too large: it falls step by step, which no roll-back and no skip comes of, and the training goes on
HALF=(--precision fp16 --reduce-precision fp16 --loss-scale 67108864 --max-skips 2)
run2 large "${HALF[@]}"
"$DINO_PYTHON" - <<'PY' && ok "an overflow lowers the loss scale, and the training goes on" || fail "a loss scale that is too large"
import json
lines = [json.loads(l) for l in open("large/metrics.jsonl")]
falls, steps = [l for l in lines if l.get("event") == "loss_scale"], [l for l in lines if "event" not in l]
assert not any(l.get("event") == "capture" for l in lines), "an overflow is captured"
assert len(falls) >= 5 and [f["loss_scale"] for f in falls] == [2.0 ** (25 - i) for i in range(len(falls))], falls
assert not [l for l in lines if l.get("event") in ("skip", "rollback")]
assert len(steps) + len(falls) == 24 and steps[-1]["loss_scale"] == falls[-1]["loss_scale"] and steps[-1]["loss"] < steps[0]["loss"]
assert [f["step"] for f in falls[:5]] == [1, 2, 3, 4, 5], falls
PY
# -- stopped while it falls, and long after
ranks 2 "${TRAIN[@]}" --output stopped "${HALF[@]}" --stop-after 4 >stopped.log 2>&1; [ $? = 75 ] || fail "--stop-after 4"
ranks 2 "${TRAIN[@]}" --output stopped "${HALF[@]}" --stop-after 16 >stopped.log 2>&1; [ $? = 75 ] || fail "--stop-after 16"
run2 stopped "${HALF[@]}"
losses() { grep -oE '"(loss|loss_[a-z_]*|grad_norm)":[0-9.e+-]*' "$1/metrics.jsonl"; }
dino-pretrain diff large stopped && cmp <(losses large) <(losses stopped) &&
  ok "a run in fp16 that was stopped has the bits of the whole one" || fail "a run in fp16 that was stopped differs"

# -- what a run says of itself
"$DINO_PYTHON" -c 'import json; s = json.load(open("large/run.json"))["starts"][0]; assert (s["precision"], s["reduce_precision"]) == ("fp16", "fp16"), s' || fail "run.json"
expect 64 "--precision: the run in fp16 has fp16" dino-pretrain train "${TRAIN[@]:2}" --output fp16 --precision fp32
if dino-pretrain --version | grep -q avx512bf16; then
  "${TRAIN[@]}" --output moved --precision auto --stop-after 2 >moved.log 2>&1
  DINO_CPU=avx2 "${TRAIN[@]}" --output moved --precision auto --stop-after 2 >moved.log 2>&1
  grep -q 'precision "fp32" (was "bf16")' moved.log && ok "another machine's precision is said" || fail "what changed: $(grep 'goes on with' moved.log)"
fi

# -- the other commands
bytes() { dino-pretrain plan --preset vits14 --ranks 8 --batch 64 --strategy "$1" --gflops 1000 --reduce-precision "$2" --json | "$DINO_PYTHON" -c 'import json,sys; print(json.load(sys.stdin)["communication_bytes_per_step"])'; }
[ $((2 * $(bytes replicate bf16))) = "$(bytes replicate fp32)" ] && [ "$(bytes full fp16)" -lt "$(bytes full fp32)" ] && [ "$(bytes full fp16)" = "$(bytes full bf16)" ] && ok "plan counts what travels" || fail "bytes that are planned"
dino-pretrain bench --preset vit_micro --batch 2 --steps 2 --crops 2x32,2x16 --precision fp16 --json | grep -q '"precision":"fp16"' || fail "bench --precision fp16"
expect 64 "--loss-scale: 1000 is no power of two; give 1024" dino-pretrain train "${TRAIN[@]:2}" --output bad --loss-scale 1000
expect 64 "--precision tf32: is of products on a GPU" dino-pretrain train "${TRAIN[@]:2}" --output bad --device cpu --precision tf32
expect 64 "--reduce-precision" dino-pretrain train "${TRAIN[@]:2}" --output bad --reduce-precision tf32
expect 64 "--reduce-precision" dino-pretrain train "${TRAIN[@]:2}" --output bad --reduce-precision int8
finish
