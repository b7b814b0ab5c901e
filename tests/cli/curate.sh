#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# dino-curate over a folder with copies, broken files and leaks: the same bytes for 1, 2 and 3 ranks and after
# a SIGKILL, sums that add up, and the documented exit codes.
. "$(dirname "$0")/lib.sh"
export DINO_WATCHDOG_SECONDS=120 OMP_NUM_THREADS=1

"$DINO_PYTHON" - <<'PY'
import os, struct, zlib
import numpy as np

def png(path, a):
    h, w, _ = a.shape
    raw = b"".join(b"\0" + a[y].tobytes() for y in range(h))
    def chunk(t, d):
        return struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))
    header = struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b""))

def ppm(path, a):
    with open(path, "wb") as f:
        f.write(b"P6\n%d %d\n255\n" % (a.shape[1], a.shape[0]) + a.tobytes())

def picture(rng, side=64):
    a = np.full((side, side, 3), 255.0)
    y, x = np.mgrid[0:side, 0:side]
    for _ in range(7):
        cx, cy, rx, ry = rng.uniform(8, side - 8), rng.uniform(8, side - 8), rng.uniform(3, 18), rng.uniform(3, 18)
        a[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = rng.uniform(0, 235, 3)
    return a.astype(np.uint8)

rng = np.random.default_rng(1)
for c in ("in/cats", "in/dogs", "in/odd", "eval", "more"):
    os.makedirs(c)
pics = [picture(rng) for _ in range(90)]
for i, a in enumerate(pics):
    folder = ("cats", "dogs")[i % 2]
    if i % 3:
        png(f"in/{folder}/p{i:03d}.png", a)
    else:
        ppm(f"in/{folder}/p{i:03d}.ppm", a)
png("in/odd/equal.png", pics[0][:, ::-1])                                # only copied below
os.system("cp in/cats/p002.png in/odd/equal.png")
for i in range(10, 16):                                                  # twice the size: near-copies
    png(f"in/odd/big{i}.png", pics[i].repeat(2, 0).repeat(2, 1))
png("in/odd/brighter.png", np.clip(pics[20] * 1.05, 0, 255).astype(np.uint8))
ppm("in/odd/flat.ppm", np.full((64, 64, 3), 128, np.uint8))
ppm("in/odd/small.ppm", pics[3][:16, :16].copy())
ppm("in/odd/strip.ppm", pics[4][:8, :64].repeat(5, 0).repeat(20, 1)[:40, :1280].copy())
open("in/odd/text.jpg", "w").write("this is text\n")
open("in/odd/empty.png", "wb").close()
open("in/odd/cut.png", "wb").write(open("in/dogs/p001.png", "rb").read()[:200])
open("in/odd/huge.ppm", "wb").write(b"P6\n400000 400000\n255\nx")
broken = bytearray(open("in/dogs/p005.png", "rb").read()); broken[60] ^= 0x55
open("in/odd/broken.png", "wb").write(bytes(broken))
# Evaluation images: a brightened and enlarged copy of three inputs, and one that is new.
for k, i in enumerate((30, 31, 10)):
    png(f"eval/e{k}.png", np.clip(pics[i].repeat(2, 0).repeat(2, 1) * 1.03, 0, 255).astype(np.uint8))
png("eval/new.png", picture(np.random.default_rng(99)))
png("more/one.png", picture(np.random.default_rng(7)))
PY

SETTINGS="--input in --exclude eval --unit-records 8 --shard-records 20 --min-size 24 --max-aspect 8 --min-entropy 0.2 --target 60 --levels 8,2 --progress off"
expect 0 "" dino-curate run $SETTINGS --output one
expect 0 "" ranks 2 dino-curate run $SETTINGS --output two
same one two
expect 0 "export: complete, nothing to do" dino-curate run $SETTINGS --output two
same one two

# Stage by stage gives the same.
expect 0 "" dino-curate ingest $SETTINGS --output stages
expect 77 "embed" dino-curate decontaminate --output stages
expect 0 "" dino-curate embed --output stages
# How many pairs fit into memory is no setting of the folder: a later start may raise it.
expect 65 "more than 1 pairs" dino-curate decontaminate --output stages --max-pairs 1
for stage in embed decontaminate export report; do expect 0 "" dino-curate $stage --output stages; done
same one stages

# SIGTERM asks for an early, resumable stop.
dino-curate run ${SETTINGS/--unit-records 8/--unit-records 1} --output stopped >/dev/null 2>&1 &
job=$!
for _ in $(seq 2000); do [ -e stopped/work/ingest/unit_000002.h5 ] && break; sleep 0.002; done
kill -TERM "$job"; wait "$job"; rc=$?
[ "$rc" = 75 ] && ok "exit 75 after SIGTERM" || fail "exit $rc after SIGTERM"
expect 0 "were already done" dino-curate run ${SETTINGS/--unit-records 8/--unit-records 1} --output stopped
cmp -s one/shards/000000.tar stopped/shards/000000.tar && ok "the same shards after SIGTERM" || fail "other shards after SIGTERM"
# A kill that certainly falls into ingest: some units done, the rest not.
expect 0 "" dino-curate ingest $SETTINGS --output partial
rm -r partial/stages/ingest.json partial/stages/ingest.h5 partial/work/ingest/unit_000003.h5 partial/work/ingest/unit_000007.h5
expect 0 "work units were already done" ranks 2 dino-curate run $SETTINGS --output partial
same one partial
# A unit that lost rows, and embeddings of rows that are none.
expect 0 "" dino-curate ingest $SETTINGS --output damaged
"$DINO_PYTHON" - <<'PY'
import h5py
with h5py.File("damaged/work/ingest/unit_000002.h5", "r+") as f:
    values = f["copy"][:3]
    del f["copy"]
    f["copy"] = values
PY
# It is not used: the images are read again, to the same bytes.
expect 0 "damaged file: damaged/work/ingest/unit_000002.h5" ranks 2 dino-curate embed --output damaged
cmp -s one/embeddings.h5 damaged/embeddings.h5 && ok "no embeddings of a damaged unit" || fail "embeddings of a damaged unit"
rm -r damaged
expect 0 "" dino-curate ingest $SETTINGS --output damaged
expect 0 "" dino-curate embed --output damaged
"$DINO_PYTHON" -c 'import h5py; h5py.File("damaged/embeddings.h5", "r+")["row"][1] = 4000'
expect 65 "damaged curation: damaged/embeddings.h5" ranks 2 dino-curate decontaminate --output damaged

"$DINO_PYTHON" - <<'PY' || fail "invariants"
import json, tarfile
import h5py, numpy as np
m = json.load(open("one/manifest.json"))
assert m["records"] == m["kept"] + sum(m["dropped"].values()), m
assert m["kept"] == 60 == m["selected_with_multiplicity"]
with h5py.File("one/ledger.h5") as f:
    names = [n.decode() if isinstance(n, bytes) else n for n in f["reason"].attrs["names"]]
    key = [k.decode() for k in f["key"][:]]
    reason = dict(zip(key, (names[r] for r in f["reason"][:])))
    rep, sim, n = f["representative"][:], f["similarity"][:], len(key)
    assert n == m["records"] and key == sorted(key)
    for name in m["dropped"]:
        assert m["dropped"][name] == sum(r == name for r in reason.values()), name
    assert ((f["reason"][:] == 0) == (f["decision"][:] == 0)).all()
    for i, k in enumerate(key):
        if reason[k] in ("exact_duplicate", "hash_duplicate", "near_duplicate"):
            assert rep[i] >= 0 and rep[i] != i and sim[i] >= 0.95 - 1e-6, k
    assert f["cluster/level1"].shape == (n,) and f["blur"].shape == (n,)
    assert np.isnan(f["blur"][key.index("odd/text")])
    excluded = [e.decode() for e in f["excluded/key"][:]]
    leak = f["leak"][:]
expected = {"odd/text": "not_an_image", "odd/empty": "not_an_image", "odd/cut": "truncated", "odd/broken": "corrupt",
            "odd/huge": "too_large", "odd/flat": "contrast", "odd/small": "too_small", "odd/strip": "aspect",
            "odd/equal": "exact_duplicate"}
for k, r in expected.items():
    assert reason[k] == r, (k, reason[k])
# The enlarged copies have more pixels, so they stay and the originals go; but one leaks.
for i in range(10, 16):
    k = [x for x in key if x.endswith(f"/p{i:03d}")][0]
    assert reason[k] == "near_duplicate", (k, reason[k])
    assert reason[f"odd/big{i}"] != "near_duplicate"
assert reason["odd/big10"] in ("leak", "leak_group"), reason["odd/big10"]
assert reason["cats/p030"] == "leak" and reason["dogs/p031"] == "leak"
assert excluded[leak[key.index("cats/p030")]] == "e0" and "new" not in excluded
total, seen = 0, set()
classes = open("one/classes.txt").read().splitlines()
assert classes == ["cats", "dogs", "odd"]
for shard in m["shards"]:
    with tarfile.open("one/" + shard["path"]) as t:
        members = t.getmembers()
        images = [x for x in members if not x.name.endswith(".cls")]
        assert len(images) == shard["records"]
        for x in images:
            k = x.name.rsplit(".", 1)[0]
            assert reason[k] == "kept", k
            data = t.extractfile(x).read()
            assert data == open("in/" + x.name, "rb").read(), x.name
            assert classes[int(t.extractfile(k + ".cls").read())] == k.split("/")[0]
            seen.add(k)
        total += len(images)
assert total == m["kept"] and seen == {k for k in key if reason[k] == "kept"}
funnel = json.load(open("one/funnel.json"))
assert funnel["stages"][0]["in"] == n and funnel["stages"][-1]["out"] == m["kept"]
g = json.load(open("one/galleries.json"))
assert g["duplicates"] and g["leaks"]
with h5py.File("one/selection.h5") as f:
    s = f["selected"][:]
    assert len(s) == 60 and (np.diff(s) > 0).all()
with h5py.File("one/dedup.h5") as f:
    assert (f["edges/source"][:] < f["edges/target"][:]).all() and (f["edges/similarity"][:] >= 0.95 - 1e-6).all()
print("invariants hold")
PY

# What a person asks.
dino-curate explain odd/text --output one | grep -q "not_an_image" && ok "explain a text file" || fail "explain a text file"
dino-curate explain cats/p010 --output one | grep -q "represented by odd/big10" && ok "explain a near-copy" || fail "explain a near-copy"
dino-curate explain odd/big11 --output one | grep -q "stands for     dogs/p011" && ok "explain a representative" || fail "explain a representative"
dino-curate explain cats/p030 --output one --json | "$DINO_PYTHON" -c 'import json,sys; assert json.load(sys.stdin)["reason"] == "leak"' && ok "explain --json" || fail "explain --json"
expect 66 "unknown key" dino-curate explain no/such --output one
expect 0 "" dino-curate lint one/shards/000000.tar one/shards/000001.tar
head -c 3000 one/shards/000000.tar >cut.tar
expect 65 "" dino-curate lint cut.tar
grep -q "offset" "$WORK/out.txt" && ok "lint names an offset" || fail "lint names an offset"
expect 66 "" dino-curate lint no.tar
dino-curate run $SETTINGS --output two --json 2>/dev/null | "$DINO_PYTHON" -c 'import json,sys; m=json.load(sys.stdin); assert m["kept"]==60' && ok "--json" || fail "--json"

# The ledger as a table, as CSV and as JSON: the same rows, as many as the manifest says.
dino-curate list --output one --csv >all.csv 2>err.txt || fail "list --csv"
dino-curate list --output one --json >all.json 2>err.txt || fail "list --json"
dino-curate list --output one >table.txt 2>err.txt || fail "list"
[ "$(wc -l <table.txt)" = "$(wc -l <all.csv)" ] && head -n 1 table.txt | grep -q '^ *row *key *decision *reason' && ok "list" || { fail "list"; head -n 3 table.txt; }
dino-curate list --output one --reason near_duplicate,leak --columns key,representative,reason --csv >some.csv 2>err.txt || fail "list --reason"
dino-curate list --output stopped --columns sha256,row --csv >order.csv 2>err.txt && [ "$(head -n 1 order.csv)" = sha256,row ] && ok "columns in the order asked for" || fail "list --columns"
"$DINO_PYTHON" - <<'PY' && ok "list agrees with the manifest and the ledger" || fail "list against the manifest"
import collections, csv, json, h5py
m = json.load(open("one/manifest.json"))
rows = list(csv.DictReader(open("all.csv", newline="")))
j = json.load(open("all.json"))
assert len(rows) == m["records"] == j["count"] == len(j["rows"])
count = collections.Counter(r["reason"] for r in rows)
assert count.pop("kept") == m["kept"] and count == m["dropped"], (count, m["dropped"])
assert [r["key"] for r in rows] == [r["key"] for r in j["rows"]] and list(rows[0]) == j["columns"]
with h5py.File("one/ledger.h5") as f:
    assert [int(r["bytes"]) for r in rows] == list(f["bytes"][:])
    assert [r["sha256"] for r in rows] == list(f["sha256"].asstr()[:])
    assert [r["cluster/level1"] for r in j["rows"]] == list(f["cluster/level1"][:])
    names = f["coding"].attrs["names"]
    assert [r["coding"] for r in rows] == [names[c] for c in f["coding"][:]]
    near = lambda a, b: abs(a - b) <= 1e-6 * abs(b)
    assert all(r["blur"] is None or near(r["blur"], x) for r, x in zip(j["rows"], f["blur"][:]))
text = next(r for r in j["rows"] if r["key"] == "odd/text")
assert text["blur"] is None and text["message"] and text["width"] == 0, text
assert next(r for r in rows if r["key"] == "odd/text")["blur"] == ""
leak = next(r for r in j["rows"] if r["key"] == "cats/p030")
assert leak["leak"] == "e0" and leak["reason"] == "leak"
some = list(csv.DictReader(open("some.csv", newline="")))
assert list(some[0]) == ["key", "representative", "reason"] and len(some) == m["dropped"]["near_duplicate"] + m["dropped"]["leak"]
assert m["filters"] == {"min-size": 24, "max-aspect": 8, "min-contrast": 2, "min-blur": 0, "min-entropy": 0.2}, m["filters"]
PY
expect 64 "--reason: 'near_duplicat' is none of them; did you mean near_duplicate?" dino-curate list --output one --reason near_duplicat
expect 64 "--columns: 'heigth' is none of them; did you mean height?" dino-curate list --output one --columns key,heigth
expect 64 "--columns: 'zzzzzzzz' is none of them; there are row, key," dino-curate list --output one --columns zzzzzzzz
expect 64 "--csv: it excludes --json" dino-curate list --output one --csv --json
expect 66 "no such folder" dino-curate list --output nothing
expect 64 "--output" dino-curate list
mkdir -p begun; expect 77 "ingest is not complete" dino-curate list --output begun
expect 74 "cannot write" sh -c 'dino-curate list --output one --csv >/dev/full'
expect 74 "cannot write" sh -c 'dino-curate list --output one --json >/dev/full'
cp -r one bent; "$DINO_PYTHON" -c 'b=bytearray(open("bent/ledger.h5","rb").read()); b[len(b)//2]^=4; open("bent/ledger.h5","wb").write(b)'
expect 65 "bent/ledger.h5" dino-curate list --output bent --csv
[ -s "$WORK/out.txt" ] && fail "rows of a damaged ledger" || ok "no rows of a damaged ledger"
# Names that need quotes, and those that would not be names on a terminal.
mkdir quoted; cp in/cats/p000.ppm 'quoted/a, "b".ppm'; cp in/dogs/p001.png $'quoted/new\nline\e[31m.png'
expect 0 "" dino-curate run --input quoted --output quoted_out --dedup false --progress off
dino-curate list --output quoted_out --columns key,row --csv 2>err.txt >quoted.csv
printf 'key,row\n"a, ""b""",0\nnew\\x0aline\\x1b[31m,1\n' | cmp - quoted.csv && ok "quotes in CSV" || { fail "quotes in CSV"; cat quoted.csv; }

# The curated folder, and a second input beside it, are inputs again.
expect 0 "" dino-curate run --input one more --output again --progress off
"$DINO_PYTHON" -c 'import json; m=json.load(open("again/manifest.json")); assert m["records"]==61 and len(m["inputs"])==2, m' || fail "curated folder as input"

# Given embeddings: one row per input image.
"$DINO_PYTHON" -c 'import numpy as np; r=np.random.default_rng(0); e=r.normal(size=(61,8)).astype("f4"); e[5]=e[4]; np.save("e.npy",e); np.save("short.npy",e[:9])'
expect 0 "" ranks 2 dino-curate run --input one more --embeddings e.npy --output given --progress off
"$DINO_PYTHON" -c 'import json; m=json.load(open("given/manifest.json")); assert m["dropped"]=={"near_duplicate":1}, m' || fail "given embeddings"
expect 65 "9 rows for 61 input images" dino-curate run --input one more --embeddings short.npy --output given2

# What a person gets wrong.
expect 64 "inputs changed" dino-curate run ${SETTINGS/--input in/--input more} --output one
expect 64 "inputs changed" ranks 2 dino-curate run ${SETTINGS/--input in/--input more} --output one
expect 0 "threshold 0.95 -> 0.9: redoing dedup, decontaminate, balance, export, report" dino-curate run $SETTINGS --threshold 0.9 --output one --dry-run
same two one
expect 64 "--output" dino-curate run --input in
expect 64 "input" dino-curate run --output x
expect 64 "rule" dino-curate run --input in --output x --rule nearest
expect 66 "nowhere" dino-curate run --input nowhere --output x1
expect 66 "nowhere" ranks 2 dino-curate run --input nowhere --output x2
expect 66 "no such folder" dino-curate embed --output nothing
expect 65 "too few" dino-curate run --input in --target 500 --output x3
expect 65 "no image found" dino-curate run --input "$WORK/given/stages" --output x4
cp in/cats/p000.ppm in/cats/p999.ppm
expect 65 "input changed: in: cats/p999.ppm was not there" dino-curate run $SETTINGS --output one
rm in/cats/p999.ppm
expect 0 "dry run" dino-curate run $SETTINGS --output dry --dry-run
[ -e dry ] && fail "--dry-run wrote something" || ok "--dry-run writes nothing"
expect 0 "" dino-curate ingest --config "$DINO_SHARE/recipes/curate_demo.cfg" --input in --exclude eval --output recipe --progress off
finish
