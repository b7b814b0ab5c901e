#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# train --weights: a new run that begins with a backbone trained before. Whose sizes count, what stays frozen, how it goes on, and references that are refused.
. "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
images data 24
cat >make.py <<'PY'
import numpy as np
from backbone import backbone, save

made = backbone(width=48, patch=4, grid=7, registers=2, layerscale=True)
save("w.safetensors", made, {"heads": "3"})
save("silent.safetensors", made)
save("wrong.safetensors", {**made, "blocks.1.attn.proj.weight": np.ones((40, 48), "f4")}, {"heads": "3"})
PY
PYTHONPATH=$DINO_SOURCE/tests/cli PYTHONDONTWRITEBYTECODE=1 "$DINO_PYTHON" make.py || { fail "make.py"; finish; }
train() { dino-pretrain train --config tiny --data "$WORK/data" --progress off --seed 3 --steps 6 --warmup 0 --freeze-last-layer 0 --batch 6 --checkpoint-every 2 --keep 10 "$@"; }
# same_backbone A B STORE: bit for bit; differs says the reverse.
cat >stores.py <<'PY'
import glob, json, sys
import h5py, numpy as np
def read(folder, store, module):
    manifest = json.load(open(folder + "/manifest.json"))
    parts = {}
    for shard, name in sorted((i, s["file"]) for i, s in enumerate(manifest["shards"])):
        with h5py.File(f"{folder}/{name}") as f:
            for unit in manifest["units"]:
                if unit["module"] == module and f"/{store}/{unit['name']}" in f:
                    parts.setdefault(unit["name"], []).append(f[f"/{store}/{unit['name']}"][:])
    return {k: np.concatenate(v).tobytes() for k, v in parts.items()}
a, b, module = sys.argv[1:4]
for store in sys.argv[4:]:
    x, y = read(a, store, module), read(b, store, module)
    assert x and x.keys() == y.keys(), (x.keys(), y.keys())
    if x != y: sys.exit(1)
PY
equal() { "$DINO_PYTHON" stores.py "$@" && ok "$3 of $1 and $2 are equal" || fail "$3 of $1 and $2 differ ($4)"; }
differ() { "$DINO_PYTHON" stores.py "$@" && fail "$3 of $1 and $2 are equal" || ok "$3 of $1 and $2 differ"; }
step() { echo "$1/checkpoints/step_0000000$2"; }

# The file's sizes, not the recipe's (patches of 8, 64 wide); the table of positions keeps its own size and is resampled to the crops.
dino-pretrain import --weights w.safetensors --output imported >/dev/null 2>&1 || fail "import"
train --weights w.safetensors --freeze-backbone-steps 3 --output run >log.txt 2>&1 || { fail "train --weights"; tail -n 5 log.txt; finish; }
grep -q "48 wide, 2 blocks of 3 heads, patches of 4, 2 registers" log.txt || fail "the backbone is not described: $(grep weights log.txt)"
grep -q "the weights count, not the recipe" log.txt || fail "nothing said of the recipe's preset"
dino-pretrain inspect run --json | "$DINO_PYTHON" -c '
import json, sys
vit = json.load(sys.stdin)["model"]["vit"]
assert (vit["width"], vit["patch"], vit["heads"], vit["registers"], vit["hidden"], vit["position_grid"]) == (48, 4, 3, 2, 96, 7), vit' || fail "the model is not the file's"
grep -qx "width = 48" run/config.ini && grep -qx "patch = 4" run/config.ini && grep -qx "weights = w.safetensors" run/config.ini || fail "config.ini does not say what was trained"
"$DINO_PYTHON" - <<'PY' || fail "run.json"
import json
w = json.load(open("run/run.json"))["weights"]
assert w["reference"] == "w.safetensors" and len(w["sha256"]) == 64 and w["heads"] == {"dino_head": "fresh", "ibot_head": "fresh"}, w
PY

