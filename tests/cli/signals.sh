#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A request to stop in long loops: every command ends with 75 within seconds, alone, through mpirun and when only one rank is asked; the same command then
# comes to the bytes of an uninterrupted run, at another number of ranks too, and takes up what was done. Ranks on different CPUs compute by one path.
. "$(dirname "$0")/lib.sh"
"$DINO_PYTHON" -c 'import numpy, h5py' 2>/dev/null || { echo "needs python3-numpy and python3-h5py"; exit 77; }
LIMIT=10  # seconds from the signal to the end
"$DINO_PYTHON" - <<'PY'
import numpy as np
rng = np.random.default_rng(3)
rows = rng.standard_normal((36000, 96), dtype="f4")
rows[27000:] = rows[:9000] + 0.1 * rng.standard_normal((9000, 96), dtype="f4")
np.save("rows.npy", rows)
PY
images pictures 60
# The features of these pictures, again and again: enough work for a few minutes.
dino-eval features --weights raw-pixels --data pictures --size 16 --output few.h5 --progress off >/dev/null 2>&1 || fail "features"
"$DINO_PYTHON" - <<'PY'
import h5py, numpy as np
few = h5py.File("few.h5")
for name, times in ("train", 40), ("many", 400):
    with h5py.File(name + ".h5", "w") as f:
        for key, value in few.attrs.items(): f.attrs[key] = value
        n = len(few["features"]) * times
        f["features"] = np.tile(few["features"][:], (times, 1)) + np.random.default_rng(0).normal(0, 0.01, (n, few["features"].shape[1])).astype("f4")
        f["labels"] = np.tile(few["labels"][:], times)
        f["keys"] = np.array([b"%d" % i for i in range(n)])
PY

