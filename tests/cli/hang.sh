#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Nothing hangs: ranks that throw, die, stop or read from a file system that does not answer, ranks without data, and more ranks than there is work.
# Each case ends within its time, with the documented exit code, and says which rank and phase.
. "$(dirname "$0")/lib.sh"
: "${DINO_FAULTS:?run this through ctest}"
# A preloaded library comes before the sanitizers' runtime.
crashed=139                                # the launcher's code for a rank that SIGSEGV ended
[ -z "${ASAN_OPTIONS:-}" ] || crashed=1 # the address sanitizer reports the signal and exits
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0"
images data 24
LIMIT=180  # seconds that a case may take on a busy machine; the watchdog's own time is 2 s

TRAIN=(dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --data "$WORK/data" --progress off --batch 4 --steps 1000000 --checkpoint-every 1000000 --retry-seconds 0.2)
# faults KIND PATH RANK [AFTER]: mpirun's words that break one rank.
faults() { FAULTS=(-x "LD_PRELOAD=$DINO_FAULTS" -x "FAULT_KIND=$1" -x "FAULT_PATH=$2" -x "FAULT_RANK=$3" -x "FAULT_AFTER=${4:-0}"); }
training() { [ "$(cat "$1/metrics.jsonl" 2>/dev/null | grep -c '"loss"')" -ge 3 ]; }

# judge CASE RANKS CODE OUT RANK TEXT...: waits for what was launched; every TEXT must be in NAME.log, and OUT/errors/rank_RANK.txt must name the phase.
judge() {
  local name=$1 n=$2 code=$3 out=$4 rank=$5; shift 5
  local begin=$SECONDS verdict=ok rc text
  if ! until_true "$LIMIT" eval "! kill -0 $LAUNCHED 2>/dev/null"; then verdict="HANGS"; kill_all; fi
  wait "$LAUNCHED" 2>/dev/null; rc=$?
  [ "$rc" = "$code" ] || verdict="exit $rc, not $code"
  for text in "$@"; do grep -qF -- "$text" "$name.log" || verdict="'$text' is not said"; done
  if [ -n "$rank" ] && ! grep -q '^phase: .' "$out/errors/rank_$rank.txt" 2>/dev/null; then verdict="no errors/rank_$rank.txt"; fi
  row "$name" "$n" "$rc" "$((SECONDS - begin))" "$verdict" "$(grep -hoE '(error|warning): .*' "$name.log" | grep -vE 'Open MPI|image left out' | sort -u | tail -n 1 | sed "s|$WORK/||g" | cut -c1-220)"
  [ "$verdict" = ok ] || { fail "$name: $verdict"; tail -n 12 "$name.log"; }
}

heading case ranks exit seconds verdict "last message"
# -- a rank throws
faults eio data/ 1 6
launch throw_in_loader 2 "${FAULTS[@]}" "${TRAIN[@]}" --output a1
judge throw_in_loader 2 74 a1 1 "phase data wait" "Input/output error" "[rank 1]"
faults eio rank_0001.h5 1
launch throw_in_checkpoint 2 "${FAULTS[@]}" "${TRAIN[@]}" --steps 4 --warmup 0 --checkpoint-every 2 --output a2
judge throw_in_checkpoint 2 74 a2 1 "phase checkpoint" "rank_0001.h5" "[rank 1]"
faults eio unit_000002.h5 1
launch throw_in_ingest 2 "${FAULTS[@]}" dino-curate run --input data --unit-records 8 --output a3 --progress off
judge throw_in_ingest 2 74 a3 1 "phase ingest" "unit_000002.h5" "[rank 1]"

# -- a rank is killed: at random moments of training, and inside a collective (the other rank stands still, so that this one waits in it)
count=0
for signal in KILL SEGV KILL; do
  name=killed_${signal}_$((++count))
  launch "$name" 2 "${TRAIN[@]}" --output "$name"
  until_true 60 training "$name" || fail "$name does not train"
  sleep 0.$((RANDOM % 10)); kill "-$signal" "$(rank_pid 1)"
  code=137; text="rank died: rank 1 of 2"; [ $signal = SEGV ] && { code=$crashed; text="crashed: SIGSEGV"; }
  judge "$name" 2 $code "$name" 1 "$text" "in phase '"
done
for victim in 0 1; do
  name=killed_in_collective_$victim
  launch "$name" 3 "${TRAIN[@]}" --output "$name" --watchdog-seconds 100
  until_true 60 training "$name" || fail "$name does not train"
  kill -STOP "$(rank_pid 2)"; sleep 0.5
  kill -KILL "$(rank_pid $victim)"
  # Its own phase is the step, or already what comes after: the step's last collective ends on one rank before another.
  judge "$name" 3 137 "$name" $victim "rank died: rank $victim of 3" "in phase '"
  grep -qE "rank $victim of 3: its process ended in phase '(train step|vote after the step|data wait)'" "$name.log" || fail "$name: neither the step nor what follows it is named"
done
faults kill unit_000001.h5 0
launch killed_in_ingest 2 "${FAULTS[@]}" dino-curate run --input data --unit-records 8 --output b6 --progress off
judge killed_in_ingest 2 137 b6 0 "rank died: rank 0 of 2" "in phase 'ingest'"

# -- a collective stalls: one rank stands still
for victim in 0 1; do
  name=stopped_rank_$victim
  launch "$name" 2 "${TRAIN[@]}" --output "$name" --watchdog-seconds 2
  until_true 60 training "$name" || fail "$name does not train"
  kill -STOP "$(rank_pid $victim)"
  judge "$name" 2 70 "$name" $victim "collective stalled: " "the process of rank $victim has not run for" "[rank $((1 - victim)) of 2]"
