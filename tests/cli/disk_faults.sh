#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Faults while writing: a call that fails ends the program with 74 and names the file; nothing is half-committed, and
# the repeat has the bytes of a run without the fault. A checkpoint that fails does not end the training.
. "$(dirname "$0")/lib.sh"
: "${DINO_FAULTS:?run this through ctest}"
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0" OMP_NUM_THREADS=1
images data 24
faulty() { # N 'VAR=VALUE...' command...
  local n=$1 settings=$2 word words=(); shift 2
  for word in $settings; do words+=(-x "$word"); done
  ranks "$n" -x "LD_PRELOAD=$DINO_FAULTS" "${words[@]}" "$@" >out.txt 2>log.txt
}
said() { grep -oE 'error: .*' log.txt | head -n 1 | sed "s|$WORK/||g" | cut -c1-130; }
leftovers() { find "$1" -name '*.tmp*' 2>/dev/null | head -n 3; }
CURATE=(dino-curate run --input data --unit-records 8 --target 16 --progress off)
"${CURATE[@]}" --output good 2>log.txt || { fail "the curation to compare with"; finish; }

heading "curation, fault" "at the file" ranks exit "message" "left over" "the same again, without"
curated() { # NAME FILE RANKS SETTINGS TEXT
  local name=$1 file=$2 n=$3 settings=$4 text=$5 rc left message
  rm -rf out; faulty "$n" "FAULT_PATH=$file $settings" "${CURATE[@]}" --output out; rc=$?
  [ $rc = 74 ] && grep 'error: ' log.txt | grep -F -- "$text" | grep -qF -- "${file%.tmp}" || { fail "$name at $file: exit $rc"; tail -n 3 log.txt; }
  left=$(leftovers out); [ -z "$left" ] || fail "$name at $file: left over: $left"
  [ -e out/manifest.json ] && fail "$name at $file: looks complete"
  message=$(said); "${CURATE[@]}" --output out 2>again.txt || { fail "$name at $file: the repeat fails"; tail -n 2 again.txt; }
  same good out >same.txt || { fail "$name at $file: other bytes"; cat same.txt; }
  row "$name" "$file" "$n" $rc "$message" "${left:-nothing}" "$(tail -n 1 same.txt)"
}
curated "EIO at write" unit_000002.h5 2 "FAULT_CALL=write FAULT_KIND=5" "Input/output error"
curated "ENOSPC at write" embeddings.h5 1 "FAULT_CALL=write FAULT_KIND=28" "No space left on device"
curated "EDQUOT at write" shards/000000.tar 1 "FAULT_CALL=write FAULT_KIND=122" "Disk quota exceeded"
curated "EIO at fsync" stages/ingest.h5 1 "FAULT_CALL=fsync FAULT_KIND=5" "Input/output error"
curated "EDQUOT at fsync" shards/000000.tar 2 "FAULT_CALL=fsync FAULT_KIND=122" "Disk quota exceeded"
curated "EIO at rename" ledger.h5 1 "FAULT_CALL=rename FAULT_KIND=5" "Input/output error"
curated "EROFS at open" selection.h5 1 "FAULT_CALL=open FAULT_KIND=30" "Read-only file system"
curated "ENOSPC at write" manifest.json 1 "FAULT_CALL=write FAULT_KIND=28" "No space left on device"

# -- evaluation
FEATURES=(dino-eval features --weights random:vit_micro --data data --size 32 --progress off)
"${FEATURES[@]}" --output good.h5 2>log.txt || fail "features"
KNN=(dino-eval knn --train good.h5 --test good.h5 --k 1 --progress off)
"${KNN[@]}" --output results 2>log.txt || fail "knn"
heading "evaluation, fault" "at the file" exit "message" "left over"
evaluated() { # NAME FILE SETTINGS TEXT FOLDER command...
  local name=$1 file=$2 settings=$3 text=$4 folder=$5 rc left; shift 5
  rm -rf "$folder"; mkdir "$folder"; faulty 1 "FAULT_PATH=$file $settings" "$@"; rc=$?
  left=$(leftovers "$folder"); row "$name" "$file" $rc "$(said)" "${left:-nothing}"
  [ $rc = 74 ] && grep 'error: ' log.txt | grep -qF -- "$text" && [ -z "$left" ] || { fail "$name at $file: exit $rc, left $left"; tail -n 3 log.txt; }
}
evaluated "EIO at write" f/out.h5 "FAULT_CALL=write FAULT_KIND=5" "f/out.h5" f "${FEATURES[@]}" --output f/out.h5
evaluated "EIO at fsync" r/results.jsonl "FAULT_CALL=fsync FAULT_KIND=5" "results.jsonl: Input/output error" r "${KNN[@]}" --output r
evaluated "EDQUOT at write" r/results.jsonl "FAULT_CALL=write FAULT_KIND=122" "results.jsonl: Disk quota exceeded" r "${KNN[@]}" --output r
evaluated "EIO at rename" report.html "FAULT_CALL=rename FAULT_KIND=5" "report.html" g dino-eval report --results results --output g/report.html

