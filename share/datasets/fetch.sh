#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches the Debian packages behind the data sets of this folder and unpacks them under $DINO_DATA (default
# ~/.cache/dinohpc), without root and without installing anything. Run it again: it does only what is missing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
share=${DINO_SHARE:+$DINO_SHARE/datasets}
share=${share:-$here}
data=${DINO_DATA:-$HOME/.cache/dinohpc}

fail() { # CODE MESSAGE: the codes are those of the programs
  echo "fetch.sh: error: $2" >&2
  exit "$1"
}

# A data set's definition: NAME.cfg, or dense/NAME.cfg for one of maps.
definition() { if [ -f "$share/$1.cfg" ] || [ ! -f "$share/dense/$1.cfg" ]; then echo "$share/$1.cfg"; else echo "$share/dense/$1.cfg"; fi; }
# Those that packages hold.
names() { (cd "$share" && grep -l '^root *=' -- *.cfg dense/*.cfg 2>/dev/null | sed 's/\.cfg$//; s/^dense\///' || true); }

usage() {
  cat <<EOF
Usage: fetch.sh NAME...   fetch the packages of these data sets
       fetch.sh --all     fetch all
       fetch.sh --list    list the data sets and what they need

Data sets: $(names | tr '\n' ' ')
Packages come by apt-get download, or from .deb files that you put into
$data/debs; each must have the version and SHA-256 of packages.txt.
EOF
}

packages_of() { sed -n 's/^root *= *\([^:]*\):.*/\1/p' "$(definition "$1")" | sort -u; }

# Sets version, bytes, sha256 and licence of a package.
look_up() {
  local line
  line=$(grep -E "^$1 " "$share/packages.txt" || true)
  [ -n "$line" ] || fail 65 "unknown package: $1: not in $share/packages.txt; mend the data set's definition"
  read -r _ version bytes sha256 licence <<<"$line"
}

mib() { echo "$((($1 + 1048575) / 1048576)) MiB"; }

stamp_of() { cat "$data/packages/$1/.fetched" 2>/dev/null || true; }

# Prints the path of a .deb of this package and version below a folder, if any.
find_deb() {
  local deb
  for deb in "$1/$2"_*.deb; do
    [ -f "$deb" ] || continue
    if [ "$(dpkg-deb -f "$deb" Version 2>/dev/null)" = "$3" ]; then
      echo "$deb"
      return
    fi
  done
}

check_sha256() { # FILE
  local actual
  actual=$(sha256sum "$1" | cut -d' ' -f1)
  [ "$actual" = "$sha256" ] || fail 65 "wrong checksum: $1: SHA-256 is $actual, packages.txt has $sha256; remove the file and fetch it again"
}

# One apt-get for all: it downloads in parallel. Falls back to one by one to find which cannot be had.
download() { # PACKAGE=VERSION...
  local log=$scratch/apt.log one offered
  command -v apt-get >/dev/null || fail 66 "cannot fetch: $*: there is no apt-get here; put the .deb files of Debian 12 into $data/debs and run this again"
  if (cd "$scratch/debs" && apt-get -q download "$@" >"$log" 2>&1); then return; fi
  for one in "$@"; do
    if ! (cd "$scratch/debs" && apt-get -q download "$one" >"$log" 2>&1); then
      offered=$(apt-cache madison "${one%%=*}" 2>/dev/null | awk '{print $3}' | sort -u | tr '\n' ' ')
      fail 66 "cannot fetch: package ${one%%=*} ${one#*=}: $(grep -m1 '^E:' "$log" || tail -n1 "$log"); apt offers ${offered:-no version}; run apt-get update, or put the .deb of Debian 12 into $data/debs"
    fi
  done
}

unpack() { # PACKAGE DEB: unpacked beside its place, then renamed, so that a folder is whole or absent
  local target=$data/packages/$1 fresh=$data/packages/.new.$1.$$ old=$data/packages/.old.$1.$$
  rm -rf "$fresh" "$old"
  dpkg-deb -x "$2" "$fresh" || { rm -rf "$fresh"; fail 74 "cannot unpack: $2: into $fresh; is the disk full?"; }
  echo "$version $sha256" >"$fresh/.fetched"
  sync -f "$fresh" 2>/dev/null || sync
  if [ -e "$target" ]; then mv -T "$target" "$old"; fi
  mv -T "$fresh" "$target"
  rm -rf "$old"
}

fetch() { # PACKAGE...
  local package deb number=0 total=$# wanted=() missing=()
  for package in "$@"; do
    look_up "$package"
    if [ "$(stamp_of "$package")" = "$version $sha256" ]; then
      number=$((number + 1))
      echo "[$number/$total] $package $version: already there"
    else
      wanted+=("$package")
      [ -n "$(find_deb "$data/debs" "$package" "$version")" ] || missing+=("$package=$version")
    fi
  done
  if [ ${#missing[@]} -gt 0 ]; then
    local sum=0
    for package in "${missing[@]}"; do
      look_up "${package%%=*}"
      sum=$((sum + bytes))
    done
    echo "downloading ${#missing[@]} packages, $(mib "$sum")"
    download "${missing[@]}"
  fi
  for package in ${wanted[@]+"${wanted[@]}"}; do
    look_up "$package"
    deb=$(find_deb "$data/debs" "$package" "$version")
    [ -n "$deb" ] || deb=$(find_deb "$scratch/debs" "$package" "$version")
    [ -n "$deb" ] || fail 66 "cannot fetch: package $package $version: apt-get left no .deb of it; put one into $data/debs"
    check_sha256 "$deb"
    unpack "$package" "$deb"
    number=$((number + 1))
    echo "[$number/$total] $package $version: checked and unpacked ($licence)"
  done
}

[ $# -gt 0 ] || { usage >&2; exit 64; }
case $1 in
  -h | --help) usage; exit 0 ;;
  --list)
    for name in $(names); do
      echo "$name: $(sed -n 's/^title *= *//p' "$(definition "$name")"); $(packages_of "$name" | tr '\n' ' ')"
    done
    exit 0 ;;
  --all) set -- $(names) ;;
esac

packages=()
for name in "$@"; do
  name=${name%%/*} # wesnoth-units/train needs what wesnoth-units needs
  case $name in -*) fail 64 "unknown option: $name: fetch.sh takes names, --all or --list" ;; esac
  [ -f "$(definition "$name")" ] || fail 66 "unknown data set: $name: no $share/$name.cfg; known are $(names | tr '\n' ' ')"
  mapfile -t more < <(packages_of "$name")
  [ ${#more[@]} -gt 0 ] || fail 66 "cannot fetch: $name: no package holds it; $(definition "$name") says where it comes from"
  packages+=("${more[@]}")
done
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)

command -v dpkg-deb >/dev/null || fail 66 "cannot fetch: dpkg-deb is not here; install the package dpkg"
mkdir -p "$data/packages" || fail 74 "cannot write: $data: set DINO_DATA to a folder that can be written"
exec 9>"$data/.fetch.lock"
if ! flock -n 9; then
  echo "waiting for another fetch.sh that works in $data"
  flock 9
fi
# What a killed run left.
rm -rf "$data"/packages/.new.* "$data"/packages/.old.* "$data"/.fetch.??????
scratch=$(mktemp -d "$data/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/debs"
fetch "${packages[@]}"
echo "ready in $data"
