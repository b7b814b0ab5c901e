#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# dino-curate run again with another setting: only the stages that read it are done again, to the bytes of a fresh run; also when it is killed on the way, and back again.
. "$(dirname "$0")/lib.sh"
: "${DINO_FAULTS:?run this through ctest}"
export OMP_NUM_THREADS=1 ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0"
images in 60; images eval 4; images eval2 2
"$DINO_PYTHON" - <<'PY'
import numpy as np
def ppm(path, a): open(path, "wb").write(b"P6\n%d %d\n255\n" % (a.shape[1], a.shape[0]) + a.astype(np.uint8).tobytes())
def read(path): return np.frombuffer(open(path, "rb").read()[13:], np.uint8).reshape(48, 40, 3)
rng = np.random.default_rng(5)
a = read("in/stripes/0002.ppm")
ppm("in/blobs/equal.ppm", a)                                                    # an equal file
for i in (8, 10, 12, 14): ppm(f"in/stripes/near{i}.ppm", np.clip(read(f"in/stripes/{i:04d}.ppm") * 1.03, 0, 255))
ppm("in/blobs/small.ppm", a[:28, :28])                                          # below 32 pixels
ppm("in/blobs/strip.ppm", np.concatenate([a] * 8, 1)[:40])                      # 320 x 40
ppm("in/blobs/gray.ppm", np.full((40, 40, 3), 90) + rng.integers(0, 2, (40, 40, 3)))
ppm("in/blobs/large.ppm", rng.integers(0, 255, (90, 90, 3)))
open("in/blobs/bad.ppm", "w").write("text")
np.save("e.npy", rng.normal(size=(70, 16)).astype("f4"))
PY
BASE=(--input in --exclude eval --unit-records 8 --shard-records 8 --target 20 --iterations 3 --resample 1 --progress off)
run() { local n=$1; shift; if [ "$n" = 1 ]; then dino-curate run "${BASE[@]}" "$@" 2>log.txt; else ranks "$n" dino-curate run "${BASE[@]}" "$@" 2>log.txt; fi; }
run 1 --output base || { tail -n 3 log.txt; fail "the first run"; finish; }
grep -q 'filters: --min-size 32 (default), --max-aspect 6 (default), --min-contrast 2 (default); 0 switches one off; off: --min-blur, --min-entropy' log.txt && ok "the filters are told" || fail "the filters are not told"
grep -q 'filter: dropped 1 too_small (--min-size 32, the default; --min-size 0 keeps them), 1 aspect .*, 1 contrast ' log.txt && ok "what they dropped is told" || { fail "what the filters dropped"; grep filter: log.txt; }

