#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# dino-jobs against a real Slurm: first the mechanics (order, restart, failure, refusal) with small shell
# stages, then the true chain of tests/slurm/chain.cfg on two nodes.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${DINO_BIN:?DINO_BIN is the folder of the programs}
jobs=$bin/dino-jobs
. "$here/cluster.sh"

why=$(slurm_missing)
if [ -n "$why" ]; then
  echo "SKIPPED: no Slurm test: $why"
  exit 77
fi
work=$(mktemp -d /tmp/dino_slurm.XXXXXX)
finish() {
  local code=$?
  stop_cluster
  [ "$code" = 0 ] && rm -rf "$work" || echo "kept for a look: $work"
  exit "$code"
}
trap finish EXIT
cd "$work" || exit 1

say() { echo "[$SECONDS s] $*"; }
fail() {
  say "FAILED: $*"
  for log in "$work"/*/logs/*.log; do [ -e "$log" ] && { echo "== $log"; tail -n 8 "$log"; }; done
  squeue 2>/dev/null
  exit 1
}
field() { # field RUN STAGE KEY: of `status --json`
  "$jobs" status "$1" --json | "${DINO_PYTHON:-python3}" -c \
    'import json,sys; print({s["stage"]: s for s in json.load(sys.stdin)["stages"]}[sys.argv[1]][sys.argv[2]])' "$2" "$3"
}
wait_for() { # wait_for SECONDS RUN STAGE STATE
  local deadline=$((SECONDS + $1)) state=
  while [ $SECONDS -lt $deadline ]; do
    state=$(field "$2" "$3" state)
    [ "$state" = "$4" ] && return 0
    [ -n "$(compgen -G "$2/*/failed.json")" ] && [ "$4" = done ] && break
    sleep 0.3
  done
  "$jobs" status "$2"
  fail "stage $3 of $2 is '$state', not '$4' (waited for at most $1 s)"
}

start_cluster "$work/cluster" || fail "the private Slurm did not start"
say "Slurm $(sinfo --version | cut -d' ' -f2) with two nodes is up"

