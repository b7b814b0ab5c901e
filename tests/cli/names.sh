#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Names, keys and sidecars as they come: what lint says of a tar, and what a curation makes of it.
. "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1 DINO_DATA=$WORK/cache
"$DINO_PYTHON" -c 'import h5py, numpy' 2>/dev/null || exit 77

cat >make.py <<'PY'
import gzip, io, os, random, tarfile
rng = random.Random(3)
def ppm(n=24):
    a, b, c = (rng.uniform(0.05, 0.9) for _ in range(3))
    import math
    px = bytes(int(127 + 120 * math.sin(a * x * (1 + ch) + b * y + c * ch * 9)) for y in range(n) for x in range(n) for ch in range(3))
    return b"P6\n%d %d\n255\n" % (n, n) + px
def tar(path, members, format=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=format) as t:
        for m in members:
            name, data, kw = (*m, {})[:3]
            ti = tarfile.TarInfo(name)
            for k, v in kw.items(): setattr(ti, k, v)
            if "size" not in kw: ti.size = len(data)
            t.addfile(ti, io.BytesIO(data))
    return path
I = ppm
good = [("a/1.ppm", I()), ("a/1.cls", b"0"), ("a/2.ppm", I()), ("a/2.json", b"{}"), ("a/2.txt", b"")]
os.makedirs("lint"); os.chdir("lint")
tar("good.tar", good)
tar("maps.tar", good + [("a/3.ppm", I()), ("a/3.depth", b"P5\n1 1\n255\nx"), ("a/3.seg.ppm", I())])
tar("hardlink.tar", good + [("b.ppm", b"", {"type": tarfile.LNKTYPE, "linkname": "a/1.ppm"})])
tar("symlink.tar", good + [("b.ppm", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})])
tar("device.tar", good + [("b.ppm", b"", {"type": tarfile.CHRTYPE})])
tar("dotdot.tar", good + [("x/../../b.ppm", I())])
tar("absolute.tar", good + [("/b.ppm", I())])
tar("control.tar", good + [("b\x1b[2J\n.ppm", I())])
tar("latin1.tar", good + [("b\udce4.ppm", I())])
tar("twice.tar", good + [good[0]])
tar("apart.tar", good + [("b.ppm", I()), ("a/1.json", b"{}")])
tar("orphan.tar", good + [("b.json", b"{}")])
tar("dots.tar", good + [("a/0.05.ppm", I())])
tar("double.tar", good + [("b.jpg.ppm", I())])
tar("noname.tar", good + [("photo.dat", I())])
tar("notimage.tar", good + [("b.jpg", b"<html>")])
tar("hiddenimage.tar", good + [("a/1.txt", I())])
tar("empty.tar", good + [("b.ppm", b"")])
tar("twoimages.tar", good + [("a/1.png", I())])
tar("desktop.tar", good + [("._b.ppm", b"\0\5\x16\7")])
tar("longgnu.tar", good + [("x" * 5000 + ".ppm", I())])
tar("longpax.tar", good + [("y" * 5000 + ".ppm", I())], tarfile.PAX_FORMAT)
tar("sidecar.tar", good + [("a/1.npy", bytes((16 << 20) + 1))])
whole = open("good.tar", "rb").read()
open("joined.tar", "wb").write(whole + open("dots.tar", "rb").read())
open("behind.tar", "wb").write(whole + b"more")
open("cut.tar", "wb").write(whole[:2000])
broken = bytearray(whole); broken[512 + 2048 + 3] ^= 1
open("checksum.tar", "wb").write(broken)
open("gzip.tar.gz", "wb").write(gzip.compress(whole))
os.system("printf x >s; truncate -s 100000 s; tar --sparse --format=gnu -cf sparse.tar s; rm s")
os.chdir("..")
# ---- what a curation makes of odd names
tar("odd.tar", [("../../up.ppm", I()), ("../../up.json", b'{"a":1}'), ("/root.ppm", I()), ("new\nline.ppm", I()), ("\x1b[31mred.ppm", I()),
                ("latin\udce4.ppm", I()), ("v1.0_A.ppm", I()), ("v1.0_a.ppm", I()), ("v1.0_a.CLS", b"1"), ("v1.0_A.cls", b"0"),
                ("v1.0_a.Weird Ext!", b"w"), ("z" * 300_000 + ".ppm", I()), ("lonely.json", b"{}"), ("odd.depth", b"x")])
os.makedirs("folders")
for k in ("7", "007", "up"):
    os.makedirs(f"folders/{k}")
    for i in range(2): open(f"folders/{k}/p.{i}.ppm", "wb").write(I())
