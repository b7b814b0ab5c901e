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
