#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A training split in any way is the same training: strategies, micro-batches and numbers of ranks change from start to start of one run; a run that keeps
# everything in parts is killed in the middle of its accumulations and inside a checkpoint, and ends with the bits of an uninterrupted one.
. "$(dirname "$0")/lib.sh"
: "${DINO_FAULTS:?run this through ctest}"
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0" OMP_NUM_THREADS=1
images data 64
STEPS=16
TRAIN=(dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --data "$WORK/data" --progress off --seed 3 --batch 16 --warmup 4 --drop-path 0.2 --precision fp32
  --steps $STEPS --checkpoint-every 4 --keep 3)
steps_of() { cat "$1/metrics.jsonl" 2>/dev/null | grep -c '"loss"'; }
at_least() { [ "$(steps_of "$1")" -ge "$2" ]; }
cat >close.py <<'PY'
import json, sys
def lines(run):
    return {l["step"]: l for l in map(json.loads, open(f"{run}/metrics.jsonl")) if "event" not in l}
a, b = lines("one"), lines(sys.argv[1])
assert sorted(a) == sorted(b) and all(a[s]["batch_crc"] == b[s]["batch_crc"] for s in a), "other steps or other images"
worst = max(abs(a[s]["loss"] - b[s]["loss"]) / abs(a[s]["loss"]) for s in a)
print(f"{worst:.1e}"); sys.exit(worst > 1e-4)
PY
dino-pretrain train "${TRAIN[@]:2}" --output one >one.log 2>&1 || { fail "one process"; tail -n 5 one.log; finish; }

# -- other ranks, another strategy, other micro-batches at every start
heading "start" "ranks" "strategy" "goes on from"
begin=0
for start in "4 full 2" "3 gradients 1" "1 replicate 3" "4 hybrid 2 --shard-group 2" "2 optimizer 4"; do
  read -r n strategy accumulate rest <<<"$start"
  # shellcheck disable=SC2086
  ranks "$n" "${TRAIN[@]}" --output changing --strategy "$strategy" --accumulate "$accumulate" $rest --stop-after 3 >changing.log 2>&1; rc=$?
  row "$strategy, accumulate $accumulate" "$n" "$strategy" "$(grep -o 'resumed from.*step_[0-9]*' changing.log | grep -o 'step_[0-9]*')"
  begin=$((begin + 3))
  [ $rc = 75 ] && [ "$(steps_of changing)" = $begin ] || { fail "$start: exit $rc after $(steps_of changing) steps"; tail -n 5 changing.log; }
done
ranks 3 "${TRAIN[@]}" --output changing --strategy full >changing.log 2>&1 || { fail "the last start"; tail -n 5 changing.log; }
grep -q 'same results: ranks 3 (was 2), strategy "full" (was "optimizer"), accumulate 1 (was 4)' changing.log && ok "what changed is said" || fail "what changed is not said: $(grep 'goes on with' changing.log)"
difference=$("$DINO_PYTHON" close.py changing) && ok "losses as in one process: $difference" || fail "losses of the changing run: $difference"

# -- the online k-NN of a model in parts: ranks with 65 and 64 images make two passes and one
images many 129
timeout 120 mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2 "${TRAIN[@]}" --output watched --strategy full --stop-after 1 --knn-train many --knn-test many --knn-every 1 --knn-limit 129 \
  >watched.log 2>&1; rc=$?
[ $rc = 75 ] && grep -q '"event":"knn"' watched/metrics.jsonl && ok "the online k-NN of a model in parts" || { fail "the online k-NN of a model in parts: exit $rc"; tail -n 5 watched.log; }

# -- killed inside an accumulation and inside a checkpoint
SHARDED=("${TRAIN[@]}" --strategy full --accumulate 4)
ranks 2 "${SHARDED[@]}" --output whole >whole.log 2>&1 || { fail "the uninterrupted run"; tail -n 5 whole.log; }
kill_run() { local name=$1; shift; launch "$name" 2 "$@" "${SHARDED[@]}" --output killed; }
kill_run first; until_true 60 at_least killed 5 || fail "no training"
sleep 0.0$((RANDOM % 10)); kill_all  # a step is four micro-batches of two passes: most moments lie in one
kill_run inside -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_KIND=stop -x FAULT_PATH=.tmp/rank_0001.h5 -x FAULT_RANK=1 -x FAULT_AFTER=1
standing() { local pid; pid=$(rank_pid 1); [ -n "$pid" ] && grep -q '^State:.T' "/proc/$pid/status" 2>/dev/null; }
until_true 60 standing || fail "never inside a checkpoint"
kill_all
ranks 2 "${SHARDED[@]}" --output killed >killed.log 2>&1 || { fail "resume after SIGKILL"; tail -n 5 killed.log; }
dino-pretrain diff whole killed && ok "a killed and resumed run in parts has the bits of the whole one" || fail "a killed and resumed run differs"

