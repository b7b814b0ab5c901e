#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Faults of a file system while reading: tried again, logged once a file; those that pass leave no trace in the
# result, those that last end every rank with 74 and the repeat has the bytes of a run that met none.
. "$(dirname "$0")/lib.sh"
: "${DINO_FAULTS:?run this through ctest}"
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0" OMP_NUM_THREADS=1
images data 24
mkdir tars; (cd data && tar cf ../tars/a.tar stripes && tar cf ../tars/b.tar blobs)

# faulty N 'VAR=VALUE...' command...: N ranks under the fault; the log is log.txt.
faulty() {
  local n=$1 settings=$2 word words=(); shift 2
  for word in $settings; do words+=(-x "$word"); done
  ranks "$n" -x "LD_PRELOAD=$DINO_FAULTS" "${words[@]}" "$@" >out.txt 2>log.txt
}
said() { grep -oE 'error: .*' log.txt | head -n 1 | sed "s|$WORK/||g" | cut -c1-130; }
CURATE=(dino-curate run --input data --unit-records 4 --target 16 --progress off)
"${CURATE[@]}" --output good 2>log.txt || { fail "the curation to compare with"; cat log.txt; finish; }
TARRED=(dino-curate run --input tars --unit-records 4 --target 16 --progress off)
"${TARRED[@]}" --output good_tars 2>log.txt || fail "the curation of tars to compare with"

heading "reading, fault that passes" "where" ranks exit "times said" "bytes"
passes() { # NAME WHERE RANKS GOOD SETTINGS command...
  local name=$1 where=$2 n=$3 good=$4 settings=$5 rc times; shift 5
  rm -rf out log.txt; touch broken; { until_true 60 grep -q 'warning: retrying' log.txt; rm -f broken; } 2>/dev/null &
  faulty "$n" "$settings FAULT_WHILE=$WORK/broken" "$@" --output out; rc=$?; rm -f broken; wait
  times=$(grep -c 'warning: retrying' log.txt)
  [ $rc = 0 ] && [ "$times" -ge 1 ] && [ "$times" = "$(grep 'warning: retrying' log.txt | sort -u | wc -l)" ] || { fail "$name, $where: exit $rc, said $times times"; tail -n 3 log.txt; }
  same "$good" out >same.txt || { fail "$name, $where: other bytes"; cat same.txt; }
  row "$name" "$where" "$n" "$rc" "$times" "$(tail -n 1 same.txt)"
}
passes "EIO at open, rank 1" "ingest, a file" 2 good "FAULT_PATH=data/stripes/00 FAULT_KIND=5 FAULT_RANK=1" "${CURATE[@]}"
passes "ESTALE at read" "ingest, a file" 1 good "FAULT_PATH=blobs/0003 FAULT_CALL=read FAULT_KIND=116" "${CURATE[@]}"
passes "ENOENT at open, rank 1" "ingest, a file" 2 good "FAULT_PATH=data/stripes/0020 FAULT_KIND=2 FAULT_RANK=1" "${CURATE[@]}"
passes "EACCES at open" "ingest, a file" 1 good "FAULT_PATH=blobs/0011 FAULT_KIND=13" "${CURATE[@]}"
passes "short read" "ingest, a file" 1 good "FAULT_PATH=blobs/0005 FAULT_CALL=read FAULT_KIND=short" "${CURATE[@]}"
passes "ETIMEDOUT" "listing, a folder" 1 good "FAULT_PATH=data/blobs FAULT_CALL=list FAULT_KIND=110" "${CURATE[@]}"
passes "EIO at read" "scan of a tar" 1 good_tars "FAULT_PATH=tars/b.tar FAULT_CALL=read FAULT_KIND=5" "${TARRED[@]}"
passes "ENOTCONN at open, rank 1" "ingest and export, a tar" 2 good_tars "FAULT_PATH=tars/b.tar FAULT_KIND=107 FAULT_RANK=1" "${TARRED[@]}"
passes "EIO at read" "a work unit (HDF5)" 1 good "FAULT_PATH=ingest/unit_000001.h5 FAULT_CALL=read FAULT_KIND=5" "${CURATE[@]}"

