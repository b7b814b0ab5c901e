#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# dino-curate gives the same bytes on 1 to 4 ranks, with 1 to 3 threads, on every CPU path, and when it is killed in any stage and started again.
. "$(dirname "$0")/lib.sh"
: "${DINO_FAULTS:?run this through ctest}"
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0" OMP_NUM_THREADS=1
images in 90; images eval 6
cp in/stripes/0002.ppm in/blobs/copy.ppm; echo text >in/blobs/bad.ppm
"$DINO_PYTHON" - <<'PY'
import numpy as np
for i in range(8, 16):  # near-copies: a little brighter
    for folder in ("stripes", "blobs"):
        path = f"in/{folder}/{i:04d}.ppm"
        try: raw = open(path, "rb").read()
        except FileNotFoundError: continue
        head, pixels = raw[:13], np.frombuffer(raw[13:], np.uint8)
        open(f"in/{folder}/near{i}.ppm", "wb").write(head + np.clip(pixels * 1.03, 0, 255).astype(np.uint8).tobytes())
rng = np.random.default_rng(3)
rows = rng.normal(size=(700, 32)).astype(np.float32)
np.save("rows.npy", np.concatenate([rows, rows[:60] + 0.05 * rng.normal(size=(60, 32)).astype(np.float32)]))
PY
dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --data in --steps 2 --warmup 0 --batch 4 --output weights --progress off 2>log.txt || fail "weights"
SETTINGS="--input in --exclude eval --unit-records 8 --shard-records 12 --target 40 --levels 8,2 --progress off"
# Weights that have hardly learnt give vectors that are all alike, so nothing is dropped by them.
BACKBONE="$SETTINGS --embedding weights --image-size 32 --dedup false --leak-threshold 1"
on() { # RANKS THREADS command...
  local n=$1 t=$2; shift 2
  OMP_NUM_THREADS=$t mpirun --allow-run-as-root --oversubscribe --bind-to none -x OMP_NUM_THREADS -n "$n" "$@" >log.txt 2>&1 || { fail "$* on $n ranks, $t threads"; grep error: log.txt; }
}
sum_of() { (cd "$1" && find . -type f ! -name .lock ! -path './errors/*' | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16); }

# -- ranks and threads
vectors() { # RANKS THREADS OUT
  on "$1" "$2" dino-curate dedup --embeddings rows.npy --lists 12 --probes 3 --output "$3"
  on "$1" "$2" dino-curate cluster --embeddings rows.npy --levels 40,6 --iterations 5 --resample 2 --output "$3"
  on "$1" "$2" dino-curate balance --clusters "$3/clusters.h5" --target 100 --output "$3"
}
heading ranks threads "run" "run, backbone" "dedup, cluster, balance"
for n in 1 2 3 4; do
  for t in 1 2 3; do
    out=r${n}t$t
    on $n $t dino-curate run $SETTINGS --output $out
    kinds="" backbone="" vectors=""
    case $out in  # the other two commands on a part of the square
      r1t1 | r1t3 | r2t2 | r3t3 | r4t1)
        on $n $t dino-curate run $BACKBONE --output backbone_$out
        vectors $n $t vectors_$out
        kinds="backbone_ vectors_" backbone=$(sum_of backbone_$out) vectors=$(sum_of vectors_$out) ;;
    esac
    row $n $t "$(sum_of $out)" "$backbone" "$vectors"
    [ $out = r1t1 ] || for kind in "" $kinds; do same ${kind}r1t1 $kind$out; done
  done
done
for level in baseline avx2 avx512; do
  export DINO_CPU=$level
  on 2 1 dino-curate run $SETTINGS --output cpu_$level
  vectors 2 1 vectors_cpu_$level
  row 2 "1, DINO_CPU=$level" "$(sum_of cpu_$level)" "not promised" "$(sum_of vectors_cpu_$level)"
  same r1t1 cpu_$level; same vectors_r1t1 vectors_cpu_$level
  unset DINO_CPU
done

