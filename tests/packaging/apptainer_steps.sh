#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The steps of share/packaging/dinohpc.def without Apptainer: its system by debootstrap, then %setup, %post and %test in a chroot, as
# root. Downloads some 400 MB and builds the programs: many minutes. DINO_CHROOT=/folder keeps the system for a look.
set -uo pipefail
source=${DINO_SOURCE:-$(cd "$(dirname "$0")/../.." && pwd)}
skip() { echo "SKIPPED: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "chroot needs root"
command -v debootstrap >/dev/null || [ -x /usr/sbin/debootstrap ] || skip "no debootstrap"
git -C "$source" rev-parse HEAD >/dev/null 2>&1 || skip "no git checkout"
definition=$source/share/packaging/dinohpc.def
root=${DINO_CHROOT:-$(mktemp -d)/root}
say() { echo "[$SECONDS s] $*"; }
fail() { say "FAILED: $*"; exit 1; }
header() { sed -n "s/^$1: *//p" "$definition"; }
section() { awk -v name="%$1" '/^%/ { on = $1 == name; next } on' "$definition"; }
leave() {
  umount "$root/proc" "$root/dev/shm" "$root/dev" 2>/dev/null
  [ -n "${DINO_CHROOT:-}" ] || rm -rf --one-file-system "$(dirname "$root")"
}
trap leave EXIT

[ "$(header Bootstrap)" = debootstrap ] || fail "the definition begins with another system"
if [ ! -e "$root/usr/bin/apt-get" ] || [ -e "$root/debootstrap" ]; then
  mkdir -p "$root"
  /usr/sbin/debootstrap --variant=minbase "$(header OSVersion)" "$root" "$(header MirrorURL)" >"$root.log" 2>&1 || { tail -n 5 "$root.log"; skip "debootstrap: is there a network?"; }
fi
say "a system of $(du -sm --one-file-system "$root" | cut -f1) MiB"
cp /etc/resolv.conf "$root/etc/"
# What Apptainer mounts too.
mount --bind /dev "$root/dev" && mkdir -p "$root/dev/shm" && mount -t proc proc "$root/proc" || skip "no right to mount"

(cd "$source" && section setup | APPTAINER_ROOTFS=$root bash -e) || fail "%setup"
[ -s "$root/opt/dinohpc-source/.commit" ] || fail "%setup leaves no commit"
inside() { section "$1" | chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} bash; }
inside post >"$root.post.log" 2>&1 || { tail -n 15 "$root.post.log"; fail "%post"; }
say "%post is done"
inside test || fail "%test"
[ "$(section runscript | chroot "$root" bash -s -- dino-jobs --version)" = "$(chroot "$root" dino-jobs --version)" ] || fail "%runscript"
chroot "$root" dino-jobs --version | grep -q "$(cat "$source/.commit" 2>/dev/null || git -C "$source" rev-parse --short=12 HEAD)" || fail "the programs do not name their commit"
[ ! -e "$root/opt/dinohpc-source" ] || fail "the source is left in the image"
for file in share/dinohpc/recipes/tiny.cfg share/man/man1/dino-curate.1 share/doc/dinohpc/docs/formats.md; do
  [ -e "$root/usr/local/$file" ] || fail "the image has no $file"
done
say "a chain's words: what \`container\` starts"
chroot "$root" env DINO_SHARE=/usr/local/share/dinohpc mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2 dino-curate --version || fail "two ranks"
say "all steps passed; $(du -sm --one-file-system "$root" | cut -f1) MiB"
