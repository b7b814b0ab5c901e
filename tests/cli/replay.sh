#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Steps that are not finite and outliers are captured, and replay runs them again: it names the module and the image, and has the losses that the step had. Traces of
# steps, and what the log says of collectives.
. "$(dirname "$0")/lib.sh"
: "${DINO_FAULTS:?run this through ctest}"
images data 48
export OMP_NUM_THREADS=1
OPTIONS=(--config "$DINO_SHARE/recipes/tiny.cfg" --data "$WORK/data" --progress off --seed 3 --batch 8 --precision fp32 --checkpoint-every 40)
train() { dino-pretrain train "${OPTIONS[@]}" "$@"; }
train2() { ranks 2 dino-pretrain train "${OPTIONS[@]}" "$@"; }
check() { "$DINO_PYTHON" -c "import json,sys; j=json.load(open('$1')); $2"; }

# -- outliers: at two ranks, sharded, in micro-batches, with stochastic depth; replayed on one
train2 --output out --steps 40 --lr 1e-6 --outlier-z 0.1 --captures 2 --drop-path 0.2 --strategy full --accumulate 2 --trace 3 >out.txt 2>&1 || { fail "a run with outliers"; tail -n 5 out.txt; finish; }
[ "$(ls out/captures | wc -l)" = 2 ] && [ "$(grep -c '"event":"outlier"' out/metrics.jsonl)" -gt 2 ] && ok "outliers are logged, the first ones captured" || fail "captures: $(ls out/captures), outliers: $(grep -c '"event":"outlier"' out/metrics.jsonl)"
grep -q '"event":"skip"' out/metrics.jsonl && fail "an outlier was skipped"
capture=$(ls out/captures/*.h5 | head -n 1)
dino-pretrain replay "$capture" --json >replay.json 2>err.txt || { fail "replay"; tail -n 3 err.txt; }
cat >same.py <<'PY'
import json, sys
j = json.load(open(sys.argv[1])); limit = float(sys.argv[2])
line = next(l for l in map(json.loads, open(f"{sys.argv[3]}/metrics.jsonl")) if "event" not in l and l["step"] == j["step"])
assert j["finite"] and j["first_nonfinite"] is None and j["kind"] == "outlier", j["first_nonfinite"]
worst = 0
for name, v in j["values"].items():
    assert v["captured"] == line[name], (name, v, line[name])
    worst = max(worst, abs(v["captured"] - v["replayed"]) / max(abs(v["captured"]), 1e-3))
assert worst <= limit, j["values"]
order = [(m["pass"], m["module"]) for m in j["modules"]]
for a, b in zip((("input", "crops"), ("parameters", "backbone.embed"), ("teacher", "backbone.blocks.1"), ("student", "backbone.embed"), ("losses", "dino_head"), ("backward", "backbone.norm")),
                (("parameters", "backbone.embed"), ("teacher", "backbone.blocks.0"), ("student", "backbone.blocks.0"), ("student", "backbone.blocks.1"), ("losses", "koleo"), ("backward", "backbone.embed"))):
    assert order.index(a) < order.index(b), (a, b)
assert all(m["nonfinite"] == 0 and m["min"] <= m["max"] and m["mean_abs"] >= 0 for m in j["modules"])
print(f"largest difference {worst:.1e}")
PY
"$DINO_PYTHON" same.py replay.json 1e-4 out && ok "a replayed step has the losses and gradient norms it had" || fail "a replayed step differs"
expect 0 "" dino-pretrain replay "$capture"
grep -q "all values are finite" "$WORK/out.txt" || fail "replay does not say that all is finite"
ranks 2 dino-pretrain replay "$capture" --json >replay2.json 2>err.txt && cmp -s replay.json replay2.json && ok "the same under two ranks" || { fail "replay at two ranks"; tail -n 3 err.txt; }
# softmax centring has a state of its own
train --output centred --steps 44 --lr 1e-6 --outlier-z 0.1 --captures 1 --centering softmax >centred.txt 2>&1 || fail "a run with softmax centring"
if capture1=$(ls centred/captures/*.h5 2>/dev/null); then
  dino-pretrain replay "$capture1" --json >centred.json 2>err.txt && "$DINO_PYTHON" same.py centred.json 1e-4 centred && ok "with softmax centring too" || { fail "replay of softmax centring"; tail -n 3 err.txt; }
else fail "no outlier under softmax centring"; fi
train --output skipping --steps 40 --lr 1e-6 --outlier-z 0.1 --skip-outliers --captures 0 --max-skips 100 >skipping.txt 2>&1 || fail "--skip-outliers"
grep -q '"event":"skip"' skipping/metrics.jsonl && grep -q "skipped: it is an outlier" skipping.txt && [ ! -e skipping/captures ] && ok "outliers are skipped on request" || fail "--skip-outliers skips nothing"
# A run that was stopped in between leaves out the same steps.
train --output halved --steps 40 --lr 1e-6 --outlier-z 0.1 --skip-outliers --captures 0 --max-skips 100 --stop-after 34 >halved.txt 2>&1
train --output halved --steps 40 --lr 1e-6 --outlier-z 0.1 --skip-outliers --captures 0 --max-skips 100 >>halved.txt 2>&1 || fail "going on after a stop"
for run in skipping halved; do grep -o '"event":"skip","step":[0-9]*,"loss":[0-9.e-]*' $run/metrics.jsonl >$run.skips; done
[ "$(grep -c '"step":3[5-9]\|"step":40' skipping.skips)" -gt 0 ] && cmp skipping.skips halved.skips && ok "a stop between changes no skip" || fail "other steps are left out after a stop"
# The first skips in a row lead back to the last checkpoint, the second ones end the run.
expect 76 "training diverged: rolled" train --output rolled --steps 200 --lr 1e-6 --outlier-z 0.1 --skip-outliers --max-skips 1 --captures 0 --checkpoint-every 10
"$DINO_PYTHON" - <<'PY' && ok "repeated skips roll back to the last checkpoint" || fail "no roll-back"
import json
lines = [json.loads(l) for l in open("rolled/metrics.jsonl")]
at, = (i for i, l in enumerate(lines) if l.get("event") == "rollback")
skips = [i for i, l in enumerate(lines) if l.get("event") == "skip"]
assert len(skips) == 2 and skips[0] < at < skips[1] and lines[at]["checkpoint"].endswith(f"step_{(lines[at]['step'] - 1) // 10 * 10:08d}"), lines[at]
PY

# -- traces and collectives
"$DINO_PYTHON" - <<'PY' && ok "traces nest, and their phases make up the step" || fail "traces"
import json
for rank in (0, 1):
    t = json.load(open(f"out/trace/rank_{rank:04d}.json"))
    events = [e for e in t["traceEvents"] if e["ph"] == "X"]
    assert t["otherData"]["lost_events"] == 0 and all(e["pid"] == rank and e["dur"] >= 0 for e in events)
    steps = [e for e in events if e["name"] == "step"]
    assert len(steps) == 3, len(steps)
    end = lambda e: e["ts"] + e["dur"]
    inside = lambda a, b: b["ts"] - 0.01 <= a["ts"] and end(a) <= end(b) + 0.01
    stack = []
    for e in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        while stack and end(stack[-1]) <= e["ts"] + 0.01: stack.pop()
        assert not stack or inside(e, stack[-1]), (e, stack[-1])
        stack.append(e)
    names = {"masks", "log", "prepare", "teacher", "student_forward", "losses", "backward", "reduce", "settle", "optimizer"}
    shares = []
    for step in steps:
        train, = (e for e in events if e["name"] == "train step" and inside(e, step))
        phases = [e for e in events if e["cat"] == "phase" and e["name"] in names and inside(e, train)]
        assert {e["name"] for e in phases} == names
        total = sum(e["dur"] for e in phases)
        assert total <= train["dur"] * 1.001, (total, train["dur"])
        shares.append(total / train["dur"])
    assert max(shares) > 0.95, shares  # a busy machine stops a process between two phases
    transfers = [e for e in t["traceEvents"] if e.get("cat") == "transfer"]
    assert {e["name"] for e in transfers} == {"all_gather", "reduce_scatter", "all_reduce"} and all(e["args"]["bytes"] > 0 for e in transfers if e["ph"] == "b")
    assert len([e for e in transfers if e["ph"] == "b"]) == len([e for e in transfers if e["ph"] == "e"])
lines = [json.loads(l) for l in open("out/metrics.jsonl")]
start = next(l for l in lines if l.get("event") == "start")
steps = [l for l in lines if "event" not in l]
assert start["gemm_gflops"] > 0
for l in steps:
    assert abs(l["mfu"] * start["gemm_gflops"] / l["achieved_gflops"] - 1) < 1e-9
    c = l["collectives"]
    assert all(c[n]["count"] > 0 and c[n]["bytes"] > 0 and c[n]["wait_seconds"] >= 0 for n in ("all_gather", "reduce_scatter", "all_reduce", "control")), c
    assert sum(c[n]["wait_seconds"] for n in ("all_gather", "reduce_scatter", "all_reduce")) >= l["communication_seconds"] - 1e-6
assert len({json.dumps([l["collectives"][n][k] for n in ("all_gather", "reduce_scatter") for k in ("count", "bytes")]) for l in steps[1:30]}) == 1, "a step's gathers differ from step to step"
alone = [l for l in map(json.loads, open("centred/metrics.jsonl")) if "event" not in l]
assert all(use["count"] == 0 for l in alone for use in l["collectives"].values())
PY
[ ! -e centred/trace ] || fail "a trace that nobody asked for"

# -- not finite: weights of one block with which products overflow
train --output good --steps 2 --warmup 0 >good.txt 2>&1 && dino-pretrain export --checkpoint good --format hf --output hf 2>>good.txt || { fail "weights"; tail -n 3 good.txt; }
"$DINO_PYTHON" - <<'PY'
import json, struct
data = bytearray(open("hf/model.safetensors", "rb").read())
size, = struct.unpack("<Q", data[:8])
header = json.loads(data[8:8 + size])
name = next(n for n in header if "layer.1." in n and n.endswith("fc1.weight"))
at = 8 + size + header[name]["data_offsets"][0]
data[at:at + 32] = struct.pack("<8f", *[3e38] * 8)
open("hf/model.safetensors", "wb").write(data)
PY
expect 76 "4 steps in a row before step 4 were skipped" train2 --output bad --weights hf --steps 8 --warmup 0 --max-skips 4
grep -q "step 1 captured: dino-pretrain replay bad/captures/step_00000001.h5" "$WORK/err.txt" || fail "the capture is not said"
[ "$(ls bad/captures | tr '\n' ' ')" = "step_00000001.h5 step_00000002.h5 step_00000003.h5 " ] && ok "the first three are captured" || fail "captures: $(ls bad/captures)"
expect 0 "" dino-pretrain replay bad/captures/step_00000001.h5
grep -q "^first value that is not finite: teacher: backbone" "$WORK/out.txt" || fail "replay names: $(grep '^first' "$WORK/out.txt")"
dino-pretrain replay bad/captures/step_00000001.h5 --json >bad.json 2>/dev/null
check bad.json "
f = j['first_nonfinite']; last = j['modules'][-1]
assert not j['finite'] and j['kind'] == 'not_finite' and f['pass'] == 'teacher' and f['module'] == 'backbone.blocks.1' and f['tensor'] == 'after feed-forward', f
assert f['key'] and ('of image %d (%s)' % (f['image'], f['key'])) in f['place'] and f['value'] in ('nan', 'inf', '-inf', '-nan'), f
assert (last['pass'], last['module'], last['tensor']) == (f['pass'], f['module'], f['tensor']) and last['nonfinite'] > 0, last
assert all(m['nonfinite'] == 0 for m in j['modules'][:-1]) and j['values']['loss']['captured'] is None
print(f)" && ok "replay names the module and the image" || fail "what replay finds"
# pixels that overflow are found before any module
expect 76 "" train --output pixels --std 1e-42,1e-42,1e-42 --steps 8 --max-skips 2 --captures 1
dino-pretrain replay pixels/captures/step_00000001.h5 --json >pixels.json 2>err.txt || { fail "replay of bad pixels"; tail -n 3 err.txt; }
check pixels.json "f = j['first_nonfinite']; assert (f['pass'], f['module'], f['tensor']) == ('input', 'crops', 'global') and f['place'].startswith('view 1 of image'), f" && ok "replay names the crop" || fail "bad pixels"

# -- a disk that fails costs the capture alone
expect 76 "no capture of step 1" ranks 2 env LD_PRELOAD="$DINO_FAULTS" FAULT_KIND=28 FAULT_PATH=captures/ dino-pretrain train "${OPTIONS[@]}" --output full --weights hf --steps 8 --warmup 0 --max-skips 4
[ -z "$(ls full/captures 2>/dev/null)" ] && ok "nothing is left of it" || fail "left of a failed capture: $(ls full/captures)"

# -- files that are none
expect 66 "no such capture" dino-pretrain replay bad/captures/step_00000009.h5
cp "$capture" flipped.h5; printf '\x7f' | dd of=flipped.h5 bs=1 seek=60000 conv=notrunc 2>/dev/null
cp "$capture" short.h5; truncate -s 60000 short.h5; head -c 5000 /dev/urandom >noise.h5
for file in flipped short noise; do expect 65 "$file.h5" dino-pretrain replay $file.h5; done
expect 65 "bad capture" dino-pretrain replay "$(ls centred/none.h5 2>/dev/null || { dino-pretrain export --checkpoint good --format full --output file >/dev/null 2>&1; echo file/checkpoint.h5; })"
finish