heading "reading, fault that lasts" "where" ranks exit "message" "the same again, without"
lasts() { # NAME WHERE RANKS GOOD SETTINGS TEXT command...
  local name=$1 where=$2 n=$3 good=$4 settings=$5 text=$6 rc; shift 6
  rm -rf out; faulty "$n" "$settings" "$@" --output out --retry-seconds 0.3; rc=$?
  [ $rc = 74 ] && grep 'error: ' log.txt | grep -qF -- "$text" && grep -q 'warning: retrying' log.txt || { fail "$name, $where: exit $rc"; tail -n 3 log.txt; }
  [ -e out/manifest.json ] && fail "$name, $where: looks complete"
  local message; message=$(said)
  "$@" --output out >again.txt 2>&1 || { fail "$name, $where: the repeat fails"; tail -n 2 again.txt; }
  same "$good" out >same.txt || { fail "$name, $where: other bytes"; cat same.txt; }
  row "$name" "$where" "$n" "$rc" "$message" "$(tail -n 1 same.txt)"
}
lasts "EIO, rank 1" "ingest" 2 good "FAULT_PATH=data/stripes/0022 FAULT_KIND=5 FAULT_RANK=1" "data/stripes/0022.ppm: Input/output error" "${CURATE[@]}"
lasts "ENOENT for all files, rank 1" "ingest" 2 good "FAULT_PATH=data/ FAULT_KIND=2 FAULT_RANK=1" "No such file or directory: it was there when it was listed" "${CURATE[@]}"
lasts "EACCES" "ingest" 1 good "FAULT_PATH=blobs/0007 FAULT_KIND=13" "0007.ppm: Permission denied" "${CURATE[@]}"
lasts "short read" "ingest" 1 good "FAULT_PATH=blobs/0009 FAULT_CALL=read FAULT_KIND=short" "short read: data/blobs/0009.ppm" "${CURATE[@]}"
lasts "ESTALE" "export" 1 good_tars "FAULT_PATH=tars/a.tar FAULT_CALL=read FAULT_KIND=116 FAULT_AFTER=28" "tars/a.tar: Stale file handle" "${TARRED[@]}"
lasts "EIO" "scan of a tar" 1 good_tars "FAULT_PATH=tars/a.tar FAULT_CALL=read FAULT_KIND=5" "tars/a.tar: Input/output error" "${TARRED[@]}"
lasts "EIO" "listing, a folder" 1 good "FAULT_PATH=data/stripes FAULT_CALL=list FAULT_KIND=5" "data/stripes: Input/output error" "${CURATE[@]}"
# Without a second try.
rm -rf out; faulty 1 "FAULT_PATH=blobs/0001 FAULT_KIND=5" "${CURATE[@]}" --output out --retry-seconds 0; rc=$?
[ $rc = 74 ] && ! grep -q 'warning: retrying' log.txt && ok "--retry-seconds 0 tries once" || fail "--retry-seconds 0: exit $rc"