# -- killed in every stage: one rank stands still where it opens a file of that stage, then all are killed; started again on another number of ranks
stages=(ingest embed filter dedup decontaminate balance export report)
standing() { local pid; pid=$(rank_pid "$1"); [ -n "$pid" ] && grep -q '^State:.T' "/proc/$pid/status" 2>/dev/null; }
heading "killed in" "at the file" ranks "again on" "finished before, not redone" "work units kept" result
kill_in() { # STAGE FILE RANK RANKS AGAIN REFERENCE settings...
  local stage=$1 file=$2 rank=$3 n=$4 again=$5 reference=$6 name result=same before=0; shift 6
  rm -rf killed; launch killed "$n" -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_KIND=stop -x "FAULT_PATH=killed/$file" -x "FAULT_RANK=$rank" dino-curate run "$@" --output killed
  if ! until_true 60 standing "$rank"; then fail "$stage: never at $file"; tail -n 3 killed.log; fi
  kill_all
  on "$again" 1 dino-curate run "$@" --output killed
  for name in "${stages[@]}"; do
    [ "$name" = "$stage" ] && break
    grep -q "$name: complete, nothing to do" log.txt && before=$((before + 1)) || fail "$name was done again after a kill in $stage"
  done
  grep -q "$stage: complete, nothing to do" log.txt && fail "$stage was complete before the kill"
  same "$reference" killed || result=differs
  row "$stage" "$file" "$n" "$again" "$before" "$(grep -o "$stage: [0-9]* of [0-9]* work units" log.txt | grep -o '[0-9]* of [0-9]*')" $result
}
kill_in ingest work/ingest/unit_000002.h5 0 2 3 r1t1 $SETTINGS
kill_in ingest work/ingest/unit_000010.h5 2 3 1 r1t1 $SETTINGS
kill_in ingest stages/ingest.h5 0 2 4 r1t1 $SETTINGS
kill_in embed embeddings.h5 0 2 1 r1t1 $SETTINGS
kill_in embed work/embed/unit_000008.h5 1 2 3 backbone_r1t1 $BACKBONE
kill_in filter stages/filter.h5 0 3 1 r1t1 $SETTINGS
kill_in dedup dedup.h5 0 2 3 r1t1 $SETTINGS
kill_in dedup stages/dedup.h5 0 3 2 r1t1 $SETTINGS
kill_in decontaminate stages/decontaminate.h5 0 2 4 r1t1 $SETTINGS
kill_in balance clusters.h5 0 2 1 r1t1 $SETTINGS
kill_in balance selection.h5 0 4 2 r1t1 $SETTINGS
kill_in export shards/000002.tar 1 2 3 r1t1 $SETTINGS
kill_in export stages/shards.json 0 2 1 r1t1 $SETTINGS
kill_in report ledger.h5 0 2 3 r1t1 $SETTINGS
kill_in report manifest.json 0 3 2 r1t1 $SETTINGS
# And at random moments, four times one after the other, with other numbers of ranks each time.
rm -rf killed
for n in 2 3 1 4; do
  launch killed $n dino-curate run $SETTINGS --output killed
  until_true 30 test -e killed/curate.ini; sleep 0.$((RANDOM % 8))$((RANDOM % 10)); kill_all
  row "a random moment" "$(ls killed/stages 2>/dev/null | grep -c '\.json$') files in stages/" $n "" "" "" ""
done
on 2 1 dino-curate run $SETTINGS --output killed
same r1t1 killed
# dedup, cluster and balance have no stages: a killed one leaves nothing that looks finished.
for file in dedup.h5 clusters.h5 selection.h5; do
  rm -rf killed; mkdir killed; [ $file = selection.h5 ] && cp vectors_r1t1/clusters.h5 killed/
  case $file in
    dedup.h5) command="dedup --embeddings rows.npy --lists 12 --probes 3" ;;
    clusters.h5) command="cluster --embeddings rows.npy --levels 40,6 --iterations 5 --resample 2" ;;
    selection.h5) command="balance --clusters vectors_r1t1/clusters.h5 --target 100" ;;
  esac
  launch killed 2 -x "LD_PRELOAD=$DINO_FAULTS" -x FAULT_KIND=stop -x "FAULT_PATH=killed/$file" -x FAULT_RANK=0 dino-curate $command --output killed
  until_true 60 standing 0 || fail "never at $file"
  kill_all
  [ -e killed/$file ] && fail "$file is there before it is complete"
  on 3 1 dino-curate $command --output killed
  cmp -s vectors_r1t1/$file killed/$file && result=same || { result=differs; fail "$file differs after a kill"; }
  row "${command%% *}" $file 2 3 "" "" $result
done
finish
