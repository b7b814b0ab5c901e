#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Links planted where programs write are not followed, and two jobs never share a folder, with flock or without.
. "$(dirname "$0")/lib.sh"
: "${DINO_FAULTS:?run this through ctest}"
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0" OMP_NUM_THREADS=1
images data 24
RECIPE=$DINO_SHARE/recipes/tiny.cfg
TRAIN=(dino-pretrain train --config "$RECIPE" --data data --batch 8 --warmup 0 --progress off)
FEATURES=(dino-eval features --weights random:vit_micro --data data --size 32 --progress off)

# planted NAME FOLDER 'link...' command...: each link leads to a file (or a folder, with a slash) outside.
heading "link planted at" "program" exit "victim" "it says"
planted() {
  local folder=$1 links=$2 link rc state=untouched; shift 2
  rm -rf "$folder" victim victims; mkdir -p "$folder" victims; echo precious >victim; echo precious >victims/rank_0.txt
  for link in $links; do
    mkdir -p "$folder/$(dirname "$link")"
    case $link in */) ln -s "$WORK/victims" "$folder/${link%/}" ;; *) ln -s "$WORK/victim" "$folder/$link" ;; esac
  done
  "$@" >out.txt 2>log.txt; rc=$?
  [ "$(cat victim)" = precious ] && [ "$(ls victims)" = rank_0.txt ] && [ "$(cat victims/rank_0.txt)" = precious ] || state=CHANGED
  row "$links" "$1 $2" $rc $state "$(grep -oE 'error: .*' log.txt | head -n 1 | sed "s|$WORK/||g" | cut -c1-110)"
  [ $state = untouched ] && { [ $rc = 0 ] || [ $rc = "${OTHER:-74}" ]; } || { fail "$links: exit $rc, victim $state"; tail -n 2 log.txt; }
}
pids() { "$DINO_PYTHON" -c "import os; p = os.getpid(); print(*['$1.tmp.%d' % (p + i) for i in range(1, 400)])"; }
many() { # like planted, for names that are guessed from process ids: the row shows the pattern only
  local folder=$1 file=$2 rc; shift 2
  rm -rf "$folder" victim; mkdir -p "$folder"; echo precious >victim
  for name in $(pids "$file"); do ln -s "$WORK/victim" "$folder/$name"; done
  "$@" >out.txt 2>log.txt; rc=$?
  row "$file.tmp.<pid>" "$1 $2" $rc "$(cat victim | head -c 20)" ""
  [ "$(cat victim)" = precious ] && { [ $rc = 0 ] || [ $rc = 74 ]; } || { fail "$file.tmp.<pid>: exit $rc"; tail -n 2 log.txt; }
}
many c curate.ini dino-curate ingest --input data --output c --progress off
many c stages/ingest.h5 dino-curate ingest --input data --output c --progress off 2>/dev/null
many f x.h5 "${FEATURES[@]}" --output f/x.h5
planted c ".lock" dino-curate ingest --input data --output c --progress off
planted c "ledger.h5 stages/ingest.h5" dino-curate ingest --input data --output c --progress off
OTHER=66 planted c "errors/" dino-curate ingest --input nothing --output c --progress off
OTHER=66 planted c "errors/rank_0.txt" dino-curate ingest --input nothing --output c --progress off
planted r "metrics.jsonl" "${TRAIN[@]}" --steps 2 --output r
planted r "checkpoints/step_00000002.tmp/ checkpoints/step_00000002/ checkpoints/step_00000001.trash/" "${TRAIN[@]}" --steps 2 --output r
planted f "x.h5.rows x.h5.patches.rows x.h5" "${FEATURES[@]}" --output f/x.h5
"${FEATURES[@]}" --output good.h5 2>log.txt || fail "features"
OTHER=65 planted k "results.jsonl" dino-eval knn --train good.h5 --test good.h5 --k 1 --output k --progress off
planted k ".lock" dino-eval knn --train good.h5 --test good.h5 --k 1 --output k --progress off
printf '[chain]\nrun = chain\n[a]\ncommand = true\n' >chain.cfg
planted chain "slurm/.lock" dino-jobs local chain.cfg
planted chain "logs/a.log logs/a.out" dino-jobs local chain.cfg
# What is not a link of ours stays, what a killed writer left goes, and what a live one writes stays.
rm -rf c; mkdir c; touch c/ledger.h5.tmp.4711 "c/old.tmp.000000.4711.0123456789ab" c/notes.tmp.txt
dino-curate ingest --input data --output c --progress off 2>log.txt
[ -z "$(ls c | grep -E 'ledger.h5.tmp|old.tmp')" ] && [ -e c/notes.tmp.txt ] && ok "leftovers go, other files stay" || fail "leftovers: $(ls c)"

