#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Pictures that are too long, too large for the memory, white on nothing or without an end, in the three programs that read
# pictures: none stops a run, none is lost without a reason, and the memory stays bounded.
. "$(dirname "$0")/lib.sh"
export DINO_WATCHDOG_SECONDS=120 OMP_NUM_THREADS=1

"$DINO_PYTHON" - <<'PY'
import os, struct, zlib
import numpy as np

def chunk(t, d):
    return struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))

def png(path, rows, width, height, depth=8, colour=2, end=True):
    """`rows`: u8 [height, bytes a row]"""
    raw = np.zeros((height, rows.shape[1] + 1), np.uint8)
    raw[:, 1:] = rows
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(raw.tobytes(), 1)) + (chunk(b"IEND", b"") if end else b""))

def tiff(path, values):
    """Float32, one strip."""
    h, w = values.shape
    tags = [(256, 4, w), (257, 4, h), (258, 3, 32), (259, 3, 1), (262, 3, 1), (273, 4, 8 + 2 + 120 + 4), (277, 3, 1), (278, 4, h), (279, 4, 4 * w * h), (339, 3, 3)]
    with open(path, "wb") as f:
        f.write(b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in tags)
                + bytes(4) + values.astype("<f4").tobytes())

rng = np.random.default_rng(2)
def good(folder, n, end=True):
    y, x = np.mgrid[0:40, 0:48]
    a, b = rng.uniform(0.1, 0.9, 2)
    wave = (127 + 100 * np.sin(a * x + b * y + n))[..., None] * rng.uniform(0.4, 1, 3)
    png(f"{folder}/good{n}.png", wave.astype(np.uint8).reshape(40, -1), 48, 40, end=end)

for folder in ("thin", "big", "logos", "odd"):
    os.makedirs(folder)
for n in range(5):
    good("thin", n), good("big", n)
for name, w, h in (("tall", 1, 1_000_000), ("wide", 1_000_000, 1), ("tall2", 2, 60_000), ("wide2", 60_000, 2)):
    png(f"thin/{name}.png", rng.integers(0, 256, (h, 3 * w), dtype=np.uint8), w, h)
# 363 MB of pixels in 15 kB.
png("big/large.png", np.full((11_000, 1_375), 0x5a, np.uint8), 11_000, 11_000, 1, 0)
os.system("cp -r big scarce")
# GLib ends the process where its allocations fail: a GIF of 6000 x 5000 pixels of one colour, as long as its codes are.
def lzw(pixels):
    """Runs of 1, 2, 3, ... pixels of colour 0, each a code of its own, until the table is full."""
    bits, held, out = 0, 0, bytearray()
    def put(code, width):
        nonlocal bits, held
        held |= code << bits
        bits += width
        while bits >= 8:
            out.append(held & 255)
            held, bits = held >> 8, bits - 8
    while pixels > 0:
        put(4, 3 if not out and not bits else width)
        width, free, run = 3, 6, 1
        while pixels > 0 and free < 4096:
            run = min(run, pixels)
            put(0 if run == 1 else 4 + run, width)
            pixels, free = pixels - run, free + (run > 1 or free > 6)
            width += free == 1 << width and width < 12
            run += 1
    put(5, width)
    put(0, 7)
    return bytes(out)
codes = lzw(6000 * 5000)
with open("scarce/screen.gif", "wb") as f:
    f.write(b"GIF89a" + struct.pack("<HH", 6000, 5000) + bytes.fromhex("810000" "0a6428" "ff0000" "00ff00" "0000ff" "2c00000000")
            + struct.pack("<HH", 6000, 5000) + b"\0\2" + b"".join(bytes([len(codes[i : i + 255])]) + codes[i : i + 255] for i in range(0, len(codes), 255)) + b"\0;")
for n in range(6):
    a = np.full((32, 32, 2), 255, np.uint8)
    y, x = np.mgrid[0:32, 0:32]
    a[..., 1] = 255 * (np.hypot(x - 16 + n, y - 12 - n) < 4 + n)
    png(f"logos/logo{n}.png", a.reshape(32, -1), 32, 32, 8, 4)
good("odd", 7), good("odd", 8, end=False)
tiff("odd/metres.tif", np.linspace(-50, 4000, 40 * 48).reshape(40, 48))
PY

rows() { "$DINO_PYTHON" -c 'import h5py,sys; print(len(h5py.File(sys.argv[1])["keys"]))' "$1"; }
is() { [ "$2" = "$3" ] && ok "$1: $2" || fail "$1: $2 instead of $3"; }
# limited MIB command...: with so much address space; the address sanitizer reserves terabytes of it.
limited() { ([ -n "${ASAN_OPTIONS:-}" ] || ulimit -v $(($1 * 1024)); shift; "$@"); }
FEATURES="dino-eval features --weights raw-pixels --progress off"
TRAIN="dino-pretrain train --config $DINO_SHARE/recipes/tiny.cfg --batch 4 --steps 2 --warmup 1 --max-replaced 1 --progress off"

