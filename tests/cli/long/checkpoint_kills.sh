#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A training in parts is killed in every phase of a checkpoint, three times a run, and goes on with another number of ranks and another strategy each time:
# what it goes on from is the checkpoint before or the new one, whole, and the run ends as one that nobody killed.
. "$(dirname "$0")/../lib.sh"
: "${DINO_FAULTS:?run this through ctest}"
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0" OMP_NUM_THREADS=1
images data 64
STEPS=12
TRAIN=(dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --data "$WORK/data" --progress off --seed 3 --batch 16 --warmup 4 --drop-path 0.2 --precision fp32
  --steps $STEPS --checkpoint-every 2 --keep 2)
has_step() { grep -q "\"step\":$2,\"samples\"" "$1/metrics.jsonl" 2>/dev/null; }
resumed() { grep -o 'resumed from .* at step [0-9]*' "$1" | grep -o '[0-9]*$'; }
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

# Ranks and strategy of the four starts; the first three are killed.
STARTS=("4 full" "3 full" "1 replicate" "2 gradients")
start() { # NUMBER mpirun's words...: in the background, for the run `killed`
  local n strategy; read -r n strategy <<<"${STARTS[$1]}"; shift
  launch killed "$n" "$@" "${TRAIN[@]}" --output killed --strategy "$strategy"
}
heading "killed in" "the checkpoints of steps" "went on from" "largest difference of the loss"
# phase NAME RANK SETTINGS STEPS FROM: dies at the fault in the checkpoint of each of STEPS (S stands for it in SETTINGS), and goes on from those of FROM.
phase() {
  local name=$1 rank=$2 settings=$3 steps=($4) from=$5 went="" i n rc step words difference
  rm -rf killed
  for i in 0 1 2; do
    step=$(printf 'step_%08d' "${steps[$i]}"); n=${STARTS[$i]%% *}; words=()
    for word in ${settings//S/$step}; do words+=(-x "$word"); done
    [ "$rank" = last ] && words+=(-x "FAULT_RANK=$((n - 1))") || words+=(-x "FAULT_RANK=$rank")
    start "$i" -x "LD_PRELOAD=$DINO_FAULTS" "${words[@]}"
    if [[ $settings = *KIND=hang* ]]; then
      until_true 60 has_step killed $((${steps[$i]} + 1)) || fail "$name: no step beside the writing"
      kill_all
    else
      wait "$LAUNCHED"; rc=$?
      [ $rc = 137 ] || { fail "$name, start $i: exit $rc, not killed"; tail -n 5 killed.log; }
    fi
    went+="$(resumed killed.log) "
  done
  start 3; wait "$LAUNCHED" || { fail "$name: the last start"; tail -n 5 killed.log; }
  went+=$(resumed killed.log)
  [ "$(echo $went)" = "$from" ] || fail "$name: went on from $went, not $from"
  difference=$("$DINO_PYTHON" close.py killed) || fail "$name: losses: $difference"
  ls killed/checkpoints | grep -qvE '^step_[0-9]+$' && fail "$name: left over: $(ls killed/checkpoints)"
  dino-pretrain inspect killed >/dev/null 2>inspect.txt || { fail "$name: inspect"; tail -n 2 inspect.txt; }
  row "$name" "${steps[*]}" "$went" "$difference"
}
K="FAULT_KIND=kill"
phase "making a shard" last "$K FAULT_CALL=open FAULT_PATH=S*.tmp/rank_" "4 6 8" "2 4 6"
phase "writing values" last "$K FAULT_CALL=write FAULT_PATH=S*.tmp/rank_ FAULT_AFTER=9" "4 6 8" "2 4 6"
phase "syncing a shard" last "$K FAULT_CALL=fsync FAULT_PATH=S*.tmp/rank_" "4 6 8" "2 4 6"
phase "steps beside the writing" last "FAULT_KIND=hang FAULT_CALL=fsync FAULT_PATH=S*.tmp/rank_" "4 6 8" "2 4 6"
phase "reading its checksum" last "$K FAULT_CALL=read FAULT_PATH=S*.tmp/rank_" "4 6 8" "2 4 6"
phase "making the manifest" 0 "$K FAULT_CALL=open FAULT_PATH=S*.tmp/manifest.json" "4 6 8" "2 4 6"
phase "syncing the manifest" 0 "$K FAULT_CALL=fsync FAULT_PATH=S*.tmp/manifest.json" "4 6 8" "2 4 6"
phase "renaming the manifest" 0 "$K FAULT_CALL=rename FAULT_PATH=S*.tmp/manifest.json" "4 6 8" "2 4 6"
phase "renaming the folder" 0 "$K FAULT_CALL=rename FAULT_PATH=S FAULT_AFTER=1" "4 6 8" "2 4 6"
phase "removing an old one" 0 "$K FAULT_CALL=rename FAULT_PATH=.trash" "6 8 10" "6 8 10"

# -- before the link to the best one
rm -rf killed
TRAIN+=(--knn-train "$WORK/data" --knn-test "$WORK/data" --knn-every 4 --knn-limit 40 --knn-test-limit 20 --knn-k 1)
start 0 -x "LD_PRELOAD=$DINO_FAULTS" -x "$K" -x FAULT_CALL=rename -x FAULT_PATH=checkpoints/best; wait "$LAUNCHED"; rc=$?
[ $rc = 137 ] && [ -e killed/checkpoints/step_00000004/manifest.json ] && [ ! -e killed/checkpoints/best ] || { fail "before the link: exit $rc"; tail -n 5 killed.log; }
start 3; wait "$LAUNCHED" || { fail "after a kill before the link"; tail -n 5 killed.log; }
[ "$(resumed killed.log)" = 4 ] && "$DINO_PYTHON" close.py killed && ok "killed before the link to the best one" || fail "killed before the link: went on from $(resumed killed.log)"
finish
