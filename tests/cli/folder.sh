#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The first use: dino-jobs local --data DIR --output RUN, with and without sub-folders that name classes, and what it refuses.
# shellcheck source=tests/cli/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export OMP_NUM_THREADS=1
small=(--set "train_options=--config tiny --steps 4 --warmup 0 --batch 8" --set "evaluate_options=--epochs 1")
images "my photos" 40
mkdir flat && cp "my photos"/*/*.ppm flat

# -- labels: everything runs, from a folder with a space in its name
expect 0 "report: $PWD/run/report.html" dino-jobs local --data "my photos" --output run --ranks 2 "${small[@]}"
cp err.txt labelled.txt
grep -q "images are held out" labelled.txt || grep -q "are held out to measure on" run/logs/evaluate.log || fail "no word of the hold-out"
grep -q "input of $PWD/run/pretrain: 32 x 32 pixels.* from .*config.ini" run/logs/evaluate.log && ok "the input is the checkpoint's" || { fail "no word of the input"; grep "input of" run/logs/evaluate.log; }
grep -q "knn k=5: my photos top1 of pretrain" run/logs/evaluate.log && ok "logs name k" || fail "logs do not name k"
"$DINO_PYTHON" - <<'PY' || fail "results.jsonl of the folder"
import json
rows = [json.loads(line) for line in open('run/eval/results.jsonl')]
assert {r['dataset'] for r in rows} == {'my photos'}, rows[0]
assert {r['model'] for r in rows} == {'pretrain', 'random-weights', 'raw-pixels'}
assert {r['task'] for r in rows} == {'knn', 'linear'}
card = rows[0]['card']
assert card['features']['size'] == 32 and card['test']['split'] == 'test' and card['shared_keys'] == 0, card
assert card['train']['images'] + card['test']['images'] <= 40
told = {r['model']: r.get('model_input') for r in rows}
assert told['pretrain']['from'] == 'config.ini' and told['raw-pixels'] is None, told
PY
for kind in pca attention neighbours; do ls run/eval/pictures/$kind*.json >/dev/null || fail "no pictures of $kind"; done
expect 0 "evaluate: done already" dino-jobs local --data "my photos" --output run "${small[@]}"
expect 64 "has data = '$PWD/my photos', not '$PWD/flat'" dino-jobs local --data flat --output run
expect 64 "has train_options" dino-jobs local --data "my photos" --output run --set train_options=--steps=9
expect 0 "report: $PWD/run/report.html" dino-jobs local run/chain.cfg
grep -qF "data = $PWD/my photos" run/chain.cfg || fail "the chain file does not hold the data"

# -- no labels: pictures, training and curation only, and it is said; from weights of a Hugging Face folder
dino-pretrain export --checkpoint run/pretrain --format hf --output "hf model" >/dev/null 2>&1 || fail "an export of the run"
expect 0 "report: $PWD/flat_run/report.html" dino-jobs local --data flat --output flat_run --weights "hf model" \
  --set "train_options=--steps 4 --batch 8 --global-size 32 --local-size 16 --local-count 2"
grep -qF "begins with $PWD/hf model" flat_run/logs/pretrain.log && ok "the pretraining begins with the weights" || fail "the weights are not used"
grep -q "nothing to measure on: .* names no classes" flat_run/logs/evaluate.log && ok "no labels are told" || fail "nothing is said of labels"
[ -e flat_run/eval/results.jsonl ] && fail "results without labels"
ls flat_run/eval/pictures/pca*.json >/dev/null || fail "no pictures without labels"

# -- the same chain as a file
expect 0 "wrote chain.cfg" dino-jobs init --data "my photos" chain.cfg
grep -q "^run = $PWD/runs/my_photos$" chain.cfg || fail "the run folder is not named by the data"
mkdir "it's \$HOME" && cp flat/0001.ppm "it's \$HOME"
expect 0 "" dino-jobs init --data "it's \$HOME" --output odd odd.cfg
expect 0 "" dino-jobs render odd.cfg --output scripts
bash -n scripts/curate.sbatch && grep -qF "data='$PWD/it'\\''s \$HOME'" scripts/curate.sbatch && ok "any folder name is quoted" || fail "the folder's name is not quoted"
expect 0 "" dino-jobs local --data flat --output new --weights run/pretrain --dry-run
grep -qF "weights=$PWD/run/pretrain" out.txt && ok "the weights are passed on" || fail "no weights in the script"
[ -e new ] && fail "a dry run wrote something"

# -- refusals
expect 66 "no such folder or file, and no data set of that name" dino-jobs local --data fotos --output new
expect 66 "cannot find the weights: --weights none" dino-jobs local --data flat --output new --weights none
expect 64 "--output (command line): is missing" dino-jobs local --data flat
expect 64 "nothing to run" dino-jobs local
expect 64 "a chain file has its own data" dino-jobs local run/chain.cfg --data flat
expect 64 "choose a plain path" dino-jobs local --data flat --output "new run"
expect 64 "holds a training run" dino-jobs local --data flat --output run/pretrain
expect 64 "lies in the pictures' folder" dino-jobs local --data flat --output flat/run
expect 64 "did you mean train_options?" dino-jobs local --data flat --output new --set train_option=x
expect 64 "is not NAME=VALUE" dino-jobs local --data flat --output new --set train_options
expect 64 "go with --data" dino-jobs init --weights run/pretrain other.cfg
[ -e new ] || [ -e other.cfg ] && fail "a refused start wrote something"
mkdir empty
expect 65 "stage failed: curate" dino-jobs local --data empty --output none
printf '[chain]\nrun = r\n[variables]\nrun = x\n[a]\ncommand = true\n' >bad.cfg
expect 64 "bad.cfg:4: 'run' is not a variable's name" dino-jobs local bad.cfg
printf '[chain]\nrun = r\n[variables]\na = 1\na = 2\n[a]\ncommand = true\n' >bad.cfg
expect 64 "bad.cfg:5: the variable a is there already" dino-jobs local bad.cfg
finish