# -- a stop ends the tries; the watchdog does not take them for a stall
heading "while a file is tried again" ranks exit "it says"
rm -rf out; touch broken
launch tried 2 -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_PATH=data/stripes/0020 -x FAULT_KIND=5 -x FAULT_RANK=1 -x "FAULT_WHILE=$WORK/broken" "${CURATE[@]}" --output out --retry-seconds 100 --watchdog-seconds 1
until_true 30 grep -q 'warning: retrying' tried.log || fail "no retry"
sleep 2.5; rm broken; wait "$LAUNCHED"; rc=$?
row "2.5 s, with --watchdog-seconds 1, then mended" 2 $rc "$(grep -oE '(kept of|selected|collective stalled).*' tried.log | tail -n 1 | cut -c1-80)"
[ $rc = 0 ] || { fail "a rank that tries again counts as stalled: exit $rc"; tail -n 3 tried.log; }
same good out >/dev/null || fail "other bytes after a long try"
rm -rf out; touch broken
launch stopped 2 -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_PATH=data/stripes/0020 -x FAULT_KIND=5 -x FAULT_RANK=1 -x "FAULT_WHILE=$WORK/broken" "${CURATE[@]}" --output out --retry-seconds 100
until_true 30 grep -q 'warning: retrying' stopped.log || fail "no retry"
kill -USR2 "$LAUNCHED"; wait "$LAUNCHED"; rc=$?
row "SIGUSR2 to mpirun" 2 $rc "$(grep -oE 'stopped.*' stopped.log | tail -n 1 | cut -c1-100)"
[ $rc = 75 ] || { fail "SIGUSR2 while a file is tried again: exit $rc"; tail -n 3 stopped.log; }
rm broken; "${CURATE[@]}" --output out 2>log.txt || fail "going on after the stop"; same good out >/dev/null || fail "other bytes after the stop"

# -- training: no sample is ever replaced for a fault of the file system
crcs() { grep -o '"batch_crc":"[^"]*' "$1/metrics.jsonl"; }
TRAIN=(dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --batch 8 --steps 5 --warmup 0 --log-every 1 --cache-gib 0 --progress off)
ranks 2 "${TRAIN[@]}" --data data --output ok 2>log.txt || fail "the training to compare with"
heading "training, fault" "where" exit "message" "steps before" "checkpoint" "batch_crc of all steps after the repeat"
trains() { # NAME WHERE SETTINGS CODE TEXT
  local name=$1 where=$2 settings=$3 code=$4 text=$5 rc steps before
  rm -rf run; faulty 2 "$settings" "${TRAIN[@]}" --data data --output run --retry-seconds 0.3; rc=$?
  [ $rc = "$code" ] && grep -qF -- "$text" log.txt || { fail "training, $name: exit $rc"; tail -n 3 log.txt; }
  grep -q "left out" log.txt && fail "training, $name: an image was left out"
  before=$(crcs run 2>/dev/null | wc -l); steps=$(ls run/checkpoints 2>/dev/null | tail -n 1)
  local message; message=$(said)
  [ $rc = 0 ] || ranks 2 "${TRAIN[@]}" --data data --output run >again.txt 2>&1 || { fail "training, $name: the repeat fails"; tail -n 2 again.txt; }
  diff <(crcs ok) <(crcs run) >/dev/null && agree=equal || { agree=DIFFER; fail "training, $name: other samples"; }
  row "$name" "$where" "$rc" "$message" "$before" "$steps" "$agree"
}
trains "ENOENT, passing" "rank 1, files" "FAULT_PATH=data/blobs FAULT_KIND=2 FAULT_RANK=1 FAULT_COUNT=3" 0 "warning: retrying"
trains "ENOENT" "rank 1, all files" "FAULT_PATH=data/ FAULT_KIND=2 FAULT_RANK=1 FAULT_AFTER=10" 74 "No such file or directory"
trains "EACCES" "rank 0, one file" "FAULT_PATH=data/blobs/0013 FAULT_KIND=13 FAULT_RANK=0" 74 "0013.ppm: Permission denied"
trains "the folder is not there" "rank 1, listing" "FAULT_PATH=data FAULT_CALL=stat FAULT_KIND=2 FAULT_RANK=1" 74 "the ranks see different data: data"
# A checkpoint that cannot be read now is not passed over for an older one.
rm -rf run; cp -r ok run; faulty 1 "FAULT_PATH=step_00000005/rank_0000.h5 FAULT_CALL=read FAULT_KIND=5" "${TRAIN[@]}" --data data --output run --retry-seconds 0.3; rc=$?
row "EIO" "the newest checkpoint, at resume" $rc "$(said)" 5 "$(ls run/checkpoints | tail -n 1)" "-"
[ $rc = 74 ] && ! grep -q "passed over" log.txt || { fail "a checkpoint that cannot be read: exit $rc"; tail -n 3 log.txt; }
# A tar is deleted while it is trained on.
rm -rf run gone; cp -r tars gone; launch train 1 "${TRAIN[@]}" --data gone --steps 100000 --output run --retry-seconds 0.3
until_true 60 eval '[ "$(crcs run 2>/dev/null | wc -l)" -ge 3 ]' || fail "no training on tars"
rm gone/b.tar; wait "$LAUNCHED"; rc=$?
row "a tar is deleted" "1 rank" "$rc" "$(grep -oE 'error: .*' train.log | tail -n 1 | sed "s|$WORK/||g" | cut -c1-130)" "-" "$(ls run/checkpoints | tail -n 1)" "-"
[ $rc = 74 ] && grep -q "gone/b.tar: No such file" train.log && ! grep -q "left out" train.log && ls run/checkpoints/*/manifest.json >/dev/null || { fail "a deleted tar: exit $rc"; tail -n 3 train.log; }

# -- broken images: counted, and an error beyond the share
broken() { rm -rf part; cp -r data part; local i=0 f; for f in part/*/*; do [ $i -lt "$1" ] && { head -c 9 "$f" >cut && mv cut "$f"; }; i=$((i + 1)); done; }
heading "broken of 24 images" "--max-replaced" exit "replaced_samples" "message"
replaced() { # COUNT LIMIT CODE TEXT REPLACED
  broken "$1"; rm -rf run; ranks 2 "${TRAIN[@]}" --steps 3 --data part --output run --max-replaced "$2" >out.txt 2>log.txt; local rc=$?
  local count; count=$(grep -o '"replaced_samples":[0-9]*' run/metrics.jsonl | tail -n 1 | grep -o '[0-9]*$')
  row "$1" "$2" $rc "$count" "$(grep -oE '(too many broken|[0-9]+ of [0-9]+ samples).*' log.txt | head -n 1 | sed "s|$WORK/||g" | cut -c1-140)"
  [ $rc = "$3" ] && { [ -z "$4" ] || grep -qF -- "$4" log.txt; } || { fail "$1 broken images, limit $2: exit $rc"; tail -n 3 log.txt; }
  [ -z "$5" ] || [ "$count" = "$5" ] || fail "$1 broken images: replaced_samples $count, not $5"
}
replaced 0 0.05 0 "" 0
replaced 1 0.05 0 "1 of 24 samples were replaced" 1
replaced 3 0.05 65 "part/blobs/00" ""
replaced 3 0.2 0 "3 of 24 samples were replaced" 3
replaced 20 0.05 65 "too many broken images" ""

