#!/usr/bin/env bash
# Weights on the command line: --heads and --which wherever weights are read, what is said about weights that are refused, and how a hub's folder wants its pixels.
. "$DINO_SOURCE/tests/cli/lib.sh"
export OMP_NUM_THREADS=1
images data 6

# write NAME [key=value]: two blocks of width 96 (three heads, which no tensor tells), in a file of its own.
cat >make.py <<'PY'
import numpy as np
from backbone import backbone, save

bare = backbone()
save("bare.safetensors", bare)
save("told.safetensors", bare, {"heads": "3"})
save("both.safetensors", {**{"student." + k: v for k, v in backbone(1).items()}, **{"teacher." + k: v for k, v in bare.items()}})
save("extra.safetensors", {**bare, "blocks.0.attn.q_norm.weight": np.ones(32, "f4")})
save("head.safetensors", {**bare, "head.weight": np.ones((5, 96), "f4")})
open("pointer.pth", "w").write("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1\n")
PY
PYTHONPATH=$DINO_SOURCE/tests/cli PYTHONDONTWRITEBYTECODE=1 "$DINO_PYTHON" make.py || { fail "make.py"; finish; }

features() { dino-eval features --data data --size 16 --progress off "$@"; }
# agree A B, differ A B: their features.
compare() { "$DINO_PYTHON" -c 'import h5py, sys; a, b = (h5py.File(f)["features"][:] for f in sys.argv[1:]); sys.exit(not (a == b).all())' "$1" "$2"; }
agree() { compare "$1" "$2" && ok "$1 and $2 agree" || fail "$1 and $2 differ"; }
differ() { compare "$1" "$2" && fail "$1 and $2 agree" || ok "$1 and $2 differ"; }

expect 65 "give it with --heads" features --weights bare.safetensors --output x.h5
expect 64 "which 5 heads do not divide" features --weights bare.safetensors --heads 5 --output x.h5
expect 0 "" features --weights bare.safetensors --heads 3 --output bare.h5
expect 0 "" features --weights told.safetensors --output told.h5
expect 64 "says that it has 3 heads" features --weights told.safetensors --heads 4 --output x.h5
agree bare.h5 told.h5
expect 0 "" features --weights bare.safetensors --heads 4 --output four.h5
differ bare.h5 four.h5
expect 0 "1 tensor that no backbone needs passed over: head.weight" features --weights head.safetensors --heads 3 --output head.h5
agree bare.h5 head.h5
expect 65 "blocks.0.attn.q_norm.weight [32] is a part that this model does not have" features --weights extra.safetensors --heads 3 --output x.h5
expect 65 "git lfs pull" features --weights pointer.pth --output x.h5
[ -e x.h5 ] && fail "a refused file left an output"

# Two networks in one file.
expect 0 "" features --weights both.safetensors --heads 3 --output teacher.h5
agree bare.h5 teacher.h5
expect 0 "" features --weights both.safetensors --heads 3 --which student --output student.h5

# Import and export carry the heads on.
expect 65 "give it with --heads" dino-pretrain import --weights bare.safetensors --output run
expect 0 "" dino-pretrain import --weights bare.safetensors --heads 3 --output run
expect 64 "says that it has 3 heads" features --weights run --heads 4 --output x.h5
for format in hub hf; do
  expect 0 "" dino-pretrain export --checkpoint run --format $format --output $format
  cp $format/model.safetensors $format.safetensors
  grep -aq '"heads":"3"' $format.safetensors || fail "$format has no heads in its metadata"
  expect 0 "" features --weights $format.safetensors --output $format.h5
  agree bare.h5 $format.h5
done
expect 0 "" dino-pretrain export --checkpoint both.safetensors --which student --heads 3 --format hub --output student
expect 0 "" features --weights student --output student2.h5
agree student.h5 student2.h5

# Every other command that reads weights.
expect 65 "give it with --heads" dino-eval attention --weights bare.safetensors --data data --size 16 --images 1 --output R
expect 0 "" dino-eval attention --weights bare.safetensors --heads 3 --data data --size 16 --images 1 --output R
expect 0 "" dino-eval sweep --weights bare.safetensors --heads 3 --train data --test data --size 16 --tasks knn --k 1 --floors false --output S
expect 65 "give it with --heads" dino-curate run --input data --embedding bare.safetensors --image-size 16 --output C1
expect 0 "" dino-curate run --input data --embedding bare.safetensors --heads 3 --image-size 16 --output C2

# A hub's folder says how its pixels are prepared, whether the folder or the file in it is named.
file=hf/preprocessor_config.json
echo '{"do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 0.00392156862745098}' >$file
expect 0 "" features --weights hf --output half.h5
expect 0 "" features --weights hf/model.safetensors --output half2.h5
agree half.h5 half2.h5
differ half.h5 hf.h5
echo '{"do_rescale": true, "rescale_factor": 0.00784313}' >$file
expect 65 "rescale_factor" features --weights hf --output x.h5
cp pointer.pth $file
expect 65 "git lfs pull" features --weights hf --output x.h5

finish
