#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What users and disks get wrong, through the commands: the documented exit code, one error line that names the
# file or option and the cause, nothing on stdout, and no output that looks complete.
. "$(dirname "$0")/lib.sh"
export DINO_WATCHDOG_SECONDS=120 OMP_NUM_THREADS=1
MOUNTED=
trap '[ -z "$MOUNTED" ] || umount "$MOUNTED"; rm -rf "$WORK"' EXIT
RECIPE=$DINO_SHARE/recipes/tiny.cfg
N=0

# bad CODE TEXT... -- command...: every TEXT is in the error line. The word OUT in the command stands for a new
# output, below which nothing may be left but the lock and the copy of the error. KEEP=1 allows settings.
bad() {
  local code=$1 texts=() words=() text left rc; shift
  while [ "$1" != -- ]; do texts+=("$1"); shift; done; shift
  N=$((N + 1))
  words=("${@/#OUT/out$N}")
  "${words[@]}" >"$WORK/out.txt" 2>"$WORK/err.txt"; rc=$?
  [ "$rc" = "$code" ] || { fail "exit $rc instead of $code: $*"; tail -n 4 "$WORK/err.txt"; return; }
  [ -s "$WORK/out.txt" ] && { fail "stdout is not empty: $*"; head -c 200 "$WORK/out.txt"; return; }
  [ "$(grep -c '^dino-[a-z]*: error: ' "$WORK/err.txt")" = 1 ] || { fail "not one error line: $*"; tail -n 4 "$WORK/err.txt"; return; }
  grep -q '^dino-[a-z]*: error: [^:]*: .*: ' "$WORK/err.txt" || { fail "not 'what: which: why': $*"; tail -n 2 "$WORK/err.txt"; return; }
  for text in "${texts[@]}"; do
    grep '^dino-[a-z]*: error: ' "$WORK/err.txt" | grep -qF -- "$text" || { fail "no '$text' in the message of: $*"; grep error: "$WORK/err.txt"; return; }
  done
  left=$(find out$N* -type f ! -name .lock ! -path '*/errors/*' 2>/dev/null)
  [ -n "$left" ] && [ -z "${KEEP:-}" ] && { fail "left behind by $*: $left"; return; }
  ok "exit $code: $*"
}
DEDUP=(dino-curate dedup --threshold 0.9 --progress off --json --output OUT --embeddings)
TRAIN=(dino-pretrain train --config "$RECIPE" --progress off --steps 30 --output OUT --data)
FEATURES=(dino-eval features --size 32 --progress off --json --output OUT.h5)
BOTH=(mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2)

images data 24; images lab/train 40; images lab/test 20
train() { dino-pretrain train --config "$RECIPE" --data data --progress off --steps 30 --checkpoint-every 15 "$@"; }
train --output run >log.txt 2>&1 || { fail "training"; tail -n 5 log.txt; }
dino-curate run --input data --output curated --progress off 2>log.txt || fail "curation"
for part in train test; do
  dino-eval features --weights random:vit_micro --data lab/$part --size 32 --output $part.h5 --progress off 2>log.txt || fail "features"
done
dino-eval knn --train train.h5 --test test.h5 --output results --progress off 2>log.txt || fail "knn"
dino-pretrain export --checkpoint run --format hf --output hf 2>log.txt || fail "export"

# -- every command: an unknown option gets a suggestion, a recipe that is not there, a value out of range, a word
for program in dino-curate dino-pretrain dino-eval dino-jobs; do
  for command in $($program --complete); do
    case $command in -*) continue ;; esac
    bad 64 "--outputt" "did you mean --output?" -- $program $command --outputt x
    bad 66 "nowhere.cfg" -- $program $command --config nowhere.cfg
    bad 66 "data" "folder" -- $program $command --config data
    bad 64 "--threads" "-1" -- $program $command --threads -1
    bad 64 "--seed" "'1e3'" -- $program $command --seed 1e3
  done
  bad 64 "repport" -- $program repport
  bad 64 "--json" -- $program --json
done
printf 'seed = 1\nthreshhold = 0.9\n' >misspelt.cfg
bad 64 "misspelt.cfg:2" "threshhold" "did you mean --threshold?" -- "${DEDUP[@]}" x.npy --config misspelt.cfg
printf 'seed = 1\n\001\002 = 3\n' >binary.cfg
bad 64 "binary.cfg:2" "control characters" -- "${DEDUP[@]}" x.npy --config binary.cfg

