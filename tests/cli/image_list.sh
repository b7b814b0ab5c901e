#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The list of images that a training maps: the samples are those of a list in memory, a damaged list is made anew, a start that is killed while it writes the
# list leaves nothing in the way, a rank that does not see it, or that cannot read it
# any more, ends all of them, a dry run writes none, a later start lists what has changed alone; broken images are counted by cause.
. "$(dirname "$0")/lib.sh"
: "${DINO_FAULTS:?run this through ctest}"
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0" OMP_NUM_THREADS=1
images data 24
mkdir tars; for tar in "a stripes" "b blobs"; do read -r name folder <<<"$tar"; tar -C data --sort=name --owner=0 --group=0 --mtime=@0 -cf "tars/$name.tar" "$folder"; done
TRAIN=(dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --batch 8 --steps 5 --warmup 0 --log-every 1 --progress off --seed 3)
crcs() { grep -o '"batch_crc":"[^"]*' "$1/metrics.jsonl" | cut -d'"' -f4 | tr '\n' ' '; }
hash() { grep -o '"hash": "[^"]*' "$1/run.json" | cut -d'"' -f4; }

# -- the same samples as when each rank had all records in memory: the listings' hashes are of that program, the sums of
# the batches of one that trains to the same losses, bit for bit
samples() { # RUN HASH CRCS
  [ "$(hash "$1")" = "$2" ] || fail "$1: hash of the listing $(hash "$1"), not $2"
  [ "$(crcs "$1")" = "$3" ] && ok "$1: the samples that they were" || fail "$1: other samples: $(crcs "$1")"
}
ranks 2 "${TRAIN[@]}" --data data --output folder 2>log.txt || { fail "a folder"; tail -n 3 log.txt; }
grep -q "trained 5 steps in .*% of their time went into waiting for images" log.txt && ok "the share of waiting is said" || fail "the last line: $(tail -n 1 log.txt)"
samples folder ffb242c3b3b07ec7 "b5253173 69b4edcd 1748a7e9 6da4aacb 9a7336b4 "
"${TRAIN[@]}" --data tars --output tarred 2>log.txt || { fail "tars"; tail -n 3 log.txt; }
samples tarred 8709b9600ab8d9c9 "7bd33e0d 45a739db 1a36f1b2 d1d41218 bea0f1b0 "
cp -r data broken; head -c 9 data/blobs/0013.ppm >broken/blobs/0013.ppm
ranks 2 "${TRAIN[@]}" --data broken --output replaced --max-replaced 0.2 2>log.txt || { fail "a broken image"; tail -n 3 log.txt; }
samples replaced ffb242c3b3b07ec7 "b5253173 69b4edcd 4ffbe5c2 f9aeb0f4 9a7336b4 "
grep -q "2 of 40 samples were replaced: their images cannot be decoded (2 truncated)" log.txt || fail "the warning: $(grep replaced log.txt)"
"$DINO_PYTHON" - <<'PY' && ok "replaced samples by cause" || fail "replaced samples by cause"
import json
lines = [l for l in map(json.loads, open("replaced/metrics.jsonl")) if "event" not in l]
assert all(sum(l["replaced_by_cause"].values()) == l["replaced_samples"] for l in lines)
assert lines[0]["replaced_by_cause"] == {} and lines[-1]["replaced_by_cause"] == {"truncated": 2}, lines[-1]
PY
# A later start goes on counting.
"${TRAIN[@]}" --data broken --output parts --max-replaced 0.2 --stop-after 3 2>log.txt; "${TRAIN[@]}" --data broken --output parts --max-replaced 0.2 2>>log.txt || { fail "a second start"; tail -n 3 log.txt; }
grep '"loss"' parts/metrics.jsonl | tail -n 1 | grep -q '"replaced_by_cause":{"truncated":2}' && ok "also over two starts" || fail "over two starts: $(grep -o '"replaced_by.*}' parts/metrics.jsonl)"

# -- a list that is damaged, or of another place
again() { "${TRAIN[@]}" --data "$1" --output folder "${@:2}" 2>log.txt; }
node() { stat -c %i folder/images.index; }
again data || fail "the same again" # what was changed shortly before the first start was listed is listed once more
before=$(node); again data || fail "the same again"; [ "$(node)" = "$before" ] && ok "the list stays" || fail "the list is written again"
heading "list" "said" "made anew"
for damage in cut flipped version empty; do
  cp folder/images.index whole.index
  case $damage in
    cut) truncate -s 900 folder/images.index ;;
    flipped) printf '\x7f' | dd of=folder/images.index bs=1 seek=300 conv=notrunc 2>/dev/null ;;
    version) printf '\x09' | dd of=folder/images.index bs=1 seek=8 conv=notrunc 2>/dev/null ;;
    empty) : >folder/images.index ;;
  esac
  again data || { fail "$damage: exit $?"; tail -n 3 log.txt; }
  grep -q "damaged list of images: folder/images.index: .*made anew" log.txt || fail "$damage: it is not said"
  row "$damage" "$(grep -oE 'damaged list.*' log.txt | head -n 1)" "$(cmp folder/images.index whole.index && echo yes)"
  cmp -s folder/images.index whole.index || fail "$damage: another list"
