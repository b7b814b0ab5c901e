#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A folder of 500 small photographs and one command: what is chosen, said and kept, and whether it was true.
. "$(dirname "$0")/lib.sh"
"$DINO_PYTHON" - <<'PY'
import os
import numpy as np
rng = np.random.default_rng(0)
os.makedirs("photos")
h, w = 96, 128
y, x = np.mgrid[0:h, 0:w]
for i in range(500):
    sky = np.linspace(rng.uniform(90, 255), rng.uniform(0, 160), h)[:, None, None] * rng.uniform(0.4, 1, 3)
    img = np.broadcast_to(sky, (h, w, 3)) + rng.normal(0, 6, (h, w, 3))
    for _ in range(3):
        inside = (x - rng.uniform(0, w)) ** 2 + (y - rng.uniform(0, h)) ** 2 < rng.uniform(5, 35) ** 2
        img[inside] = rng.uniform(0, 255, 3)
    with open(f"photos/{i:04d}.ppm", "wb") as f:
        f.write(b"P6\n%d %d\n255\n" % (w, h) + img.clip(0, 255).astype(np.uint8).tobytes())
PY
train() { dino-pretrain train --data photos --progress plain "$@"; }

# What it would cost, and nothing written.
dino-pretrain train --data photos --dry-run --json >dry.json 2>dry.txt || { fail "a dry run without anything else"; cat dry.txt; finish; }
"$DINO_PYTHON" - <<'PY' || fail "what a dry run tells: $(cat dry.json)"
import json
j = json.load(open("dry.json"))
assert j["dry_run"] and j["images"] == 500 and j["timed"] and j["steps"] >= 100 and j["seconds"] > j["step_seconds"] > 0, j
b = j["bytes"]
assert b["total"] == sum(v for k, v in b.items() if k != "total") == j["bytes_max"] and j["disk_bytes"] > 4 * j["parameters"], b
assert any(c.startswith("preset ") for c in j["chosen"]), j["chosen"]
PY
grep -q "expected: .* timed" dry.txt || fail "a dry run says no time"
[ "$(ls | sort | tr '\n' ' ')" = "dry.json dry.txt photos " ] || fail "a dry run wrote something: $(ls)"

# Data and output alone; --steps and --batch so that it ends soon. The first line comes at once.
"$DINO_PYTHON" - <<'PY' || fail "the first sign of life: $(cat first.txt)"
import subprocess, time
start = time.time()
p = subprocess.Popen("dino-pretrain train --data photos --output run --steps 12 --batch 16 --progress plain".split(), stderr=subprocess.PIPE, text=True)
first = p.stderr.readline()
seconds = time.time() - start
rest = p.stderr.read()
open("first.txt", "w").write(first + rest)
assert p.wait() == 0
assert "reading the list of images" in first, first
assert seconds < 8, seconds  # under a second on a machine that is not busy with other tests
PY
grep -n "chosen for them\|expected: \|step 1 of 12\|trained 12 steps" first.txt | cut -d: -f1 >order.txt
[ "$(wc -l <order.txt)" -ge 3 ] && sort -nc order.txt || fail "what is said, and when: $(cat first.txt)"
grep -q "steps 12\b" <(grep "chosen for them" first.txt) && fail "what was given is called chosen"
open=$(grep "= auto" run/config.ini | grep -v "^\(resume\|precision\|background\) ")
[ -z "$open" ] || fail "config.ini leaves settings open: $open"
grep -qx "warmup = 10%" run/config.ini || fail "the warm-up is no share: $(grep warmup run/config.ini)"
"$DINO_PYTHON" - <<'PY' || fail "what was expected of memory and time"
import json
lines = [json.loads(l) for l in open("run/metrics.jsonl")]
start, stop = lines[0], [l for l in lines if l.get("event") == "stop"][-1]
ratio = start["bytes"]["total"] / stop["peak_rss_bytes"]
print(f"memory: {start['bytes']['total'] / 2**20:.0f} MiB expected, {stop['peak_rss_bytes'] / 2**20:.0f} MiB were used")
assert 0.8 <= ratio <= 1.2, ratio
steps = [l for l in lines if "event" not in l]
took = sum(16 / l["images_per_second"] for l in steps[1:]) / (len(steps) - 1)
print(f"a step: {start['expected_step_seconds']:.3f} s expected, {took:.3f} s were taken")
assert 0.2 <= start["expected_step_seconds"] / took <= 5, "beside other tests a core does less, but not so much less"
PY

# Stopped and started again by the same command, on another number of ranks: the settings are the run's.
train --output again --steps 6 --batch 16 --stop-after 2 >log.txt 2>&1; [ $? = 75 ] || { fail "a stop"; cat log.txt; }
cp again/config.ini before.ini
OMP_NUM_THREADS=1 ranks 2 dino-pretrain train --data photos --progress plain --output again --steps 6 --batch 16 >log.txt 2>&1 || { fail "going on"; cat log.txt; }
for name in preset patch global-size local-size prototypes batch steps lr layerscale; do
  [ "$(grep "^$name = " before.ini)" = "$(grep "^$name = " again/config.ini)" ] || fail "another $name after a restart"
done
grep -q "chosen for them" log.txt && fail "a run that goes on chooses anew"
expect 64 "--batch" train --output again --steps 6 --batch 32
printf 'steps = many\n' >again/config.ini
expect 65 "config.ini: steps" train --output again

# Any preset, any number of steps, any recipe.
for preset in vit_micro vit_tiny; do
  train --preset $preset --steps 1 --batch 4 --output $preset >log.txt 2>&1 || { fail "$preset on its defaults"; tail -n 3 log.txt; }
done
expect 0 "not timed" train --preset vitg14 --steps 1 --dry-run
expect 0 "the memory may not do" train --preset vitg14 --steps 1 --batch 1000000 --dry-run
expect 0 "warm-up 10" train --config photos_vitb14 --steps 100 --dry-run
expect 64 "--warmup" train --steps 5 --warmup 6 --dry-run
expect 64 "multiple of the patch" train --preset vits14 --global-size 96 --dry-run
expect 64 "--output" train --steps 1
finish