now() { date +%s%N; }
# worked PID CENTISECONDS: has the process used this much time of a CPU? On a busy machine the clock on the wall says little.
worked() { local fields; read -r -a fields < <(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) && [ $((fields[11] + fields[12])) -ge "$2" ]; }
# spend NAME command...: runs it to its end on one thread; SPENT is the centiseconds of CPU time that took.
spend() {
  local TIMEFORMAT='%3U %3S' log=$1 user system; shift
  { time OMP_NUM_THREADS=1 "$@" >"$log.log" 2>&1; } 2>"$log.time" || return 1
  read -r user system <"$log.time"
  SPENT=$(((10#${user/./} + 10#${system/./}) / 10))
}
# ask NAME RANKS WHO SIGNAL CENTISECONDS command...: the signal after that much work, to mpirun (or the program alone) or to rank 1; sets RC and TOOK (milliseconds).
ask() {
  local name=$1 n=$2 who=$3 signal=$4 after=$5 target begin; shift 5
  if [ "$n" = 1 ]; then
    OMP_NUM_THREADS=1 "$@" >"$name.log" 2>&1 &
    LAUNCHED=$!
  else
    launch "$name" "$n" "$@"
    until_true 30 eval '[ -n "$(rank_pid 1)" ]'
  fi
  target=$LAUNCHED; [ "$n" = 1 ] || target=$(rank_pid 1)
  until_true 60 eval "worked $target $after || ! kill -0 $LAUNCHED 2>/dev/null"
  target=$LAUNCHED; [ "$who" = "rank 1" ] && target=$(rank_pid 1)
  begin=$(now); kill "-$signal" "$target" 2>/dev/null
  wait "$LAUNCHED" 2>/dev/null; RC=$?
  TOOK=$((($(now) - begin) / 1000000))
}
# judge CASE RANKS WHO SIGNAL WANT: what ask() saw.
judge() {
  local verdict=ok phase
  phase=$(grep -oE 'stopped .*phase [^]]*' "$1.log" | head -n 1 | sed 's/.*phase //')
  [ "$RC" = "$5" ] || verdict="exit $RC, not $5"
  [ "$TOOK" -le $((1000 * LIMIT)) ] || verdict="took $TOOK ms"
  row "$1" "$2" "$4 to $3" "$phase" "$TOOK" "$RC" "$verdict"
  [ "$verdict" = ok ] || { fail "$1: $verdict"; tail -n 5 "$1.log"; }
}

heading case ranks signal phase ms exit verdict
# -- what goes on where it was
CLUSTER=(dino-curate cluster --embeddings rows.npy --levels 800,20 --iterations 40 --resample 4 --progress off)
JOIN=(dino-curate dedup --embeddings rows.npy --threshold 0.9 --lists 256 --probes 200 --progress off)
chain() { # NAME FILE PERCENT command...: stopped alone after this share of the work, at two ranks through mpirun and at three by one rank, then left alone; FILE is compared
  local name=$1 file=$2 work; SPENT=0
  spend whole "${@:4}" --output "$name.whole" || fail "$name: the uninterrupted run"
  work=$((SPENT * $3 / 100)); shift 3
  ask "$name-alone" 1 program USR2 "$work" "$@" --output "$name"; judge "$name-alone" 1 program USR2 75
  ask "$name-mpirun" 2 mpirun USR2 $((work / 2)) "$@" --output "$name"; judge "$name-mpirun" 2 mpirun USR2 75
  ask "$name-rank" 3 "rank 1" TERM $((work / 4)) "$@" --output "$name"; judge "$name-rank" 3 "rank 1" TERM 75
  "$@" --output "$name" >"$name-last.log" 2>&1 || fail "$name: the last start"
  # A join can be asked before its first list is joined, when there is nothing to go on with yet; tests/mpi/vectors_test.cpp asks it at every list.
  [ "$name" = dedup ] || grep -q "goes on" "$name"-*.log || fail "$name: every start began anew"
  cmp -s "$name.whole/$file" "$name/$file" || fail "$name: other bytes after stops"
  same "$name.whole" "$name"
}
chain dedup dedup.h5 35 "${JOIN[@]}"
chain cluster clusters.h5 35 "${CLUSTER[@]}"
CLUSTERED=$((SPENT / 4))

# mpirun makes a KILL of a TERM a second later, and ends with 1: nothing that was committed is lost.
ask killed 2 mpirun TERM "$CLUSTERED" "${CLUSTER[@]}" --output killed; judge killed 2 mpirun TERM 1
"${CLUSTER[@]}" --output killed >killed-last.log 2>&1 || fail "after mpirun's TERM"
same cluster.whole killed

# Other settings or rows: begun anew, with a word.
ask other 1 program USR2 "$CLUSTERED" "${CLUSTER[@]}" --output other; judge other 1 program USR2 75
"${CLUSTER[@]}" --seed 5 --output other >other-last.log 2>&1 || fail "with another seed"
grep -q "belongs to other embeddings or settings" other-last.log || fail "nothing is said of a state that does not fit"

# -- features: the rows that are there are kept
FEATURES=(dino-eval features --weights random:vits14 --data pictures --size 224 --batch 2 --progress off)
spend whole "${FEATURES[@]}" --output whole.h5 || fail "features: the uninterrupted run"
ask features-alone 1 program TERM $((SPENT / 2)) "${FEATURES[@]}" --output parts.h5; judge features-alone 1 program TERM 75
ask features-rank 2 "rank 1" USR2 $((SPENT / 4)) "${FEATURES[@]}" --output parts.h5; judge features-rank 2 "rank 1" USR2 75
"${FEATURES[@]}" --output parts.h5 >features-last.log 2>&1 || fail "features: the last start"
grep -q "goes on after" features-last.log && cmp -s whole.h5 parts.h5 && [ ! -e parts.h5.partial ] && ok "features go on where they were, to the same bytes" || { fail "features after stops"; cat features-last.log; }

# -- what begins its last piece anew
stop() { ask "$1" "${@:2:4}" "${@:6}"; judge "$1" "$2" "$3" "$4" 75; }
stop knn 1 program TERM 80 dino-eval knn --train many.h5 --test many.h5 --k 5 --output results --threads 1 --gallery false
stop linear 2 "rank 1" USR2 60 dino-eval linear --train train.h5 --test few.h5 --epochs 10000 --output results
stop linear-mpirun 2 mpirun USR1 60 dino-eval linear --train train.h5 --test few.h5 --epochs 10000 --output results
stop bench 1 program USR2 150 dino-pretrain bench --preset vits14 --batch 2 --steps 10000 --crops 2x56,2x28 --prototypes 256
TRAIN=(dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --data pictures --progress off --batch 4 --steps 1000000 --checkpoint-every 1000000)
stop train 2 "rank 1" TERM 200 "${TRAIN[@]}" --output train
[ -n "$(ls train/checkpoints 2>/dev/null)" ] || fail "a stopped training left no checkpoint"

# -- ranks on different CPUs
losses() { grep -o '"loss":[^,]*' "$1/metrics.jsonl"; }
mixed() { # NAME LEVEL LEVEL: the same training, the two ranks with these levels
  local out=$1 first=$2 second=$3
  set -- dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --data pictures --progress off --batch 4 --steps 3 --warmup 0 --log-every 1 --output "$out"
  OMP_NUM_THREADS=1 mpirun --allow-run-as-root --oversubscribe --bind-to none -x DINO_CPU="$first" -n 1 "$@" : -x DINO_CPU="$second" -n 1 "$@" >"$out.log" 2>&1 || { fail "$out"; tail -n 3 "$out.log"; }
}
if grep -q avx2 /proc/cpuinfo && grep -q avx512vl /proc/cpuinfo; then
  mixed low avx2 avx2; mixed mixed avx512 avx2
  grep -q "the ranks' CPUs differ: all use avx2 kernels" mixed.log || fail "different CPUs are not said"
  [ -n "$(losses low)" ] && [ "$(losses low)" = "$(losses mixed)" ] && ok "ranks with different CPUs train as those with the lesser" || fail "ranks with different CPUs compute differently"
fi
for level in baseline avx2 avx512; do
  DINO_CPU=$level dino-curate cluster --embeddings train.h5 --levels 100,4 --iterations 4 --resample 1 --spherical false --output "level.$level" --progress off >/dev/null 2>&1 || fail "cluster at $level"
  cmp -s level.baseline/clusters.h5 "level.$level/clusters.h5" && ok "clusters at $level have the bytes of those at baseline" || fail "other clusters at $level"
done
finish
