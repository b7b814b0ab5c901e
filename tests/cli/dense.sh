#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Segmentation and depth as a user drives them: the same rows at several rank counts, floors, what is there
# already, and data that is broken.
# shellcheck source=tests/cli/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export OMP_NUM_THREADS=1

"$DINO_PYTHON" - set <<'PY'
import os, random, sys
root = sys.argv[1]
random.seed(1)
for part, count in (('train', 9), ('test', 5)):
    for folder in ('images', 'labels', 'depth'): os.makedirs(f'{root}/{part}/{folder}')
    open(f'{root}/{part}/classes.txt', 'w').write('ground\nbox\n')
    for i in range(count):
        left, top = 8 * random.randrange(3), 8 * random.randrange(2)
        inside = [left <= x < left + 16 and top <= y < top + 16 for y in range(24) for x in range(32)]
        def pgm(folder, maximum, values): open(f'{root}/{part}/{folder}/{i}.pgm', 'wb').write(b'P5\n32 24\n%d\n' % maximum + values)
        pgm('images', 255, bytes((170 if v else 60) + random.randrange(40) for v in inside))
        pgm('labels', 255, bytes(1 if v else 0 for v in inside))
        pgm('depth', 65535, b''.join((1000 if v else 4000).to_bytes(2, 'big') for v in inside))
PY
data=(--train set/train --test set/test --size 24 --resamples 100)
rows() { "$DINO_PYTHON" -c 'import json, sys
for line in open(sys.argv[1] + "/results.jsonl"):
    row = json.loads(line)
    print(*(row[k] for k in ("task", "metric", "model", "value", "low", "high", "n", "card_hash")))' "$1" | sort; }

for call in "segment --head linear --steps 12 --batch 6 --lr 0.05" "segment --head ms --scales 1,1.5 --steps 5 --augment published" \
            "segment --head knn --k 3" "depth --steps 12 --lr 0.05" "depth --head dpt --fusion 4 --steps 4 --augment published"; do
  read -ra words <<<"$call"
  for n in 1 2 3; do
    ranks "$n" dino-eval "${words[@]}" --weights random:vit_micro "${data[@]}" --output "R$n" >/dev/null 2>log.txt || { fail "$call at $n ranks"; tail -n 5 log.txt; }
  done
done
rows R1 >one.txt
[ "$(wc -l <one.txt)" = 27 ] && ok "a row for each metric" || { fail "other rows"; cat one.txt; }
for n in 2 3; do
  rows "R$n" | cmp -s - one.txt && ok "the same rows at $n ranks" || { fail "other rows at $n ranks"; rows "R$n" | diff one.txt -; }
done
expect 0 "" dino-eval segment --head knn --k 3 --weights random:vit_micro "${data[@]}" --output R1
rows R1 | cmp -s - one.txt && ok "what is there is not computed again" || fail "rows were added"
expect 0 "" dino-eval depth --weights random:vit_micro --floors --steps 3 "${data[@]}" --output F
[ "$(rows F | cut -d' ' -f3 | sort -u | tr '\n' ' ')" = "random-weights raw-pixels " ] && ok "floors" || { fail "no floors"; rows F; }

# -- what is broken
expect 64 "patch side 8" dino-eval segment --weights random:vit_micro "${data[@]}" --size 20 --output E
expect 64 "--head" dino-eval segment --head nearest --weights random:vit_micro "${data[@]}" --output E
expect 66 "no-such-set" dino-eval depth --weights random:vit_micro --train no-such-set --test set/test --output E
DINO_DATA=$PWD expect 66 "voc2012" dino-eval segment --weights random:vit_micro --train voc2012/train --test voc2012/val --output E
mkdir bare && cp set/test/images/0.pgm bare/
expect 65 "no image has a map of depth" dino-eval depth --weights random:vit_micro --train bare --test bare --size 24 --output E
cp -r set broken
head -c 100 set/train/labels/3.pgm >broken/train/labels/3.pgm
{ printf 'P5\n4 4\n255\n'; head -c 16 /dev/zero; } >broken/train/labels/4.pgm
expect 0 "left out 3: its map: truncated" dino-eval segment --steps 3 --weights random:vit_micro "${data[@]}" --train broken/train --output B
expect 0 "left out 4: the image has 32 x 24 pixels, the map 4 x 4" dino-eval segment --steps 3 --weights random:vit_micro "${data[@]}" --train broken/train --force --output B
for file in broken/test/labels/*; do printf 'nothing' >"$file"; done
expect 65 "none of its images can be used" dino-eval segment --steps 1 --weights random:vit_micro "${data[@]}" --test broken/test --output B
printf 'ground\n' >broken/train/classes.txt
expect 65 "its classes are not those of the training images" dino-eval segment --steps 1 --weights random:vit_micro "${data[@]}" --train broken/train --output B
finish
