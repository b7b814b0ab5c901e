#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A disk that is full: exit 74 with the file and the cause, nothing that looks complete, the earlier state intact,
# and the same command finishes once there is space. The disk is a small tmpfs (needs the right to mount one).
. "$(dirname "$0")/lib.sh"
export DINO_WATCHDOG_SECONDS=120 OMP_NUM_THREADS=1
DISK=$WORK/disk
mkdir "$DISK"
mount -t tmpfs -o size=24m tmpfs "$DISK" 2>/dev/null || { echo "cannot mount a tmpfs here"; exit 77; }
trap 'umount -l "$DISK"; rm -rf "$WORK"' EXIT
RECIPE=$DINO_SHARE/recipes/tiny.cfg

# fill KIB: all of the disk but KIB is used up.
fill() {
  rm -f "$DISK/filler"
  local free; free=$(($(stat -f -c %a "$DISK") * $(stat -f -c %S "$DISK") / 1024))
  [ "$free" -gt "$1" ] && head -c $(((free - $1) * 1024)) /dev/zero >"$DISK/filler"
}
empty() { rm -f "$DISK/filler"; }
# full 'text' command...: exit 74, one error line with the text and "No space left on device", nothing on stdout.
full() {
  local text=$1; shift
  "$@" >"$WORK/out.txt" 2>"$WORK/err.txt"; local rc=$?
  [ "$rc" = 74 ] || { fail "exit $rc instead of 74: $*"; tail -n 4 "$WORK/err.txt"; return; }
  [ "$(grep -c '^dino-[a-z]*: error: ' "$WORK/err.txt")" = 1 ] || { fail "not one error line: $*"; tail -n 4 "$WORK/err.txt"; }
  grep '^dino-[a-z]*: error: ' "$WORK/err.txt" | grep -F -- "$text" | grep -qF "No space left on device" || { fail "no '$text ... No space left on device': $*"; tail -n 2 "$WORK/err.txt"; }
  [ -s "$WORK/out.txt" ] && fail "stdout is not empty: $*"
  ok "full disk: $*"
}
absent() { local f; for f in "$@"; do [ -e "$f" ] && fail "$f is there after a failure"; done; return 0; }
# No temporary file stays behind either.
no_leftovers() { local left; left=$(find "$DISK" -name '*.tmp.*' -o -name '*.rows'); [ -z "$left" ] || fail "left on the disk: $left"; }

images data 48; images lab/train 40; images lab/test 20
"$DINO_PYTHON" -c "import numpy as np; np.save('rows.npy', np.repeat(np.random.default_rng(0).normal(size=(2000, 16)), 2, 0).astype('f4'))"

# -- curation: at several fillings another stage meets the end of the disk
CURATE=(dino-curate run --input data --target 40 --unit-records 8 --progress off)
"${CURATE[@]}" --output good 2>log.txt || fail "the curation to compare with"
for room in 0 8 100 250 330 420; do
  rm -rf "$DISK/curated"; empty; mkdir "$DISK/curated"; fill "$room"
  full "$DISK/curated" "${CURATE[@]}" --json --output "$DISK/curated"
  absent "$DISK/curated/manifest.json"; no_leftovers
  empty
  expect 0 "" "${CURATE[@]}" --output "$DISK/curated"
  diff -r -x .lock -x errors good "$DISK/curated" >log.txt && ok "the same bytes after space was made ($room KiB)" || { fail "other bytes after space was made ($room KiB)"; head -n 3 log.txt; }
done
rm -rf "$DISK/curated"; mkdir "$DISK/curated"; fill 100
full "$DISK/curated" ranks 2 "${CURATE[@]}" --output "$DISK/curated"
empty; rm -rf "$DISK/curated"

