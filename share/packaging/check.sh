#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Are the system libraries of an installed or unpacked dinohpc on this machine? Exit code 66 when one is not.
set -uo pipefail
share=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$(cd "$share/../../bin" 2>/dev/null && pwd) && [ -x "$bin/dino-jobs" ] ||
  { echo "check.sh: error: programs not found: $share/../../bin: not an installed prefix; run the check.sh of one" >&2; exit 66; }
missing=$(for program in "$bin"/dino-*; do ldd "$program" | sed -n 's/^[[:space:]]*\([^ ]*\) => not found.*/\1/p'; done | sort -u)
for library in $missing; do
  package=$(awk -v l="$library" '$1 == l { print $2 }' "$share/libraries.txt" 2>/dev/null)
  echo "missing: $library${package:+ (Debian: apt-get install $package)}"
done
command -v mpirun >/dev/null || command -v srun >/dev/null || echo "note: neither mpirun nor srun is on the PATH: the programs run alone, and dino-jobs cannot start ranks"
[ -z "$missing" ] || exit 66
for program in "$bin"/dino-*; do
  "$program" --version >/dev/null || { echo "check.sh: error: program does not start: $program: exit code $?" >&2; exit 70; }
done
echo "all libraries are here; $(cd "$bin" && echo dino-*) start"