done
cp -r data moved; again moved || { fail "the images lie elsewhere"; tail -n 3 log.txt; }
grep -q "now read from moved" log.txt && grep -q moved/blobs folder/images.index && ok "a list of another place is made anew" || fail "the images lie elsewhere"
rm moved/blobs/0013.ppm; again moved; [ $? = 65 ] && grep -q "data changed" log.txt && ok "other images are refused" || fail "other images: $(tail -n 1 log.txt)"

# -- tars that are as they were are not listed again, for any number of ranks; one that is not is named
"${TRAIN[@]}" --data tars --output kept --stop-after 2 2>log.txt; grep -q "are as they were" log.txt && fail "the first start has a list"
ranks 2 "${TRAIN[@]}" --data tars --output kept --stop-after 4 2>log.txt
grep -q "the images are those of kept/images.index: its 5 files and folders are as they were" log.txt && ok "the list is kept" || fail "the list is not kept: $(cat log.txt)"
touch tars/b.tar; before=$(crcs tarred)
ranks 2 "${TRAIN[@]}" --data tars --output kept 2>log.txt || fail "a tar that was touched"
grep -q "tars/b.tar has changed since kept/images.index was made: the images are listed anew" log.txt && ok "a tar that has changed is seen" || fail "a touched tar: $(cat log.txt)"
[ "$(crcs kept)" = "$before" ] && ok "the samples of all three are those of one start" || fail "other samples: $(crcs kept)"
# -- a list that is cut while it is mapped, as by a disk that fails
launch cut 2 "${TRAIN[@]}" --data tars --output cut --steps 1000000 --cache-gib 0
until_true 60 grep -qs '"loss"' cut/metrics.jsonl || fail "cut: no step"
truncate -s 0 cut/images.index
wait "$LAUNCHED"; code=$?
[ $code = 74 ] && grep -q "error: cannot read: cut/images.index: " cut.log && grep -q "cannot read: cut/images.index" cut/errors/rank_*.txt && ok "a list that is cut" || fail "a list that is cut: exit $code: $(tail -n 3 cut.log)"

# -- a dry run, and a start that fails, leave none
expect 0 "" ranks 2 "${TRAIN[@]}" --data data --output dry --dry-run
[ ! -e dry ] && [ -z "$(find . -name '*.index*' -path '*dry*')" ] || fail "a dry run writes"
expect 74 "the ranks see different data" ranks 2 -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_PATH=tars/ -x FAULT_CALL=stat -x FAULT_KIND=2 -x FAULT_RANK=1 "${TRAIN[@]}" --data tars --output unseen --retry-seconds 0.3
[ ! -e unseen ] || fail "a start that fails leaves a folder"
# A rank that does not see the run's folder.
expect 74 "unseen/images.index" ranks 2 -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_PATH=unseen/images.index -x FAULT_KIND=2 -x FAULT_RANK=1 "${TRAIN[@]}" --data tars --output unseen --retry-seconds 0.3

# -- killed while the list is written: the next start has the samples of an undisturbed one
for call in write fsync rename; do
  rm -rf killed
  launch killed 2 -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_PATH=killed/images.index -x FAULT_CALL=$call -x FAULT_KIND=kill "${TRAIN[@]}" --data data --output killed
  wait "$LAUNCHED" && fail "killed at $call: it went on"
  [ ! -e killed/images.index ] || fail "killed at $call: there is a list"
  ranks 2 "${TRAIN[@]}" --data data --output killed 2>log.txt || { fail "after a kill at $call"; tail -n 3 log.txt; }
  [ "$(crcs killed)" = "$(crcs folder)" ] && [ -z "$(find killed -name '*.tmp.*')" ] && ok "killed at $call" || fail "after a kill at $call: $(crcs killed) $(find killed -name '*.tmp.*')"
done
# On a full disk the start ends, and says so.
expect 74 "images.index" ranks 2 -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_PATH=full/images.index -x FAULT_CALL=write -x FAULT_KIND=28 "${TRAIN[@]}" --data data --output full
finish
