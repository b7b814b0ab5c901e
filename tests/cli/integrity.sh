#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# dino-curate notices inputs that changed, images that are no longer those that were judged, and results that are damaged or gone; nothing of it is ever used.
. "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
images in 36; images eval 4
mkdir lists; cp in/blobs/0001.ppm in/blobs/0003.ppm in/stripes/0000.ppm lists
printf '0001.ppm\tone\n0003.ppm\ttwo\n0000.ppm\tone\n' >lists/list.txt
(cd lists && tar cf pair.tar --format ustar 0001.ppm 0003.ppm)
SETTINGS=(--exclude eval --unit-records 8 --shard-records 6 --target 20 --levels 4,2 --iterations 3 --resample 1 --progress off)
RUN=(dino-curate run --input in lists/list.txt lists/pair.tar "${SETTINGS[@]}")
"${RUN[@]}" --output good 2>log.txt || { tail -n 3 log.txt; fail "the undisturbed run"; finish; }

# tell CODE 'text': the last command ended so, and its one error line says that.
tell() {
  [ "$rc" = "$1" ] && { [ -z "$2" ] || grep -qF -- "$2" err.txt; } && return 0
  fail "$what: exit $rc, not $1 with '$2': $(grep -m1 'error:' err.txt || tail -n 1 err.txt)"; return 1
}
try() { "$@" >out.txt 2>err.txt; rc=$?; }
sum_of() { (cd "$1" && find . -type f ! -name .lock ! -path './errors/*' | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16); }
GOOD=$(sum_of good)

