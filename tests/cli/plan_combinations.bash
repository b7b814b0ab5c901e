# SPDX-License-Identifier: Apache-2.0
# combinations: from lines of ranks and options, planned against counted and resident bytes.
export OMP_NUM_THREADS=1
cat >compare.py <<'PY'
import json, sys
bench, plan = (json.load(open(name)) for name in ("bench.json", "plan.json"))
counted, planned, ranks = bench["bytes"], plan["bytes"], bench["ranks"]
kinds = ("parameters", "gradients", "optimizer", "activations")
said = sum(planned[k] for k in kinds) / sum(counted[k] for k in kinds)
# bench prepares one set of crops, and a program that runs is there before the first step.
resident = (bench["peak_rss_bytes"] - bench["idle_rss_bytes"]) / ranks
peak = (sum(planned[k] for k in kinds) + planned["workspace"] + counted["loader"]) / resident
print(f"{resident / 2**20:.0f} MiB {said:.4f} {peak:.3f} {bench['allocated_bytes']}")
sys.exit(abs(said - 1) > 0.05 or abs(peak - 1) > 0.10 or bench["allocated_bytes"] != 0
         or any(abs(planned[k] - counted[k]) > 0.05 * counted[k] for k in kinds))
PY
combinations() {
  local line n
  printf '%s\n' "resident of a rank, planned / counted, planned / resident, bytes allocated by steps after the second"
  while read -r line; do
    n=${line%% *}
    # shellcheck disable=SC2086
    ranks "$n" dino-pretrain bench ${line#* } --warmup 2 --steps 2 --json >bench.json 2>bench.err </dev/null &&
      dino-pretrain plan --ranks $line --gflops 100 --json >plan.json 2>plan.err || { fail "$line"; cat bench.err plan.err; continue; }
    said=$("$DINO_PYTHON" compare.py) && ok "$said: ranks $line" || fail "$said: ranks $line"
  done
}
