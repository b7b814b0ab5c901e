#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A pretraining that was killed goes on: the same bits on the same number of ranks, the same samples and crops on another; damaged checkpoints are
# passed over; another job in the same folder is refused.
. "$(dirname "$0")/lib.sh"
: "${DINO_FAULTS:?run this through ctest}"
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0" OMP_NUM_THREADS=1
images data 64
STEPS=40
TRAIN=(dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --data "$WORK/data" --progress off --seed 3 --steps $STEPS --checkpoint-every 5 --keep 3)
steps_of() { cat "$1/metrics.jsonl" 2>/dev/null | grep -c '"loss"'; }
at_least() { [ "$(steps_of "$1")" -ge "$2" ]; }
resumed() { grep -o 'resumed from .*' "$1" | grep -o 'step_[0-9]*' | tail -n 1; }

ranks 2 "${TRAIN[@]}" --output full >log.txt 2>&1 || { fail "uninterrupted run"; tail -n 20 log.txt; finish; }

# -- killed at random moments and inside a checkpoint, at 2 ranks
cat >same.py <<'PY'
import json, sys
def lines(run):
    return {l["step"]: l for l in map(json.loads, open(f"{run}/metrics.jsonl")) if "event" not in l}
full, other, first, what = lines("full"), lines(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
assert sorted(full) == sorted(other) == list(range(1, len(full) + 1)), sorted(other)
assert len({l["batch_crc"] for l in full.values()}) == len(full)
for step in range(first, len(full) + 1):
    for name in what:
        assert full[step][name] == other[step][name], (step, name, full[step][name], other[step][name])
PY
heading "kill of all ranks" "in checkpoint" "steps logged" "went on from"
kill_run() { # NAME [mpirun's words...]
  local name=$1; shift
  launch killed 2 "$@" "${TRAIN[@]}" --output killed
}
resume_row() { row "$1" "$2" "$3" "$(resumed killed.log || true)"; }
# 1: at a random moment of the first steps
kill_run random; until_true 60 at_least killed $((6 + RANDOM % 6)) || fail "no training"; kill_all
said="random moment"; inside=$(ls -d killed/checkpoints/*.tmp 2>/dev/null | wc -l); logged=$(steps_of killed)
# 2, 3: inside a checkpoint: the rank that opens its shard, or the manifest, stands still there; then all are killed
for place in rank_0001.h5:1 manifest.json:0; do
  kill_run inside -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_KIND=stop -x "FAULT_PATH=.tmp/${place%:*}" -x "FAULT_RANK=${place#*:}" -x FAULT_AFTER=1
  standing() { local pid; pid=$(rank_pid "${place#*:}"); [ -n "$pid" ] && grep -q '^State:.T' "/proc/$pid/status" 2>/dev/null; }
  until_true 60 standing || fail "never inside a checkpoint"
  resume_row "$said" "$inside" "$logged"
  kill_all
  said="inside the writing of ${place%:*}"; inside=$(ls -d killed/checkpoints/*.tmp 2>/dev/null | wc -l); logged=$(steps_of killed)
  [ "$inside" = 1 ] && [ ! -e killed/checkpoints/*.tmp/manifest.json ] || fail "the kill was not inside a checkpoint: $(ls killed/checkpoints)"
done
# 4: at a random moment again
kill_run again; until_true 60 at_least killed $((logged + 1 + RANDOM % 8)) || fail "no training"
resume_row "$said" "$inside" "$logged"
kill_all
said="random moment"; inside=$(ls -d killed/checkpoints/*.tmp 2>/dev/null | wc -l); logged=$(steps_of killed)
ranks 2 "${TRAIN[@]}" --output killed >killed.log 2>&1 || { fail "resume after SIGKILL"; tail -n 5 killed.log; }
resume_row "$said" "$inside" "$logged"
dino-pretrain diff full killed && ok "weights, moments and centres equal those of the uninterrupted run" || fail "a killed and resumed run differs"
"$DINO_PYTHON" same.py killed 1 loss,loss_dino_local,loss_dino_global,loss_ibot,loss_koleo,grad_norm,batch_crc && ok "so do all losses" || fail "metrics of the killed run differ"
[ -e killed/checkpoints/*.tmp ] && fail "an unfinished checkpoint was left"
[ -e killed/errors ] && fail "errors/ of earlier starts was left"

# -- other numbers of ranks go on from the same checkpoint with the same samples, crops and masks
heading "resumed on" "from step" "batch_crc equal" "largest difference of the loss"
ranks 2 "${TRAIN[@]}" --output half --stop-after 15 >log.txt 2>&1; [ $? = 75 ] || fail "stop-after does not exit with 75"
for n in 1 2 3 4; do
  cp -r half "on$n"
  ranks $n "${TRAIN[@]}" --output "on$n" >"on$n.log" 2>&1 || { fail "resume on $n ranks"; tail -n 5 "on$n.log"; }
  "$DINO_PYTHON" same.py "on$n" 1 batch_crc || fail "other samples or crops on $n ranks"
  difference=$("$DINO_PYTHON" -c "
import json
a, b = ({l['step']: l['loss'] for l in map(json.loads, open(f'{r}/metrics.jsonl')) if 'event' not in l} for r in ('full', 'on$n'))
d = max(abs(a[s] - b[s]) / abs(a[s]) for s in a); print(f'{d:.1e}'); assert d < 5e-3 and ($n != 2 or d == 0)") || fail "loss on $n ranks"
  row "$n ranks" "$(resumed "on$n.log")" "steps 16-$STEPS" "$difference"
done

# -- damage: the newest valid checkpoint is used, and it says so
heading "damage to the newest checkpoint" "went on from" "passed over, it says"
newest=checkpoints/step_000000$STEPS; older=step_000000$((STEPS - 5))
one_more() { dino-pretrain train "${TRAIN[@]:2}" --output "$1" --stop-after 1 >damage.log 2>&1; }
flip() { "$DINO_PYTHON" -c "import sys; f = open(sys.argv[1], 'r+b'); f.seek(int(sys.argv[2])); c = f.read(1); f.seek(int(sys.argv[2])); f.write(bytes([c[0] ^ 1]))" "$1" "$2"; }
for file in manifest.json rank_0000.h5 rank_0001.h5; do
  size=$(stat -c %s "full/$newest/$file")
  for damage in flip:0 flip:$((size / 2)) flip:$((size - 4)) cut:$((size / 2)) cut:0 gone:0; do
    rm -rf damaged; cp -r full damaged
    case ${damage%:*} in
      flip) flip "damaged/$newest/$file" "${damage#*:}" ;;
      cut) truncate -s "${damage#*:}" "damaged/$newest/$file" ;;
      gone) rm "damaged/$newest/$file" ;;
    esac
    one_more damaged; rc=$?
    row "$file: $damage" "$(resumed damage.log)" "$(grep -o 'passed over.*' damage.log | head -n 1 | sed "s|damaged/$newest[/:]* *||g" | cut -c1-90)"
    [ $rc = 75 ] && [ "$(resumed damage.log)" = $older ] || { fail "$file: $damage: exit $rc"; tail -n 3 damage.log; }
    # A folder without a manifest was never finished, so nobody misses it.
    [ "$file:$damage" = manifest.json:gone:0 ] || grep -q "passed over" damage.log || fail "$file: $damage: nothing is said"
  done
done
# The kept number of checkpoints counts from where the run is, not from damaged ones of its future.
rm -rf damaged; cp -r full damaged
for step in 40 35; do flip "damaged/checkpoints/step_000000$step/rank_0000.h5" 5000; done
dino-pretrain train "${TRAIN[@]:2}" --keep 2 --checkpoint-every 1 --stop-after 1 --output damaged >damage.log 2>&1
expect 75 "step_00000031 at step 31" dino-pretrain train "${TRAIN[@]:2}" --output damaged --stop-after 1
ranks 2 "${TRAIN[@]}" --output damaged >damage.log 2>&1 || fail "a damaged run does not finish"
# None left: an error, never a silent new beginning.
rm -rf damaged; cp -r full damaged
for folder in damaged/checkpoints/step_*; do flip "$folder/rank_0000.h5" 5000; done
lines=$(wc -l <damaged/metrics.jsonl)
expect 65 "no valid checkpoint" dino-pretrain train "${TRAIN[@]:2}" --output damaged
expect 65 "no valid checkpoint" ranks 2 "${TRAIN[@]}" --output damaged
rm -r damaged/checkpoints/step_*
expect 65 "no valid checkpoint" dino-pretrain train "${TRAIN[@]:2}" --output damaged
[ "$(wc -l <damaged/metrics.jsonl)" = "$lines" ] && ok "the history is kept" || fail "metrics.jsonl was cut"
expect 75 "" dino-pretrain train "${TRAIN[@]:2}" --output damaged --resume none --stop-after 1

# -- a run that was copied elsewhere, with junk and an unfinished checkpoint in it; data that moved
mkdir elsewhere; cp -r half elsewhere/run; mv data moved
mkdir -p elsewhere/run/checkpoints/step_00000099 elsewhere/run/checkpoints/step_00000098.tmp elsewhere/run/checkpoints/step_x
echo junk | tee elsewhere/run/notes.txt elsewhere/run/checkpoints/README elsewhere/run/checkpoints/step_00000099/rank_0000.h5 >elsewhere/run/config.ini.tmp.77
expect 0 "resumed from elsewhere/run/checkpoints/step_00000015" ranks 2 "${TRAIN[@]/$WORK\/data/moved}" --output elsewhere/run
grep -q "images are now read from moved" err.txt && ok "the move of the data is announced" || fail "the move of the data is not announced"
dino-pretrain diff full elsewhere/run && ok "a copied run ends as the original" || fail "a copied run differs"
[ -e elsewhere/run/config.ini.tmp.77 ] && fail "the leftover of a killed writer stays" || ok "leftovers of killed writers go"
mv moved data

# -- other settings, other data
expect 64 "--lr" dino-pretrain train "${TRAIN[@]:2}" --output half --lr 0.5
expect 64 "--seed" dino-pretrain train "${TRAIN[@]:2}" --output half --seed 4
cp data/stripes/0000.ppm data/stripes/more.ppm
expect 65 "data changed" dino-pretrain train "${TRAIN[@]:2}" --output half
rm data/stripes/more.ppm

# -- signals: to one rank only, and through mpirun
for how in TERM:1 USR2:0 USR2:mpirun; do
  run=signal_${how/:/_}
  launch "$run" 2 "${TRAIN[@]}" --output "$run" --steps 1000000
  until_true 60 at_least "$run" 3 || fail "$run does not train"
  [ "${how#*:}" = mpirun ] && pid=$LAUNCHED || pid=$(rank_pid "${how#*:}")
  kill "-${how%:*}" "$pid"; wait "$LAUNCHED"; rc=$?
  [ $rc = 75 ] && ls "$run"/checkpoints/*/manifest.json >/dev/null 2>&1 && ok "SIG${how%:*} to ${how#*:}: a checkpoint and exit 75" || { fail "SIG$how: exit $rc"; tail -n 5 "$run.log"; }
done

# A signal while a checkpoint is being written: that one is finished, and then the stop's own; before, steps went on beside the writing until the next was due.
launch slow 2 -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_KIND=slow -x FAULT_CALL=fsync -x FAULT_PATH=.tmp/rank_0001.h5 "${TRAIN[@]}" --output slow --steps 1000000 --checkpoint-every 3
until_true 60 at_least slow 4 || fail "slow does not train"
kill -TERM "$(rank_pid 1)"; wait "$LAUNCHED"; rc=$?
cat >beside.py <<'PY'
import json, os
lines = [json.loads(l) for l in open("slow/metrics.jsonl")]
what = [l.get("event", "step") + str(l["step"]) for l in lines]
written = [l for l in lines if l.get("event") == "checkpoint"]
assert what.index("step4") < what.index("checkpoint3"), what
assert written[0]["seconds"] > 1 and written[0]["blocked_seconds"] <= written[0]["seconds"], written
assert written[-1]["step"] == lines[-1]["step"] and lines[-1]["event"] == "stop", what
assert all(os.path.exists(f"{l['checkpoint']}/manifest.json") for l in written), written
assert not [name for name in os.listdir("slow/checkpoints") if not name[-8:].isdigit()], os.listdir("slow/checkpoints")
PY
[ $rc = 75 ] && [ "$(grep -c 'is due while that of step' slow.log)" -le 1 ] && "$DINO_PYTHON" beside.py && ok "a stop while a checkpoint is written" || { fail "a stop while a checkpoint is written: exit $rc"; tail -n 5 slow.log; }

# -- two jobs in one folder
heading "second job in a folder" "exit" "it says"
refused() { # NAME TEXT command...
  local name=$1 text=$2; shift 2
  "$@" >second.log 2>&1; local rc=$?
  row "$name" $rc "$(grep -o 'in use: .*' second.log | head -n 1)"
  [ $rc = 64 ] && grep -qE "$text" second.log || { fail "$name: exit $rc, not refused by name"; tail -n 3 second.log; }
}
export SLURM_JOB_ID=4242
launch first 2 "${TRAIN[@]}" --output first --steps 1000000
until_true 60 at_least first 3 || fail "the first job does not train"
held="held by host $(hostname) pid $(rank_pid 0) since 20.*Z Slurm job 4242"
unset SLURM_JOB_ID
refused "pretrain train" "$held" dino-pretrain train "${TRAIN[@]:2}" --output first --steps 1000000
refused "pretrain train, 2 ranks" "$held" ranks 2 "${TRAIN[@]}" --output first --steps 1000000
refused "eval" "$held" dino-eval sweep --weights raw-pixels --train data --test data --size 32 --output first
refused "curate run" "$held" dino-curate run --input data --output first --progress off
refused "curate dedup" "$held" dino-curate dedup --embeddings none.npy --output first
[ -e first/errors ] && fail "a refused job wrote errors/ into the folder of the first" || ok "a refused job writes nothing"
kill_all
expect 75 "" dino-pretrain train "${TRAIN[@]:2}" --output first --steps 1000000 --stop-after 1
ok "the lock of a killed job does not hold"
# What a job on another host leaves: its words alone do not hold the folder, its lock (through the file system) does.
echo "host node17 pid 77 since 2026-01-01T00:00:00Z Slurm job 99" >first/.lock
expect 75 "" dino-pretrain train "${TRAIN[@]:2}" --output first --steps 1000000 --stop-after 1
"$DINO_PYTHON" -c '
import fcntl, time
f = open("first/.lock", "w"); fcntl.flock(f, fcntl.LOCK_EX); f.write("host node17 pid 77 since 2026-01-01T00:00:00Z Slurm job 99\n"); f.flush()
open("locked", "w"); time.sleep(600)' & holder=$!
until_true 20 test -e locked
refused "a lock from another host" "held by host node17 pid 77 since 2026-01-01T00:00:00Z Slurm job 99" dino-pretrain train "${TRAIN[@]:2}" --output first --steps 1000000
kill "$holder"; wait "$holder" 2>/dev/null
printf '[chain]\nrun=chain\n[a]\ncommand=touch ${run}/up; sleep 600\n' >chain.cfg
dino-jobs local chain.cfg >jobs.log 2>&1 & jobs=$!
until_true 20 test -e chain/up || fail "the chain does not start"
refused "jobs local" "held by host $(hostname) pid $jobs since" dino-jobs local chain.cfg
kill -INT "$jobs"; kill -TERM "$jobs"; wait "$jobs" 2>/dev/null
finish
