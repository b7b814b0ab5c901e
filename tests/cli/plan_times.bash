# SPDX-License-Identifier: Apache-2.0
# times FACTOR TURNS: from lines of ranks and options, the step as plan on as many ranks tells it against the step as bench takes it, in turns, a thread for each rank. The median
# of the turns' ratios must lie within the factor, both ways.
export OMP_NUM_THREADS=1
cat >compare_times.py <<'PY'
import json, statistics, sys
factor, turns, seconds = float(sys.argv[1]), int(sys.argv[2]), lambda name: json.load(open(name))["step_seconds"]
pairs = [(seconds(f"plan{i}.json"), seconds(f"bench{i}.json")) for i in range(turns)]
ratio = statistics.median(p / b for p, b in pairs)
print(f"{ratio:.3f} = planned / measured (" + ", ".join(f"{p:.2f}/{b:.2f}" for p, b in pairs) + " s)")
sys.exit(not 1 / factor < ratio < factor)
PY
times() {
  local factor=$1 turns=$2 line n i
  while read -r line; do
    n=${line%% *}
    for ((i = 0; i < turns; i++)); do
      # shellcheck disable=SC2086
      ranks "$n" dino-pretrain bench ${line#* } --warmup 2 --steps 3 --json >"bench$i.json" 2>bench.err </dev/null &&
        ranks "$n" dino-pretrain plan --ranks $line --json >"plan$i.json" 2>plan.err </dev/null || { fail "$line"; cat bench.err plan.err; continue 2; }
    done
    said=$("$DINO_PYTHON" compare_times.py "$factor" "$turns") && ok "$said: ranks $line" || fail "$said: ranks $line"
  done
}