# -- contradictory options
"$DINO_PYTHON" -c "import numpy as np; np.save('rows.npy', np.random.default_rng(0).normal(size=(50, 8)).astype('f4'))"
bad 64 "--warmup" "--steps 2" -- "${TRAIN[@]}" data --steps 2 --warmup 3
bad 64 "--global-size" -- "${TRAIN[@]}" data --global-size 33
bad 64 "--batch" -- "${BOTH[@]}" "${TRAIN[@]}" data --batch 1
bad 64 "--levels" -- dino-curate run --input data --levels 4,8 --target 5 --output OUT
bad 64 "--levels" -- dino-curate run --input data --levels 0 --target 5 --output OUT
bad 64 "--max-aspect" -- dino-curate run --input data --max-aspect 0.5 --output OUT
bad 64 "--levels" -- dino-curate cluster --embeddings rows.npy --levels 2,5 --output OUT
bad 64 "multiple of the patch side" -- "${FEATURES[@]}" --weights random:vit_micro --data lab/test --size 33

# -- paths that lead nowhere: nothing there, through a file, a dangling or looping link, a folder without content
echo text >file; ln -s nowhere dangling; ln -s loop loop; mkdir empty
for path in nowhere file/below dangling loop; do
  bad 66 "$path" -- "${DEDUP[@]}" $path
  bad 66 "$path" -- dino-curate run --progress off --json --output OUT --input $path
  bad 66 "$path" -- dino-curate run --progress off --json --output OUT --input data --exclude $path
  bad 66 "$path" -- "${TRAIN[@]}" $path
  bad 66 "$path" -- "${FEATURES[@]}" --weights raw-pixels --data $path
  bad 66 "$path" -- "${FEATURES[@]}" --weights $path --data lab/test
  bad 66 "$path" -- dino-eval knn --json --output OUT --train $path --test test.h5
  bad 66 "$path" -- dino-eval report --json --output OUT.html --results $path
  bad 66 "$path" -- dino-curate balance --target 3 --output OUT --clusters $path
  bad 66 "$path" -- dino-pretrain import --output OUT --weights $path
  bad 66 "$path" -- dino-pretrain inspect --json $path
  bad 66 "$path" -- dino-curate lint $path
  bad 66 "$path" -- dino-jobs local $path
  bad 66 "$path" -- dino-jobs status --json $path
done
bad 65 "empty" "it holds no file" -- dino-curate run --progress off --output OUT --input empty
bad 65 "empty" -- "${TRAIN[@]}" empty
bad 66 "empty" -- "${DEDUP[@]}" empty
bad 65 "file" -- "${TRAIN[@]}" file
bad 66 "nowhere" -- "${BOTH[@]}" dino-curate run --progress off --output OUT --input nowhere
bad 66 "nowhere" -- "${BOTH[@]}" "${TRAIN[@]}" nowhere
bad 66 "nowhere" -- "${BOTH[@]}" "${FEATURES[@]}" --weights raw-pixels --data nowhere
# A mistyped input does not become a setting that the next start must keep.
expect 66 "nowhere" dino-curate run --input nowhere --output again --progress off
expect 0 "" dino-curate ingest --input data --output again --progress off

# -- outputs that cannot be: a file, below a file, /proc, a broken link, a device, another kind of output
cp rows.npy ok.npy
for path in file file/below /proc/x dangling; do
  bad 74 "$path" -- dino-curate dedup --embeddings ok.npy --json --progress off --output $path
  bad 74 "$path" -- dino-curate run --input data --json --progress off --output $path
  bad 74 "$path" -- "${TRAIN[@]/#OUT/$path}" data
  bad 74 "$path" -- dino-eval knn --train train.h5 --test test.h5 --json --output $path
  bad 74 "$path" -- dino-pretrain import --weights hf --output $path
  bad 74 "$path" -- dino-pretrain export --checkpoint run --output $path
done
for path in file/x /proc/x; do
  bad 74 "${path%/x}" -- dino-eval features --weights raw-pixels --data lab/test --size 32 --json --output $path.h5
  bad 74 "${path%/x}" -- dino-eval report --results results --json --output $path.html
