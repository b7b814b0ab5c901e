#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# dino-jobs without Slurm: init, render, local, status, and their refusals.
set -uo pipefail
jobs=${DINO_BIN:?}/dino-jobs
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
fail() { echo "FAILED: $*"; exit 1; }
# run WANTED_CODE WORDS...: stdout in out, stderr in err
run() {
  local wanted=$1
  shift
  timeout 60 "$@" >out 2>err
  local code=$?
  [ "$code" = "$wanted" ] || { cat out err; fail "$* ended with $code, not $wanted"; }
}
has() { grep -qF -- "$2" "$1" || { cat "$1"; fail "'$2' is not in $1"; }; }

# init writes a chain that renders; never over a file
run 0 "$jobs" init chain.cfg
run 64 "$jobs" init chain.cfg
has err "it is there already"
run 0 "$jobs" render chain.cfg --output scripts
for stage in curate pretrain train-features test-features eval report; do
  bash -n "scripts/$stage.sbatch" || fail "$stage.sbatch is not a shell script"
done
bash -n scripts/submit.sh || fail "submit.sh is not a shell script"
has scripts/pretrain.sbatch "#SBATCH --nodes=8"
has scripts/pretrain.sbatch "#SBATCH --time=24:00:00"
has scripts/pretrain.sbatch "#SBATCH --signal=B:USR2@180"
has scripts/pretrain.sbatch 'srun --mpi=pmix -K1 --unbuffered -c "${SLURM_CPUS_PER_TASK:-1}"'
has scripts/test-features.sbatch 'upstream="pretrain"'
has scripts/submit.sh '--dependency=afterok:$job_train_features:$job_test_features eval.sbatch'
has scripts/submit.sh '--kill-on-invalid-dep=yes --dependency=afterok:$job_curate'
grep -q '@[A-Z_]*@' scripts/*.sbatch && fail "an unfilled @NAME@ is left in a script"
run 64 "$jobs" render chain.cfg
has err "--output"
run 0 "$jobs" submit chain.cfg --dry-run
[ -e runs ] && fail "a dry run wrote something"

# local: order, environment, restart after 75, stop at a failure with its code, going on
cat >local.cfg <<'CFG'
[chain]
run = ${DINO_TEST_RUN}
max-restarts = 3
[first]
program = bash
args = -c 'echo "rank $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE in $1"' bash ${run}/${stage}
[again]
command = echo x >> ${run}/tries; [ $(wc -l < ${run}/tries) -ge 3 ] || exit 75
[breaks]
program = test
args = -e ${run}/fixed
mpi = false
[last]
command = type dino-jobs && test -d "$DINO_SHARE" && echo end > ${run}/end
[aside]
command = true
after = first, again
CFG
run 64 "$jobs" local local.cfg
has err "the environment has no DINO_TEST_RUN"
export DINO_TEST_RUN=here/run
run 0 "$jobs" local local.cfg --dry-run
has out "mpirun"
[ -e here ] && fail "a dry run wrote something"
run 1 "$jobs" local local.cfg --ranks 2
has err "rank 1 of 2 in $PWD/here/run/first"
has err "stage failed: breaks: exit code 1; see $PWD/here/run/logs/breaks.log"
has here/run/logs/first.log "rank 0 of 2"
[ "$(wc -l <here/run/tries)" = 3 ] || fail "the stage with code 75 ran $(wc -l <here/run/tries) times, not 3"
[ -e here/run/end ] && fail "a stage behind a failure ran"
run 77 "$jobs" status here/run
has out "breaks           failed"
run 77 "$jobs" status here/run --json
has out '"stage":"again","state":"done","job":"","restarts":2,"exit_code":0'
has out '"stage":"last","state":"not started"'
touch here/run/fixed
run 0 "$jobs" local local.cfg --json
has out '"ran":["breaks","last","aside"],"skipped":["first","again"]'
[ "$(wc -l <out)" = 1 ] || fail "--json printed more than its object"
run 0 "$jobs" local local.cfg
run 0 "$jobs" status here/run --watch
has out "last             done"

# --json is one object on stdout, whatever the command does
for words in "init one.cfg" "render chain.cfg --output two" "render chain.cfg --output two --dry-run" "submit chain.cfg --dry-run" "local local.cfg --dry-run" "local local.cfg"; do
  run 0 "$jobs" $words --json
  "$DINO_PYTHON" -c 'import json,sys; assert isinstance(json.loads(sys.stdin.read()), dict)' <out || fail "$words --json: $(head -c 200 out)"
done
printf '[chain]\nrun=fails\n[a]\ncommand=true\n[b]\ncommand=exit 9\n' >fails.cfg
run 9 "$jobs" local fails.cfg --json
has out '"ran":["a"],"skipped":[],"failed":"b"}'

# a stage that never gets further is not started for ever
printf '[chain]\nrun=cap\nmax-restarts=2\n[a]\ncommand=echo x >> ${run}/n; exit 75\n' >cap.cfg
run 75 "$jobs" local cap.cfg
[ "$(wc -l <cap/n)" = 3 ] || fail "the cap on restarts does not hold"

# a stop request reaches the stage; the chain can go on
printf '[chain]\nrun=stop\n[a]\ncommand=trap "exit 75" USR2; touch ${run}/up; for i in $(seq 300); do sleep 0.1; done\n' >stop.cfg
"$jobs" local stop.cfg >out 2>err &
pid=$!
for _ in $(seq 100); do [ -e stop/up ] && break; sleep 0.1; done
kill -TERM $pid
wait $pid
code=$?
[ $code = 75 ] || { cat err; fail "a stopped chain ended with $code, not 75"; }
has err "stopped: stage a"

# a container: every program is started through apptainer, inside the launcher, with the run folder bound
mkdir -p fake inside
printf '#!/bin/bash\necho "apptainer $* (share $DINO_SHARE)" >>"$DINO_TEST_CALLS"\nwhile [[ $1 == exec || $1 == --* ]]; do shift; done\n[ -s "$1" ] || exit 9\nshift; PATH="%s:$PATH" exec "$@"\n' "$work/inside" >fake/apptainer
printf '#!/bin/bash\necho "program $1, rank ${OMPI_COMM_WORLD_RANK:-none}"\n' >inside/dino-inside
chmod +x fake/apptainer inside/dino-inside
cat >boxed.cfg <<'CFG'
[chain]
run = boxed
container = box.sif
container-options = --nv --bind=/data
[many]
program = dino-inside
args = x
[one]
program = dino-inside
args = y
mpi = false
[words]
command = ${container} dino-inside z
[outside]
program = echo
args = outside
container =
mpi = false
CFG
run 66 "$jobs" local boxed.cfg
has err "cannot find the container: $PWD/box.sif: not there"
run 66 "$jobs" submit boxed.cfg --dry-run
run 0 "$jobs" render boxed.cfg --output boxed-scripts
has boxed-scripts/many.sbatch "dino_in $PWD/box.sif --nv --bind=/data"
echo image >box.sif
export DINO_TEST_CALLS=$work/calls
run 66 env PATH=/usr/bin:/bin "$jobs" local boxed.cfg
has err "neither apptainer nor singularity is on the PATH"
run 0 env PATH="$work/fake:$PATH" "$jobs" local boxed.cfg --ranks 2
for line in "program x, rank 0" "program x, rank 1" "program y, rank none" "program z, rank none"; do has err "$line"; done
[ "$(wc -l <calls)" = 4 ] || fail "apptainer was called $(wc -l <calls) times, not 4"
has calls "apptainer exec --bind=$PWD/boxed --bind=$DINO_SHARE --nv --bind=/data $PWD/box.sif dino-inside x (share $DINO_SHARE)"

# broken chain files name the line and what was meant
refuse() { # refuse TEXT WANTED
  printf "$1" >bad.cfg
  run 64 "$jobs" local bad.cfg
  has err "$2"
  [ "$(wc -l <err)" = 1 ] || fail "more than one line of error"
}
refuse '[chain]\nrun=r\n[a]\nprogrm=x\n' "progrm (bad.cfg:4): there is no such setting; did you mean program?"
refuse '[chain]\nrun=r\n[a]\nargs=x\n' "[a] needs either program or command"
refuse '[chain]\nrun=r\n[a]\nprogram=x\ncommand=y\n' "[a] needs either program or command"
refuse '[chain]\nrun=r\n[a]\ncommand=x\n[b]\ncommand=y\nafter=aa\n' "no stage of that name stands above"
refuse '[chain]\nrun=r\n[a]\ncommand=x\n[b]\ncommand=x\n[a]\nprogram=x\n' "[a] stands twice"
refuse '[chain]\nrun=r\n[a]\ncommand=x\n[b]\ncommand=x\n[a]\ncommand=x\n' "command (bad.cfg:8): stands before in bad.cfg:4"
refuse '[chain]\nrun=r\nnodes=0\n[a]\ncommand=x\n' "nodes (bad.cfg:3): 0 is outside 1 to 1000000"
refuse '[chain]\nrun=r r\n[a]\ncommand=x\n' "choose a plain path"
refuse '[chain]\nrun=r\n' "there is no stage"
refuse '[chain]\nrun=r\n[a]\ncommand=x\n[b]\n' "[b] has no settings"
refuse '[chain]\nname=x\n[a]\ncommand=x\n' "[chain] has no run folder"
refuse 'run=r\n' "before the first section"
run 66 "$jobs" local /no/such.cfg
run 66 "$jobs" status /no/such
mkdir -p broken && echo '{"schema": 3' >broken/chain.json
run 65 "$jobs" status broken
has err "bad chain state"
run 64 "$jobs" lcal x.cfg
has err "did you mean local?"
printf '[chain]\nrun=ok\n[a]\ncommand=true\n' >ok.cfg
run 66 /usr/bin/env -i PATH=/nowhere "$jobs" submit ok.cfg
has err "sbatch: not found"
echo "dino-jobs works without Slurm"