# -- one file that holds all of it: the same run at the same ranks, the same to rounding at others
dino-pretrain export --checkpoint whole/checkpoints/step_00000012 --format full --output file >export.log 2>&1 || { fail "export --format full"; tail -n 5 export.log; }
ranks 2 "${SHARDED[@]}" --output from_file --resume file/checkpoint.h5 >from_file.log 2>&1 || { fail "resume from a file"; tail -n 5 from_file.log; }
dino-pretrain diff whole from_file && ok "a run that goes on from one file has the bits of the whole one" || fail "a run that goes on from one file differs"
ranks 3 "${TRAIN[@]}" --output from_file3 --resume file/checkpoint.h5 --strategy hybrid --shard-group 3 >from_file.log 2>&1 || { fail "resume from a file at 3 ranks"; tail -n 5 from_file.log; }
grep -q "resumed from file/checkpoint.h5 at step 12" from_file.log && ok "at three ranks too" || fail "no resume from the file"
dino-pretrain inspect file/checkpoint.h5 --json | "$DINO_PYTHON" -c 'import json,sys; j=json.load(sys.stdin); assert j["valid"] and j["step"]==12 and j["ranks"]==1 and len({t["store"] for t in j["tensors"]})==4' || fail "inspect of the file"
dino-pretrain diff file/checkpoint.h5 whole/checkpoints/step_00000012 || fail "the file and the folder differ"
expect 0 "" dino-pretrain export --checkpoint file/checkpoint.h5 --format hf --output file_hf
expect 0 "" dino-pretrain export --checkpoint whole/checkpoints/step_00000012 --format hf --output folder_hf
diff -r file_hf folder_hf >/dev/null && ok "the file is a weights reference as its folder is" || fail "other weights in the file than in its folder"
expect 0 "" dino-pretrain train "${TRAIN[@]:2}" --output begun --weights file/checkpoint.h5 --steps 5
grep -q "dino_head of the weights, ibot_head of the weights" "$WORK/err.txt" || fail "heads of the file: $(grep 'begins with' "$WORK/err.txt")"
for from in file/checkpoint.h5 whole/checkpoints/step_00000012; do dino-eval features --weights $from --data "$WORK/data" --output "features_${from%%/*}.h5" --progress off >features.log 2>&1 || { fail "features of $from"; tail -n 3 features.log; }; done
"$DINO_PYTHON" - <<'PY' && ok "features of the file are those of the folder" || fail "features of the file"
import h5py, numpy as np
a, b = (h5py.File(f"features_{n}.h5") for n in ("file", "whole"))
assert a["features"].shape[0] == 64 and np.array_equal(a["features"], b["features"])
PY
# What was chosen for the run comes with it.
dino-pretrain train --data "$WORK/data" --output chosen --steps 10 --batch 8 --progress off >chosen.log 2>&1 || { fail "chosen settings"; tail -n 3 chosen.log; }
dino-pretrain export --checkpoint chosen/checkpoints/step_00000008 --format full --output chosen_file >>chosen.log 2>&1
dino-pretrain train --data "$WORK/data" --output chosen2 --resume chosen_file/checkpoint.h5 --progress off >chosen2.log 2>&1 || { fail "going on with what was chosen"; tail -n 3 chosen2.log; }
cmp -s <(grep -vE '^(resume|output) ' chosen/config.ini) <(grep -vE '^(resume|output) ' chosen2/config.ini) && ! grep -q "other settings" chosen2.log && dino-pretrain diff chosen chosen2 && ok "a file brings the settings that were chosen" || { fail "settings of a file"; diff chosen/config.ini chosen2/config.ini; }
dino-pretrain train --data "$WORK/data" --output chosen3 --resume chosen_file/checkpoint.h5 --progress off --ibot-weight 0.5 >chosen3.log 2>&1 || { fail "going on with another setting"; tail -n 3 chosen3.log; }
grep -q "other settings than it was made with: --ibot-weight 0.5 (was 1)" chosen3.log && ok "settings that are not the file's are said" || fail "other settings: $(grep -i settings chosen3.log)"
# A backbone alone makes a file too, and begins a run.
dino-pretrain import --weights file_hf --output imported >import.log 2>&1 && dino-pretrain export --checkpoint imported --format full --output imported_file >>import.log 2>&1 || { fail "a file of imported weights"; tail -n 3 import.log; }
expect 0 "" dino-pretrain train "${TRAIN[@]:2}" --output begun2 --resume imported_file/checkpoint.h5 --steps 5
expect 66 "holds neither manifest.json nor a complete checkpoint" dino-pretrain export --checkpoint file_hf/model.safetensors --format full --output bad_file
cp file/checkpoint.h5 flipped.h5; printf '\x7f' | dd of=flipped.h5 bs=1 seek=60000 conv=notrunc 2>/dev/null
cp file/checkpoint.h5 short.h5; truncate -s 60000 short.h5
for file in flipped short; do
  expect 65 "$file.h5" dino-pretrain train "${TRAIN[@]:2}" --output bad_file --resume $file.h5
  expect 65 "$file.h5" dino-pretrain export --checkpoint $file.h5 --format hf --output bad_file