stages=(ingest embed filter dedup decontaminate balance export report)
from() { local all="${stages[*]}"; all=${all#*"$1"}; echo "$1${all// /, }"; }
heading "setting" ranks "first stage done again" "bytes of a fresh run" "and back"
# changed RANKS STAGE 'why' [back] settings...: the stages before STAGE are complete, those from it on are done again
changed() {
  local n=$1 stage=$2 why=$3 back="" name; shift 3
  [ "$1" = back ] && { back=asked; shift; }
  rm -rf fresh redone; cp -a base redone
  run 1 "$@" --output fresh || { fail "$*: a fresh run: $(tail -n 1 log.txt)"; return; }
  run "$n" "$@" --output redone || { fail "$*: $(tail -n 1 log.txt)"; return; }
  grep -qF -- "$why: redoing $(from "$stage")" log.txt || { fail "$*: not '$why: redoing $(from "$stage")'"; grep redoing log.txt; }
  for name in "${stages[@]}"; do
    [ "$name" = "$stage" ] && break
    grep -q "$name: complete, nothing to do" log.txt || fail "$*: $name was done again"
  done
  grep -q "$stage: complete" log.txt && fail "$*: $stage was not done again"
  local result=differ; same fresh redone >/dev/null && result=same || same fresh redone
  if [ -n "$back" ]; then
    run "$n" --output redone && same base redone >/dev/null && back=same || { fail "$*: and back"; back=differ; }
  fi
  row "$*" "$n" "$stage" "$result" "$back"
}
changed 1 balance "target 20 -> 30" back --target 30
changed 2 balance "target 20 -> 0" --target 0
changed 1 balance "levels none -> 4,2, strategy random -> closest" --levels 4,2 --strategy closest
changed 2 dedup "threshold 0.95 -> 0.9" back --threshold 0.9
changed 1 dedup "rule star -> components, seed 0 -> 3" --rule components --seed 3
changed 2 dedup "dedup true -> false" --dedup false
changed 1 dedup "threshold 0.95 -> 0.9, target 20 -> 30" --target 30 --threshold 0.9
changed 2 filter "min-size 32 -> 0, max-aspect 6 -> 0, min-contrast 2 -> 0" back --min-size 0 --min-contrast 0 --max-aspect 0
changed 1 filter "min-blur 0 -> 50, min-entropy 0 -> 4, hash-duplicates false -> true" --min-blur 50 --min-entropy 4 --hash-duplicates true
changed 2 embed "exact-duplicates true -> false" --exact-duplicates false
changed 1 embed "embeddings none -> e.npy" back --embeddings e.npy
changed 2 decontaminate "exclude eval -> eval, eval2, leak-threshold 0.9 -> 0.8" back --exclude eval2 --leak-threshold 0.8
changed 1 export "shard-records 8 -> 5" back --shard-records 5
changed 2 ingest "max-pixels 178956970 -> 5000" --max-pixels 5000
# Not read by a descriptor that needs no batches: only the record of all settings is written again.
changed 1 report "unit-records 8 -> 16" --unit-records 16

# -- killed on the way: the new settings go on, the old ones come back
heading "killed at" ranks "the new settings" "the old settings"
standing() { local pid; pid=$(rank_pid 0); [ -n "$pid" ] && grep -q '^State:.T' "/proc/$pid/status" 2>/dev/null; }
rm -rf fresh; run 1 --threshold 0.9 --target 15 --output fresh || fail "a fresh run"
killed() { # FILE RANKS: it is as far as this file with other settings when all is killed
  local file=$1 n=$2 on=same back=same
  rm -rf killed; cp -a base killed
  launch killed "$n" -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_KIND=stop -x "FAULT_PATH=killed/$file" -x FAULT_RANK=0 dino-curate run "${BASE[@]}" --threshold 0.9 --target 15 --output killed
  until_true 60 standing || { fail "never at $file"; tail -n 3 killed.log; }
  kill_all
  [ -e killed/manifest.json ] && fail "$file: it looks finished"
  rm -rf again; cp -a killed again
  run 2 --threshold 0.9 --target 15 --output killed && same fresh killed >/dev/null || { fail "$file: the new settings"; on=differ; }
  run 1 --output again && same base again >/dev/null || { fail "$file: the old settings"; back=differ; }
  row "$file" "$n" $on $back
}
killed stages/dedup.h5 2
killed clusters.h5 1
killed shards/000001.tar 1
killed ledger.h5 2
# ... and while the old results are taken away: the last marker first, then what it names.
half() { # WHAT FILES...: they are gone already
  local what=$1 on=same back=same; shift
  for try in new old; do
    rm -rf killed; cp -a base killed; (cd killed && rm "$@")
    case $try in
      new) run 1 --threshold 0.9 --target 15 --output killed && same fresh killed >/dev/null || { fail "$what: the new settings"; on=differ; } ;;
      old) run 1 --output killed && same base killed >/dev/null || { fail "$what: the old settings"; back=differ; } ;;
    esac
  done
  row "$what" 1 $on $back
}
half "the report's marker is gone" stages/report.json
half "and more of it, and a shard" stages/report.json manifest.json ledger.h5 stages/export.json shards/000000.tar stages/balance.json clusters.h5

# -- a single stage takes the settings that are there
rm -rf steps; dino-curate ingest "${BASE[@]}" --output steps 2>log.txt
for stage in embed decontaminate; do dino-curate $stage --output steps --progress off 2>log.txt || fail "$stage"; done
expect 0 "threshold 0.95 -> 0.9: redoing dedup, decontaminate" dino-curate ingest "${BASE[@]}" --threshold 0.9 --target 15 --output steps
for stage in decontaminate export report; do dino-curate $stage --output steps --progress off 2>log.txt || fail "$stage"; done
same fresh steps
# A dry run tells it and changes nothing; a target out of reach can be lowered; nothing left is told with the filters.
expect 0 "dry run: target 20 -> 30: redoing balance, export, report" dino-curate run "${BASE[@]}" --target 30 --output base --dry-run
run 1 --output base && grep -q "report: complete, nothing to do" log.txt && ok "a dry run changes nothing" || fail "a dry run changes something"
rm -rf reach; cp -a base reach
expect 65 "lower it, or relax the filters, and run again" dino-curate run "${BASE[@]}" --target 500 --output reach
run 2 --output reach && same base reach
expect 65 "none of 69 images passes the filters: 69 too_small (--min-size 400; --min-size 0 keeps them)" dino-curate run "${BASE[@]}" --min-size 400 --output reach
run 1 --output reach && same base reach
# Other inputs are another curation, and its own result no setting of it.
expect 64 "is what this curation writes" dino-curate run "${BASE[@]}" --embeddings base/embeddings.h5 --output base
expect 64 "inputs changed: base: this curation was begun over others" dino-curate run --input eval --output base
# An image whose bytes changed since ingest is not mixed in by what is done again.
cp -p in/blobs/0001.ppm saved; printf x >>in/blobs/0001.ppm
expect 65 "input changed: in: blobs/0001.ppm has" dino-curate run "${BASE[@]}" --threshold 0.9 --output base
cp -p saved in/blobs/0001.ppm
run 1 --output base && grep -q "report: complete, nothing to do" log.txt && ok "refused before anything was taken away" || fail "a refused start took results away"
finish