done
bad 74 "file" -- "${BOTH[@]}" dino-curate dedup --embeddings ok.npy --json --progress off --output file
mkdir empty.h5; bad 64 "empty.h5" "a folder" -- dino-eval features --weights raw-pixels --data lab/test --size 32 --json --output empty.h5
mkdir d.html; bad 64 "d.html" "a folder" -- dino-eval report --results results --json --output d.html
mkfifo pipe.h5; bad 64 "pipe.h5" "not a file" -- dino-eval features --weights raw-pixels --data lab/test --size 32 --output pipe.h5
find run curated results -type f -exec sha256sum {} + | sort >before.txt
for folder in run curated results; do
  bad 64 "$folder" "another --output" -- dino-curate dedup --embeddings ok.npy --json --progress off --output $folder
  bad 64 "$folder" "another --output" -- dino-curate cluster --embeddings ok.npy --levels 5 --progress off --output $folder
  [ $folder = curated ] || bad 64 "$folder" "another --output" -- dino-curate run --input data --progress off --output $folder
  [ $folder = run ] || bad 64 "$folder" "another --output" -- "${TRAIN[@]/#OUT/$folder}" data
  [ $folder = results ] || bad 64 "$folder" "another --output" -- dino-eval knn --train train.h5 --test test.h5 --output $folder
done
find run curated results -type f ! -path '*/errors/*' -exec sha256sum {} + | sort >after.txt
[ "$(diff before.txt after.txt | grep -vc '\.lock' )" -le 2 ] && ok "refused outputs are as they were" || { fail "a refused output was changed"; diff before.txt after.txt; }
expect 74 "standard output" bash -c 'dino-curate dedup --embeddings ok.npy --json --progress off --output to_full >/dev/full'
expect 74 "standard output" bash -c 'dino-curate --help >/dev/full'

# -- arrays
"$DINO_PYTHON" - <<'PY'
import struct
import numpy as np, h5py
x = np.load("ok.npy")
save = lambda name, a: np.save(name + ".npy", a)
save("doubles", x.astype("f8")); save("fortran", np.asfortranarray(x)); save("big_endian", x.astype(">f4")); save("whole", x.astype("i4"))
save("flat", x[0]); save("cube", x[None]); save("no_rows", x[:0]); save("no_width", x[:, :0])
for name, value in (("inf", np.inf), ("nan", np.nan)):
    y = x.copy(); y[7, 3] = value; save(name, y)
    with h5py.File(name + ".h5", "w") as f: f["features"] = y
data = open("ok.npy", "rb").read()
open("cut.npy", "wb").write(data[:-10]); open("cut_header.npy", "wb").write(data[:40]); open("blank.npy", "wb").close()
def header(shape, descr="<f4"):
    h = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    h += " " * ((64 - (10 + len(h) + 1) % 64) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(h)) + h.encode()
for name, shape in dict(huge="(4611686018427387904, 8)", negative="(-50, 8)", longer="(51, 8)", letters="(a, 8)").items():
    open(name + ".npy", "wb").write(header(shape) + x.tobytes())
