#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# CLIP in dino-eval: features, zero-shot classification, retrieval between images and texts, and a text tower trained on frozen features.
# shellcheck source=tests/cli/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export OMP_NUM_THREADS=1
CLIP=$DINO_SOURCE/tests/golden/clip/transformers

images data 48
for file in data/*/*.ppm; do
  class=$(basename "$(dirname "$file")")
  printf 'a photo of %s\nmany %s in a picture\n' "$class" "$class" >"${file%.ppm}.txt"
done
dino-eval features --weights "$CLIP" --data data --output clip.h5 2>log.txt || { fail "features of a CLIP"; cat log.txt; }
grep -q "32 x 32 pixels.*mean 0.481455,0.457828,0.408211.*CLIP" log.txt && ok "without a preprocessor file, CLIP's pixels" || { fail "the pixels of a CLIP"; cat log.txt; }
expect 64 "one feature of an image" dino-eval features --weights "$CLIP" --data data --layers 2 --output no.h5
"$DINO_PYTHON" - <<'PY' && ok "a CLIP's features are its projected embeddings" || fail "the features of a CLIP"
import h5py, numpy as np
f = h5py.File('clip.h5')['features'][:]
assert f.shape == (48, 16), f.shape
norms = np.linalg.norm(f, axis=1)
assert norms.std() > 1e-3, norms
PY

# -- the same rows at 1 and 3 ranks, with and without templates
printf 'a photo of a {}.\n{}\nmany {} in one picture\n' >templates.txt
for n in 1 3; do
  ranks $n dino-eval zeroshot --clip "$CLIP" --data data --templates templates.txt --output zero$n --json >zero$n.json 2>log.txt || { fail "zeroshot at $n ranks"; cat log.txt; }
  ranks $n dino-eval imagetext --clip "$CLIP" --data data --output text$n --json >text$n.json 2>log.txt || { fail "imagetext at $n ranks"; cat log.txt; }
done
"$DINO_PYTHON" - <<'PY' && ok "one result for any number of ranks" || fail "results at several ranks"
import json
def rows(path): return [json.loads(l) for l in open(path + '/results.jsonl')]
def core(r): return [(x['task'], x['metric'], x['value'], x['n'], x['card_hash'], json.loads(json.dumps(x['card']) if isinstance(x['card'], dict) else x['card']).get('direction')) for x in r]
for kind in ('zero', 'text'):
    assert core(rows(kind + '1')) == core(rows(kind + '3')), (core(rows(kind + '1')), core(rows(kind + '3')))
assert {r['metric'] for r in rows('zero1')} == {'top1', 'mean_per_class'}, rows('zero1')
assert all(r['n'] == 48 for r in rows('zero1'))
text = core(rows('text1'))
assert [t[1] for t in text] == ['recall@1', 'recall@5', 'recall@10'] * 2, text
assert [t[3] for t in text] == [48] * 3 + [96] * 3, text
PY

# -- a text tower on the frozen features of a backbone: above chance, whatever the number of ranks
"$DINO_PYTHON" - "$DINO_SOURCE/tests/cli" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from backbone import backbone, save
save('backbone.safetensors', backbone(width=64, grid=4), {'heads': '2'})
PY
align=(align --weights backbone.safetensors --text-tower --data data --vocabulary "$CLIP" --size 32 --text-width 32 --text-depth 2 --text-heads 2 --context 16 --batch 12 --epochs 12 --seed 3)
for n in 1 2; do ranks $n dino-eval "${align[@]}" --output aligned$n --json >aligned$n.json 2>log.txt || { fail "align at $n ranks"; cat log.txt; }; done
dino-eval zeroshot --clip aligned1 --data data --output zero --json >zero.json 2>log.txt || { fail "zeroshot of an aligned tower"; cat log.txt; }
dino-eval imagetext --clip aligned1 --data data --output zero --json >/dev/null 2>log.txt || { fail "imagetext of an aligned tower"; cat log.txt; }
"$DINO_PYTHON" - <<'PY' && ok "the tower has learnt what the captions say" || fail "the trained tower"
import json
a, b = (json.load(open(f'aligned{n}.json')) for n in (1, 2))
assert abs(a['loss'] - b['loss']) < 1e-2 and abs(a['first_loss'] - b['first_loss']) < 1e-5, (a, b)
assert a['loss'] < a['first_loss'] - 0.3, a
top1 = next(r for r in map(json.loads, open('zero/results.jsonl')) if r['metric'] == 'top1')
assert top1['value'] >= 0.85 and top1['low'] > 0.5, top1
PY

# -- two encoders as one: both parts of a token, each scaled, on the first's grid
cp -r "$CLIP" first && cp -r "$DINO_SOURCE/tests/golden/clip/open_clip" second
dino-eval fuse --weights first second --output fused 2>log.txt || { fail "fuse"; cat log.txt; }
for name in first second fused; do
  dino-eval features --weights $name --data data --tokens both --store-patches --output $name.h5 2>log.txt || { fail "features of $name"; cat log.txt; }
done
"$DINO_PYTHON" - <<'PY' && ok "a fused encoder has the tokens of both" || fail "fused features"
import h5py, numpy as np
a, b, both = (h5py.File(n + '.h5') for n in ('first', 'second', 'fused'))
unit = lambda x: x / np.sqrt((x ** 2).mean(-1, keepdims=True))
fa, fb, f = a['features'][:], b['features'][:], both['features'][:]
expected = np.concatenate([unit(fa[:, :16]), unit(fb[:, :16]), unit(fa[:, 16:]), unit(fb[:, 16:])], 1)
assert np.abs(f - expected).max() < 1e-4, np.abs(f - expected).max()
patches = np.concatenate([unit(a['patches'][:]), unit(b['patches'][:])], 2)  # both have 4 x 4
assert np.abs(both['patches'][:] - patches).max() < 1e-4
PY
dino-eval features --weights fused --data data --size 48 --tokens both --store-patches --output large.h5 2>log.txt || { fail "a fused encoder at another size"; cat log.txt; }
expect 64 "name two" dino-eval fuse --weights backbone.safetensors --output no

# -- what is wrong is named
printf "a {}\nb\n" >bad_templates.txt
expect 66 "no such file or folder" dino-eval zeroshot --clip none --data data --output out
expect 66 "--vocabulary" dino-eval zeroshot --clip "$CLIP/model.safetensors" --vocabulary data --data data --output out
expect 65 "line 2 has no {}" dino-eval zeroshot --clip "$CLIP" --data data --templates bad_templates.txt --output out
printf 'stripes\n' >names.txt
expect 65 "1 names for 2 classes" dino-eval zeroshot --clip "$CLIP" --data data --class-names names.txt --output out
expect 65 "no text tower" dino-eval zeroshot --clip backbone.safetensors --data data --output out
expect 65 "no image has a class" dino-eval zeroshot --clip "$CLIP" --data data/blobs --output out
mkdir bare && cp data/blobs/*.ppm bare
expect 65 "no captions: bare" dino-eval imagetext --clip "$CLIP" --data bare --output out
expect 64 "--text-tower" dino-eval align --weights backbone.safetensors --data data --vocabulary "$CLIP" --output out
expect 64 "does not divide among 2 ranks" ranks 2 dino-eval "${align[@]}" --batch 13 --output out
mkdir broken && cp "$CLIP"/{config.json,model.safetensors,merges.txt} broken && echo '{"a": "b"}' >broken/vocab.json
expect 65 "broken/vocab.json" dino-eval zeroshot --clip broken --data data --output out
"$DINO_PYTHON" -c "f = open('second/open_clip_model.safetensors', 'r+b'); f.seek(-3, 2); f.write(b'\\x01')"
expect 65 "is not what it was" dino-eval features --weights fused --data data --output out.h5
sed -i 's/schema/shema/' fused/fused.json
expect 65 "fused/fused.json" dino-eval features --weights fused --data data --output out.h5
[ ! -e out/results.jsonl ] && ok "nothing was written" || fail "rows of failed starts"
finish
