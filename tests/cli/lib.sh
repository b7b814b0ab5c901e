# Shared by the command-line tests. DINO_BIN, DINO_SOURCE, DINO_SHARE and DINO_PYTHON come from ctest.
set -uo pipefail
: "${DINO_BIN:?run this through ctest}" "${DINO_SOURCE:?}" "${DINO_PYTHON:=/usr/bin/python3}"
export PATH="$DINO_BIN:$PATH"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cd "$WORK" || exit 1
FAILED=0

fail() { printf 'FAILED: %s\n' "$*"; FAILED=1; }
ok() { printf 'ok: %s\n' "$*"; }
finish() { [ "$FAILED" = 0 ] && echo "all checks passed"; exit "$FAILED"; }

# ranks N command...
ranks() { local n=$1; shift; OMP_NUM_THREADS=1 mpirun --allow-run-as-root --oversubscribe --bind-to none -n "$n" "$@"; }

# expect CODE 'text on stderr' command...
expect() {
  local code=$1 text=$2; shift 2
  "$@" >"$WORK/out.txt" 2>"$WORK/err.txt"
  local rc=$?
  if [ "$rc" != "$code" ]; then fail "exit $rc instead of $code: $*"; tail -n 5 "$WORK/err.txt"; return; fi
  if [ -n "$text" ] && ! grep -qF -- "$text" "$WORK/err.txt"; then fail "no '$text' in the message of: $*"; tail -n 5 "$WORK/err.txt"; return; fi
  ok "exit $code: $*"
}

# same A B: every result has the same bytes. Only the lock's text and errors/ of failed starts may differ.
same() {
  local file
  (cd "$1" && find . -type f ! -name .lock ! -path './errors/*' | sort) >"$WORK/a.txt"; (cd "$2" && find . -type f ! -name .lock ! -path './errors/*' | sort) >"$WORK/b.txt"
  if ! cmp -s "$WORK/a.txt" "$WORK/b.txt"; then fail "other files in $2 than in $1"; diff "$WORK/a.txt" "$WORK/b.txt"; return 1; fi
  while read -r file; do cmp -s "$1/$file" "$2/$file" || { fail "$file differs between $1 and $2"; return 1; }; done <"$WORK/a.txt"
  ok "$2 has the bytes of $1"
}

# images DIR N: N small PPM pictures in two classes, drawn from a fixed seed.
images() {
  "$DINO_PYTHON" - "$1" "$2" <<'PY'
import os, sys
import numpy as np
root, n = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
for i in range(n):
    label = ("stripes", "blobs")[i % 2]
    os.makedirs(f"{root}/{label}", exist_ok=True)
    y, x = np.mgrid[0:48, 0:40]
    if i % 2 == 0:
        a, b = rng.uniform(0.1, 0.8, 2)
        g = 0.5 + 0.5 * np.sin(a * x + b * y)
    else:
        cx, cy, s = rng.uniform(8, 32), rng.uniform(8, 40), rng.uniform(4, 12)
        g = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * s * s))
    rgb = (g[..., None] * rng.uniform(80, 255, 3) + rng.normal(0, 4, (48, 40, 3))).clip(0, 255).astype(np.uint8)
    with open(f"{root}/{label}/{i:04d}.ppm", "wb") as f:
        f.write(b"P6\n40 48\n255\n" + rgb.tobytes())
PY
}

# ---- what the tests of hangs, kills and resumes share

# launch NAME N command...: N ranks in the background and in a session of their own; $LAUNCHED is mpirun's pid, stdout and stderr go to NAME.log.
launch() {
  local log=$1.log n=$2; shift 2
  setsid env OMP_NUM_THREADS=1 mpirun --allow-run-as-root --oversubscribe --bind-to none -n "$n" "$@" >"$log" 2>&1 &
  LAUNCHED=$!
}
# rank_pid R: the process of rank R of what was launched last; empty when there is none yet.
rank_pid() {
  local pid
  for pid in $(pgrep -P "$LAUNCHED"); do
    tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "OMPI_COMM_WORLD_RANK=$1" && { echo "$pid"; return; }
  done
}
# until_true SECONDS command...: polls; false when the time is over.
until_true() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do [ "$SECONDS" -lt "$end" ] || return 1; sleep 0.02; done
}
# kill_all: SIGKILL to everything that was launched last, mpirun first so that it cannot tidy up; then waits until it is gone.
kill_all() {
  local pids; pids=$(pgrep -P "$LAUNCHED")
  kill -KILL "$LAUNCHED" $pids 2>/dev/null
  wait "$LAUNCHED" 2>/dev/null
  local pid
  for pid in $pids; do until_true 20 eval "! kill -0 $pid 2>/dev/null || grep -q '^State:.Z' /proc/$pid/status 2>/dev/null"; done
}

# Rows of a table on stdout, and in a file that stays when the test passes.
MATRIX="$(dirname "$DINO_BIN")/matrices/$(basename "$0" .sh).txt"
mkdir -p "$(dirname "$MATRIX")"; : >"$MATRIX"
row() { local line='|' cell; for cell in "$@"; do line+=" ${cell//|//} |"; done; echo "$line" | tee -a "$MATRIX"; }
heading() { echo | tee -a "$MATRIX"; row "$@"; row "${@/*/---}"; }
