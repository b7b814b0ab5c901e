#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# dino-pretrain as a user drives it: train, stop, go on, inspect, export, exit codes. Kills and damage are in resume.sh.
. "$(dirname "$0")/lib.sh"
images data 64
RECIPE=$DINO_SHARE/recipes/tiny.cfg
train() { dino-pretrain train --config "$RECIPE" --data "$WORK/data" --progress off --seed 3 --drop-path 0.3 "$@"; }
train2() { ranks 2 dino-pretrain train --config "$RECIPE" --data "$WORK/data" --progress off --seed 3 --drop-path 0.3 "$@"; }

# An uninterrupted run at 2 ranks is the truth.
WATCHED=(--checkpoint-every 10 --keep 2 --knn-train "$WORK/data" --knn-test "$WORK/data" --knn-every 15 --knn-limit 40 --knn-test-limit 20 --knn-k 1)
train2 --output full --steps 30 "${WATCHED[@]}" >log.txt 2>&1 || { fail "uninterrupted run"; tail -n 20 log.txt; finish; }
[ -f full/checkpoints/step_00000030/manifest.json ] || fail "no final checkpoint"
# The first of equally good ones, between two intervals, stays beside the newest two.
[ "$(readlink full/checkpoints/best)" = step_00000015 ] && dino-pretrain inspect full/checkpoints/best >/dev/null || fail "the best checkpoint by the online k-NN is $(readlink full/checkpoints/best)"
[ "$(ls full/checkpoints | tr '\n' ' ')" = "best step_00000015 step_00000020 step_00000030 " ] || fail "checkpoints that are kept: $(ls full/checkpoints)"
for file in config.ini run.json metrics.jsonl; do [ -s "full/$file" ] || fail "no $file"; done
"$DINO_PYTHON" - <<'PY' || fail "metrics.jsonl"
import json, math
lines = [json.loads(l) for l in open("full/metrics.jsonl")]
steps = [l for l in lines if "event" not in l]
assert [l["step"] for l in steps] == list(range(1, 31)), [l["step"] for l in steps]
for name in ("samples loss loss_dino_local loss_dino_global loss_ibot loss_koleo lr weight_decay momentum teacher_temperature grad_norm "
             "images_per_second achieved_gflops step_seconds compute_seconds data_wait_seconds communication_seconds checkpoint_blocked_seconds information teacher_entropy prototype_usage").split():
    assert all(isinstance(l[name], (int, float)) and math.isfinite(l[name]) for l in steps), name
