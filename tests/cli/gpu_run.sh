#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A whole run and features of it, where the GPU is the executor of tests/simt: trains, writes checkpoints, goes on after a stop, and changes
# between the GPU and the CPU on the way; its losses are the CPU's.
. "$(dirname "$0")/lib.sh"
command -v dino-pretrain-simt >/dev/null || { echo "no dino-pretrain-simt in this build"; exit 77; }
images pictures 24
SMALL=(--config "$DINO_SHARE/recipes/tiny.cfg" --data pictures --batch 4 --steps 6 --checkpoint-every 2 --precision fp32 --progress off)
gpu() { dino-pretrain-simt train "${SMALL[@]}" --device cuda "$@"; }
cpu() { dino-pretrain train "${SMALL[@]}" --device cpu "$@"; }

# same_losses A B TOLERANCE: of all steps, relative; the samples and what was drawn for them are the same
same_losses() {
  "$DINO_PYTHON" - "$@" <<'PY' || fail "the losses of $1 and $2 differ"
import json, sys
def column(run, name):
    rows = [json.loads(line) for line in open(run + "/metrics.jsonl")]
    return {row["step"]: row[name] for row in rows if row.get(name) is not None and "event" not in row}
a, b = (column(run, "loss") for run in sys.argv[1:3])
crcs = [column(run, "batch_crc") for run in sys.argv[1:3]]
assert crcs[0] == crcs[1] and len(set(crcs[0].values())) == 6, crcs
assert a.keys() == b.keys() and len(a) == 6, (sorted(a), sorted(b))
worst = max(abs(a[s] - b[s]) / abs(b[s]) for s in a)
print(f"ok: losses of {sys.argv[1]} within {worst:.1e} of {sys.argv[2]}")
assert worst <= float(sys.argv[3]), worst
PY
}

expect 0 "" cpu --output on_cpu
expect 0 "" gpu --trace 3 --output on_gpu
same_losses on_gpu on_cpu 2e-5
# Its times are the GPU's own: by the executor's clock a step takes milliseconds, while the host computes it for longer.
"$DINO_PYTHON" - <<'PY' || fail "times of the GPU"
import json
steps = [l for l in map(json.loads, open("on_gpu/metrics.jsonl")) if "event" not in l]
names = {"crops", "prepare", "teacher", "student_forward", "losses", "backward", "reduce", "settle", "optimizer"}
for l in steps:
    p = l["phases"]
    assert set(p) == names and l["communication_seconds"] == 0 and p["reduce"] == 0, l
    assert abs(sum(p.values()) - l["compute_seconds"]) < 1e-6 and 0 < l["compute_seconds"] < 0.5 * l["step_seconds"], l
    assert (p["optimizer"] == 0) == (l["step"] == 1) and p["backward"] > p["student_forward"] > 0, p
trace = json.load(open("on_gpu/trace/rank_0000.json"))["traceEvents"]
gpu = [e for e in trace if e["tid"] == 1 and e["ph"] == "X"]
assert [e["args"]["name"] for e in trace if e["name"] == "thread_name"] == ["host", "GPU"], trace[:4]
assert {e["name"] for e in gpu} | {"reduce"} == names and all(e["dur"] >= 0 for e in gpu)
assert {e["name"] for e in trace if e["tid"] == 0 and e["ph"] == "X"} >= {"step", "train step", "backward"}
print("ok: phases by the GPU's clock:", steps[-1]["phases"])
PY
grep -q '"device": *"[^"]*cuda' on_gpu/run.json || fail "run.json does not name the GPU"

# Products in TF32 cost the losses three digits, and are recorded.
expect 0 "" dino-pretrain-simt train "${SMALL[@]/fp32/tf32}" --device cuda --output in_tf32
same_losses in_tf32 on_cpu 2e-3
cmp -s <(grep -o '"loss":[0-9.e+-]*' on_gpu/metrics.jsonl) <(grep -o '"loss":[0-9.e+-]*' in_tf32/metrics.jsonl) && fail "tf32 changes nothing"
grep -q '"precision": *"tf32"' in_tf32/run.json || fail "run.json does not name the precision"

# Stopped on the GPU, on with the CPU, and the other way round.
expect 75 "" gpu --stop-after 3 --output there
expect 0 "" cpu --output there
same_losses there on_cpu 2e-5
expect 75 "" cpu --stop-after 3 --output back
expect 0 "" gpu --output back
same_losses back on_cpu 2e-5

# A stop on the GPU costs no bit.
expect 75 "" gpu --stop-after 3 --output stopped
expect 0 "" gpu --output stopped
same_losses stopped on_gpu 0

# What a step saw on the GPU, captured there because one channel overflows, is what the CPU makes, to the bit.
BAD=(--std 1e-42,0.2,0.2 --max-skips 2 --captures 1 --jitter 0.8 --grayscale 0.2 --solarize 0.5 --blur paper)
expect 76 "" cpu --output bad_cpu "${BAD[@]}"
expect 76 "" gpu --output bad_gpu "${BAD[@]}"
"$DINO_PYTHON" - <<'PY' || fail "the GPU's crops differ from the CPU's"
import h5py, numpy as np
def crops(run):
    with h5py.File(run + "/captures/step_00000001.h5") as f:
        return [f["inputs/" + name][()] for name in ("global_crops", "local_crops")]
for a, b in zip(crops("bad_cpu"), crops("bad_gpu"), strict=True):
    assert a.shape == b.shape and a.shape[0] >= 8 and a[:, 1:].std() > 0.1 and np.isinf(a[:, 0]).any()
    assert a.tobytes() == b.tobytes()
    print(f"ok: crops {a.shape} are the same bits")
PY

# Features of both, read from the same checkpoint, on 1 and 2 ranks.
FEATURES=(--weights on_cpu --data pictures --progress off)
expect 0 "" dino-eval features "${FEATURES[@]}" --device cpu --output cpu.h5
expect 0 "" dino-eval-simt features "${FEATURES[@]}" --device cuda --output gpu.h5
expect 0 "" ranks 2 dino-eval-simt features "${FEATURES[@]}" --device cuda --output gpu2.h5
cmp -s gpu.h5 gpu2.h5 && ok "features of 1 and 2 ranks are the same bytes" || fail "features differ between 1 and 2 ranks"
"$DINO_PYTHON" - <<'PY' || fail "features of the GPU differ from the CPU's"
import h5py, numpy as np
def rows(path):
    with h5py.File(path) as f:
        found = []
        f.visititems(lambda name, x: found.append((name, x[()])) if isinstance(x, h5py.Dataset) and x.dtype.kind == "f" else None)
        return dict(found)
a, b = rows("cpu.h5"), rows("gpu.h5")
assert a.keys() == b.keys() and a, (a.keys(), b.keys())
for name in a:
    worst = np.abs(a[name] - b[name]).max() / np.abs(a[name]).max()
    print(f"ok: {name} {a[name].shape} within {worst:.1e}")
    assert worst < 2e-5, name
PY
finish
