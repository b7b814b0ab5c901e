#!/usr/bin/env bash
# dino-curate dedup, cluster and balance as a user drives them: against numpy, at several ranks and threads, with bad inputs.
. "$(dirname "$0")/lib.sh"
command -v dino-curate >/dev/null || { echo "dino-curate is not built"; exit 77; }
"$DINO_PYTHON" -c 'import numpy, h5py' 2>/dev/null || { echo "needs python3-numpy and python3-h5py"; exit 77; }

"$DINO_PYTHON" - <<'PY'
import numpy as np
rng = np.random.default_rng(7)
centres = rng.normal(size=(25, 8))
low = centres[rng.integers(0, 25, 1700)] + 0.5 * rng.normal(size=(1700, 8))
rows = low @ rng.normal(size=(8, 64)) / 8 + 0.05 * rng.normal(size=(1700, 64))
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
copies = np.repeat(rows[:100], 3, axis=0) + rng.normal(size=(300, 64)) * 0.02
rows = np.concatenate([rows, copies]).astype(np.float32)[rng.permutation(2000)]
np.save("rows.npy", rows)
np.save("half.npy", rows.astype(np.float16))
bad = rows.copy(); bad[1234, 5] = np.nan
np.save("nan.npy", bad)
raw = open("rows.npy", "rb").read()
open("cut.npy", "wb").write(raw[:-100])
PY

dedup() { dino-curate dedup --embeddings rows.npy --threshold 0.95 --progress off --seed 1 "$@"; }
OMP_NUM_THREADS=1 dedup --output one --json >one.json || fail "dedup"
"$DINO_PYTHON" - <<'PY' && ok "edges equal numpy's" || fail "edges differ from numpy's"
import json, h5py, numpy as np
x = np.load("rows.npy").astype(np.float64)
x /= np.linalg.norm(x, axis=1, keepdims=True)
cosine = x @ x.T
i, j = np.nonzero(np.triu(cosine >= 0.95, 1))
f = h5py.File("one/dedup.h5")
source, target, similarity = (f["edges/" + n][:] for n in ("source", "target", "similarity"))
assert len(i) > 300
# In f32 a pair within rounding of the threshold may fall on either side.
found = set(zip(source.tolist(), target.tolist()))
expected = set(zip(i.tolist(), j.tolist()))
assert all(abs(cosine[a, b] - 0.95) < 1e-6 for a, b in found ^ expected), len(found ^ expected)
assert np.abs(similarity - cosine[source, target]).max() < 1e-6 and (similarity >= np.float32(0.95)).all()
assert (source < target).all() and (np.diff(source * 2000 + target) > 0).all()
group, keep = f["group"][:], f["keep"][:]
assert group.shape == keep.shape == (2000,) and set(np.unique(keep)) == {0, 1} and (group <= np.arange(2000)).all()
kept = keep.astype(bool)
assert not (kept[source] & kept[target]).any()            # no two kept rows are near-duplicates
assert (np.unique(group).size == kept.sum())
j1 = json.load(open("one.json"))
assert j1["points"] == 2000 and j1["edges"] == len(source) and j1["kept"] == kept.sum() == j1["groups"]
assert set(j1["phases"]) >= {"train", "assign", "join", "components"} and j1["peak_rss_bytes"] > 0 and j1["seconds"] > 0
PY

# An exhaustive search through lists finds the same pairs, on any number of ranks.
dedup --lists 20 --probes 20 --output exhaustive 2>log.txt || fail "exhaustive dedup"
cmp one/dedup.h5 exhaustive/dedup.h5 && ok "exhaustive search through lists equals all pairs" || fail "exhaustive search through lists differs"
ranks 3 dino-curate dedup --embeddings rows.npy --threshold 0.95 --progress off --seed 1 --lists 20 --probes 20 --output exhaustive3 2>log.txt || fail "exhaustive dedup at 3 ranks"
cmp one/dedup.h5 exhaustive3/dedup.h5 && ok "so at 3 ranks" || fail "exhaustive search at 3 ranks differs"