assert steps[-1]["samples"] == 30 * 16
assert all(0 < l["compute_seconds"] + l["communication_seconds"] <= l["step_seconds"] for l in steps) and sum(l["communication_seconds"] for l in steps) > 0
# A step waits where a checkpoint begins, and where it is committed, some steps later.
waited = [l["step"] for l in steps if l["checkpoint_blocked_seconds"] > 0]
assert {11, 16, 21} <= set(waited) and all(step > 10 for step in waited), f"steps after a checkpoint: {waited}"
written = [l for l in lines if l.get("event") == "checkpoint"]
assert [l["step"] for l in written] == [10, 15, 20, 30] and all(0 < l["blocked_seconds"] <= l["seconds"] for l in written), written
assert sum(l["checkpoint_blocked_seconds"] for l in steps) <= 1.2 * sum(l["blocked_seconds"] for l in written) + 0.1
shares = sorted(sum(l["phases"].values()) / (l["compute_seconds"] + l["communication_seconds"]) for l in steps[5:])
assert 0.9 < shares[len(shares) // 2] <= 1 + 1e-6, ("phases make up the step", shares)
assert [l["event"] for l in lines if "event" in l][0] == "start"
# The 20 images that are classified are among the 40 that vote: the nearest one is the image itself.
knn = [l for l in lines if l.get("event") == "knn"]
assert [(l["step"], l["best"]) for l in knn] == [(0, False), (15, True), (30, False)] and all(l["n"] == 20 for l in knn), knn
assert all(l[name] == 1 for l in knn for name in ("accuracy", "accuracy_patches", "accuracy_all")), knn
PY

# Stopped by request (75) and started again: the same bits.
train2 --output stopped --steps 30 "${WATCHED[@]}" --stop-after 18 >log.txt 2>&1; [ $? = 75 ] || fail "stop-after does not exit with 75"
train2 --output stopped --steps 30 "${WATCHED[@]}" >log.txt 2>&1 || fail "resume after a stop"
dino-pretrain diff full stopped || fail "a stopped and resumed run differs"
# What was best is known after a restart: equally good is not better.
[ "$(readlink stopped/checkpoints/best)" = step_00000015 ] || fail "the best checkpoint after a restart is $(readlink stopped/checkpoints/best)"
# Who goes back before the best one leaves it.
for best in 15 30; do
  rm -rf back; cp -r full back; ln -sfn step_000000$best back/checkpoints/best
  train2 --output back --steps 30 "${WATCHED[@]}" --resume back/checkpoints/step_00000020 --stop-after 1 >log.txt 2>&1; [ $? = 75 ] || { fail "going back to step 20"; tail -n 3 log.txt; }
  [ "$(readlink back/checkpoints/best)" = "$([ $best = 15 ] && echo step_00000015)" ] || fail "back at step 20 the best checkpoint is '$(readlink back/checkpoints/best)', it was of step $best"
done
cut -d, -f1-6 full/metrics.jsonl | grep -v event >a.txt; cut -d, -f1-6 stopped/metrics.jsonl | grep -v event >b.txt
cmp -s a.txt b.txt || fail "metrics of the resumed run differ"

# Ranks do not change a training, with stochastic depth and images that they cannot share evenly.
train --output ranks1 --steps 4 --warmup 0 >log.txt 2>&1 || fail "4 steps at 1 rank"
ranks 3 dino-pretrain train --config "$RECIPE" --data "$WORK/data" --progress off --seed 3 --drop-path 0.3 --output ranks3 --steps 4 --warmup 0 >log.txt 2>&1 || fail "16 images at 3 ranks"
"$DINO_PYTHON" - <<'PY' || fail "losses at 1 and 3 ranks"
import json
a, b = ([l for l in map(json.loads, open(f"ranks{n}/metrics.jsonl")) if "event" not in l] for n in (1, 3))
for x, y in zip(a, b):
    for name in ("loss", "loss_dino_local", "loss_dino_global", "loss_ibot", "loss_koleo", "grad_norm"):
        assert abs(x[name] - y[name]) <= 1e-4 * abs(x[name]), (x["step"], name, x[name], y[name])
    assert x["batch_crc"] == y["batch_crc"]
assert abs(a[0]["loss"] - b[0]["loss"]) <= 1e-6 * a[0]["loss"], (a[0]["loss"], b[0]["loss"])
PY

# The batch by rank is the batch.
ranks 2 dino-pretrain train --config "$RECIPE" --data "$WORK/data" --progress off --seed 3 --drop-path 0.3 --output per_rank --batch auto --batch-per-rank 8 --steps 4 --warmup 0 >log.txt 2>&1 || fail "--batch-per-rank"
grep -q '^batch = 16$' per_rank/config.ini && grep -q '^batch-per-rank = 0$' per_rank/config.ini || fail "what --batch-per-rank leaves: $(grep batch per_rank/config.ini)"
expect 64 "--batch is 16 already" train --output x --batch-per-rank 8

# A verdict of collapse: not where the batch alone keeps the usage of prototypes low, but for a teacher without contrast.
level() { dino-pretrain inspect "$1" --json | "$DINO_PYTHON" -c 'import json,sys; print(json.load(sys.stdin)["health"]["level"])'; }
train --output few --batch 4 --prototypes 4096 --steps 60 --warmup 5 >few.txt 2>&1 || fail "a small batch"
[ "$(level few)" != problem ] || fail "8 rows of 4096 prototypes are a collapse: $(dino-pretrain inspect few | grep health)"
grep -q "8 rows can reach" few.txt || fail "the end of a training says nothing of its health"
train --output flat --teacher-temperature-start 5 --teacher-temperature 5 --steps 60 --warmup 5 >flat.txt 2>&1 || fail "a uniform teacher"
[ "$(level flat)" = problem ] || fail "a uniform teacher is no collapse: $(dino-pretrain inspect flat | grep health)"
grep -q "Signs of collapse.*uniform" flat.txt || fail "the end of a training does not name its collapse"
grep -q '"health":"Signs of collapse"' flat/metrics.jsonl || fail "the stop event does not name the collapse"

# What inspect says of damage; resume.sh trains on from it.
cp -r full damaged; printf '\x01' | dd of=damaged/checkpoints/step_00000030/rank_0001.h5 bs=1 seek=5000 conv=notrunc 2>/dev/null
expect 65 "CRC32C" dino-pretrain inspect damaged/checkpoints/step_00000030
rm -rf truncated; cp -r full truncated; truncate -s 100 truncated/checkpoints/step_00000030/rank_0000.h5
expect 65 "bytes" dino-pretrain inspect truncated/checkpoints/step_00000030

# diff, inspect, export.
expect 1 "" dino-pretrain diff full/checkpoints/step_00000030 full/checkpoints/step_00000020
dino-pretrain inspect full --json | "$DINO_PYTHON" -c 'import json,sys; j=json.load(sys.stdin); assert j["valid"] and j["step"]==30' || fail "inspect --json"
dino-pretrain export --checkpoint full --format hf --output hf >/dev/null 2>&1 || fail "export"
[ -s hf/config.json ] && [ -s hf/model.safetensors ] || fail "export wrote no model"
dino-pretrain import --weights hf --output imported >/dev/null 2>&1 || fail "import"

# Mistakes.
expect 64 "--stepz" train --output x --stepz 3
expect 64 "multiple of the patch" train --output x --global-size 33
expect 64 "--resume none" train --output full --steps 30 --resume none
expect 64 "--lr" train --output full --steps 30 --lr 0.5
expect 66 "nowhere" dino-pretrain train --config "$RECIPE" --data nowhere --output x
expect 66 "missing.cfg" dino-pretrain train --config missing.cfg --data data --output x
expect 64 "--batch" ranks 2 dino-pretrain train --config "$RECIPE" --data data --output x --batch 1
mkdir empty; expect 65 "empty" dino-pretrain train --config "$RECIPE" --data empty --output x
finish