# Frozen for three steps, in both networks; then it learns. The heads learn from the first.
equal "$(step imported 0)" "$(step run 2)" backbone student teacher
differ "$(step run 2)" "$(step run 4)" backbone student
differ "$(step run 2)" "$(step run 4)" backbone teacher
differ "$(step run 2)" "$(step run 4)" dino_head student teacher
train --weights w.safetensors --output warm >log.txt 2>&1 || fail "without freezing"
differ "$(step imported 0)" "$(step warm 2)" backbone student

# Any ranks; stopped inside the frozen steps and gone on without the weights, which are needed no more.
mkdir "moved # away" && cp w.safetensors "moved # away/"
flags="--config tiny --data $WORK/data --progress off --seed 3 --steps 6 --warmup 0 --freeze-last-layer 0 --batch 6 --checkpoint-every 2 --keep 10 --freeze-backbone-steps 3"
ranks 2 dino-pretrain train $flags --weights "moved # away/w.safetensors" --output two --stop-after 1 >log.txt 2>&1; [ $? = 75 ] || fail "two ranks"
equal "$(step imported 0)" "$(step two 1)" backbone student teacher
rm -r "moved # away"
ranks 2 dino-pretrain train $flags --output two >log.txt 2>&1 || { fail "going on without --weights"; tail -n 3 log.txt; }
grep -qx 'weights = "moved # away/w.safetensors"' two/config.ini || fail "config.ini forgot the weights"
expect 0 "already trained" ranks 2 dino-pretrain train $flags --weights "moved # away/w.safetensors" --output two
"$DINO_PYTHON" - <<'PY' || fail "losses at 1 and 2 ranks"
import json
a, b = ([l for l in map(json.loads, open(f"{n}/metrics.jsonl")) if "event" not in l] for n in ("run", "two"))
assert len(a) == len(b) == 6
for x, y in zip(a, b):
    assert x["batch_crc"] == y["batch_crc"]
    for name in ("loss", "grad_norm_dino_head", "grad_norm_backbone"):
        assert abs(x[name] - y[name]) <= 1e-4 * abs(x[name]), (x["step"], name, x[name], y[name])
assert [x["grad_norm_backbone"] > 0 for x in a] == [False] * 3 + [True] * 3
PY
train --weights w.safetensors --freeze-backbone-steps 3 --output again --stop-after 2 >log.txt 2>&1
train --freeze-backbone-steps 3 --output again >log.txt 2>&1 || fail "going on"
dino-pretrain diff run again >/dev/null || fail "a stopped run differs"

# Heads of a checkpoint of ours where their sizes are the settings', else fresh ones.
train --weights "$(step run 4)" --freeze-backbone-steps 2 --lr 0 --min-lr 0 --weight-decay 0 --weight-decay-end 0 --output heads >log.txt 2>&1 || fail "weights of our own"
equal "$(step run 4)" "$(step heads 2)" backbone teacher
equal "$(step run 4)" "$(step heads 2)" dino_head teacher
train --weights run --prototypes 64 --ibot-prototypes 128 --output other --stop-after 1 >log.txt 2>&1
grep -q "dino_head fresh, ibot_head of the weights" log.txt || fail "heads of another size: $(grep begins log.txt)"
expect 0 "" train --weights run --which student --output student --dry-run
# Heads in a file of tensors, as the reference's training leaves them: those of the wanted network.
PYTHONPATH=$DINO_SOURCE/tests/cli PYTHONDONTWRITEBYTECODE=1 "$DINO_PYTHON" - "$(step run 4)" <<'PY' || fail "a file with heads"
import json, sys
import h5py, numpy as np
from backbone import save
folder = sys.argv[1]
shard, tensors = h5py.File(f"{folder}/rank_0000.h5"), {}
for unit in json.load(open(f"{folder}/manifest.json"))["units"]:
    for p in unit["parameters"]:
        n = int(np.prod(p["shape"]))
        for store in "teacher", "student":
            tensors[f"{store}.{p['name']}"] = shard[store][unit["name"]][p["offset"]:p["offset"] + n].reshape(p["shape"])
