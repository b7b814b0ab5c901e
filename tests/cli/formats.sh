#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# docs/formats.md against the files of a small run: its Python examples read them, and no dataset, attribute, column or field that
# a file has is missing from it.
. "$(dirname "$0")/lib.sh"
images pool 40
images lab/train 24
images lab/test 16
cp pool/stripes/0000.ppm pool/stripes/copy.ppm
head -c 700 pool/blobs/0001.ppm >pool/blobs/cut.ppm
export OMP_NUM_THREADS=1
must() { "$@" >>log.txt 2>&1 || { tail -n 5 log.txt; fail "$*"; finish; }; }

must dino-curate run --input pool --exclude lab/test --target 20 --levels 6,3 --shard-records 8 --output curated
must dino-pretrain train --config tiny --data curated --output run --steps 4 --batch 8 --warmup 1 --checkpoint-every 2 --knn-train lab/train --knn-test lab/test --knn-every 2
must dino-pretrain train --config tiny --data curated --output broken --steps 1 --batch 8 --warmup 0 --std 1e-42,1e-42,1e-42 --trace 1
must dino-pretrain export --checkpoint run --output hf
must dino-eval features --weights run --data lab/train --store-patches --output train.h5
must dino-eval features --weights run --data lab/test --store-patches --output test.h5
must dino-eval knn --train train.h5 --test test.h5 --k 3 --output results
must dino-eval relevance --weights run --data lab/test --entropy --output relevance.h5
must dino-eval pca --weights run --data lab/test --images 2 --output results
printf '[chain]\nrun = chain\n[first]\ncommand = true\n' >chain.cfg
must dino-jobs local chain.cfg
must "$DINO_PYTHON" "$DINO_SOURCE/tests/cli/formats.py" "$DINO_SOURCE/docs/formats.md" .
# the check itself: a page without one of the names is refused
sed 's/`\/similarity`/`similar`/g' "$DINO_SOURCE/docs/formats.md" >less.md
"$DINO_PYTHON" "$DINO_SOURCE/tests/cli/formats.py" less.md . >less.txt 2>&1 && fail "a page that lacks /similarity passes"
grep -q '/similarity' less.txt || { cat less.txt; fail "the missing name is not told"; }
grep -h 'examples\|names' log.txt | tail -n 2
finish