mechanics() {
# --- order, two nodes, restart after exit code 75, double submission, nothing left to do ---
cat >good.cfg <<'CFG'
[chain]
run = good
time = 00:05:00
nodes = 2
tasks-per-node = 1
[first]
program = bash
args = -c 'echo "rank $SLURM_PROCID of $SLURM_NTASKS"; sleep 1; touch $1/rank.$SLURM_PROCID' bash ${run}
[again]
command = sleep 1; test "${SLURM_RESTART_COUNT:-0}" -ge 1 || exit 75
[last]
command = date +%s.%N > ${run}/last.time
nodes = 1
CFG
SLURM_NTASKS=7 "$jobs" submit good.cfg --dry-run >plan.txt || fail "dry run"
[ -e good ] && fail "a dry run wrote something"
grep -q -- "--dependency=afterok:JOB_OF_again" plan.txt || fail "the plan has no dependency"
SLURM_NTASKS=7 SBATCH_TIMELIMIT=99 "$jobs" submit good.cfg || fail "submit"
"$jobs" submit good.cfg 2>again.txt
[ $? = 64 ] || fail "a live chain was submitted twice"
grep -q "is .* as job" again.txt || fail "the refusal does not name the job: $(cat again.txt)"
wait_for 90 good last done
[ "$(field good again restarts)" = 1 ] || fail "the stage that asked for it was not started again"
ls good/rank.0 good/rank.1 >/dev/null || fail "srun did not start two ranks"
grep -q "rank 1 of 2" good/logs/first-*.log || fail "the submitting shell's SLURM_NTASKS leaked into the job"
[ good/last.time -nt good/rank.1 ] || fail "the last stage did not wait"
"$jobs" submit good.cfg --json | grep -q '"job":""' || fail "finished stages were submitted again"
say "order, restart and refusal are right"

# --- a failing stage cancels those behind it; its exit code is told ---
cat >bad.cfg <<'CFG'
[chain]
run = bad
time = 00:05:00
[breaks]
command = echo "no luck" >&2; exit 65
[behind]
command = true
CFG
"$jobs" submit bad.cfg >/dev/null || fail "submit of the failing chain"
wait_for 30 bad breaks failed
[ "$(field bad breaks exit_code)" = 65 ] || fail "exit code $(field bad breaks exit_code), not 65"
for _ in $(seq 50); do [ -z "$(squeue -h)" ] && break; sleep 0.2; done
[ -z "$(squeue -h)" ] || fail "the stage behind a failed one was not cancelled"
[ -e bad/behind/done.json ] && fail "the stage behind a failed one ran"
# By hand, without its dependency, it must refuse to work on an unfinished input.
id=$(sbatch --parsable bad/slurm/behind.sbatch) || fail "sbatch by hand"
wait_for 30 bad behind failed
[ "$(field bad behind exit_code)" = 77 ] || fail "an unfinished upstream gave $(field bad behind exit_code), not 77 (job $id)"
say "failures stop the chain"

# --- a signal reaches the program, which saves and is started again; also where requeue is switched off ---
cat >signal.cfg <<'CFG'
[chain]
run = signal
time = 00:05:00
[long]
program = bash
args = -c 'trap "exit 75" USR2; echo up > $1/up.${SLURM_RESTART_COUNT:-0}.${DINO_RESTARTS:-0}; test -e $1/saved && exit 0; touch $1/saved; while :; do sleep 0.1; done' bash ${run}
[after]
command = true
CFG
sed 's/^run = signal/run = resubmit\nsbatch-extra = --no-requeue --export=NONE/' signal.cfg >resubmit.cfg
for chain in signal resubmit; do
  "$jobs" submit $chain.cfg >/dev/null || fail "submit of the $chain chain"
  for _ in $(seq 100); do [ -e $chain/saved ] && break; sleep 0.1; done
  scancel --signal=USR2 --batch "$(field $chain long job)"
  wait_for 60 $chain after done
  [ "$(field $chain long restarts)" = 1 ] || fail "$chain: the stage was restarted $(field $chain long restarts) times"
done
[ -e signal/up.1.0 ] || fail "the first chain was not requeued"
[ -e resubmit/up.0.1 ] || fail "without requeue, the stage was not submitted anew"
say "signals reach the program, and it goes on after them"

# --- a submission that is killed after Slurm has taken its second job; the next one goes on with both ---
cat >killed.cfg <<'CFG'
[chain]
run = killed
time = 00:05:00
[one]
command = echo x >>${run}/one.ran
[two]
command = echo x >>${run}/two.ran
[three]
command = echo x >>${run}/three.ran
CFG
mkdir wrapped
cat >wrapped/sbatch <<SH
#!/bin/bash
$(command -v sbatch) "\$@" || exit
grep -q two <<<"\$*" && kill -KILL \$PPID
SH
chmod +x wrapped/sbatch
PATH=$work/wrapped:$PATH "$jobs" submit killed.cfg >/dev/null 2>&1
[ "$(squeue -h -o %r | sort | uniq -c | xargs)" = "2 JobHeldUser" ] || fail "a killed submission left $(squeue -h | wc -l) jobs, not 2 on hold"
"$jobs" status killed >/dev/null
[ $? = 75 ] || fail "status does not say that the submission was cut short"
scancel "$(squeue -h -o "%i %j" | grep one | cut -d' ' -f1)" # the second waits for it; the new first takes its place
for _ in $(seq 50); do [ "$(squeue -h | wc -l)" = 1 ] && break; sleep 0.1; done
"$jobs" submit killed.cfg >killed.txt || fail "submit after a killed one"
grep -q "two: job .*, submitted earlier" killed.txt || fail "the job on hold was not taken over: $(cat killed.txt)"
wait_for 30 killed three done
[ "$(cat killed/*.ran | wc -l)" = 3 ] || fail "a stage ran twice or not at all"
"$jobs" status killed >/dev/null || fail "status of a chain that is done"
say "a killed submission is taken up again"

# --- status without Slurm: the markers tell ---
[ "$(env -u SLURM_CONF PATH=/nonexistent "$jobs" status good --json | grep -o '"state":"done"' | wc -l)" = 3 ] ||
  fail "status needs Slurm"

}
[ "${1:-}" = --chain ] || mechanics

# --- the true chain (--chain: only that), two nodes with one rank each ---
[ "${1:-}" = --mechanics ] && { say "mechanics passed"; exit 0; }
"${DINO_PYTHON:-python3}" "$here/images.py" "$work/images" || fail "no images"
export DINO_CHAIN_IMAGES=$work/images
"$jobs" submit "$here/chain.cfg" || fail "submit of the true chain"
wait_for 300 true report done
"$jobs" status true
[ "$(field true pretrain restarts)" = 1 ] || fail "training was restarted $(field true pretrain restarts) times, not once"
"${DINO_PYTHON:-python3}" - true/pretrain/metrics.jsonl <<'PY' || fail "the metrics are not those of 20 steps in a row"
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
steps = [row["step"] for row in rows if "loss" in row and "event" not in row]
assert len(steps) == 20 and all(b == a + 1 for a, b in zip(steps, steps[1:])), steps
PY
grep -q '"metric"' true/eval/results.jsonl || fail "there is no result"
[ -s true/report.html ] || fail "there is no report"
say "the true chain is done: curate, pretrain (stopped and resumed), features, eval, report"
