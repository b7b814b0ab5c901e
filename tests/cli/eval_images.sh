#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tasks of dino-eval beyond probes: the same rows, predictions and files at 1, 2 and 4 ranks, floors, and faults.
# shellcheck source=tests/cli/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export OMP_NUM_THREADS=1

"$DINO_PYTHON" - data <<'PY'
import os, random, struct, sys, zlib
root = sys.argv[1]
random.seed(2)
def png(path, w, h, f, alpha):
    raw = b''.join(b'\0' + bytes(v for x in range(w) for v in f(x, y)) for y in range(h))
    def chunk(t, d): return struct.pack('>I', len(d)) + t + d + struct.pack('>I', zlib.crc32(t + d))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as out:
        out.write(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 6 if alpha else 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND', b''))
kinds = {'stripes': lambda x, y, p: (x + p) // 4 % 2, 'rows': lambda x, y, p: (y + p) // 4 % 2}
for part, count in (('train', 8), ('test', 5)):
    for kind, g in kinds.items():
        for clip in range(count):
            p, a, b = random.randrange(8), [random.randrange(80) for _ in range(3)], [random.randrange(150, 256) for _ in range(3)]
            for frame in range(3):
                png(f'{root}/{part}/{kind}/clip{clip}/{frame}.png', 40, 36, lambda x, y: b if g(x, y, p + frame) else a, False)
for clip in range(3):
    c, r = [random.randrange(256) for _ in range(3)], random.randrange(9, 13)
    for frame in range(3):
        png(f'{root}/cutouts/clip{clip}/{frame}.png', 40, 40, lambda x, y: c + [255 if (x - 16 - 3 * frame)**2 + (y - 20)**2 < r * r else 0], True)
PY
common=(--weights random:vit_micro --size 32)
for part in train test; do
  dino-eval features "${common[@]}" --data data/$part --output $part.h5 --progress off 2>log.txt || { fail "features"; cat log.txt; }
done

# Every number but the seconds, every file but results.jsonl.
numbers() { "$DINO_PYTHON" -c '
import json, sys
for line in open(sys.argv[1] + "/results.jsonl"):
    row = json.loads(line)
    print([row.get(k) for k in ("task", "model", "metric", "value", "low", "high", "n", "card_hash", "predictions")])' "$1"; }
run_all() {
  local n=$1 out=$2
  task() { ranks "$n" dino-eval "$@" --progress off --output "$out" 2>log.txt || { fail "$1 at $n ranks"; tail -n 3 log.txt; }; }
  task retrieval --queries test.h5 --database train.h5
  task copydetect --originals train.h5 --copies train.h5 --match label
  task robust --weights random:vit_micro --train train.h5 --data data/test --corruptions jpeg shot-noise occlusion --severities 1,5 --floors
  task discover "${common[@]}" --data data/cutouts --floors
  task coverage "${common[@]}" --data data/cutouts --budget 4000
  task propagate "${common[@]}" --data data/cutouts --floors
  task video "${common[@]}" --train data/train --test data/test --floors
  task correspond "${common[@]}" --data data/test --limit 7
  ranks "$n" dino-eval relevance "${common[@]}" --data data/test --entropy --budget 4000 --overlays 3 --output "$out/relevance.h5" --progress off 2>log.txt || { fail "relevance at $n ranks"; tail -n 3 log.txt; }
}
run_all 1 R1
numbers R1 >R1.txt
[ "$(wc -l <R1.txt)" = 48 ] && ok "48 rows" || { fail "$(wc -l <R1.txt) rows instead of 48"; cut -c1-60 R1.txt; }
for n in 2 4; do
  run_all $n R$n
  numbers R$n >R$n.txt
  cmp R1.txt R$n.txt && ok "the rows of $n ranks are those of one" || fail "the rows of $n ranks"
  cp R1/results.jsonl R$n/results.jsonl
  same R1 R$n
done
"$DINO_PYTHON" - <<'PY' || fail "relevance.h5"
import h5py, numpy as np
f = h5py.File('R1/relevance.h5')
tokens = f['tokens'][:]
assert tokens.dtype == np.int32 and tokens.shape == f['relevance'].shape == (30, 16), tokens.shape
assert (tokens.sum(1) == 4000).all() and tokens.min() >= 64 and tokens.max() <= 400
order = np.argsort(f['relevance'][0])
assert (np.diff(tokens[0][order]) >= -1).all()
PY
[ "$(ls R1/relevance-overlays | wc -l)" = 3 ] && ok "three overlays" || fail "overlays"
expect 0 "" dino-eval relevance "${common[@]}" --data data/test --query-patch data/test/rows/clip0/0.png:20,18 --overlays 0 --output q.h5
expect 64 "--budget 1023" dino-eval relevance "${common[@]}" --data data/test --entropy --budget 1023 --output b.h5
expect 64 "give one of the two" dino-eval relevance "${common[@]}" --data data/test --output b.h5
expect 64 "is not FILE:x,y" dino-eval relevance "${common[@]}" --data data/test --query-patch nonsense --output b.h5
expect 64 "the image has 40 x 36" dino-eval relevance "${common[@]}" --data data/test --query-patch data/test/rows/clip0/0.png:40,0 --output b.h5
expect 66 "none.png" dino-eval relevance "${common[@]}" --data data/test --query-patch none.png:1,1 --output b.h5
expect 65 "the format is in docs/formats.md" dino-eval retrieval --queries test.h5 --database train.h5 --ground-truth data/test/rows/clip0/0.png --output b
expect 65 "no image with a partly transparent" dino-eval discover "${common[@]}" --data data/test --output b
finish