open("objects.npy", "wb").write(header("(50, 8)", "|O") + x.tobytes())
import os
os.makedirs("mixed"); np.save("mixed/a.npy", x); np.save("mixed/b.npy", x[:, :7])
with h5py.File("ok.h5", "w") as f: f["features"] = x
with h5py.File("other.h5", "w") as f: f["vectors"] = x
with h5py.File("strings.h5", "w") as f: f["features"] = np.array([[b"a", b"b"]])
with h5py.File("flat.h5", "w") as f: f["features"] = x[0]
with h5py.File("packed.h5", "w") as f: f.create_dataset("features", data=x, chunks=(10, 8), compression="gzip")
data = open("ok.h5", "rb").read()
open("cut.h5", "wb").write(data[:len(data) // 2]); open("text.h5", "w").write("hello\n" * 100); open("blank.h5", "wb").close()
at = data.find(struct.pack("<QQ", 50, 8))          # the extents in the header of /features
assert at > 0
for name, dims in dict(huge=(1 << 61, 8), negative=((1 << 64) - 50, 8), longer=(5000, 8)).items():
    open(name + ".h5", "wb").write(data[:at] + struct.pack("<QQ", *dims) * 2 + data[at + 32:])
PY
for name in doubles fortran big_endian whole flat cube no_rows no_width inf nan cut cut_header blank huge negative longer letters objects; do
  bad 65 "$name.npy" -- "${DEDUP[@]}" $name.npy
done
bad 65 "row 7" "not finite" -- "${BOTH[@]}" "${DEDUP[@]}" nan.npy
bad 65 "mixed/b.npy" "mixed/a.npy" -- "${DEDUP[@]}" mixed
for name in other strings flat cut text blank huge negative longer inf nan; do
  bad 65 "$name.h5" -- "${DEDUP[@]}" $name.h5
  bad 65 "$name.h5" -- dino-eval knn --json --output OUT --test test.h5 --train $name.h5
  bad 65 "$name.h5" -- dino-curate balance --target 3 --output OUT --clusters $name.h5
done
bad 65 "cut.h5" -- "${BOTH[@]}" "${DEDUP[@]}" cut.h5
expect 0 "" "${DEDUP[@]/#OUT/packed}" packed.h5
# Every byte of the metadata damaged in turn: never a crash.
"$DINO_PYTHON" - <<'PY'
data = open("ok.h5", "rb").read()
for i in range(24):
    b = bytearray(data); at = 24 + 83 * i
    b[at:at + 4] = b"\xff\xff\xff\x7f"
    open(f"damaged{i:02}.h5", "wb").write(bytes(b))
PY
for file in damaged*.h5; do
  dino-curate dedup --embeddings $file --threshold 0.9 --progress off --output damaged >out.txt 2>err.txt; rc=$?
  [ $rc = 0 ] || [ $rc = 65 ] && [ -s out.txt ] && fail "stdout without --json"
  [ $rc = 0 ] || [ $rc = 65 ] || { fail "$file: exit $rc"; tail -n 2 err.txt; }
done
ok "24 damaged HDF5 files"
# A name that points far outside its heap: the HDF5 library crashes on it, the program does not.
"$DINO_PYTHON" - <<'PY'
import struct
data = bytearray(open("train.h5", "rb").read())
at = data.find(struct.pack("<IQ", len("blobs"), data.find(b"GCOL")))
assert at > 0
data[at + 12:at + 16] = struct.pack("<I", 1 << 28)
open("crash.h5", "wb").write(data[:-24])  # without its checksum, as another program writes it
PY
bad 65 "crash.h5" "the HDF5 library crashes at /" -- dino-eval knn --json --output OUT --train crash.h5 --test test.h5
bad 65 "crash.h5" "the HDF5 library crashes at /" -- "${BOTH[@]}" dino-eval knn --json --output OUT --train crash.h5 --test test.h5

# -- weights
"$DINO_PYTHON" - <<'PY'
import json, struct
raw = open("hf/model.safetensors", "rb").read()
size = struct.unpack("<Q", raw[:8])[0]
head, body = json.loads(raw[8:8 + size]), raw[8 + size:]
def write(name, change, tail=body):
    h = json.loads(json.dumps(head)); change(h)
    text = json.dumps(h).encode()
    open(name + ".safetensors", "wb").write(struct.pack("<Q", len(text)) + text + tail)
first = [k for k in head if k != "__metadata__"][0]
write("past_end", lambda h: h[first].update(data_offsets=[len(body), len(body) + 64]))
write("backwards", lambda h: h[first].update(data_offsets=[64, 0]))
write("negative", lambda h: h[first].update(data_offsets=[-64, 0]))
write("negative_shape", lambda h: h[first].update(shape=[-1]))
write("huge_shape", lambda h: h[first].update(shape=[1 << 62, 4]))
write("wrong_dtype", lambda h: h[first].update(dtype="I9"))
write("missing", lambda h: h.pop(first))
write("short", lambda h: None, body[:-100])
open("huge_header.safetensors", "wb").write(struct.pack("<Q", 1 << 62) + raw[8:])
open("cut_header.safetensors", "wb").write(raw[:100])
open("deep.safetensors", "wb").write(struct.pack("<Q", 200000) + b'{"a":' + b"[" * 199995)
open("blank.safetensors", "wb").close()
open("text.pth", "w").write("hello\n" * 10); open("blank.pth", "wb").close()
PY
for name in past_end backwards negative negative_shape huge_shape wrong_dtype missing short huge_header cut_header deep blank; do
  bad 65 "$name.safetensors" -- "${FEATURES[@]}" --data lab/test --weights $name.safetensors
done
bad 65 "text.pth" -- dino-pretrain import --output OUT --weights text.pth
bad 65 "blank.pth" -- dino-pretrain import --output OUT --weights blank.pth
bad 65 "short.safetensors" -- "${BOTH[@]}" "${FEATURES[@]}" --data lab/test --weights short.safetensors
cp -r hf hf_other; sed -i 's/"hidden_size": [0-9]*/"hidden_size": 128/' hf_other/config.json
bad 65 "hf_other" -- "${FEATURES[@]}" --data lab/test --weights hf_other
sed -i 's/"model_type": "[^"]*"/"model_type": "bert"/' hf_other/config.json
bad 65 "config.json" "bert" -- "${FEATURES[@]}" --data lab/test --weights hf_other

# -- checkpoints: of another model, of another recipe, of nothing
sed 's/^bottleneck = .*/bottleneck = 32/' "$RECIPE" >other.cfg
bad 64 "bottleneck" "run" -- dino-pretrain train --config other.cfg --data data --progress off --steps 30 --output run
KEEP=1 bad 65 "the model wants" -- dino-pretrain train --config other.cfg --data data --progress off --steps 30 --output OUT --resume run/checkpoints/step_00000030
KEEP=1 bad 66 "no such folder" -- "${TRAIN[@]}" data --resume run/checkpoints/step_00000099
KEEP=1 bad 65 "manifest.json" -- "${TRAIN[@]}" data --resume empty
cp -r run torn; truncate -s 1000 torn/checkpoints/*/rank_0000.h5
bad 66 "torn" -- "${FEATURES[@]}" --data lab/test --weights torn
bad 65 "bytes" -- dino-pretrain export --checkpoint torn/checkpoints/step_00000030 --output OUT
cp -r run bent; sed -i 's/"step": [0-9]*/"step": "x"/' bent/checkpoints/*/manifest.json
bad 65 "manifest.json" -- dino-pretrain inspect bent/checkpoints/step_00000030 --json
dino-eval features --weights raw-pixels --data lab/test --size 32 --output raw.h5 --progress off 2>log.txt
bad 64 "made by different models" -- dino-eval knn --train train.h5 --test raw.h5 --json --output OUT

# -- an upstream stage that is not complete
bad 77 "embed is not complete" -- dino-curate decontaminate --output again --json
bad 77 "embed is not complete" -- "${BOTH[@]}" dino-curate decontaminate --output again --json
bad 77 "again" "manifest.json" -- "${TRAIN[@]}" again
bad 77 "again" -- "${FEATURES[@]}" --weights raw-pixels --data again
bad 66 "nowhere" -- dino-curate embed --output nowhere --json

# -- tars: a broken one is passed over where others can be read, and is an error where it is all there is
"$DINO_PYTHON" - <<'PY'
import glob, io, os, tarfile
pictures = sorted(glob.glob("data/*/*.ppm"))[:6]
def tar(path, kind=tarfile.USTAR_FORMAT, names=None):
    with tarfile.open(path, "w", format=kind) as t:
        for i, p in enumerate(pictures): t.add(p, names[i] if names else os.path.basename(p))
tar("good.tar"); tar("pax.tar", tarfile.PAX_FORMAT, ["ü" * 120 + f"/{i}.ppm" for i in range(6)]); tar("gnu.tar", tarfile.GNU_FORMAT, ["n" * 150 + f"{i}.ppm" for i in range(6)])
data = open("good.tar", "rb").read()
def write(name, b): open(name + ".tar", "wb").write(bytes(b))
def header(change):
    b = bytearray(data[:512]); change(b)
    b[148:156] = b" " * 8; b[148:156] = b"%06o\0 " % sum(b)
    return bytes(b) + data[512:]
def field(at, value):
    def change(b): b[at:at + len(value)] = value
    return change
write("cut_header", data[:300]); write("cut_body", data[:2000]); write("blank", b""); write("text", b"hello\n" * 200)
write("bad_checksum", data[:148] + b"0000000\0" + data[156:])
write("huge_size", header(field(124, b"77777777777\0"))); write("negative_size", header(field(124, b"\xff" * 12)))
write("base256_size", header(field(124, b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7))); write("letters_size", header(field(124, b"zzzzzzzzzzz\0")))
write("zeros", b"\0" * 10240)
sparse = header(field(156, b"S")); write("sparse", sparse[:512] + data[512:])
def pax(record):
    h = bytearray(512); h[:3] = b"pax"; h[100:108] = b"0000644\0"; h[124:136] = b"%011o\0" % len(record); h[156:157] = b"x"; h[257:265] = b"ustar\x0000"
    h[148:156] = b" " * 8; h[148:156] = b"%06o\0 " % sum(h)
    return bytes(h) + record.ljust(512, b"\0")
write("pax_size", pax(b"30 size=99999999999999999999\n\n") + data); write("pax_broken", pax(b"999 path=x\n") + data)
os.makedirs("shards")
for name in "good", "cut_body", "bad_checksum": os.link(name + ".tar", f"shards/{name}.tar")
PY
for name in good pax gnu; do expect 0 "" dino-curate ingest --input $name.tar --output ok_$name --progress off; done
for name in cut_header blank text bad_checksum huge_size negative_size base256_size letters_size zeros pax_size pax_broken; do
  bad 65 "$name.tar" -- dino-curate run --progress off --json --output OUT --input $name.tar
  bad 65 "$name.tar" -- "${TRAIN[@]}" $name.tar
  dino-curate lint $name.tar >out.txt 2>err.txt; [ $? = 65 ] && grep -q "$name.tar: offset" out.txt && ok "lint $name.tar" || fail "lint $name.tar"
done
expect 0 "sparse" dino-curate ingest --input sparse.tar --output sparse --progress off
expect 0 "cut_body.tar: offset" dino-curate run --input shards --output from_shards --progress off
"$DINO_PYTHON" -c 'import json; m=json.load(open("from_shards/manifest.json")); assert m["records"]==6, m' || fail "records of good and broken shards"

# -- pictures of every kind, each with its outcome in the ledger
"$DINO_PYTHON" - "$DINO_SOURCE/tests/imaging/seeds" <<'PY'
import os, shutil, struct, sys, zlib
import numpy as np
seeds = sys.argv[1]
os.makedirs("odd")
for name in os.listdir(seeds):
    if name != "README.md": shutil.copy(f"{seeds}/{name}", "odd/" + name.replace(".", "_") + "." + name.split(".")[1])
def png(path, rows, w, h, depth, colour, extra=b"", crc=0):
    chunk = lambda t, d, x=0: struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d) ^ x)
    open(f"odd/{path}.png", "wb").write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0)) + extra + chunk(b"IDAT", zlib.compress(rows), crc) + chunk(b"IEND", b""))