# -- commands with one file
DEDUP=(dino-curate dedup --embeddings rows.npy --threshold 0.9 --progress off --output "$DISK/vectors")
fill 8; full "dedup.h5" "${DEDUP[@]}" --json; absent "$DISK/vectors/dedup.h5"; no_leftovers
full "clusters.h5" dino-curate cluster --embeddings rows.npy --levels 20,4 --iterations 2 --progress off --json --output "$DISK/vectors"
absent "$DISK/vectors/clusters.h5"; no_leftovers
full "dedup.h5" ranks 2 "${DEDUP[@]}" --json
empty; expect 0 "" "${DEDUP[@]}"
sha256sum "$DISK/vectors/dedup.h5" >sum.txt
fill 8; full "dedup.h5" "${DEDUP[@]}" --json; sha256sum -c --quiet sum.txt && ok "the earlier dedup.h5 is intact" || fail "the earlier dedup.h5 was changed"
empty; rm -rf "$DISK/vectors"

# -- training: the second checkpoint does not fit
train() { dino-pretrain train --config "$RECIPE" --data data --progress off --steps 30 --checkpoint-every 15 "$@"; }
train --output run >log.txt 2>&1 || fail "the training to compare with"
train --output "$DISK/run" --stop-after 15 >log.txt 2>&1; [ $? = 75 ] || fail "training to the first checkpoint"
for room in 300 64; do
  fill "$room"; full "step_00000030" train --output "$DISK/run"
  absent "$DISK/run/checkpoints/step_00000030/manifest.json" "$DISK/run/checkpoints/step_00000030"
  expect 0 "" dino-pretrain inspect "$DISK/run/checkpoints/step_00000015"
done
fill 64; full "step_00000030" ranks 2 dino-pretrain train --config "$RECIPE" --data data --progress off --steps 30 --checkpoint-every 15 --output "$DISK/run"
fill 0; full "$DISK/run" train --output "$DISK/run"
empty; expect 0 "" train --output "$DISK/run"
expect 0 "" dino-pretrain diff run "$DISK/run"
fill 64
full "$DISK/hf" dino-pretrain export --checkpoint run --format hf --output "$DISK/hf"; absent "$DISK/hf/model.safetensors"
full "$DISK/imported" dino-pretrain import --weights run --output "$DISK/imported"; absent "$DISK/imported/checkpoints/step_00000000"
empty; rm -rf "$DISK/run" "$DISK/hf" "$DISK/imported"

# -- features, results, pictures, report
features() { dino-eval features --weights random:vit_micro --data lab/$1 --size 32 --progress off --output "$2"; }
for part in train test; do features $part $part.h5 2>log.txt || fail "features"; done
for room in 0 8; do fill $room; full "$DISK/test.h5" features test "$DISK/test.h5"; absent "$DISK/test.h5"; no_leftovers; done
empty; expect 0 "" features test "$DISK/test.h5"
cmp test.h5 "$DISK/test.h5" && ok "the same features after space was made" || fail "other features after space was made"
KNN=(dino-eval knn --train train.h5 --test test.h5 --progress off)
"${KNN[@]}" --output results 2>log.txt || fail "knn"
for room in 0 4 24; do
  rm -rf "$DISK/results"; empty; mkdir "$DISK/results"; fill $room; full "$DISK/results" "${KNN[@]}" --json --output "$DISK/results"; no_leftovers
  empty; expect 0 "" "${KNN[@]}" --output "$DISK/results"
  [ "$(wc -l <"$DISK/results/results.jsonl")" = "$(wc -l <results/results.jsonl)" ] && ok "all results after space was made" || fail "results after space was made"
done
fill 0
full "$DISK/report.html" dino-eval report --results results --json --output "$DISK/report.html"; absent "$DISK/report.html"; no_leftovers
empty; expect 0 "" dino-eval report --results results --output "$DISK/report.html"

# -- chains
printf '[chain]\nrun = %s/chain\n[a]\ncommand = true\n' "$DISK" >chain.cfg
fill 0
full "$DISK/new.cfg" dino-jobs init "$DISK/new.cfg"; absent "$DISK/new.cfg"
full "$DISK/scripts" dino-jobs render chain.cfg --json --output "$DISK/scripts"
full "$DISK/chain" dino-jobs local chain.cfg --json
empty; expect 0 "" dino-jobs local chain.cfg
expect 0 "" dino-jobs init "$DISK/new.cfg"
# A limit on the size of files is told the same way.
expect 74 "File too large" bash -c 'ulimit -f 64; exec dino-pretrain export --checkpoint run --format hf --output limited'
absent limited/model.safetensors
finish