save("with_heads.safetensors", tensors, {"heads": "3"})
PY
STILL=(--freeze-backbone-steps 2 --lr 0 --min-lr 0 --weight-decay 0 --weight-decay-end 0)
for which in teacher student; do
  train --weights with_heads.safetensors --which $which "${STILL[@]}" --output "file_$which" >log.txt 2>&1 || { fail "weights with heads"; tail -n 3 log.txt; }
  grep -q "dino_head of the weights, ibot_head of the weights" log.txt || fail "heads of a file: $(grep begins log.txt)"
done
"$DINO_PYTHON" stores.py "$(step run 4)" "$(step file_teacher 2)" dino_head teacher && ok "the teacher's head is taken" || fail "not the teacher's head"
"$DINO_PYTHON" stores.py "$(step run 4)" "$(step file_student 2)" ibot_head student && ok "the student's head is taken" || fail "not the student's head"
differ "$(step file_teacher 2)" "$(step file_student 2)" dino_head teacher
train --weights with_heads.safetensors --prototypes 64 --output other_file --stop-after 1 >log.txt 2>&1
grep -q "dino_head fresh" log.txt || fail "a head of another size in a file: $(grep begins log.txt)"

# A checkpoint of weights only begins a run through --resume, or where it lies.
expect 0 "" train --resume "$(step imported 0)" --output resumed
expect 0 "" train --output imported
equal "$(step resumed 6)" "$(step imported 6)" backbone student

# The weights' pixels: a Hugging Face folder's mean and deviation.
dino-pretrain export --checkpoint w.safetensors --format hf --output hf >/dev/null 2>&1 || fail "export"
echo '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "crop_size": {"height": 26, "width": 26}}' >hf/preprocessor_config.json
expect 0 "" train --weights hf --output half --stop-after 6
grep -qx "mean = 0.5,0.5,0.5" half/config.ini && grep -qx "std = 0.25,0.25,0.25" half/config.ini || fail "the weights' pixels"
# Without a recipe, its input size too: whole patches of it.
dino-pretrain train --data data --weights hf --steps 1 --batch 2 --prototypes 32 --output free --progress off >log.txt 2>&1 || { fail "without a recipe"; tail -n 3 log.txt; }
grep -q "chosen.*preset" log.txt && fail "a preset is chosen beside weights"
grep -qx "global-size = 24" free/config.ini || fail "the weights' input size: $(grep global-size free/config.ini)"
expect 0 "" train --weights hf --output own --mean 0.1,0.2,0.3 --stop-after 6
grep -qx "mean = 0.1,0.2,0.3" own/config.ini || fail "--mean does not win"
dino-pretrain import --weights hf --output himport >/dev/null 2>&1
expect 0 "" train --resume "$(step himport 0)" --output half2 --stop-after 6
grep -qx "mean = 0.5,0.5,0.5" half2/config.ini || fail "the import's pixels"

# Mistakes.
expect 66 "nowhere" train --weights nowhere --output x
expect 65 "give it with --heads" train --weights silent.safetensors --output x
expect 0 "" train --weights silent.safetensors --heads 6 --output x --dry-run
expect 65 "blocks.1.attn.proj.weight" train --weights wrong.safetensors --output x
expect 64 "--patch 8: the weights of w.safetensors are 48 wide" train --weights w.safetensors --patch 8 --output x
expect 64 "--preset vits14: the weights of w.safetensors" train --weights w.safetensors --preset vits14 --output x
expect 64 "--heads 4" train --weights w.safetensors --heads 4 --output x
expect 64 "multiple of the patch size 4" train --weights w.safetensors --global-size 30 --output x
expect 64 "--freeze-backbone-steps" train --freeze-backbone-steps 2 --output x
expect 64 "above --steps" train --weights w.safetensors --freeze-backbone-steps 9 --output x
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n' >p.pth
expect 65 "git lfs" train --weights p.pth --output x
[ -e x ] && fail "a refused reference left an output"
train --output random --stop-after 2 >log.txt 2>&1
expect 64 "began at random" train --weights w.safetensors --output random
expect 64 "holds weights already" train --weights w.safetensors --resume "$(step himport 0)" --output y
expect 66 "nowhere" ranks 2 dino-pretrain train $flags --weights nowhere --output x
finish
