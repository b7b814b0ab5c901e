#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# package.sh BUILD FOLDER: writes FOLDER/dinohpc-VERSION-x86_64.tar.gz, the installed prefix of BUILD without debug symbols. It
# runs wherever it is unpacked, on a machine with the same system libraries: share/dinohpc/libraries.txt names them and
# Debian's packages that have them, and share/dinohpc/packaging/check.sh looks for them.
set -euo pipefail
build=${1:?package.sh BUILD FOLDER} folder=${2:?package.sh BUILD FOLDER}
version=$(sed -n 's/^CMAKE_PROJECT_VERSION:STATIC=//p' "$build/CMakeCache.txt")
name=dinohpc-$version-$(uname -m)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/$name" --strip >"$work/log" || { tail -n 5 "$work/log" >&2; exit 74; }

# What the programs name themselves; the rest comes with those.
for program in "$work/$name"/bin/dino-*; do
  readelf -d "$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
done | sort -u | while read -r library; do
  # Of this architecture; what the alternatives system chooses has its file in a folder below.
  package=$({ dpkg -S "*/$(uname -m)-linux-gnu/$library" || dpkg -S "*/$library"; } 2>/dev/null | sed 's/:.*//' | sort -u | head -n 1 || true)
  printf '%s %s\n' "$library" "${package:--}"
done >"$work/$name/share/dinohpc/libraries.txt"

mkdir -p "$folder"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner -czf "$folder/.$name.tar.gz.$$" "$name"
mv "$folder/.$name.tar.gz.$$" "$folder/$name.tar.gz"
echo "$folder/$name.tar.gz ($(($(stat -c %s "$folder/$name.tar.gz") / 1048576)) MiB)"
echo "It needs these packages (or their libraries) where it is unpacked; share/dinohpc/packaging/check.sh looks for them:"
echo "  $(cut -d' ' -f2 "$work/$name/share/dinohpc/libraries.txt" | grep -vx -- - | sort -u | tr '\n' ' ')and mpirun"
