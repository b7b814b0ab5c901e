#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Arrows run one way: a folder of src/ includes headers of itself and of folders before it in the list of CMakeLists.txt alone (src/README.md).
# Kernels take the keywords of CUDA from tests/simt where the executor runs them.
set -euo pipefail
cd "$(dirname "$0")/.."
folders=$(sed -n 's/^foreach(folder \(base .*\))$/\1/p' CMakeLists.txt)
[ -n "$folders" ] || { echo "no list of folders in CMakeLists.txt"; exit 1; }
git grep -n '#include "' -- 'src/*.cpp' 'src/*.hpp' 'src/*.cu' | awk -F'[:/"]' -v list="$folders" '
  BEGIN { n = split(list, name, " "); for (i = 1; i <= n; ++i) place[name[i]] = i }
  {
    from = $2
    match($0, /#include "[^"]*"/); header = substr($0, RSTART + 10, RLENGTH - 11); split(header, part, "/"); to = part[1]
    if (!(from in place)) { print "a folder without a place: src/" from; bad = 1 }
    else if (to == "simt") { if (from !~ /^(tensor|ops)$/) { print $0; bad = 1 } }
    else if (!(to in place) || place[to] > place[from]) { print $0; bad = 1 }
  }
  END { if (bad) print "these includes run against the arrows of src/"; exit bad }'
