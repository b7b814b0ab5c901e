#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# pack.sh BUILD FOLDER: the bundle of `make gpu-bundle`. FOLDER gets gpu-check, and the programs of BUILD with their shared
# libraries, some pictures and what else gpu-check takes in files.tar.xz. CUDA's libraries, the driver's and the C library's
# are those of the machine that it is copied to. FOLDER/README says what it is, FOLDER/CONTENTS what is in it.
set -euo pipefail
build=${1:?pack.sh BUILD FOLDER} folder=${2:?pack.sh BUILD FOLDER}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$(cd "$here/../.." && pwd)
LIMIT_MIB=60
fail() { echo "pack.sh: error: $2" >&2; exit "$1"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/files"/{bin,lib,share,data}

programs=(gpu_ops_test gpu_training_test gpu_ops_bench dino-pretrain dino-eval)
for program in "${programs[@]}"; do
  [ -x "$build/bin/$program" ] || fail 66 "not built: $build/bin/$program: make gpu-bundle builds it"
  strip -o "$work/files/bin/$program" "$build/bin/$program"
done

# What the loader finds for them, but for what belongs to the machine.
of_machine='^(ld-linux.*|lib(c|m|mvec|dl|rt|pthread|resolv|util|anl|nsl|BrokenLocale|nss_.*)|lib(cuda|cudart|cublas|cublasLt|nccl|nvidia-ml|nvJitLink))\.so'
ldd "${programs[@]/#/$build/bin/}" | sed -n 's/^[[:space:]]*\([^ ]*\) => \(\/[^ ]*\) .*/\1 \2/p' | sort -u | while read -r name path; do
  [[ $name =~ $of_machine ]] && continue
  cp -L "$path" "$work/files/lib/$name"
done

cp -r "$source/share/recipes" "$work/files/share/"
cp "$source/tests/bench/torch_step.py" "$work/files/"
"$source/share/datasets/fetch.sh" emoji >"$work/fetch.log" 2>&1 || { tail -n 2 "$work/fetch.log" >&2; fail 66 "no pictures: the data set emoji"; }
pictures=${DINO_DATA:-$HOME/.cache/dinohpc}/packages/ruby-gemojione
find "$pictures" -name '*.png' -path '*/assets/png/*' | sort | awk 'NR % 4 == 0' | xargs cp -t "$work/files/data"
cp "$pictures/usr/share/doc/ruby-gemojione/copyright" "$work/files/data/"

(cd "$work/files" && find . -type f -printf '%P %s\n' | sort) >"$work/CONTENTS"
# The programs have much in common, which a dictionary of 64 MiB finds.
tar -C "$work/files" --sort=name --owner=0 --group=0 --numeric-owner -cf - . | xz --lzma2=preset=6,dict=64MiB >"$work/files.tar.xz"
rm -rf "$folder"
mkdir -p "$folder"
cp "$here/gpu-check" "$work/files.tar.xz" "$work/CONTENTS" "$source/LICENSE" "$folder/"
cat >"$folder/README" <<'TEXT'
./gpu-check checks dinohpc on the NVIDIA GPU of this machine and prints one table, in 8 minutes at most.
It takes a driver for CUDA 13, libcublasLt.so.13 and libnccl.so.2 (in a usual prefix, or the wheels of a python3), glibc
2.36 or newer, bash, and xz or python3. With a python3 that has torch, the same steps are timed there too.
./gpu-check --list names its parts, --files looks for what it needs. CONTENTS lists what files.tar.xz has.
TEXT
size=$(($(du -sb "$folder" | cut -f1) / 1048576 + 1))
[ "$size" -le $LIMIT_MIB ] || fail 70 "too large: $folder has $size MiB, $LIMIT_MIB are allowed"
echo "$folder: $size MiB, $(wc -l <"$work/CONTENTS") files"