done

# The whole job stands still, as a scheduler may suspend it: that is no stall.
launch suspended 2 "${TRAIN[@]}" --output suspended --watchdog-seconds 2
until_true 60 training suspended || fail "suspended does not train"
pids="$(rank_pid 0) $(rank_pid 1)"
kill -STOP $pids; sleep 4; kill -CONT $pids; sleep 1; kill -USR2 $pids
judge suspended 2 75 suspended "" "stopped at step"

# -- a file system does not answer
for n in 1 2; do
  # Rank 0 looks through the images first, before there is a run folder that could hold errors/.
  phase="data wait" rank=1
  [ $n = 2 ] || phase="survey of the images" rank=
  faults hang data/ $((n - 1)) 6
  launch silent_data_$n $n "${FAULTS[@]}" "${TRAIN[@]}" --output silent_$n --watchdog-seconds 2
  judge silent_data_$n $n 74 silent_$n "$rank" "file system stalled: opening $WORK/data/" "in phase '$phase'"
  faults hang data/ $((n - 1)) 6
  launch silent_input_$n $n "${FAULTS[@]}" dino-curate run --input data --unit-records 8 --output silent_input_$n --progress off --watchdog-seconds 2
  judge silent_input_$n $n 74 silent_input_$n $((n - 1)) "file system stalled: opening data/" "in phase 'ingest'"
done
faults hang rank_0001.h5 1
launch silent_checkpoint 2 "${FAULTS[@]}" "${TRAIN[@]}" --checkpoint-every 2 --output silent_checkpoint --watchdog-seconds 2
judge silent_checkpoint 2 74 silent_checkpoint 1 "file system stalled: writing silent_checkpoint/checkpoints/" "rank_0001.h5" "in phase 'checkpoint'" "[rank 1 of 2]"

# The steps go on beside the thread that writes: its stall is the checkpoint's all the same.
faults hang rank_0001.h5 1
launch silent_writer 2 "${FAULTS[@]}" "${TRAIN[@]}" --checkpoint-every 100 --output silent_writer --watchdog-seconds 2
judge silent_writer 2 74 silent_writer 1 "file system stalled: writing silent_writer/checkpoints/" "rank_0001.h5" "in phase 'checkpoint'" "[rank 1 of 2]"
grep -q '"step":10[1-9]' silent_writer/metrics.jsonl || fail "silent_writer: no steps beside the checkpoint"

# -- more ranks than images, rows, files, clusters
heading command ranks work exit
few() { # NAME WORK command...
  local name=$1 work=$2 n rc; shift 2
  for n in 3 4; do
    timeout $LIMIT env OMP_NUM_THREADS=1 mpirun --allow-run-as-root --oversubscribe --bind-to none -n $n "$@" --watchdog-seconds 20 >few.log 2>&1; rc=$?
    row "$name" $n "$work" $rc
    [ $rc = 0 ] || { fail "$name at $n ranks: exit $rc"; tail -n 5 few.log; }
  done
}
"$DINO_PYTHON" - <<'PY'
import os, struct, zlib
os.makedirs("cutouts/x")
for i in range(2):
    rows = b"".join(b"\0" + b"".join(bytes([200 - 90 * i, 40, x * 6, 255 if (x - 20) ** 2 + (y - 18) ** 2 < 120 else 0]) for x in range(40)) for y in range(40))
    chunk = lambda t, d: struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))
    with open(f"cutouts/x/{i}.png", "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 8, 6, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
PY
mkdir -p few/a few/b; cp data/stripes/0000.ppm few/a/; cp data/blobs/0001.ppm few/b/
"$DINO_PYTHON" -c 'import numpy as np; np.save("few.npy", np.eye(2, 8, dtype="f4"))'
few "curate run" "2 images" dino-curate run --input few --target 2 --exclude cutouts --output few_curated --progress off
rm -rf few_curated
few "curate dedup" "2 rows" dino-curate dedup --embeddings few.npy --output few_vectors
few "curate dedup, lists" "2 rows, 2 lists" dino-curate dedup --embeddings few.npy --lists 2 --probes 1 --output few_vectors
few "curate cluster" "2 rows, 1 cluster" dino-curate cluster --embeddings few.npy --levels 1 --output few_vectors
few "curate balance" "2 rows" dino-curate balance --clusters few_vectors/clusters.h5 --target 1 --output few_vectors
few "pretrain train" "2 images, batch 4" dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --data few --batch 4 --steps 3 --warmup 0 --output few_run --progress off \
  --knn-train few --knn-test few --knn-every 1 --knn-k 1
few "eval features" "2 images" dino-eval features --weights random:vit_micro --data few --size 32 --tokens both --output few.h5 --progress off
dino-eval features --weights random:vit_micro --data data --size 32 --tokens both --output six.h5 --progress off 2>few.log || fail "features"
few "eval knn" "2 rows" dino-eval knn --train few.h5 --test few.h5 --k 1 --output few_results
few "eval linear" "24 + 2 rows" dino-eval linear --train six.h5 --test few.h5 --lr 0.1 --epochs 2 --output few_results
few "eval segment" "2 images" dino-eval segment --weights raw-pixels --patch 8 --train cutouts --test cutouts --size 32 --epochs 1 --output few_results
finish