# Lists instead of all pairs: the same bytes for any number of ranks and threads.
lists() { dedup --lists 20 "$@"; }
OMP_NUM_THREADS=1 lists --output t1 2>log.txt || fail "dedup with lists"
OMP_NUM_THREADS=2 lists --output t2 2>log.txt || fail "dedup with two threads"
cmp t1/dedup.h5 t2/dedup.h5 || fail "dedup.h5 depends on the threads"
for level in baseline avx2 avx512; do # no more than the machine has
  DINO_CPU=$level lists --output "cpu-$level" 2>log.txt || fail "dedup with $level instructions"
  cmp t1/dedup.h5 "cpu-$level/dedup.h5" && ok "dedup.h5 with $level instructions" || fail "dedup.h5 differs with $level instructions"
done
clusters() { dino-curate cluster --embeddings rows.npy --levels 70,12,3 --iterations 5 --resample 2 --progress off --seed 1 "$@"; }
OMP_NUM_THREADS=1 clusters --output t1 2>log.txt || fail "cluster"
OMP_NUM_THREADS=2 clusters --output t2 2>log.txt || fail "cluster with two threads"
cmp t1/clusters.h5 t2/clusters.h5 || fail "clusters.h5 depends on the threads"
balance() { dino-curate balance --clusters t1/clusters.h5 --target 500 --progress off --seed 1 "$@"; }
balance --output t1 2>log.txt || fail "balance"
for n in 2 3 4; do
  ranks "$n" dino-curate dedup --embeddings rows.npy --threshold 0.95 --progress off --seed 1 --lists 20 --output "r$n" 2>log.txt || fail "dedup at $n ranks"
  ranks "$n" dino-curate cluster --embeddings rows.npy --levels 70,12,3 --iterations 5 --resample 2 --progress off --seed 1 --output "r$n" 2>log.txt || fail "cluster at $n ranks"
  ranks "$n" dino-curate balance --clusters "r$n/clusters.h5" --target 500 --progress off --seed 1 --output "r$n" 2>log.txt || fail "balance at $n ranks"
  for file in dedup clusters selection; do cmp "t1/$file.h5" "r$n/$file.h5" && ok "$file.h5 at $n ranks" || fail "$file.h5 differs at $n ranks"; done
done
"$DINO_PYTHON" - <<'PY' && ok "clusters and selection" || fail "clusters or selection"
import h5py, numpy as np
x = np.load("rows.npy").astype(np.float64); x /= np.linalg.norm(x, axis=1, keepdims=True)
f = h5py.File("t1/clusters.h5")
points = x
for level, k in ((1, 70), (2, 12), (3, 3)):
    c, a = f[f"level{level}/centroids"][:].astype(np.float64), f[f"level{level}/assignment"][:]
    assert c.shape == (k, 64) and a.shape == (len(points),)
    d = ((points[:, None] - c[None]) ** 2).sum(-1)
    assert np.abs(d[np.arange(len(a)), a] - d.min(1)).max() < 1e-5
    inertia = f[f"level{level}"].attrs["inertia"]
    assert abs(inertia - d.min(1).sum()) < 1e-3 * inertia + 1e-4, (inertia, d.min(1).sum())
    points = c
s = h5py.File("t1/selection.h5")["selected"][:]
assert s.shape == (500,) and (np.diff(s) > 0).all() and 0 <= s[0] and s[-1] < 2000
PY

expect 0 "" dedup --embeddings half.npy --output half
expect 65 "more than 100 pairs" dedup --max-pairs 100 --output x
expect 66 "absent.npy" dino-curate dedup --embeddings absent.npy --output x
expect 65 "cut.npy" dino-curate dedup --embeddings cut.npy --output x
expect 65 "row 1234" dino-curate dedup --embeddings nan.npy --output x
expect 65 "row 1234" ranks 2 dino-curate dedup --embeddings nan.npy --output x
expect 64 "threshold" dino-curate dedup --embeddings rows.npy --treshold 0.9 --output x
expect 64 "output" dino-curate dedup --embeddings rows.npy
expect 64 "levels" dino-curate cluster --embeddings rows.npy --levels 10,20 --output x
expect 65 "1500 too few" dino-curate balance --clusters t1/clusters.h5 --target 3500 --output x
expect 65 "1500 too few" ranks 2 dino-curate balance --clusters t1/clusters.h5 --target 3500 --output x
expect 65 "rows.npy" dino-curate balance --clusters rows.npy --target 3 --output x
expect 0 "" dedup --output dry --dry-run
[ -e dry ] && fail "--dry-run wrote something"
finish