open("folders/7/without", "wb").write(I()); open("folders/notes.md", "w").write("x")
os.makedirs("parts/train/a"); os.makedirs("parts/val/b")
open("parts/train/a/x.ppm", "wb").write(I()); open("parts/val/b/y.ppm", "wb").write(I())
tar("plain.tar", [("k/1.5.ppm", I()), ("k/1.5.json", b"{}"), ("k/2.ppm", I())])
open("plain.tgz", "wb").write(gzip.compress(open("plain.tar", "rb").read()))
PY
"$DINO_PYTHON" make.py || { fail "inputs"; finish; }

heading "tar" "lint says" "exit" "offset"
linted() { # NAME CODE TEXT
  dino-curate lint "lint/$1" >out.txt 2>err.txt; local rc=$? line
  line=$(grep -F -- "$3" out.txt | head -1)
  row "$1" "${line#*: offset *: }" "$rc" "$(sed -n 's/.*: offset \([0-9]*\):.*/\1/p' <<<"$line")"
  [ "$rc" = "$2" ] || fail "lint $1: exit $rc"
  [ -z "$3" ] || [ -n "$line" ] || { fail "lint $1: no '$3'"; head -3 out.txt; }
  LC_ALL=C grep -qP '[\x00-\x08\x0b-\x1f\x7f]' out.txt && fail "lint $1: control characters on the terminal"
}
linted good.tar 0 ""
linted maps.tar 0 ""
linted hardlink.tar 65 "hard link b.ppm to a/1.ppm"
linted symlink.tar 65 "symbolic link b.ppm"
linted device.tar 65 "device b.ppm"
linted sparse.tar 65 "sparse member s"
linted joined.tar 65 "joined archives"
linted behind.tar 65 "other data behind the end marker"
linted gzip.tar.gz 65 "offset 0: the file is compressed (gzip)"
linted double.tar 65 "double extension: b.jpg.ppm"
linted dotdot.tar 65 "leads out of the folder (..): x/../../b.ppm"
linted absolute.tar 65 "the name is absolute: /b.ppm"
linted control.tar 65 'control characters or is not UTF-8: b\x1b[2J\x0a.ppm'
linted latin1.tar 65 'is not UTF-8: b\xe4.ppm'
linted twice.tar 65 "the name occurs twice: a/1.ppm"
linted apart.tar 65 "the key comes back after another: a/1"
linted orphan.tar 65 "no image for the key of b.json"
linted dots.tar 65 "take 0 for it: a/0.05.ppm"
linted noname.tar 65 "the content is ppm: photo.dat"
linted notimage.tar 65 "the content is of none: b.jpg"
linted hiddenimage.tar 65 "the content is ppm: a/1.txt"
linted empty.tar 65 "the member is empty: b.ppm"
linted twoimages.tar 65 "a second image of the same key: a/1.png"
linted desktop.tar 65 "a file of the desktop: ._b.ppm"
linted longgnu.tar 65 "the name has 5004 bytes"
linted longpax.tar 65 "the name has 5004 bytes"
linted sidecar.tar 65 "a sidecar of 16777217 bytes"
linted cut.tar 65 "truncated member"
linted checksum.tar 65 "bad header checksum"
dino-curate lint lint/orphan.tar --json >lint.json
"$DINO_PYTHON" -c 'import json; f=json.load(open("lint.json"))["faults"]; assert len(f)==1 and f[0]["offset"]>0, f' && ok "lint --json" || fail "lint --json"

# -- a curation of odd names, and the same again beside folders
CURATE="dino-curate run --min-size 0 --dedup false --progress off --input"
expect 0 "the input is given twice" $CURATE odd.tar folders odd.tar --exact-duplicates false --output out
LC_ALL=C grep -qP '[\x00-\x08\x0b-\x1f\x7f]' err.txt && fail "control characters on the terminal"
expect 0 "" ranks 2 $CURATE odd.tar folders odd.tar --exact-duplicates false --output two
same out two
expect 0 "" dino-curate lint out/shards/000000.tar
"$DINO_PYTHON" - <<'PY' || fail "names in the ledger and the shards"
import h5py, json, re, tarfile
f = h5py.File("out/ledger.h5"); m = json.load(open("out/manifest.json"))
for c in ("key", "source", "path", "location", "format", "sha256", "exported"):
    info = h5py.check_string_dtype(f[c].dtype)
    assert info.length is None and info.encoding == "utf-8", c
key, exported = list(f["key"].asstr()[()]), list(f["exported"].asstr()[()])
names = f["reason"].attrs["names"]; reason = dict(zip(key, (names[r] for r in f["reason"][()])))
assert len(set(key)) == len(key) == m["records"] == 8 + 7 + 8, (len(key), m["records"])
for k in ("odd.tar/odd/../../up", "odd.tar/odd/new\\x0aline", "odd.tar/odd/\\x1b[31mred", "odd.tar/odd/latin\\xe4",
          "odd.tar/odd/v1.0_A", "odd.tar/odd/v1.0_a", "folders/7/p.0", "folders/007/p.0", "folders/7/without", "odd.tar~2/odd/v1.0_a"):
    assert reason[k] == "kept", k
