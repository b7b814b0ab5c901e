#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# dino-eval as a user drives it: features at several rank counts, probes, pictures, the report, and faults.
# shellcheck source=tests/cli/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export OMP_NUM_THREADS=1

"$DINO_PYTHON" - data <<'PY'
import os, random, struct, sys, zlib
root = sys.argv[1]
random.seed(1)
def png(path, w, h, f, alpha=False):
    raw = b''.join(b'\0' + bytes(v for x in range(w) for v in f(x, y)) for y in range(h))
    def chunk(t, d): return struct.pack('>I', len(d)) + t + d + struct.pack('>I', zlib.crc32(t + d))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as out:
        out.write(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 6 if alpha else 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND', b''))
kinds = {'stripes': lambda x, y, p: (x + p) // 4 % 2, 'rows': lambda x, y, p: (y + p) // 4 % 2, 'checks': lambda x, y, p: ((x + p) // 4 + y // 4) % 2}
for part, count in (('train', 12), ('test', 7)):
    for kind, g in kinds.items():
        for i in range(count):
            p, a, b = random.randrange(8), [random.randrange(80) for _ in range(3)], [random.randrange(150, 256) for _ in range(3)]
            png(f'{root}/{part}/{kind}/{i:02}.png', 40, 36, lambda x, y: b if g(x, y, p) else a)
    for i in range(count):
        cx, cy, r = random.randrange(14, 26), random.randrange(14, 26), random.randrange(8, 13)
        c = [random.randrange(256) for _ in range(3)]
        png(f'{root}/cutouts/{part}/{i:02}.png', 40, 40, lambda x, y: c + [255 if (x - cx)**2 + (y - cy)**2 < r * r else 0], True)
for i in range(5): # an object and its mask, apart
    cx, cy, inside = 14 + 3 * i, 20, lambda x, y: (x - cx)**2 + (y - cy)**2 < 81
    png(f'{root}/objects/{i}.png', 40, 36, lambda x, y: [200, 40, 40] if inside(x, y) else [30, 60, 30 + 4 * y])
    if i < 4: png(f'{root}/masks/{i}.png', 40, 36, lambda x, y: [0, 0, 7] if inside(x, y) else [0, 0, 0])
with open(f'{root}/test/rows/broken.png', 'wb') as out: out.write(b'\x89PNG\r\n\x1a\nnot really')
os.makedirs(f'{root}/broken'); open(f'{root}/broken/x.png', 'wb').write(b'nothing')
PY

# -- features: the same bytes at 1, 2 and 3 ranks, a faulty image left out and listed
common=(features --weights random:vit_micro --size 32 --tokens both --layers 2 --batch 5)
expect 0 "36 rows, 0 skipped" dino-eval "${common[@]}" --data data/train --output train.h5
for n in 1 2 3; do
  ranks "$n" dino-eval "${common[@]}" --data data/test --store-patches --output "test$n.h5" 2>features.log || { fail "features at $n ranks"; cat features.log; }
  cmp test1.h5 "test$n.h5" && ok "features at $n ranks equal those at 1"
done
grep -q "skipped rows/broken" features.log && ok "the faulty image is named" || fail "the faulty image is not named"
"$DINO_PYTHON" - <<'PY' || fail "the feature file does not hold what the interface says"
import h5py, numpy as np
f = h5py.File('test1.h5')
assert f['features'].shape == (21, 3 * 64) and f['features'].dtype == np.float32, f['features']
assert f['patches'].shape == (21, 16, 64)
assert np.allclose(f['patches'][:].mean(1), f['features'][:, 128:], atol=1e-5)
assert f['labels'].dtype == np.int32 and sorted(set(f['labels'][:])) == [0, 1, 2]
classes = [c.decode() if isinstance(c, bytes) else c for c in f.attrs['classes']]
assert classes == ['checks', 'rows', 'stripes'], classes
assert f['keys'][0].startswith(b'checks/') and len(f['skipped/keys']) == 1
assert np.isfinite(f['features'][:]).all() and f['features'][:].std() > 0.1
PY

# -- probes: a row per k, kept the second time, the same numbers at two ranks
expect 0 "" dino-eval knn --train train.h5 --test test1.h5 --k 1,5 --output R
expect 0 "kept as it is" dino-eval knn --train train.h5 --test test1.h5 --k 1,5 --output R
expect 0 "" dino-eval linear --train train.h5 --test test1.h5 --lr 0.01,0.1 --output R
ranks 2 dino-eval knn --train train.h5 --test test1.h5 --k 1,5 --output R2 2>/dev/null || fail "knn at 2 ranks"
ranks 2 dino-eval linear --train train.h5 --test test1.h5 --lr 0.01,0.1 --output R2 2>/dev/null || fail "linear at 2 ranks"
"$DINO_PYTHON" - <<'PY' || fail "results.jsonl"
import json
fields = 'task dataset model metric value low high n card card_hash seconds'.split()
one, two = ([json.loads(line) for line in open(f'{d}/results.jsonl')] for d in ('R', 'R2'))
assert len(one) == len(two) == 3, (len(one), len(two))
for a, b in zip(one, two):
    assert all(f in a for f in fields), a
    assert {f: a[f] for f in fields if f != 'seconds'} == {f: b[f] for f in fields if f != 'seconds'}
    assert a['model'] == 'random-weights' and a['n'] == 21 and a['low'] <= a['value'] <= a['high']
assert 'oracle' in one[2] and one[2]['task'] == 'linear'
PY
for part in train test; do
  expect 0 "" dino-eval features --weights raw-pixels --data data/$part --size 32 --tokens both --layers 2 --output raw_$part.h5
done
expect 0 "" dino-eval knn --train raw_train.h5 --test raw_test.h5 --k 1,5 --output R
"$DINO_PYTHON" -c "
import json
rows = [json.loads(line) for line in open('R/results.jsonl')]
assert {r['card_hash'] for r in rows if r['model'] == 'raw-pixels'} <= {r['card_hash'] for r in rows if r['model'] == 'random-weights'}" || fail "the floor has another card than the model"

# -- a sweep adds the raw-pixel floor, and does nothing the second time
sweep=(sweep --weights random:vit_micro --train data/train --test data/test --size 32 --k 1,5 --lr 0.1 --output S)
expect 0 "raw-pixels" dino-eval "${sweep[@]}"
cp S/results.jsonl once.jsonl
expect 0 "are already in" dino-eval "${sweep[@]}"
cmp once.jsonl S/results.jsonl && [ "$(wc -l <once.jsonl)" = 6 ] && ok "a finished sweep is left alone" || fail "the sweep ran again"
expect 64 "is not one of knn, linear" dino-eval "${sweep[@]}" --tasks nothing

# -- a part of one reference held out: the same rows at two ranks; too few labels are told
held=(sweep --weights random:vit_micro --data data/train --test-fraction 0.3 --size 32 --lr 0.1 --dataset patterns)
expect 0 "labelled images of 3 classes are held out" dino-eval "${held[@]}" --output H
ranks 2 dino-eval "${held[@]}" --output H2 2>/dev/null || fail "a held-out sweep at 2 ranks"
"$DINO_PYTHON" - <<'PY' || fail "the rows of a held-out sweep"
import json
one, two = ([json.loads(line) for line in open(f'{d}/results.jsonl')] for d in ('H', 'H2'))
assert [(r['value'], r['card_hash']) for r in one] == [(r['value'], r['card_hash']) for r in two] and len(one) == 8, len(one)
for r in one:
    parts = r['card']['train'], r['card']['test']
    assert r['dataset'] == 'patterns' and [p['split'] for p in parts] == ['train', 'test'] and r['card']['shared_keys'] == 0
    assert parts[0]['images'] + parts[1]['images'] == 36 and parts[0]['data'] == 'data/train'
PY
expect 0 "names no classes" dino-eval sweep --weights raw-pixels --data data/cutouts/test --output N
mkdir -p one/kind && cp data/test/rows/*.png one/kind
expect 0 "images of one class only" dino-eval sweep --weights raw-pixels --data one --output N
expect 64 "give either --train and --test (as many of each), or --data" dino-eval sweep --weights raw-pixels --data data/train --test data/test --output N
expect 64 "give either --train and --test (as many of each), or --data" dino-eval sweep --weights raw-pixels --train data/train --output N

# -- several data sets, and tasks on images; what is there already is kept
expect 64 "1 names for 2 data sets" dino-eval sweep --weights raw-pixels --data data/train data/test --dataset one --output M
expect 64 "as many of each" dino-eval sweep --weights raw-pixels --train data/train data/test --test data/test --output M
pair=(sweep --weights random:vit_micro --data data/train data/test --size 32 --k 1,5 --lr 0.1 --epochs 2)
expect 0 "" dino-eval "${pair[@]}" --output M
head -n 3 M/results.jsonl >M/kept && mv M/kept M/results.jsonl
expect 0 "kept as it is" dino-eval "${pair[@]}" --output M
ranks 2 dino-eval "${pair[@]}" --output M2 2>/dev/null || fail "a sweep over two sets at 2 ranks"
expect 0 "" dino-eval sweep --weights random:vit_micro --train data/cutouts/train --test data/cutouts/test --tasks pca attention --output M
"$DINO_PYTHON" - <<'PY' || fail "the rows of a sweep over sets"
import json
one, two = ([json.loads(line) for line in open(f'{d}/results.jsonl')] for d in ('M', 'M2'))
assert sorted((r['dataset'], r['task'], r['metric'], r['value'], r['card_hash'], r['model']) for r in one) == \
       sorted((r['dataset'], r['task'], r['metric'], r['value'], r['card_hash'], r['model']) for r in two) and len(two) == 12
assert {r['dataset'] for r in two} == {'data/train', 'data/test'}
PY
ls M/pictures/pca*.json M/pictures/attention*.json >/dev/null || fail "no pictures of a sweep"

# -- the input is the model's own, and each part of it can be overridden alone
dino-pretrain train --config tiny --data data/train --output pre --steps 1 --warmup 0 --batch 8 --global-size 48 --pad --background 9,8,7 \
  --mean 0.5,0.5,0.5 >/dev/null 2>pre.log || { fail "training for the defaults"; tail -n 3 pre.log; }
own=(features --weights pre --data data/test)
expect 0 "input of pre: 48 x 48 pixels, padded to a square, background 9,8,7, mean 0.5,0.5,0.5, std 0.229,0.224,0.225: from pre/config.ini" dino-eval "${own[@]}" --output own.h5
expect 0 "from pre/config.ini; given: --size, --pad, --background" dino-eval "${own[@]}" --size 48 --pad --background 9,8,7 --output said.h5
cmp own.h5 said.h5 && ok "the defaults are what the run says" || fail "the defaults differ from the same flags"
expect 0 "64 x 64 pixels, padded to a square, background 9,8,7" dino-eval "${own[@]}" --size 64 --output other.h5
expect 0 "48 x 48 pixels, the middle of 54, background 9,8,7" dino-eval "${own[@]}" --pad=false --output other.h5
expect 0 "48 x 48 pixels, padded to a square, background auto" dino-eval "${own[@]}" --background auto --output other.h5
expect 0 "96 x 96 pixels, padded" dino-eval pca --weights pre --data data/test --images 2 --output N
expect 0 "48 x 48 pixels (from the weights' config.ini)" dino-eval segment --weights pre --train data/cutouts/train --test data/cutouts/test --output N
expect 0 "224 x 224 pixels, the middle of 256" dino-eval features --weights random:vit_micro --data data/cutouts/test --output other.h5
dino-eval "${own[@]}" --print-config --output x.h5 >settings.cfg 2>/dev/null
grep -q '^pad = auto' settings.cfg && grep -q '^size = auto' settings.cfg && ok "what is open stays open in a recipe" || fail "--print-config settles what is open"
expect 0 "48 x 48 pixels, padded to a square" dino-eval features --config settings.cfg --output other.h5
expect 0 "features of random-weights on data/test are already in" bash -c 'for i in 1 2; do dino-eval sweep --weights pre --train data/train --test data/test --k 1 --lr 0.1 --epochs 1 --output P || exit; done'
"$DINO_PYTHON" - <<'PY' || fail "the cards of a sweep with the model's own input"
import json
rows = [json.loads(line) for line in open('P/results.jsonl')]
assert len(rows) == 6 and {r['dataset'] for r in rows} == {'data/test'}
features = {json.dumps(r['card']['features'], sort_keys=True) for r in rows}
card, = features
assert all(w in card for w in ('"size": 48', 'pad to square', '9,8,7'))
by = {r['model']: r.get('model_input') for r in rows}
assert by['pre'] == by['random-weights'] == {'from': 'config.ini', 'mean': [0.5] * 3, 'std': [0.229, 0.224, 0.225]} and by['raw-pixels'] is None, by
assert len({r['card_hash'] for r in rows if r['task'] == 'knn'}) == 1
PY

# -- segmentation and pictures
expect 0 "segment" dino-eval segment --weights random:vit_micro --train data/cutouts/train --test data/cutouts/test --size 32 --output R
expect 65 "no image with a partly transparent alpha channel" dino-eval segment --weights raw-pixels --patch 8 --train data/train --test data/test --size 32 --output R
expect 0 "three components" dino-eval pca --weights random:vit_micro --data data/test --size 32 --images 3 --output R
expect 0 "strips" dino-eval attention --weights random:vit_micro --data data/test --size 32 --images 2 --output R
heads=(attention --weights random:vit_demo --size 32 --h5)
expect 0 "heads on the foreground" dino-eval "${heads[@]}" --data data/cutouts/test --images 7 --masks alpha --output A
expect 0 "kept as it is" dino-eval "${heads[@]}" --data data/cutouts/test --images 7 --masks alpha --output A
ranks 2 dino-eval "${heads[@]}" --data data/cutouts/test --images 7 --masks alpha --output A2 2>/dev/null || fail "attention at 2 ranks"
expect 0 "has no mask in data/masks" dino-eval "${heads[@]}" --data data/objects --masks data/masks --output A3
expect 66 "" dino-eval "${heads[@]}" --data data/objects --masks data/nothing --output A3
"$DINO_PYTHON" - <<'PY' || fail "the maps of heads against masks"
import glob, json, h5py, numpy as np
rows = {d: [json.loads(line) for line in open(f'{d}/results.jsonl')] for d in ('A', 'A2', 'A3')}
assert [(r['value'], r['low'], r['card_hash']) for r in rows['A']] == [(r['value'], r['low'], r['card_hash']) for r in rows['A2']]
for d in ('A', 'A3'):
    path, = glob.glob(f'{d}/attention/*.h5')
    f = h5py.File(path)
    maps, object_ = f['maps'][:], f['object'][:].reshape(len(f['keys']), -1)
    assert maps.shape == (len(f['keys']), 2, 4, 4) if d == 'A' else len(f['keys']) == 4, (maps.shape, d)
    cell = 32 * 32 // 16
    for r in rows[d]:
        values = []
        for m, o in zip(maps[:, r['card']['head']].reshape(len(maps), -1), object_):
            b = cell - o
            if r['metric'] == 'auroc':
                wins = (m[:, None] > m[None]) + .5 * (m[:, None] == m[None])
                values.append((o[:, None] * b[None] * wins).sum() / (o.sum() * b.sum()))
            else:
                order = np.argsort(-m, kind='stable'); held = np.cumsum(m[order].astype(float))
                taken = order[:np.searchsorted(held, .6 * held[-1]) + 1]
                values.append(o[taken].sum() / (o.sum() + b[taken].sum()))
        assert abs(np.mean(values) - r['value']) < 1e-9, (d, r['metric'], np.mean(values), r['value'])
        kind = f.attrs['heads'][r['card']['head']]
        if r['metric'] == 'auroc': assert (kind == 'foreground') == (r['low'] > .5) and (kind == 'background') == (r['high'] < .5)
assert open(glob.glob('A/attention/*.h5')[0], 'rb').read() == open(glob.glob('A2/attention/*.h5')[0], 'rb').read()
PY
expect 64 "has no attention" dino-eval attention --weights raw-pixels --data data/test --size 32 --output R

# -- comparing: what is better, worse or noise, the exit code, models within a folder
expect 65 "floors are left out" dino-eval compare R R2
expect 0 "" dino-eval compare R --models raw-pixels random-weights
expect 64 "need two folders" dino-eval compare R
expect 64 "has no row in R" dino-eval compare R --models raw-pixels nobody
expect 66 "has no results.jsonl" dino-eval compare R data
expect 65 "have no protocol in common" dino-eval compare M R2
"$DINO_PYTHON" - <<'PY' # two models whose answers are known: 40 images, the second is wrong on 12 more
import h5py, json, os
rows = [json.loads(line) for line in open('R/results.jsonl')]
row = next(r for r in rows if r['task'] == 'knn')
row.pop('crc32c')
for name, wrong in (('good', 0), ('bad', 12)):
    os.makedirs(f'{name}/predictions')
    with h5py.File(f'{name}/predictions/p.h5', 'w') as f:
        f['labels'] = [i % 2 for i in range(40)]
        f['predicted'] = [i % 2 if i >= wrong else 1 - i % 2 for i in range(40)]
        f.create_dataset('keys', data=[str(i) for i in range(40)], dtype=h5py.string_dtype())
        f.attrs.create('classes', ['a', 'b'], dtype=h5py.string_dtype())
    row.update(model=name, value=1 - wrong / 40, low=0.5, high=1, n=40, predictions='predictions/p.h5')
    open(f'{name}/results.jsonl', 'w').write(json.dumps(row) + '\n')
PY
expect 1 "" dino-eval compare good bad --fail-on-regression
expect 0 "" dino-eval compare bad good --fail-on-regression
expect 0 "" dino-eval compare good bad
dino-eval compare good bad bad --json 2>/dev/null | "$DINO_PYTHON" -c "
import json, sys
r = json.load(sys.stdin)
assert r['regressions'] == 2 and len(r['comparisons']) == 2, r
for c in r['comparisons']:
    assert c['paired'] and c['verdict'] == 'worse' and abs(c['p'] - 2 * 0.5**12) < 1e-12 and abs(c['p_adjusted'] - 2 * c['p']) < 1e-12, c
    assert abs(c['difference'] + 0.3) < 1e-12" || fail "compare --json"

# -- the report: four files, self-contained, the same bytes twice
expect 0 "" dino-eval report R R2 --output report.html
cp report.html first.html
expect 0 "" dino-eval report R R2 --output report.html
cmp first.html report.html && ok "the report has the same bytes twice" || fail "the report is not deterministic"
for file in report.md report.csv report.jsonl; do [ -s "$file" ] || fail "no $file"; done
grep -qE '(src|href)="https?:' report.html && fail "the report loads something from the network" || ok "the report is self-contained"
"$DINO_PYTHON" - <<'PY' || fail "the embedded data"
import html.parser, json
class Parser(html.parser.HTMLParser):
    inside, text = False, ''
    def handle_starttag(self, tag, attrs): self.inside = tag == 'script' and ('id', 'results-json') in attrs
    def handle_endtag(self, tag): self.inside = False
    def handle_data(self, data): self.text += data if self.inside else ''
p = Parser(); p.feed(open('report.html').read())
assert len(json.loads(p.text)) == len(open('report.jsonl').readlines()) == 8, p.text[:200]
PY
dino-eval bench --preset vit_micro --size 32 --batch 4 --repeats 2 --mixed-sizes --json 2>/dev/null | "$DINO_PYTHON" -c "
import json, sys
r = json.load(sys.stdin)
assert all(r[k] > 0 for k in ('images_per_second', 'achieved_gflops', 'gemm_peak_gflops', 'peak_rss_bytes')), r" || fail "bench --json"

# -- faults
expect 64 "is not a multiple of the patch side 8; use 32 or 40" dino-eval features --weights random:vit_micro --data data/test --size 33 --output x.h5
expect 64 "--layers 9" dino-eval features --weights random:vit_micro --data data/test --size 32 --layers 9 --output x.h5
expect 64 "" dino-eval features --weights random:vit_nothing --data data/test --size 32 --output x.h5
expect 64 "x.npy: must end in .h5" dino-eval features --weights raw-pixels --data data/test --size 32 --output x.npy
[ -e x.npy ] && fail "x.npy was written"
expect 64 "is not a colour" dino-eval features --weights raw-pixels --data data/test --background red --output x.h5
expect 64 "--output" dino-eval knn --train train.h5 --test test1.h5
expect 64 "must end in .html" dino-eval report R --output report.pdf
expect 66 "" dino-eval features --weights /no/such/weights --data data/test --output x.h5
expect 66 "" dino-eval knn --train none.h5 --test test1.h5 --output R
expect 66 "has neither results.jsonl nor pictures/" dino-eval report data --output x.html
expect 65 "none of 1 images could be decoded" dino-eval features --weights raw-pixels --data data/broken --size 32 --output x.h5
expect 65 "" dino-eval knn --train report.html --test test1.h5 --output R
expect 64 "made by different models" dino-eval knn --train raw_train.h5 --test test1.h5 --output R
printf '{"task":"knn"}\n' >R2/results.jsonl
expect 65 "results.jsonl:1" dino-eval report R2 --output x.html
[ -e x.h5 ] && fail "a failed run left x.h5 behind" || ok "failed runs leave no feature file"
finish
