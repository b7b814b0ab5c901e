#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `make gpu-bundle`, as far as it goes without a GPU: its size, what it lists, and that it brings every library but those of CUDA and of
# the C library. Skipped without a CUDA toolkit.
. "$(dirname "$0")/../lib.sh"
[ -x /usr/local/cuda/bin/nvcc ] || command -v nvcc >/dev/null || { echo "no CUDA toolkit"; exit 77; }
make -C "$DINO_SOURCE" gpu-bundle >make.txt 2>&1 || { tail -n 20 make.txt; fail "make gpu-bundle"; finish; }
cp -r "$DINO_SOURCE/build/gpu-bundle" "there is it" && cd "there is it" || exit 1
mib=$(($(du -sb . | cut -f1) / 1048576))
[ "$mib" -lt 60 ] && ok "$mib MiB" || fail "the bundle has $mib MiB"
# As on a machine that has nothing of ours.
check() { env -i PATH="/usr/bin:/bin" HOME="$WORK" ./gpu-check "$@"; }

expect 0 "" check --list
[ "$(cut -d' ' -f1 "$WORK/out.txt" | tr '\n' ' ')" = "files ops training bench torch " ] || fail "--list names other parts"
expect 64 "unknown option: --all" check --all
expect 0 "" check --files
grep -qE '^files +ok .*cuBLASLt' "$WORK/out.txt" || { cat "$WORK/out.txt"; fail "--files says no ok"; }

# What the loader takes from outside: the C library, and CUDA's libraries through a folder of links.
for program in unpacked/bin/*; do
  LD_LIBRARY_PATH=unpacked/lib:/usr/local/cuda/lib64 ldd "$program"
done | sed -n 's/^[[:space:]]*\([^ ]*\) => \([^ ]*\).*/\1 \2/p' | grep -v ' unpacked/lib/' | sort -u >"$WORK/outside.txt"
if grep -vE '^(lib(c|m|mvec|dl|rt|pthread|resolv)\.so\.[0-9]+ /lib|lib(cublasLt|nccl)\.so)' "$WORK/outside.txt"; then fail "these libraries are not in the bundle"; else ok "libraries"; fi
compgen -G 'unpacked/lib/libvips*' >/dev/null && fail "libvips is in the bundle"

# Its programs compute, and start no MPI.
expect 0 "" env DINO_MPI=off LD_LIBRARY_PATH=unpacked/lib:/usr/local/cuda/lib64 OPAL_PREFIX=/nowhere unpacked/bin/dino-pretrain bench --preset vits14 --batch 1 --crops 2x28,1x14 --prototypes 16 \
  --bottleneck 8 --head-hidden 16 --steps 1 --warmup 0 --precision fp32 --device cpu --json

rc=0; check --ops >"$WORK/out.txt" 2>"$WORK/err.txt" || rc=$?
if [ -e /dev/nvidiactl ]; then
  [ $rc = 0 ] && ok "operators on the GPU" || { cat "$WORK/out.txt"; fail "operators on the GPU"; }
else
  [ $rc = 69 ] && grep -q 'no GPU: ' "$WORK/err.txt" && ok "no GPU: exit 69" || { cat "$WORK/err.txt"; fail "exit $rc without a GPU"; }
fi

mkdir ../fake && printf '#!/bin/sh\nprintf "\\tlibcublasLt.so.99 => not found\\n"\n' >../fake/ldd && chmod +x ../fake/ldd
expect 66 "not found: libcublasLt.so.99; CUDA's are looked for in" env PATH="$WORK/fake:$PATH" ./gpu-check --files
rm unpacked/bin/dino-eval
expect 66 "missing: $WORK/there is it/unpacked/bin/dino-eval" check --files
rm -r unpacked && printf 'x' >files.tar.xz
expect 66 "cannot unpack" check --files
finish
