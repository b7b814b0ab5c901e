#!/usr/bin/env bash
# dino-pretrain as a user drives it: train, resume, kill, other numbers of ranks, damaged checkpoints, exit codes.
. "$(dirname "$0")/lib.sh"
images data 64
RECIPE=$DINO_SHARE/recipes/tiny.cfg
train() { dino-pretrain train --config "$RECIPE" --data "$WORK/data" --progress off --seed 3 "$@"; }
train2() { ranks 2 dino-pretrain train --config "$RECIPE" --data "$WORK/data" --progress off --seed 3 "$@"; }

# An uninterrupted run at 2 ranks is the truth.
train2 --output full --steps 30 --checkpoint-every 10 --knn-train "$WORK/data" --knn-test "$WORK/data" --knn-every 15 --knn-limit 40 --knn-test-limit 20 --knn-k 1 >log.txt 2>&1 || { fail "uninterrupted run"; tail -n 20 log.txt; finish; }
[ -f full/checkpoints/step_00000030/manifest.json ] || fail "no final checkpoint"
for file in config.ini run.json metrics.jsonl; do [ -s "full/$file" ] || fail "no $file"; done
"$DINO_PYTHON" - <<'PY' || fail "metrics.jsonl"
import json, math
lines = [json.loads(l) for l in open("full/metrics.jsonl")]
steps = [l for l in lines if "event" not in l]
assert [l["step"] for l in steps] == list(range(1, 31)), [l["step"] for l in steps]
for name in ("samples loss loss_dino_local loss_dino_global loss_ibot loss_koleo lr weight_decay momentum teacher_temperature grad_norm "
             "images_per_second data_wait_seconds information teacher_entropy prototype_usage").split():
    assert all(isinstance(l[name], (int, float)) and math.isfinite(l[name]) for l in steps), name
assert steps[-1]["samples"] == 30 * 16
assert [l["event"] for l in lines if "event" in l][0] == "start"
# The 20 images that are classified are among the 40 that vote: the nearest one is the image itself.
knn = [l for l in lines if l.get("event") == "knn"]
assert [l["step"] for l in knn] == [0, 15, 30] and all(l["n"] == 20 for l in knn), knn
assert all(l[name] == 1 for l in knn for name in ("accuracy", "accuracy_patches", "accuracy_all")), knn
PY

# Stopped by request (75) and started again: the same bits.
train2 --output stopped --steps 30 --checkpoint-every 10 --stop-after 13 >log.txt 2>&1; [ $? = 75 ] || fail "stop-after does not exit with 75"
train2 --output stopped --steps 30 --checkpoint-every 10 >log.txt 2>&1 || fail "resume after a stop"
dino-pretrain diff full stopped || fail "a stopped and resumed run differs"
cut -d, -f1-6 full/metrics.jsonl | grep -v event >a.txt; cut -d, -f1-6 stopped/metrics.jsonl | grep -v event >b.txt
cmp -s a.txt b.txt || fail "metrics of the resumed run differ"

# Killed three times at arbitrary moments.
for delay in 0.9 1.3 1.7; do
  (exec setsid mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2 -x OMP_NUM_THREADS=1 dino-pretrain train --config "$RECIPE" --data "$WORK/data" \
    --progress off --seed 3 --output killed --steps 30 --checkpoint-every 4 >kill.txt 2>&1) & pid=$!
  sleep "$delay"; kill -KILL -- "-$pid" 2>/dev/null; pkill -KILL -f "output killed" 2>/dev/null; wait "$pid" 2>/dev/null
done
train2 --output killed --steps 30 --checkpoint-every 4 >log.txt 2>&1 || { fail "resume after SIGKILL"; tail -n 5 log.txt; }
dino-pretrain diff full killed || fail "a killed and resumed run differs"

# Signals.
(OMP_NUM_THREADS=1 exec dino-pretrain train --config "$RECIPE" --data "$WORK/data" --progress off --seed 3 --output signalled --steps 100000 >log.txt 2>&1) & pid=$!
for _ in $(seq 100); do [ -s signalled/metrics.jsonl ] && break; sleep 0.1; done
sleep 0.5; kill -USR2 "$pid"; wait "$pid"; [ $? = 75 ] || fail "SIGUSR2 does not end with 75"
[ -n "$(ls signalled/checkpoints/*/manifest.json 2>/dev/null)" ] || fail "no checkpoint after SIGUSR2"

# Other numbers of ranks go on from the same checkpoint.
for n in 1 3; do
  cp -r stopped "on$n"; rm -rf "on$n/checkpoints/step_00000030" "on$n/checkpoints/step_00000020"
  ranks $n dino-pretrain train --config "$RECIPE" --data "$WORK/data" --progress off --seed 3 --output "on$n" --steps 30 >log.txt 2>&1 || { fail "resume on $n ranks"; tail -n 5 log.txt; }
done
"$DINO_PYTHON" - <<'PY' || fail "loss on other numbers of ranks"
import json
def losses(run): return {l["step"]: l["loss"] for l in map(json.loads, open(f"{run}/metrics.jsonl")) if "event" not in l}
full = losses("full")
for run in ("on1", "on3"):
    other = losses(run)
    for step in range(14, 31):
        assert abs(other[step] - full[step]) < 2e-3 * abs(full[step]), (run, step, other[step], full[step])
PY

# A damaged newest checkpoint is passed over, and it says so.
cp -r full damaged; printf '\x01' | dd of=damaged/checkpoints/step_00000030/rank_0001.h5 bs=1 seek=5000 conv=notrunc 2>/dev/null
expect 65 "CRC32C" dino-pretrain inspect damaged/checkpoints/step_00000030
train2 --output damaged --steps 30 >log.txt 2>&1 || fail "run with a damaged checkpoint"
grep -q "passed over" log.txt || fail "no warning about the damaged checkpoint"
dino-pretrain diff full damaged || fail "the run from the older checkpoint differs"
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
expect 64 "--steps" dino-pretrain train --data data --output x
expect 64 "multiple of the patch" train --output x --global-size 33
expect 64 "--resume none" train --output full --steps 30 --resume none
expect 64 "--lr" train --output full --steps 30 --lr 0.5
expect 66 "nowhere" dino-pretrain train --config "$RECIPE" --data nowhere --output x
expect 66 "missing.cfg" dino-pretrain train --config missing.cfg --data data --output x
expect 64 "--batch" ranks 2 dino-pretrain train --config "$RECIPE" --data data --output x --batch 1
mkdir empty; expect 65 "empty" dino-pretrain train --config "$RECIPE" --data empty --output x
finish