# -- evaluation: no row is missing for a fault of the file system
FEATURES=(dino-eval features --weights random:vit_micro --data data --size 32 --batch 4 --progress off)
"${FEATURES[@]}" --output good.h5 2>log.txt || fail "features"
heading "features, fault" exit "message" "bytes"
faulty 2 "FAULT_PATH=data/ FAULT_KIND=116 FAULT_RANK=1 FAULT_COUNT=1" "${FEATURES[@]}" --output out.h5; rc=$?
cmp -s good.h5 out.h5 && [ $rc = 0 ] || fail "features, passing fault: exit $rc"; row "ESTALE, passing, rank 1" $rc "$(grep -oE 'retrying.*' log.txt | head -n 1 | cut -c1-100)" equal
rm -f out.h5; faulty 2 "FAULT_PATH=data/ FAULT_KIND=2 FAULT_RANK=1 FAULT_AFTER=2" "${FEATURES[@]}" --output out.h5 --retry-seconds 0.3; rc=$?
row "ENOENT, rank 1" $rc "$(said)" "$(ls out.h5* 2>/dev/null)"
[ $rc = 74 ] && [ -z "$(ls out.h5* 2>/dev/null)" ] || { fail "features, lasting fault: exit $rc"; tail -n 3 log.txt; }
finish