done

# -- a part that is gone or damaged: the checkpoint before it
for damage in gone cut; do
  rm -rf damaged; cp -r whole damaged
  shard=damaged/checkpoints/step_000000$STEPS/rank_0001.h5
  [ $damage = gone ] && rm "$shard" || truncate -s 100 "$shard"
  ranks 3 "${SHARDED[@]}" --output damaged --stop-after 1 >damaged.log 2>&1; rc=$?
  grep -q "resumed from damaged/checkpoints/step_000000$((STEPS - 4))" damaged.log && grep -q "passed over" damaged.log && [ $rc = 75 ] && ok "a shard that is $damage is said and passed over" ||
    { fail "a shard that is $damage: exit $rc"; tail -n 5 damaged.log; }
done

# -- what ranks that are not there would need
PLAN=(dino-pretrain plan --preset vitl14 --batch 1024 --gflops 100000 --network 1000 --json)
"${PLAN[@]}" --ranks 1 >p1.json && "${PLAN[@]}" --ranks 64 --strategy full >p64.json && "${PLAN[@]}" --ranks 64 --strategy full --recompute block --accumulate 4 >small.json &&
  dino-pretrain plan --table --ranks 8 --batch 128 --strategy full --gflops 100000 --json >table.json || fail "plan"
"$DINO_PYTHON" - <<'PY' && ok "plan counts what a rank keeps, receives and computes" || fail "what plan says"
import json
p1, p64, small, table = (json.load(open(f"{n}.json")) for n in ("p1", "p64", "small", "table"))
b1, b64 = p1["bytes"], p64["bytes"]
# Some 350 M parameters with heads: f32 student and teacher, gradients, two moments; 64 ranks hold a 64th each, but for padding.
for kind, copies in (("parameters", 2), ("gradients", 1), ("optimizer", 2)):
    assert abs(b1[kind] / copies / 4 / 350.5e6 - 1) < 0.02, (kind, b1[kind])
    assert 1 <= b64[kind] * 64 / b1[kind] < 1.001, (kind, b64[kind])
assert p1["communication_bytes_per_step"] == 0 and p64["communication_bytes_per_step"] > 3 * b1["gradients"]
assert p64["bytes_max"] == b64["total"] == sum(v for k, v in b64.items() if k != "total")
assert abs(p1["checkpoint_bytes"] - 4 * b1["gradients"]) < 0.001 * p1["checkpoint_bytes"]
assert abs(p1["step_seconds"] / p64["step_seconds"] - 64) < 1e-6 and abs(p64["days"] - p64["step_seconds"] * 125000 / 86400) < 1e-9
assert small["bytes"]["activations"] < b64["activations"] / 8 and small["step_seconds"] > 1.3 * p64["step_seconds"] and p64["assumptions"]
assert len(table["rows"]) == 32 and {r["preset"] for r in table["rows"]} == {"vits14", "vitb14", "vitl14", "vitg14"}
PY
expect 64 "no multiple of 2" dino-pretrain plan --ranks 7 --strategy hybrid --shard-group 2 --batch 64
expect 64 "every rank needs one at least" dino-pretrain plan --ranks 70 --batch 64
expect 64 "missing option: --shard-group" dino-pretrain plan --ranks 8 --strategy hybrid --batch 64
expect 64 "only --strategy hybrid has groups" dino-pretrain plan --ranks 8 --strategy full --shard-group 2 --batch 64

# -- settings that do not fit
expect 64 "no multiple of 3" ranks 4 "${TRAIN[@]}" --output bad --strategy hybrid --shard-group 3
expect 64 "only --strategy hybrid has groups" dino-pretrain train "${TRAIN[@]:2}" --output bad --shard-group 1
expect 64 "every rank needs one at least in each" ranks 3 "${TRAIN[@]}" --output bad --accumulate 6
expect 64 "--strategy" dino-pretrain train "${TRAIN[@]:2}" --output bad --strategy fsdp
[ ! -e bad ] && ok "nothing is left of them" || fail "bad settings leave a folder"
finish