assert m["dropped"] == {"bad_name": 2}, m["dropped"]
assert [i["passed_over"] for i in m["inputs"]] == [2, 1, 2], m["inputs"]
classes = open("out/classes.txt").read().splitlines()
assert classes == ["0", "007", "1", "7", "up"], classes
t = tarfile.open("out/shards/000000.tar"); members = {x.name: t.extractfile(x).read() for x in t.getmembers()}
assert len(members) == len(t.getmembers())
for n in members:
    assert not n.startswith("/") and not any(p.startswith(".") for p in n.split("/")), n
    assert not re.search(r"[\x00-\x1f\x7f\\]", n) and "." not in n.rsplit("/", 1)[-1].split(".", 1)[0], n
    assert len(n) < 255
assert sum(n.endswith(".ppm") for n in members) == m["kept"]
def cls(k): return classes[int(members[exported[key.index(k)]+ ".cls"])]
assert cls("odd.tar/odd/v1.0_a") == "1" and cls("odd.tar/odd/v1.0_A") == "0"
assert cls("folders/7/p.0") == "7" and cls("folders/007/p.1") == "007" and cls("folders/7/without") == "7"
assert sum(n.endswith(".cls") for n in members) == 4 + 7, sorted(members)
assert members[exported[key.index("odd.tar/odd/../../up")] + ".json"] == b'{"a":1}'
assert members[exported[key.index("odd.tar/odd/v1.0_a")] + ".weird_ext_"] == b"w"
print("the ledger and the shards agree")
PY
# by the key as it is shown, as it is, by the name in the shards, and that with its extension
for key in 'odd.tar/odd/new\x0aline' $'odd.tar/odd/new\nline' odd.tar/odd/new_line odd.tar/odd/new_line.ppm; do
  dino-curate explain "$key" --output out >out.txt 2>err.txt
  grep -qF 'key            odd.tar/odd/new\x0aline' out.txt && grep -q '^decision       kept' out.txt && ok "explain $(printf %q "$key")" || fail "explain $(printf %q "$key")"
done
dino-curate explain 'odd.tar/odd/\x1b[31mred' --output out | LC_ALL=C grep -qP '\x1b' && fail "explain prints escapes" || ok "explain prints no escapes"
expect 66 'unknown key: \x1b[2J' dino-curate explain $'\e[2J' --output out
# the classes of a curation are those of its inputs
dino-eval features --weights raw-pixels --data out --size 16 --resize 16 --output again.h5 --progress off 2>err.txt || fail "features of the curation"
"$DINO_PYTHON" -c '
import h5py; f = h5py.File("again.h5"); c = list(f.attrs["classes"]); l = dict(zip(f["keys"].asstr()[()], f["labels"][()]))
assert c == ["0", "007", "1", "7", "up"], c
assert c[l["000000/folders/007/p_0"]] == "007" and l["000000/odd.tar/odd/new_line"] == -1, l' && ok "classes come back" || fail "classes come back"

# -- a tar without classes gets none; a compressed one is the same data
expect 0 "" $CURATE plain.tar --output plain
[ "$(tar tf plain/shards/000000.tar | tr '\n' ' ')" = "plain/k/1_5.ppm plain/k/1_5.json plain/k/2.ppm " ] && [ ! -e plain/classes.txt ] && ok "no class is made up" || { fail "a made-up class"; tar tf plain/shards/000000.tar; }
expect 0 "" ranks 2 $CURATE plain.tgz --output tgz
cmp -s plain/shards/000000.tar tgz/shards/000000.tar && ok "plain.tgz is plain.tar" || fail "plain.tgz is not plain.tar"
# -- parts, marks of byte order
expect 0 "parts: train/, val/ are taken as parts of one data set" $CURATE parts --output parts_out
[ "$(cat parts_out/classes.txt | tr '\n' ' ')" = "a b " ] && ok "labels below train/ and val/" || fail "labels below train/ and val/"
printf '\xef\xbb\xbfdedup = false\r\nmin-size = 0\r\n' >bom.cfg; printf '\xff\xfed\0' >wide.cfg; printf '\xff\xfex\0' >wide.txt; printf '\xef\xbb\xbfparts/train/a/x.ppm\r\n' >bom.txt
expect 0 "" dino-curate run --config bom.cfg --input bom.txt --output bom --progress off
expect 64 "wide.cfg: it is UTF-16" dino-curate run --config wide.cfg --input parts --output wide
expect 65 "wide.txt: it is UTF-16" dino-curate run --input wide.txt --output wide
finish