rng = np.random.default_rng(3)
rows = lambda h, n: b"".join(b"\0" + rng.bytes(n) for _ in range(h))
png("gray16", rows(20, 40), 20, 20, 16, 0); png("rgb16", rows(20, 120), 20, 20, 16, 2); png("alpha", rows(20, 80), 20, 20, 8, 6); png("bits1", rows(20, 3), 20, 20, 1, 0)
png("bomb", rows(2, 2), 2**31 - 1, 2**31 - 1, 8, 0); png("wide", rows(2, 2), 400000, 400000, 8, 2); png("nothing", rows(1, 1), 0, 0, 8, 0); png("crc", rows(20, 60), 20, 20, 8, 2, crc=1)
jpeg = open(f"{seeds}/rgb.jpg", "rb").read()
def write(name, b): open("odd/" + name, "wb").write(bytes(b))
write("cut.jpg", jpeg[:600]); write("cut_progressive.jpg", open(f"{seeds}/progressive.jpg", "rb").read()[:500]); write("only_start.jpg", jpeg[:3])
at = jpeg.find(b"\xff\xc0"); b = bytearray(jpeg); b[at + 5:at + 9] = b"\xff\xff\xff\xff"; write("bomb.jpg", b)
b = bytearray(jpeg); b[at + 4] = 12; write("bits12.jpg", b)
b = bytearray(jpeg); b[at + 5:at + 9] = b"\0\0\0\0"; write("no_size.jpg", b)
for name in ("animated.gif", "lossy.webp", "lzw.tif", "rgb.avif"):
    data = open(f"{seeds}/{name}", "rb").read(); write("cut_" + name, data[:len(data) // 2])
write("text.jpg", b"this is text\n"); write("html.png", b"<html><body>404 Not Found</body></html>"); write("blank.png", b""); write("zeros.jpg", b"\0" * 5000)
write("huge.ppm", b"P6\n400000 400000\n255\nx"); write("cut.ppm", b"P6\n40 48\n255\nxyz"); write("letters.ppm", b"P6\nx y\n255\nxyz")
os.makedirs("odd/folder.jpg"); os.symlink("nowhere", "odd/dangling.jpg")
PY
expect 0 "" dino-curate ingest --input odd --output odd_out --hash-duplicates false --exact-duplicates false --progress off
expect 0 "" "${BOTH[@]}" dino-curate run --min-size 0 --min-contrast 0 --input odd --output odd_run --progress off
"$DINO_PYTHON" - <<'PY' || fail "outcomes of odd pictures"
import h5py, json
with h5py.File("odd_run/ledger.h5") as f:
    names = [n.decode() if isinstance(n, bytes) else n for n in f["reason"].attrs["names"]]
    got = {k.decode(): names[r] for k, r in zip(f["key"][:], f["reason"][:])}
    size = {k.decode(): (w, h) for k, w, h in zip(f["key"][:], f["width"][:], f["height"][:])}
m = json.load(open("odd_run/manifest.json"))
assert m["records"] == m["kept"] + sum(m["dropped"].values()) == len(got), m
want = {"bomb": "too_large", "wide": "too_large", "nothing": "corrupt", "crc": "corrupt", "only_start": "truncated", "bits12": "unsupported",
        "no_size": "corrupt", "text": "not_an_image", "html": "not_an_image", "blank": "not_an_image", "zeros": "not_an_image", "huge": "too_large", "letters": "corrupt"}
decoded = ("kept", "near_duplicate", "exact_duplicate", "hash_duplicate")
for key, reason in got.items():
    stem = key.split("/")[-1].split(".")[0].split("~")[0]
    print(f"{key:28} {reason}")
    if stem in want and not key.startswith("bomb"):
        assert reason == want[stem], (key, reason, want[stem])
    elif stem.startswith("cut"):
        assert reason in ("truncated", "corrupt", "unsupported"), (key, reason)
    elif "." not in key and stem not in ("bomb",):
        assert reason in decoded + ("unsupported",) if any(x in key for x in ("avif", "heic", "jxl", "jp2", "gif", "tif", "webp")) else decoded, (key, reason)
assert size["exif6_jpg"] == (32, 40), size["exif6_jpg"]      # turned upright
PY
expect 0 "" dino-eval features --weights raw-pixels --data odd --size 32 --output odd.h5 --progress off
mkdir broken; cp odd/text.jpg odd/cut.jpg odd/huge.ppm broken
bad 65 "none of 3 images could be decoded" -- "${FEATURES[@]}" --weights raw-pixels --data broken
KEEP=1 bad 65 "all 3 images were dropped" -- dino-curate run --input broken --output OUT --json --progress off
KEEP=1 bad 65 "broken" -- "${TRAIN[@]}" broken

# -- results and chains
mkdir torn_results; printf '{"task":"knn"}\n' >torn_results/results.jsonl
bad 65 "torn_results/results.jsonl:1" -- dino-eval report --results torn_results --json --output OUT.html
bad 65 "torn_results/results.jsonl:1" -- dino-eval knn --train train.h5 --test test.h5 --json --output torn_results
echo '[1, 2' >curated_bad.json; cp -r curated curated2; cp curated_bad.json curated2/manifest.json
bad 65 "curated2/manifest.json" -- "${TRAIN[@]}" curated2
bad 65 "curated2/manifest.json" -- dino-eval report --results results --curation curated2 --json --output OUT.html
mkdir chain; echo '{"schema": 3}' >chain/chain.json
bad 65 "chain/chain.json" -- dino-jobs status chain --json
printf '[chain]\nrun = here\n[a]\nprogrm = x\n' >bad.cfg
bad 64 "bad.cfg:4" "did you mean program?" -- dino-jobs render bad.cfg --output OUT
bad 64 "bad.cfg:4" -- dino-jobs local bad.cfg --json
bad 64 "bad.cfg:4" -- dino-jobs submit bad.cfg --json
finish
