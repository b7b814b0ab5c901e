#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# dino-jobs and its scripts when something goes wrong: crashes and silent controllers while a chain is submitted, what
# `status` says of it, set-ups that fail, signals, restarts. Slurm is tests/cli/fake_slurm.
. "$DINO_SOURCE/tests/cli/lib.sh"
mkdir bin
for tool in sbatch squeue sacct scancel scontrol; do ln -s "$DINO_SOURCE/tests/cli/fake_slurm/slurm" bin/$tool; done
export PATH=$WORK/bin:$PATH FAKE=$WORK/fake DINO_SLURM_TIMEOUT=10

# ---- submission: each row starts with an empty queue and a chain of three

new() { rm -rf "$FAKE" run; mkdir "$FAKE"; chain >c.cfg; }
chain() { printf '[chain]\nrun = run\n%s\n[a]\ncommand = true\n[b]\ncommand = true\n[c]\ncommand = true\n' "${1:-}"; }
fault() { echo "$*" >"$FAKE/fault"; }
well() { rm -f "$FAKE/fault"; }
# queue: "a101 b102<101 c103<102 held", by stage, with what each waits for
queue() {
  local file id state reason name dependency out=
  for file in "$FAKE"/job.*; do
    [ -e "$file" ] || continue
    id=${file##*.}
    IFS='|' read -r state reason name dependency <"$file"
    [ "$state" = PENDING ] || [ "$state" = RUNNING ] || continue
    name=${name#run.}
    out+="${out:+ }${name%%.*}$id${dependency:+<${dependency#afterok:}}"
    [ "$reason" = JobHeldUser ] && out+=+held
  done
  echo "${out:-empty}"
}
submit() { dino-jobs submit c.cfg >out 2>err; code=$?; }
status() { dino-jobs status run >status.txt 2>&1; code=$?; }
# both WHAT CODE QUEUE STATUS QUEUE_AFTER [CODE_AFTER]: submit with the fault, look, submit again without
both() {
  submit; local first=$code held; held=$(queue)
  status; local seen=$code
  well; submit; local after; after=$(queue)
  row "$1" "$first" "$held" "$seen" "$code" "$after"
  [ "$first $held" = "$2 $3" ] || { fail "$1: exit $first, queue '$held'; wanted $2, '$3'"; cat err; }
  [ "$seen" = "$4" ] || { fail "$1: status ended with $seen, not $4"; cat status.txt; }
  [ "$code $after" = "${6:-0} $5" ] || { fail "$1: the second submit: exit $code, queue '$after'; wanted ${6:-0}, '$5'"; cat err; }
}
all="a101 b102<101 c103<102"
heading "what happened to submit" "exit" "queue" "status" "submit again" "queue"
new; both "nothing" 0 "$all" 0 "$all" 64
grep -q "stage a is PENDING as job 101.*scancel 101 102 103" err || fail "a live chain: $(cat err)"
new; fault sbatch kill 1; both "killed before the 1st sbatch" 137 empty 75 "$all"
new; fault sbatch kill 2; both "killed before the 2nd sbatch" 137 "a101+held" 75 "$all"
new; fault sbatch kill-after 1; both "killed after the 1st sbatch" 137 "a101+held" 75 "$all"
new; fault sbatch kill-after 2; both "killed after the 2nd sbatch" 137 "a101+held b102<101+held" 75 "$all"
grep -q "b: job 102, submitted earlier" out || fail "the job that chain.json did not know was not adopted: $(cat out)"
new; fault sbatch kill-after 3; both "killed after the 3rd sbatch" 137 "a101+held b102<101+held c103<102+held" 75 "$all"
new; fault scontrol kill; both "killed before the release" 137 "a101+held b102<101+held c103<102+held" 75 "$all"
new; fault scontrol kill-after; both "killed after the release" 137 "$all" 75 "$all"
new; fault scontrol fail; both "release fails" 74 "a101+held b102<101+held c103<102+held" 75 "$all"
new; DINO_SLURM_TIMEOUT=1; fault scontrol hang; both "release hangs" 74 "a101+held b102<101+held c103<102+held" 75 "$all"
new; fault sbatch hang-after 2; both "2nd sbatch takes the job and hangs" 0 "$all" 0 "$all" 64
new; fault sbatch hang 2; both "2nd sbatch hangs" 74 "a101+held" 75 "$all"
new; fault squeue hang; both "squeue hangs" 74 empty 66 "$all"
DINO_SLURM_TIMEOUT=10
new; fault sbatch fail-after 2; both "2nd sbatch fails, but has taken the job" 0 "$all" 0 "$all" 64
new; fault sbatch fail 2; both "2nd sbatch fails" 74 empty 75 "a102 b103<102 c104<103"
new; fault squeue fail; both "squeue fails" 74 empty 66 "$all"
new; echo "sbatch: warning: a banner" >"$FAKE/banner"; both "sbatch prints more than the number" 0 "$all" 0 "$all" 64
export SQUEUE_PARTITION=other SQUEUE_STATES=RUNNING
new; both "the user's SQUEUE_PARTITION hides jobs" 0 "$all" 0 "$all" 64
unset SQUEUE_PARTITION SQUEUE_STATES
new; submit; fault squeue fail; both "squeue fails, a chain is live" 74 "$all" 74 "$all" 64
new; submit; rm run/chain.json; both "chain.json was deleted, the chain is live" 0 "$all" 0 "$all" 64
new; fault sbatch kill-after 2; submit; chain "time = 5" >c.cfg; well; both "killed, then the chain file was changed" 64 "a101+held b102<101+held" 75 "a101+held b102<101+held" 64
grep -q "other settings than the chain file has now; first: scancel 10[12]" err || fail "another script's job: $(cat err)"
new; fault sbatch kill-after 2; submit; rm "$FAKE/job.101"; well; both "killed, then the first job was cancelled" 0 "b102<103 a103 c104<102" 0 "b102<103 a103 c104<102" 64
new; fault sbatch kill-after 2; submit; well; sed 's/^run = run/run = other\nname = run/' c.cfg >other.cfg
dino-jobs submit other.cfg >/dev/null 2>&1 || fail "another run folder with the same name"
[ "$(queue)" = "a101+held b102<101+held a103 b104<103 c105<104" ] || fail "a chain of the same name took jobs that are not its: $(queue)"

# sbatch fails and the first job cannot be taken back
new; fault sbatch fail 2; rm bin/scancel; printf '#!/bin/sh\nexit 1\n' >bin/scancel; chmod +x bin/scancel
both "2nd sbatch and scancel fail" 74 "a101+held" 75 "$all"
ln -sf "$DINO_SOURCE/tests/cli/fake_slurm/slurm" bin/scancel

# what sbatch says is passed on whole
new; fault sbatch fail 1
for i in $(seq 150); do echo "sbatch: error: line $i of a policy that this site's plugin explains at length"; done >"$FAKE/words"
submit
for i in 1 2 75 150; do grep -q "line $i of a policy" err || fail "line $i of sbatch's error is lost"; done
grep -q "stage a: $WORK/run/slurm/a.sbatch: sbatch: error: line 1 of" err || fail "the script of a refused job is not named"
[ "$(wc -l <err)" = 1 ] || fail "an error of more than one line"
ok "an error of sbatch is passed on whole"

# nothing is submitted of a chain with one broken script
new; sed -i '$s/.*/command = echo "open/' c.cfg; submit
[ "$code $(queue)" = "64 empty" ] && [ ! -e run ] && grep -qF '[c] command: bash cannot read it' err || fail "a broken script: $code $(queue) $(cat err)"

# ---- status: the queue, the markers and accounting in every combination

mark() { mkdir -p "run/$1"; echo "{\"stage\": \"$1\", \"job\": $3, \"restarts\": ${5:-0}, \"exit_code\": $4, \"time\": \"${6:-$(date -u +%FT%TZ)}\"}" >"run/$1/$2.json"; }
state() { # state ID STATE [REASON]
  local s r n d
  IFS='|' read -r s r n d <"$FAKE/job.$1"
  echo "$2|${3:-None}|$n|$d" >"$FAKE/job.$1"
}
seen() { # seen WHAT CODE "STATE of a, b, c"
  : >"$FAKE/calls"
  status
  local states
  states=$(dino-jobs status run --json 2>/dev/null | grep -o '"state":"[^"]*"' | cut -d'"' -f4 | paste -sd, -)
  row "$1" "$code" "$states"
  [ "$code $states" = "$2 $3" ] || { fail "$1: status: $code $states; wanted $2 $3"; cat status.txt; }
}
live() { new; submit; }
old=2020-01-01T00:00:00Z
heading "what status sees" "exit" "a, b, c"
live; seen "all wait" 0 "waiting,waiting,waiting"
[ "$(grep -c squeue "$FAKE/calls")" = 2 ] || fail "two looks took $(grep -c squeue "$FAKE/calls") calls of squeue"
live; state 101 RUNNING; mark a started 101 0; seen "the first runs" 0 "running,waiting,waiting"
live; mark a failed 99 65 0 $old; seen "failed.json of an earlier job" 0 "waiting,waiting,waiting"
live; rm "$FAKE"/job.*; mark a started 99 0 0 $old; mark a failed 99 65 0 $old; seen "jobs gone, failed.json of an earlier job" 77 "failed,not started,not started"
grep -q "a .*no longer in the queue" status.txt || fail "a job that vanished: $(cat status.txt)"
live; rm "$FAKE"/job.*; mark a started 101 0; seen "the first job vanished while it ran" 77 "failed,not started,not started"
live; rm "$FAKE"/job.*; echo "101|TIMEOUT" >"$FAKE/accounts"; mark a started 101 0; seen "the same, and accounting knows" 77 "failed,not started,not started"
grep -q "a .*TIMEOUT" status.txt || fail "accounting's word is lost: $(cat status.txt)"
live; state 101 OUT_OF_MEMORY; state 102 CANCELLED; state 103 CANCELLED; mark a started 101 0; seen "out of memory, those behind cancelled" 77 "failed,not started,not started"
live; state 102 CANCELLED; state 103 CANCELLED; rm "$FAKE/job.101"; mark a done 101 0; seen "somebody cancelled the second" 77 "done,failed,not started"
live; state 101 COMPLETED; seen "COMPLETED without done.json" 77 "failed,waiting,waiting"
live; state 101 COMPLETED; mkdir -p run/a; : >run/a/done.json; seen "COMPLETED, done.json is empty" 77 "failed,waiting,waiting"
live; rm "$FAKE"/job.*; mark a failed 101 65; seen "it failed with 65" 77 "failed,not started,not started"
live; state 101 PENDING BeginTime; mark a started 101 0 2; mark a failed 101 75 1; seen "requeued after a failure" 0 "waiting,waiting,waiting"
live; rm "$FAKE/job.101"; echo "RUNNING|None|$(grep -o '"name": "run.a[^"]*' run/chain.json | cut -d'"' -f4)|" >"$FAKE/job.140"; seen "it went on as another job" 0 "running,waiting,waiting"
submit; [ $code = 64 ] && grep -q "stage a is RUNNING as job 140" err || fail "a stage that went on as another job was submitted twice: $(cat err)"
live; fault squeue fail; seen "squeue fails" 74 "unknown,unknown,unknown"
live; fault squeue fail; mark a done 101 0; mark b failed 102 65; seen "squeue fails, markers are there" 77 "done,failed,unknown"
live; rm "$FAKE"/job.*; for s in a b c; do mark $s done 101 0; done; seen "all done" 0 "done,done,done"

# ---- the scripts themselves, without Slurm

unset DINO_SLURM_TIMEOUT
cat >saves.sh <<'S'
#!/bin/bash
# handles USR2: "saves", which takes a while, and ends with 75
trap 'sleep 0.1; echo saved >>"$1"; exit 75' USR2
echo up >>"$1.up"
while :; do sleep 0.05; done
S
cat >wrapped.sh <<'S'
#!/bin/bash
trap 'rm -f "$1.tmp"' EXIT # a shell with an EXIT trap looks as if it handled USR2
./saves.sh "$1"
S
printf '#!/bin/bash\necho up >>"$1.up"; until [ -e f-go ]; do sleep 0.05; done; sleep 0.3; echo saved >>"$1"\n' >finishes.sh # knows of no signal, and is soon over
chmod +x ./*.sh
script() { # script NAME "SETTINGS": scr-NAME/s.sbatch, with the run folder run-NAME
  printf '[chain]\nrun = run-%s\nmax-restarts = 0\n[s]\n%b\n' "$1" "$2" >"$1.cfg"
  dino-jobs render "$1.cfg" --output "scr-$1" >/dev/null || fail "$1 does not render"
}
heading "script" "signal" "exit" "saved" "processes left" "marker"
# signalled NAME SETTINGS SIGNAL CODE SAVED: started in the background; `settle` looks at all of them
names=()
signalled() {
  script "$1" "$2"
  bash "scr-$1/s.sbatch" >"log-$1" 2>&1 &
  names+=("$1|$3|$4|$5|$!")
}
S=$WORK/saves.sh
signalled program "program = $S\nargs = f-program\nmpi = false" USR2 75 1
signalled term "program = $S\nargs = f-term\nmpi = false" TERM 75 1
signalled command "command = $S f-command" USR2 75 1
signalled list "command = cd . && $S f-list && touch f-list.next" USR2 75 1
signalled semicolon "command = $S f-semicolon; touch f-semicolon.next" USR2 75 1
signalled pipe "command = $S f-pipe | cat" USR2 75 1
signalled subshell "command = (cd . && $S f-subshell) && touch f-subshell.next" TERM 75 1
signalled loop "command = for i in 1 2 3; do $S f-loop; done" USR2 75 1
signalled waits "command = $S f-waits & wait \$!" USR2 75 1
signalled wrapped "command = ./wrapped.sh f-wrapped" USR2 75 1
signalled owntrap "command = trap \"echo saved >>f-owntrap; exit 75\" USR2; echo up >>f-owntrap.up; while :; do sleep 0.05; done" TERM 75 1
signalled nothing "command = echo up >>f-nothing.up; sleep 61" TERM 143 0
signalled finishes "command = ./finishes.sh f-finishes" USR2 0 1
signalled setup "setup = echo up >>f-setup.up; until [ -e f-go ]; do sleep 0.05; done\ncommand = echo saved >>f-setup" USR2 75 0
for one in "${names[@]}"; do
  until_true 10 test -e "f-${one%%|*}.up" || fail "${one%%|*} did not start"
done
sleep 0.2
for one in "${names[@]}"; do IFS='|' read -r name signal code saved pid <<<"$one"; kill -"$signal" "$pid"; done
sleep 0.1; touch f-go
for one in "${names[@]}"; do
  IFS='|' read -r name signal code saved pid <<<"$one"
  wait "$pid"; got=$?
  left=$(pgrep -fc "[f]-$name( |\$)")
  times=$(grep -c saved "f-$name" 2>/dev/null)
  marker=$(grep -o '"exit_code": [0-9]*' "run-$name/s/"{failed,done}.json 2>/dev/null | grep -o '[0-9]*$')
  row "$name" "$signal" "$got" "${times:-0}" "$left" "$marker"
  [ "$got ${times:-0} $left $marker" = "$code $saved 0 $code" ] || { fail "$name: exit $got, saved ${times:-0}, left $left, marker $marker; wanted $code, $saved"; cat "log-$name"; }
  [ ! -e "f-$name.next" ] || fail "$name: a further command was started after the signal"
done

heading "set-up" "exit" "ran" "marker"
# prepared NAME "SET-UP" CODE RAN: a stage that says that it ran
prepared() {
  script "$1" "$2\ncommand = echo ran >>f-$1"
  env -u NOT_SET bash "scr-$1/s.sbatch" >"log-$1" 2>&1; local got=$? ran marker
  ran=$(grep -c ran "f-$1" 2>/dev/null)
  marker=$(grep -o '"exit_code": [0-9]*' "run-$1/s/"{failed,done}.json 2>/dev/null | grep -o '[0-9]*$')
  row "$1" "$got" "${ran:-0}" "$marker"
  [ "$got ${ran:-0} $marker" = "$3 $4 $3" ] || { fail "$1: exit $got, ran ${ran:-0}, marker $marker; wanted $3, $4"; cat "log-$1"; }
  dino-jobs local "$1.cfg" >/dev/null 2>&1; got=$?
  [ "$4" = 1 ] || [ "$got" = "$3" ] || fail "$1: dino-jobs local ended with $got, not $3"
}
printf 'false\n[ -n "$NOT_SET" ] && export X=$NOT_SET\nexport FROM_SITE=$NOT_SET:here\n' >site.sh
printf 'return 3\n' >fails.sh
prepared missing-command "setup = no_such_module load openmpi" 127 0
prepared missing-file "setup = source no-such-file.sh" 1 0
prepared failing-file "setup = . ./fails.sh" 3 0
prepared first-of-two "setup = false; true" 1 0
prepared first-line "setup = false\nsetup = true" 1 0
prepared second-line "setup = true\nsetup = test -e no-such-file" 1 0
prepared function "setup = module() { return 5; }; module load x" 5 0
prepared exits "setup = exit 0" 1 0
prepared exits-75 "setup = exit 75" 1 0
prepared pipe-fails "setup = false | cat" 1 0
prepared allowed "setup = false || true" 0 1
prepared site-file "setup = . ./site.sh\nsetup = test \"\$FROM_SITE\" = :here" 0 1
prepared unset "setup = export LD_X=/x:\$NOT_SET" 0 1
prepared own-words "setup = set -e; IFS=/; job=1; code=2; run=/nowhere; stage=x; trap - EXIT USR2" 0 1
prepared inner "setup = module() { false; true; }; module load x" 0 1

# exit codes, upstream, a full disk's done.json, what srun gets
heading "stage" "exit" "marker"
ends() { # ends NAME SETTINGS CODE
  script "$1" "$2"
  bash "scr-$1/s.sbatch" >"log-$1" 2>&1; local got=$? marker
  marker=$(grep -o '"exit_code": [0-9]*' "run-$1/s/"{failed,done}.json 2>/dev/null | grep -o '[0-9]*$')
  row "$1" "$got" "$marker"
  [ "$got $marker" = "$3 $3" ] || { fail "$1: exit $got, marker $marker; wanted $3"; cat "log-$1"; }
}
ends ends-65 "command = exit 65" 65
ends ends-75 "command = exit 75" 75
ends no-program "program = no-such-program\nmpi = false" 127
ends unbound "command = echo \$NOT_SET" 1
ends last-fails "command = true; false" 1
printf '#!/bin/bash\nprintf "%%s\\n" "$@"; printf "%%s\\n" "$SLURM_EXPORT_ENV"\n' >bin/srun; chmod +x bin/srun
export SLURM_EXPORT_ENV=NONE
script srun "sbatch-extra = --export=NONE\nprogram = dino-jobs\nargs = 'two words' \"\$HOME\" \\\\\$x 'a\`b' -- --é ''"
bash scr-srun/s.sbatch >log-srun 2>/dev/null
unset SLURM_EXPORT_ENV
printf '%s\n' --mpi=pmix -K1 --unbuffered -c 1 --export=ALL "$DINO_BIN/dino-jobs" 'two words' "$HOME" '$x' 'a`b' -- --é '' '' | diff - log-srun || fail "what srun gets under --export=NONE"
printf '[chain]\nrun = run-up\n[a]\ncommand = true\n[b]\ncommand = true\n' >up.cfg; dino-jobs render up.cfg --output scr-up >/dev/null
mkdir -p run-up/a
for text in '' '{"stage": "a", "job": 1, "restarts": 0, "exit_co' '{"stage": "a", "job": 1, "restarts": 0, "exit_code": 70, "time": "t"}' '{"stage": "b", "job": 1, "restarts": 0, "exit_code": 0, "time": "t"}'; do
  printf '%s' "$text" >run-up/a/done.json
  bash scr-up/b.sbatch >out 2>&1; code=$?
  row "upstream done.json = '$text'" $code "$(grep -o '"exit_code": [0-9]*' run-up/b/failed.json | grep -o '[0-9]*$')"
  [ $code = 77 ] || { fail "a done.json that is none was taken for one"; cat out; }
done
bash scr-up/a.sbatch >out 2>&1 && bash scr-up/b.sbatch >out 2>&1 || { fail "the broken done.json was not replaced"; cat out; }

# ---- restarts: the site has no requeue, so the script submits itself anew

heading "restarts" "starts" "exit" "tries since progress, wait"
restarts() { # restarts NAME COMMAND MAX: runs the script as often as it submits itself
  rm -rf "$FAKE"; mkdir "$FAKE"
  script "$1" "max-restarts = $3\ncommand = $2"
  local n=0 next=0 got=75
  while [ $got = 75 ] && [ $n -lt 9 ]; do
    n=$((n + 1))
    SLURM_JOB_ID=$((200 + n)) bash "scr-$1/s.sbatch" $next >>"log-$1" 2>&1; got=$?
    next=$(grep '^sbatch ' "$FAKE/calls" 2>/dev/null | tail -1 | awk '{print $NF}')
    [ "$(grep -c '^sbatch ' "$FAKE/calls" 2>/dev/null)" = "$n" ] || break
  done
  row "$1" "$n" "$got" "$(cat "run-$1/s/.restarts" 2>/dev/null)"
  runs="$n $got $(cat "run-$1/s/.restarts")"
}
restarts no-progress 'echo x >>${run}/s/events.jsonl; exit 75' 2
[ "$runs" = "3 75 3 4" ] || fail "restarts without progress: $runs; wanted 3 75 3 4"
grep -q '"restarts": 2, "exit_code": 75' run-no-progress/s/failed.json || fail "the last try is not told: $(cat run-no-progress/s/failed.json)"
restarts progress 'n=$(ls ${run}/s/step_* 2>/dev/null | wc -l); touch ${run}/s/step_$n; [ $n -ge 5 ] || exit 75' 1
[ "$runs" = "6 0 1 0" ] || fail "restarts with progress: $runs; wanted 6 0 1 0"
restarts rewritten 'n=$(cat ${run}/s/state 2>/dev/null || echo 0); echo $((n + 1)) >${run}/s/state; [ $n -ge 3 ] || exit 75' 1
[ "$runs" = "4 0 1 0" ] || fail "restarts with a file written anew: $runs; wanted 4 0 1 0"
restarts never 'exit 75' 0
[ "$runs" = "1 75 1 1" ] || fail "max-restarts = 0: $runs; wanted 1 75 1 1"

# neither requeue nor sbatch works: it is tried again; and a job that sbatch has taken although it failed is found
rm -rf "$FAKE"; mkdir "$FAKE"; script taken "max-restarts = 3\ncommand = exit 75"
fault sbatch fail-after
SLURM_JOB_ID=100 bash scr-taken/s.sbatch >log-taken 2>&1; got=$?; well
row "sbatch fails, but has taken the job" 1 "$got" "$(cat run-taken/s/.restarts)"
grep -q "goes on as job 101" log-taken && [ ! -e run-taken/s/failed.json ] && [ "$(grep -c '^sbatch ' "$FAKE/calls")" = 1 ] || { fail "a job that sbatch has taken was submitted twice"; cat log-taken; }

# ---- local: signals, and dino-jobs killed

heading "dino-jobs local" "signal" "exit" "saved" "left" "status"
here() { # here NAME SETTINGS SIGNAL CODE SAVED STATUS
  printf '[chain]\nrun = lo-%s\nranks = 2\n[s]\n%b\n[t]\ncommand = true\n' "$1" "$2" >"$1.cfg"
  dino-jobs local "$1.cfg" >"log-$1" 2>&1 & local pid=$! got left saved seen
  until_true 10 test -e "f-$1.up" || { fail "$1 did not start"; cat "log-$1"; }
  sleep 0.3
  dino-jobs status "lo-$1" --json | grep -q '"stage":"s","state":"running"' || fail "$1: status does not say that it runs"
  kill -"$3" $pid
  wait $pid; got=$?
  until_true 8 eval "! pgrep -f '[f]-$1( |\$)' >/dev/null"
  left=$(pgrep -fc "[f]-$1( |\$)")
  saved=$(grep -c saved "f-$1" 2>/dev/null)
  until_true 8 eval "! dino-jobs status lo-$1 | grep -q running"
  dino-jobs status "lo-$1" >status.txt; seen=$?
  row "$1" "$3" "$got" "${saved:-0}" "$left" "$seen"
  [ "$got ${saved:-0} $left $seen" = "$4 $5 0 $6" ] || { fail "$1: exit $got, saved ${saved:-0}, left $left, status $seen; wanted $4, $5, 0, $6"; cat "log-$1" status.txt; }
}
here lo-list "command = cd . && $S f-lo-list && touch f-lo-list.next" USR2 75 1 75
here lo-mpi "program = $S\nargs = f-lo-mpi" TERM 75 2 75
here lo-int "program = $S\nargs = f-lo-int\nmpi = false" INT 75 1 75
here lo-deaf "command = echo up >f-lo-deaf.up; sleep 62 # f-lo-deaf" TERM 75 0 75
here lo-killed "command = $S f-lo-killed" KILL 137 1 75
here lo-killed-deaf "command = echo up >f-lo-killed-deaf.up; sleep 63 && true" KILL 137 0 75
until_true 8 eval "! pgrep -f 'sleep 6[123]' >/dev/null" || fail "a stage outlived its dino-jobs"
# what still saves after its dino-jobs was killed is not started a second time beside itself
printf '[chain]\nrun = lo-twice\n[s]\ncommand = [ ! -e f-busy ] || touch f-both; trap "sleep 1.5; rm -f f-busy; exit 75" USR2; [ -e f-second ] || { touch f-second f-busy; while :; do sleep 0.05; done; }\n' >twice.cfg
dino-jobs local twice.cfg >log-twice 2>&1 & pid=$!
until_true 10 test -e f-busy
kill -KILL $pid; wait $pid 2>/dev/null
dino-jobs local twice.cfg >log-twice 2>&1 || { fail "after a kill it does not go on"; cat log-twice; }
[ ! -e f-both ] || fail "two of one stage ran at once"
finish