# -- long and thin: nothing is enlarged before it is cut
expect 0 '' limited 6000 $FEATURES --data thin --output thin.h5
is "rows of thin" "$(rows thin.h5)" 9
expect 0 '' limited 6000 $FEATURES --pad --data thin --output padded.h5
is "rows of thin, padded" "$(rows padded.h5)" 9
expect 0 '' limited 6000 dino-curate run --min-size 0 --max-aspect 0 --min-contrast 0 --input thin --output thin_out --dedup false --progress off
is "thin pictures kept" "$("$DINO_PYTHON" -c 'import json; print(json.load(open("thin_out/manifest.json"))["kept"])')" 9
expect 0 '' limited 6000 $TRAIN --data thin --output thin_run
expect 0 '' limited 6000 $TRAIN --pad --data thin --output thin_padded
is "thin pictures left out of the trainings" "$(cat err.txt thin_run/metrics.jsonl | grep -c 'left out')" 0

# -- more memory than a thread may take: a reason of its own, in every program
expect 0 'decode_memory' $FEATURES --decode-memory 256M --data big --output big.h5
is "rows beside the large picture" "$(rows big.h5)" 5
expect 0 '' $FEATURES --data big --output big_default.h5
is "rows under the default" "$(rows big_default.h5)" 6
expect 0 '' dino-curate run --min-size 0 --max-aspect 0 --min-contrast 0 --input big --output big_out --decode-memory 256M --progress off
is "dropped" "$("$DINO_PYTHON" -c 'import json; m=json.load(open("big_out/manifest.json")); print(m["records"], m["kept"], m["dropped"].get("decode_memory"))')" "6 5 1"
expect 0 '' dino-curate explain large --output big_out
grep -q 'dropped: decode_memory.*raise --decode-memory' out.txt && ok "explain names the option" || { fail "explain:"; cat out.txt; }
expect 0 'decode_memory' $TRAIN --decode-memory 256M --data big --output big_run
expect 64 'is not a size of 1M or more' $FEATURES --decode-memory 1 --data big --output never.h5
expect 64 'is not a size' dino-curate run --min-size 0 --max-aspect 0 --min-contrast 0 --input big --output never --decode-memory lots
expect 64 'is not a size' $TRAIN --decode-memory 3X --data big --output never

# -- the machine itself has no more: the same reason, never an abort
if [ -z "${ASAN_OPTIONS:-}" ]; then
  for ((limit = 400; limit < 8000; limit += 100)); do
    limited $limit $FEATURES --data logos --output little.h5 >/dev/null 2>&1 && break
  done
  heading "address space left" "exit code" "rows of 7" "left out"
  for more in 50 100 150 200 300 400 1500; do
    limited $((limit + more)) $FEATURES --data scarce --output scarce.h5 >out.txt 2>err.txt; rc=$?
    row "$more MiB" $rc "$(rows scarce.h5)" "$(grep -c 'skipped .*: decode_memory' err.txt)"
    [ $rc = 0 ] && [ $(($(rows scarce.h5) + $(grep -c 'skipped .*: decode_memory' err.txt))) = 7 ] || { fail "with $more MiB"; tail -n 4 err.txt; }
  done
  is "rows when there is enough" "$(rows scarce.h5)" 7
fi

# -- white on nothing: seen by all three alike
expect 0 '' $FEATURES --data logos --output logos.h5
is "different logos" "$("$DINO_PYTHON" -c 'import h5py, numpy as np; print(len(np.unique(h5py.File("logos.h5")["features"][()], axis=0)))')" 6
expect 0 '' $FEATURES --background 255,255,255 --data logos --output white.h5
is "the same on white" "$("$DINO_PYTHON" -c 'import h5py, numpy as np; print(len(np.unique(h5py.File("white.h5")["features"][()], axis=0)))')" 1
expect 0 '' dino-curate run --min-size 0 --max-aspect 0 --min-contrast 0 --input logos --output logos_out --dedup false --progress off
is "logos kept" "$("$DINO_PYTHON" -c 'import json; print(json.load(open("logos_out/manifest.json"))["kept"])')" 6

# -- what is kept though something is unusual about it says so
expect 0 '' dino-curate run --min-size 0 --max-aspect 0 --min-contrast 0 --input odd --output odd_out --dedup false --progress off
for pair in good8:end_marker_missing metres:scaled_by_measured_range; do
  expect 0 '' dino-curate explain "${pair%:*}" --output odd_out
  grep -q "note  *${pair#*:}" out.txt && ok "the note of ${pair%:*}" || { fail "no note ${pair#*:}:"; cat out.txt; }
done
is "notes in the ledger" "$("$DINO_PYTHON" -c '
import h5py
f = h5py.File("odd_out/ledger.h5"); names = [n.decode() if isinstance(n, bytes) else n for n in f["note"].attrs["names"]]
print(*sorted(names[c] for c in f["note"][()]))')" "end_marker_missing none scaled_by_measured_range"
finish