# -- checkpoints
crcs() { grep -o '"batch_crc":"[^"]*' "$1/metrics.jsonl"; }
events() { grep -c "\"event\":\"$2\"" "$1/metrics.jsonl"; }
TRAIN=(dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --data data --batch 8 --steps 6 --warmup 0 --log-every 1 --checkpoint-every 2 --progress off)
ranks 2 "${TRAIN[@]}" --output ok 2>log.txt || fail "the training to compare with"
heading "training on 2 ranks, fault" "at" exit "checkpoints" "checkpoint_failed" "left over" "diff to the undisturbed run"
trained() { # NAME SETTINGS CODE FAILED CHECKPOINTS
  local name=$1 settings=$2 code=$3 failed=$4 kept=$5 rc left there count
  rm -rf run; faulty 2 "$settings" "${TRAIN[@]}" --output run; rc=$?
  left=$(leftovers run); there=$(ls run/checkpoints | tr '\n' ' ' | sed 's/step_0*//g'); count=$(events run checkpoint_failed)
  [ $rc = "$code" ] && [ "$count" = "$failed" ] && [ -z "$left" ] && [ "$there" = "$kept" ] || { fail "training, $name: exit $rc, $count failed, checkpoints $there, left $left"; tail -n 3 log.txt; }
  [ "$(grep -c 'warning: checkpoint of step' log.txt)" = "$count" ] || fail "training, $name: not said"
  [ $rc = 0 ] || { grep -q "without this checkpoint" log.txt || fail "training, $name: it does not say what to do"; ranks 2 "${TRAIN[@]}" --output run >again.txt 2>&1 || fail "training, $name: the repeat fails"; }
  diff <(crcs ok) <(crcs run) >/dev/null && dino-pretrain diff ok run >diff.txt 2>&1 || { fail "training, $name: another result"; tail -n 2 diff.txt; }
  row "$name" "$settings" $rc "$there" "$count" "${left:-nothing}" equal
}
trained "ENOSPC at the second checkpoint" "FAULT_PATH=step_00000004 FAULT_CALL=write FAULT_KIND=28" 0 1 "2 6 "
trained "EDQUOT, on rank 1 only" "FAULT_PATH=step_00000002 FAULT_CALL=write FAULT_KIND=122 FAULT_RANK=1" 0 1 "4 6 "
trained "EIO at fsync, twice" "FAULT_PATH=rank_0000.h5 FAULT_CALL=fsync FAULT_KIND=5 FAULT_COUNT=2" 0 2 "6 "
trained "EIO at the rename of the folder" "FAULT_PATH=step_00000004 FAULT_CALL=rename FAULT_KIND=5" 0 1 "2 6 "
trained "ENOSPC at the last checkpoint" "FAULT_PATH=step_00000006 FAULT_CALL=write FAULT_KIND=28" 74 0 "2 4 "
# What a killed writer leaves is gone after the next start, whatever its name.
rm -rf run; cp -r ok run; rm -rf run/checkpoints/step_00000006 run/checkpoints/step_00000004
mkdir run/checkpoints/step_00000005.0123456789ab.tmp run/checkpoints/step_00000004.tmp run/checkpoints/step_00000001.trash
dino-pretrain train "${TRAIN[@]:2}" --stop-after 1 --output run >log.txt 2>&1
[ -z "$(ls run/checkpoints | grep -v '^step_[0-9]*$')" ] && ok "leftovers of checkpoints go at the next start" || fail "leftovers stay: $(ls run/checkpoints)"
# A full disk under metrics.jsonl costs lines, not the training.
rm -rf run; faulty 1 "FAULT_PATH=metrics.jsonl FAULT_CALL=write FAULT_KIND=28 FAULT_AFTER=3 FAULT_COUNT=2" "${TRAIN[@]}" --output run; rc=$?
[ $rc = 0 ] && [ "$(grep -c 'goes on without these lines' log.txt)" = 1 ] && grep -q '"event":"lines_lost".*"lines":2' run/metrics.jsonl && ok "lost lines of metrics.jsonl are said and counted" ||
  { fail "a full disk under metrics.jsonl: exit $rc"; tail -n 3 log.txt; cut -c1-100 run/metrics.jsonl; }
finish
