#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# share/datasets/fetch.sh on packages made here: no network is used.
set -euo pipefail
command -v dpkg-deb >/dev/null || exit 77
fetch=$DINO_SOURCE/share/datasets/fetch.sh
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export DINO_SHARE=$scratch/share DINO_DATA=$scratch/data
# An apt-get that has nothing, so that what is missing stays missing.
mkdir -p "$scratch/bin" "$DINO_SHARE/datasets" "$DINO_DATA/debs"
printf '#!/bin/sh\necho "E: Unable to locate package $3" >&2\nexit 100\n' >"$scratch/bin/apt-get"
printf '#!/bin/sh\necho " $2 | 9.9-9 | http://mirror"\n' >"$scratch/bin/apt-cache"
chmod +x "$scratch"/bin/*
export PATH=$scratch/bin:$PATH

make_deb() { # NAME VERSION
  local tree=$scratch/tree/$1
  mkdir -p "$tree/DEBIAN" "$tree/usr/share/$1"
  echo picture >"$tree/usr/share/$1/a.png"
  printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: t\n' "$1" "$2" >"$tree/DEBIAN/control"
  dpkg-deb --root-owner-group -b "$tree" "$DINO_DATA/debs/$1_$2_all.deb" >/dev/null
}
row() { echo "$1 $2 100 $(sha256sum "$DINO_DATA/debs/$1_$2_all.deb" | cut -d' ' -f1) MIT"; }

make_deb cats 1.0-1
make_deb dogs 2.0-1
{ row cats 1.0-1; row dogs 2.0-1; echo "birds 3.0-1 100 $(printf '0%.0s' {1..64}) MIT"; } >"$DINO_SHARE/datasets/packages.txt"
printf 'title = pets\nroot = cats:usr/share/cats\nroot = dogs:usr/share/dogs\n' >"$DINO_SHARE/datasets/pets.cfg"
printf 'root = cats:usr/share/cats\n' >"$DINO_SHARE/datasets/cats.cfg"
printf 'root = birds:usr\n' >"$DINO_SHARE/datasets/birds.cfg"
printf 'root = fish:usr\n' >"$DINO_SHARE/datasets/fish.cfg"

expect() { # CODE TEXT... -- COMMAND...: the exit code, and every text in the output
  local code=$1 texts=() status=0
  shift
  while [ "$1" != -- ]; do texts+=("$1"); shift; done
  shift
  "$@" >"$scratch/log" 2>&1 || status=$?
  for text in "${texts[@]}"; do
    grep -qF -- "$text" "$scratch/log" || { echo "FAILED: '$text' is not in the output of: $*"; cat "$scratch/log"; exit 1; }
  done
  [ "$status" = "$code" ] || { echo "FAILED: exit $status, not $code: $*"; cat "$scratch/log"; exit 1; }
}

expect 64 "Usage" "pets" -- "$fetch"
expect 0 "pets: pets; cats dogs" -- "$fetch" --list
expect 66 "unknown data set: mice" "pets" -- "$fetch" mice
expect 64 "unknown option: --fast" -- "$fetch" --fast
expect 65 "unknown package: fish" -- "$fetch" fish
expect 0 "[2/2] dogs 2.0-1: checked and unpacked (MIT)" -- "$fetch" pets/train
[ "$(cat "$DINO_DATA/packages/dogs/usr/share/dogs/a.png")" = picture ]
expect 0 "[1/2] cats 1.0-1: already there" "[2/2] dogs 2.0-1: already there" -- "$fetch" pets
# A package that no one has: what apt says, what it offers, and what to do.
expect 66 "package birds 3.0-1" "Unable to locate" "apt offers 9.9-9" "apt-get update" "$DINO_DATA/debs" -- "$fetch" birds
# A broken download.
rm -r "$DINO_DATA/packages/cats"
deb=$DINO_DATA/debs/cats_1.0-1_all.deb
cp "$deb" "$scratch/good.deb"
printf 'x' >>"$deb"
expect 65 "wrong checksum: $deb" "packages.txt has" -- "$fetch" cats
[ ! -e "$DINO_DATA/packages/cats" ]
cp "$scratch/good.deb" "$deb"
# What a killed run left is cleared away, and two at once do not meet.
mkdir -p "$DINO_DATA/packages/.new.cats.1/half"
"$fetch" cats >"$scratch/one" 2>&1 &
first=$!
"$fetch" cats >"$scratch/two" 2>&1 || { cat "$scratch/two"; exit 1; }
wait "$first" || { cat "$scratch/one"; exit 1; }
[ "$(cat "$scratch/one" "$scratch/two" | grep -c 'checked and unpacked')" = 1 ]
[ -f "$DINO_DATA/packages/cats/usr/share/cats/a.png" ]
[ -z "$(find "$DINO_DATA" -name '.new.*' -o -name '.old.*' -o -name '.fetch.??????')" ]
# Another version of the data set's definition replaces the folder.
make_deb cats 1.1-1
{ row cats 1.1-1; row dogs 2.0-1; } >"$DINO_SHARE/datasets/packages.txt"
expect 0 "cats 1.1-1: checked and unpacked" -- "$fetch" cats
# The shipped list agrees with the shipped definitions.
DINO_SHARE=$DINO_SOURCE/share expect 0 "demo-pool" "wesnoth-1.16-data" -- "$fetch" --list
echo "datasets: all good"
