#!/usr/bin/env bash
# With --json the result is one JSON object, and the only thing on stdout: every command of every program, dry runs too.
. "$DINO_SOURCE/tests/cli/lib.sh"
images photos 24
images held 12
export OMP_NUM_THREADS=1
"$DINO_PYTHON" -c "import numpy as np; np.save('rows.npy', np.random.default_rng(0).standard_normal((40, 8), dtype='f4'))"

# one CODE command...: the exit code, and one JSON object on stdout
one() {
  local code=$1; shift
  "$@" --json >out.txt 2>err.txt
  local rc=$?
  seen+=" ${1#dino-}.$2"
  [ "$rc" = "$code" ] || { fail "exit $rc instead of $code: $*"; tail -n 3 err.txt; return; }
  "$DINO_PYTHON" - "$*" <<'PY' || fail "not one JSON object on stdout: $*"
import json, sys
text = open("out.txt").read()
assert text.endswith("\n") and text.count("\n") == 1 and isinstance(json.loads(text), dict), text[:200]
print("ok:", sys.argv[1], "->", text[:100].strip())
PY
}
# A command that needs what another one wrote comes after it; those of two names are run in a dry run as well.
seen=""
one 0 dino-curate run --input photos --output dry --dry-run
one 0 dino-curate ingest --input photos --output c --progress off
for stage in embed decontaminate export report; do one 0 dino-curate $stage --output c --progress off; done
one 0 dino-curate run --input photos --output c --progress off
one 0 dino-curate dedup --embeddings rows.npy --output d
one 0 dino-curate cluster --embeddings rows.npy --levels 4,2 --output d/k
one 0 dino-curate cluster --embeddings rows.npy --levels 4,2 --output d/dry --dry-run
one 0 dino-curate balance --clusters d/k/clusters.h5 --target 10 --output d/b
one 0 dino-curate explain blobs/0001 --output c
one 0 dino-curate list --output c
one 0 dino-curate list --output c --reason too_small --columns key,bytes
one 0 dino-curate lint c/shards/000000.tar
one 0 dino-pretrain train --config tiny --data photos --output run --steps 2 --batch 4 --warmup 0 --progress off
one 0 dino-pretrain train --config tiny --data photos --output dry --steps 2 --batch 4 --warmup 0 --dry-run
dino-pretrain train --config tiny --data photos --output broken --steps 1 --batch 4 --warmup 0 --std 1e-42,1e-42,1e-42 --progress off 2>err.txt || fail "a step that is not finite"
one 0 dino-pretrain replay broken/captures/step_00000001.h5
one 0 dino-pretrain bench --preset vit_micro --batch 2 --steps 1 --crops 2x32,2x16
one 0 dino-pretrain plan --preset vits14 --ranks 8 --batch 64 --strategy full --gflops 1000
one 0 dino-pretrain devices
one 0 dino-pretrain inspect run
one 0 dino-pretrain diff run run
one 0 dino-pretrain export --checkpoint run --output hf
one 0 dino-pretrain import --weights hf --output imported
one 1 dino-pretrain diff run imported
SIZE="--size 32 --progress off"
one 0 dino-eval features --weights run --data photos $SIZE --output train.h5
one 0 dino-eval features --weights run --data held $SIZE --output test.h5
one 0 dino-eval knn --train train.h5 --test test.h5 --k 1 --output results
one 0 dino-eval linear --train train.h5 --test test.h5 --epochs 1 --output results
one 0 dino-eval logreg --train train.h5 --test test.h5 --c 0.1,1 --output results
CLIP=$DINO_SOURCE/tests/golden/clip/transformers
cp -r held captioned
for file in captioned/*/*.ppm; do echo "a picture of $(basename "$(dirname "$file")")" >"${file%.ppm}.txt"; done
one 0 dino-eval zeroshot --clip "$CLIP" --data held --output results
one 0 dino-eval imagetext --clip "$CLIP" --data captioned --output results
one 0 dino-eval align --weights run --text-tower --data captioned --vocabulary "$CLIP" --size 32 --text-width 32 --text-depth 1 --text-heads 2 --context 16 --batch 4 --epochs 1 --output aligned
one 0 dino-eval fuse --weights run "$CLIP" --output fused
one 0 dino-eval pca --weights run --data held --size 32 --output results
one 0 dino-eval attention --weights run --data held --size 32 --output results
one 0 dino-eval retrieval --queries test.h5 --database train.h5 --output results
one 0 dino-eval copydetect --originals train.h5 --copies test.h5 --match label --output results
one 0 dino-eval robust --weights run --train train.h5 --data held --corruptions jpeg --severities 1 --output results
mkdir clips && cp -r photos clips/one && cp -r held clips/two
one 0 dino-eval video --weights run --train clips --test clips $SIZE --output results
one 0 dino-eval correspond --weights run --data held --limit 2 $SIZE --output results
one 0 dino-eval relevance --weights run --data held --entropy $SIZE --output relevance.h5
one 0 dino-eval sweep --weights run --train photos --test held --epochs 1 --k 1 $SIZE --output swept
one 0 dino-eval compare results results
one 0 dino-eval report --results results --output report.html
one 0 dino-eval bench --preset vit_micro --batch 2 --size 32
printf '[chain]\nrun = %s/chain\n[only]\ncommand = true\n' "$WORK" >chain.cfg
one 0 dino-jobs doctor
one 0 dino-jobs init made.cfg
one 0 dino-jobs render chain.cfg --output scripts
one 0 dino-jobs submit chain.cfg --dry-run
one 0 dino-jobs local chain.cfg
one 0 dino-jobs status chain

# A command that is not above has to be told here: these need masks or maps, which tests/cli/eval.sh, eval_images.sh and dense.sh have.
for program in curate pretrain eval jobs; do
  for command in $(dino-$program --complete | grep -v "^--"); do
    case "$seen eval.segment eval.depth eval.discover eval.coverage eval.propagate " in *" $program.$command "*) ;; *) fail "dino-$program $command has no line here" ;; esac
  done
done
finish
