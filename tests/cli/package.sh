#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tarball of `make package`: unpacked elsewhere, the programs run and find their recipes, and its check tells what is missing.
. "$(dirname "$0")/lib.sh"
unset DINO_SHARE
bash "$DINO_SOURCE/cmake/package.sh" "$DINO_BIN/.." "$WORK/out" >pack.txt 2>&1 || { cat pack.txt; fail "package.sh"; finish; }
grep -q 'lib32' pack.txt && fail "package.sh names packages of another architecture"
grep -q 'libhdf5' pack.txt || fail "package.sh does not say what the tarball needs"
tar -tzf out/dinohpc-*.tar.gz >names.txt
for file in bin/dino-curate bin/dino-jobs share/dinohpc/recipes/tiny.cfg share/dinohpc/slurm/run.bash.in share/dinohpc/libraries.txt \
  share/doc/dinohpc/README.md share/doc/dinohpc/docs/formats.md share/dinohpc/packaging/dinohpc.def; do
  grep -q "^dinohpc-[^/]*/$file\$" names.txt || fail "the tarball has no $file"
done
grep -vq '^dinohpc-' names.txt && fail "the tarball has files outside of its folder"

expect 0 "" "$DINO_PYTHON" "$DINO_SOURCE/tests/cli/spack_recipe.py" "$DINO_SOURCE"

mkdir -p "else where" && tar -C "else where" -xzf out/dinohpc-*.tar.gz && rm -rf out
prefix=$(echo "$WORK/else where"/dinohpc-*)
expect 0 "" "$prefix/bin/dino-pretrain" train --config tiny --data nowhere --output run --print-config
expect 0 "" "$prefix/bin/dino-jobs" init chain.cfg
expect 0 "" "$prefix/bin/dino-jobs" render chain.cfg --output scripts
grep -q "DINO_SHARE='$prefix/share/dinohpc'" scripts/curate.sbatch || fail "the moved programs use another share"
expect 0 "" bash "$prefix/share/dinohpc/packaging/check.sh"
grep -q 'all libraries are here' out.txt || fail "check.sh does not say so"

# a library that is not there, and a folder without programs
mkdir fake && printf '#!/bin/sh\nprintf "\\tlibvips.so.42 => not found\\n"\n' >fake/ldd && chmod +x fake/ldd
expect 66 "" env PATH="$WORK/fake:$PATH" bash "$prefix/share/dinohpc/packaging/check.sh"
grep -q 'missing: libvips.so.42 (Debian: apt-get install libvips42' out.txt || { cat out.txt; fail "the missing library is not named with its package"; }
expect 66 "not an installed prefix" bash "$DINO_SOURCE/share/packaging/check.sh"
finish