# -- locks
heading "two jobs in one folder" "flock" "exit of the second" "it says"
holding() { ls "$1"/.lock.claim.* 2>/dev/null | head -n 1 | xargs -r grep -q 'holds=yes'; }
for errno in none 37 95 38; do
  NOFLOCK=(); [ $errno = none ] || NOFLOCK=(env "LD_PRELOAD=$DINO_FAULTS" FAULT_PATH=/ FAULT_CALL=flock "FAULT_KIND=$errno")
  rm -rf t; "${NOFLOCK[@]}" "${TRAIN[@]}" --steps 100000 --output t >first.log 2>&1 & first=$!
  until_true 60 test -s t/metrics.jsonl || { fail "flock $errno: the first does not train"; cat first.log; }
  "${NOFLOCK[@]}" "${TRAIN[@]}" --steps 100000 --output t >log.txt 2>&1; rc=$?
  row "at work" "$errno" $rc "$(grep -oE 'error: .*' log.txt | cut -c1-120)"
  [ $rc = 64 ] && grep -q "in use: t: held by host $(hostname) pid $first since" log.txt || { fail "flock $errno: the second is not refused: exit $rc"; tail -n 2 log.txt; }
  if [ $errno = 37 ]; then
    "${TRAIN[@]}" --steps 100000 --output t >log.txt 2>&1; rc=$?
    row "at work without flock, the second has it" mixed $rc "$(grep -oE 'error: .*' log.txt | cut -c1-120)"
    [ $rc = 64 ] || fail "a claim is passed over by a job with flock: exit $rc"
  fi
  kill -KILL $first; wait $first 2>/dev/null
  "${NOFLOCK[@]}" "${TRAIN[@]}" --steps 100000 --output t --stop-after 1 >log.txt 2>&1; rc=$?
  row "killed" "$errno" $rc "$(grep -oE 'error: .*' log.txt | cut -c1-120)"
  [ $rc = 75 ] || { fail "flock $errno: the lock of a killed job holds: exit $rc"; tail -n 2 log.txt; }
  [ -z "$(ls t/.lock.claim.* 2>/dev/null)" ] || fail "flock $errno: claims stay"
done
# Started at the same moment, without flock: one works and the other is refused; everything else works too.
NOFLOCK=(env "LD_PRELOAD=$DINO_FAULTS" FAULT_PATH=/ FAULT_CALL=flock FAULT_KIND=37)
CURATE=(dino-curate run --input data --unit-records 8 --target 16 --progress off)
"${CURATE[@]}" --output good 2>log.txt || fail "the curation to compare with"
for round in 1 2; do
  rm -rf both; jobs=(); for j in a b c; do "${NOFLOCK[@]}" "${CURATE[@]}" --output both >"$j.log" 2>&1 & jobs+=($!); done
  codes=""; for job in "${jobs[@]}"; do wait "$job"; codes+="$? "; done
  row "three at the same moment" 37 "$codes" "$(grep -ohE 'in use: .*' a.log b.log c.log | head -n 1 | cut -c1-100)"
  # One that comes when the winner is through finds everything done.
  [ "$(tr ' ' '\n' <<<"$codes" | grep -c '^0$')" -ge 1 ] && [ -z "$(tr ' ' '\n' <<<"$codes" | grep -vE '^(0|64)?$')" ] || { fail "three at once: $codes"; tail -n 2 ?.log; }
  same good both >same.txt || { fail "three at once: other bytes"; cat same.txt; }
done
# A claim of another host that is silent is passed over, one that beats is not: tests/storage/folder_lock_test.cpp.
finish