# -- inputs that changed since, of a finished curation
heading "changed since the end" "exit code" "named"
changed() { # WHAT CODE NAME command...: the command changes something below in/, eval/ or lists/
  what=$1; local code=$2 name=$3; shift 3
  rm -rf kept; mkdir kept; cp -a in eval lists kept
  "$@"; try "${RUN[@]}" --output good
  tell "$code" "$name" && row "$what" "$rc" "$name"
  rm -rf in eval lists; mv kept/* .
}
changed "a picture added" 65 "blobs/0002.ppm was not there" cp in/stripes/0000.ppm in/blobs/0002.ppm
changed "a picture added at the end" 65 "stripes/x.ppm was not there" cp in/stripes/0000.ppm in/stripes/x.ppm
changed "a picture removed" 65 "stripes/0008.ppm is gone" rm in/stripes/0008.ppm
changed "a picture renamed" 65 "stripes/0008.ppm is gone" mv in/stripes/0008.ppm in/stripes/0008b.ppm
changed "another extension" 65 "stripes/0008.ppm is gone" mv in/stripes/0008.ppm in/stripes/0008.pgm
changed "another size" 65 "blobs/0005.ppm has" sh -c 'echo >>in/blobs/0005.ppm'
changed "moved to another class" 65 "blobs/0007.ppm is gone" mv in/blobs/0007.ppm in/stripes/0007.ppm
changed "a tar grown" 65 "pair.tar: pair/0009.ppm was not there" sh -c 'cp in/blobs/0009.ppm lists; cd lists; tar rf pair.tar --format ustar 0009.ppm'
changed "a list's class edited" 65 "0003.ppm has another class" sed -i 's/two/three/' lists/list.txt
changed "a list reordered" 65 "the order is another" sh -c 'tac lists/list.txt >x; mv x lists/list.txt'
changed "an excluded picture added" 65 "excluded set changed: eval" cp in/stripes/0000.ppm eval/stripes/new.ppm
changed "an input gone" 66 "explain, report and training go without" rm -r in
changed "nothing" 0 "report: complete, nothing to do" true
what="inputs in another order"; try dino-curate run --input lists/list.txt in lists/pair.tar "${SETTINGS[@]}" --output good
tell 65 "input: '" && row "$what" $rc "input: ..."
what="without inputs"; mv in in_gone
try dino-curate explain in/blobs/0001 --output good; tell 0 "" && row "without inputs: explain" $rc ""
try dino-curate report --output good; tell 0 "nothing to do" && row "without inputs: report" $rc ""
mv in_gone in
[ "$(sum_of good)" = "$GOOD" ] && ok "nothing of it changed the curation" || fail "a refused start changed the curation"

# -- files that are damaged or gone
bend() { # flip|cut|gone|empty|{} FILE
  case $1 in
    flip) "$DINO_PYTHON" -c 'import sys; p=sys.argv[1]; b=bytearray(open(p,"rb").read()); b[len(b)//2]^=4; open(p,"wb").write(b)' "$2" ;;
    cut) truncate -s $(($(stat -c %s "$2") * 2 / 3)) "$2" ;;
    gone) rm "$2" ;;
    empty) : >"$2" ;;
    '{}') echo '{}' >"$2" ;;
  esac
}
heading "damaged after the end" how "next command" "exit code" "file named" "after what the message says" bytes
# What the message says to delete is deleted, as often as it says so; then the same command ends as if nothing had been.
after() { # FILE HOW
  what="$1 $2"; rm -rf bent; cp -a good bent; bend "$2" "bent/$1"
  try "${RUN[@]}" --output bent
  tell 65 "bent/$1" || return
  local marker named=no; grep -qF "bent/$1" err.txt && named=yes
  local first=$rc deleted=""; case $1 in stages/inputs.*) rm -f bent/stages/inputs.*; esac
  while [ "$rc" = 65 ] && marker=$(grep -o 'delete bent/stages/[a-z]*\.json' err.txt | head -n 1 | cut -d' ' -f2) && [ -e "$marker" ]; do
    rm "$marker"; deleted+="${marker#bent/} "
    try "${RUN[@]}" --output bent
  done
  local result; [ "$rc" = 0 ] && [ "$(sum_of bent)" = "$GOOD" ] && result=same || { result=differ; fail "$what: exit $rc and other bytes after $deleted was deleted: $(tail -n 1 err.txt)"; }
  row "$1" "$2" "the same run" $first $named "${deleted}deleted: exit $rc" $result
}
for file in ledger.h5 embeddings.h5 shards/000001.tar stages/embed.json stages/dedup.h5 stages/inputs.json; do after $file flip; done
for file in selection.h5 stages/export.json stages/ingest.h5; do after $file cut; done
for file in manifest.json clusters.h5 shards/000000.tar; do after $file gone; done
after stages/balance.json empty; after stages/report.json '{}'
for pair in dedup.h5:flip funnel.json:flip galleries.json:cut stages/shards.json:flip stages/inputs.tsv:flip stages/decontaminate.h5:gone stages/ingest.json:flip manifest.json:flip; do
  what=$pair; rm -rf bent; cp -a good bent; bend "${pair#*:}" "bent/${pair%:*}"
  try "${RUN[@]}" --output bent
  tell 65 "bent/${pair%:*}" && row "${pair%:*}" "${pair#*:}" "the same run" $rc yes "" ""
done
what="a setting in curate.ini"; rm -rf bent; cp -a good bent; sed -i 's/^target = 20/target = 21/' bent/curate.ini
try "${RUN[@]}" --output bent; tell 65 "bent/curate.ini" && row curate.ini flip "the same run" $rc yes "" ""
try dino-curate report --output bent; tell 65 "bent/curate.ini" && row curate.ini flip report $rc yes "" ""

# -- the other readers
TRAIN=(dino-pretrain train --config "$DINO_SHARE/recipes/tiny.cfg" --steps 1 --warmup 0 --batch 4 --progress off)
FEATURES=(dino-eval features --weights raw-pixels --size 16 --output f.h5 --progress off --data)
reader() { # FILE HOW CODE command...
  what="$1 $2: ${*:4:2}"; rm -rf bent run; cp -a good bent; bend "$2" "bent/$1"
  try "${@:4}"; tell "$3" "bent/$1" && row "$1" "$2" "${*:4:2}" $rc yes "" ""
}
reader ledger.h5 flip 65 dino-curate explain in/blobs/0001 --output bent
reader ledger.h5 cut 65 dino-curate explain in/blobs/0001 --output bent
for how in flip cut gone; do reader shards/000001.tar $how 65 "${FEATURES[@]}" bent; done
reader manifest.json flip 65 "${FEATURES[@]}" bent
reader shards/000002.tar gone 65 "${TRAIN[@]}" --data bent --output run
"${FEATURES[@]}" good 2>log.txt && dino-eval knn --train f.h5 --test f.h5 --k 1 --output results --progress off 2>log.txt || fail "features and results"
reader manifest.json flip 65 dino-eval report --results results --curation bent --output r.html
reader embeddings.h5 flip 65 ranks 2 dino-curate dedup --embeddings bent/embeddings.h5 --output vectors
reader clusters.h5 flip 65 dino-curate balance --clusters bent/clusters.h5 --target 5 --output vectors
rm -rf bent; cp -a good bent; rm -r bent/stages; rm -rf bent/work
for command in "dino-curate explain in/blobs/0001 --output bent" "${FEATURES[*]} bent"; do
  what="work and stages purged: $command"; try $command; tell 0 "" && row "work/, stages/" gone "${command%% -*}" $rc "not needed" "" ""
done
what="damaged features"; bend flip f.h5; try dino-eval knn --train f.h5 --test f.h5 --k 1 --output results --progress off
tell 65 "f.h5" && row f.h5 flip "dino-eval knn" $rc yes "" ""

# -- damaged before the end: work units are made again by themselves, and what ingest left for embed is, from the images; complete stages say what to delete
heading "damaged before the end" how "exit codes of the runs" bytes
before() { # LAST-STAGE MARKER-TO-REMOVE FILE HOW CODE
  what="$3 $4"; rm -rf bent; local codes=""
  dino-curate ingest "${RUN[@]:2}" --output bent 2>log.txt
  case $1 in export) for stage in embed decontaminate export; do dino-curate $stage --output bent --progress off 2>log.txt; done ;; esac
  [ -n "$2" ] && rm "bent/stages/$2.json"
  bend "$4" "bent/$3"
  try "${RUN[@]}" --output bent; tell "$5" "bent/$3"; codes=$rc
  if [ "$rc" = 65 ]; then rm -f "$(grep -o 'delete bent/stages/[a-z]*\.json' err.txt | head -n 1 | cut -d' ' -f2)"; try "${RUN[@]}" --output bent; codes+=" $rc"; fi
  [ "$rc" = 0 ] && [ "$(sum_of bent)" = "$GOOD" ] && row "$3" "$4" "$codes" same || fail "$what: exit $rc and other bytes"
}
before ingest ingest work/ingest/unit_000001.h5 flip 0
before ingest "" work/ingest/unit_000002.h5 flip 0
before ingest "" work/ingest/unit_000000.h5 gone 0
before export export shards/000001.tar flip 0
before export export shards/000002.tar cut 0
before export "" stages/export.h5 flip 65

# A stage that is done again with another result makes the later ones be done again: nothing old stands beside new.
rm -rf bent; cp -a good bent; rm bent/stages/ingest.json; cp -p in/blobs/0013.ppm saved; cp in/blobs/0035.ppm in/blobs/0013.ppm
what="ingest done again over other pictures"; try "${RUN[@]}" --output bent; tell 0 "embed: the stage before has another result now; done again"
try "${RUN[@]}" --output anew; cp -p saved in/blobs/0013.ppm
[ "$(sum_of bent)" = "$(sum_of anew)" ] && [ "$(sum_of bent)" != "$GOOD" ] && ok "as if begun anew" || fail "stages of two curations stand beside each other"

# -- an image that is another one than was judged: same name, same size, same time
heading "changed between ingest and" "with --target" "exit code" outcome
swap() { cp -p "$1" saved; touch -r "$1" stamp; cp "$2" "$1"; touch -r stamp "$1"; }
restore() { cp -p saved "$1"; }
kept=in/$("$DINO_PYTHON" -c 'import h5py; f=h5py.File("good/ledger.h5"); k=[x for x in zip(f["decision"][:], f["path"][:]) if x[0]==0][0][1]; print((k.decode() if isinstance(k,bytes) else k)[3:])')
rm -rf out; for stage in ingest embed decontaminate; do [ $stage = ingest ] && dino-curate ingest "${RUN[@]:2}" --output out 2>log.txt || dino-curate $stage --output out --progress off 2>log.txt; done
swap "$kept" in/blobs/0035.ppm; what="export, with target"; try "${RUN[@]}" --output out
tell 65 "$kept" && tell 65 "the exact --target 20" && row export yes $rc "$kept is named"
restore "$kept"; try "${RUN[@]}" --output out
[ "$rc" = 0 ] && [ "$(sum_of out)" = "$GOOD" ] && row "export, put back" yes $rc "the undisturbed bytes" || fail "exit $rc and other bytes after the picture was put back"
PLAIN=(--input in --exclude eval --unit-records 8 --shard-records 6 --progress off)
"${TRAIN[@]}" --data in --output weights --steps 1 2>log.txt || fail "weights"
for stage in embed export; do
  rm -rf out; dino-curate ingest "${PLAIN[@]}" --embedding weights --image-size 32 --dedup false --leak-threshold 1 --output out 2>log.txt
  [ $stage = export ] && for s in embed decontaminate; do dino-curate $s --output out --progress off 2>log.txt; done
  swap in/blobs/0011.ppm in/blobs/0035.ppm; what="changed before $stage"
  try ranks 2 dino-curate run "${PLAIN[@]}" --embedding weights --image-size 32 --dedup false --leak-threshold 1 --output out
  restore in/blobs/0011.ppm
  tell 0 "1 images changed since ingest" && "$DINO_PYTHON" - "$stage" <<'PY' && row $stage no $rc "dropped as changed, counts hold" || fail "$what"
import hashlib, json, sys, tarfile, h5py
m = json.load(open("out/manifest.json"))
assert m["dropped"]["changed"] == 1 and m["records"] == m["kept"] + sum(m["dropped"].values()), m
assert sum(s["records"] for s in m["shards"]) == m["kept"] == m["selected_with_multiplicity"], m
text = lambda x: x.decode() if isinstance(x, bytes) else x
with h5py.File("out/ledger.h5") as f:
    names, stages = list(f["reason"].attrs["names"]), list(f["stage"].attrs["names"])
    of = {text(k): (text(names[r]), text(stages[s]), text(h)) for k, r, s, h in zip(f["key"][:], f["reason"][:], f["stage"][:], f["sha256"][:])}
assert of["blobs/0011"][:2] == ("changed", sys.argv[1]), of["blobs/0011"]
for s in m["shards"]:
    with tarfile.open("out/" + s["path"]) as t:
        for x in t.getmembers():
            if x.name.endswith(".ppm"):
                assert hashlib.sha256(t.extractfile(x).read()).hexdigest() == of[x.name[:-4]][2], x.name
PY
done
try dino-curate explain blobs/0011 --output out; grep -q "dropped: changed" out.txt && ok "explain says it" || fail "explain of a changed picture"
finish
