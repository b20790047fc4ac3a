# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the mounted tests share. Sourced by scripts that tools/test runs; PBFS_BUILD is the build
# directory. Gives each script a folder of its own, with an image and a mountpoint, and takes
# everything away again.

# In a mount namespace of its own: one that another program makes meanwhile would take copies of our
# mounts along, and those keep a filesystem mounted after umount(8).
if [ "$(id -u)" -eq 0 ] && [ -z "${PBFS_TEST_NAMESPACE:-}" ]; then
  export PBFS_TEST_NAMESPACE=1
  exec unshare --mount --propagation private -- "$0" "$@"
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(cd "${PBFS_BUILD:-$here/../../build}" 2>/dev/null && pwd)/bin
PATH=$bin:/usr/sbin:/sbin:$PATH
work=$(mktemp -d "${TMPDIR:-/var/tmp}/pbfs-mount-test.XXXXXX")
mnt=$work/mnt
image=$work/image
loop=
passed=0
failed=0
# Full sizes instead of those that suit every run of tools/test.
long=${PBFS_TEST_LONG:-${PBFS_LONG:-}}
# Not a wrapper in somebody's home directory.
python=$(command -v /usr/bin/python3 || command -v python3) || python=
export PYTHONDONTWRITEBYTECODE=1
mkdir "$mnt"
chmod 755 "$work"

# Also from inside a check, whose output is shown only when it fails.
exec 3>&1
say() { echo "      $*" >&3; }
skip() { echo "$*"; exit 77; }

# Last mounted first.
mounts_here() {
  tac /proc/self/mountinfo | awk -v w="$work/" 'index($5, w) == 1 {print $5}'
}
# Takes away what the script made, even if it was interrupted.
cleanup() {
  local line
  cd /
  for line in $(jobs -p); do kill "$line" 2>/dev/null; done
  # A disk of our own stays mounted until its loop device is gone: that one is found by its path.
  mounts_here | grep -vE "^$work/(recorder|nbd)$" | while read -r line; do force_unmount "$line"; done
  losetup -n -O NAME,BACK-FILE 2>/dev/null | awk -v w="$work/" 'index($2, w) == 1 {print $1}' |
    while read -r line; do losetup -d "$line"; done
  mounts_here | while read -r line; do force_unmount "$line"; done
  # A server that does not end by itself hangs; it was started with a path in this folder.
  waits 20 no_server "$work/" || kill -9 $(pgrep -f "$server_pattern.*$work/")
  rm -rf "$work"
}
force_unmount() {
  if [ "$(id -u)" -eq 0 ]; then umount -i -l "$1"; else fusermount3 -u -z "$1"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# check WHAT COMMAND...: the command must succeed. refuse: it must fail.
check() {
  local what=$1
  shift
  if "$@" >"$work/output" 2>&1; then
    passed=$((passed + 1))
    echo "ok    $what"
  else
    failed=$((failed + 1))
    echo "FAIL  $what"
    sed 's/^/      /' "$work/output" | head -20
  fi
}
refuse() {
  local what=$1
  shift
  check "$what" not "$@"
}
not() { ! "$@"; }
exits() { local code=0; "${@:2}" || code=$?; [ "$code" -eq "$1" ] || { echo "exit code $code"; false; }; }
says() { local text=$1; shift; "$@" 2>&1 | tee /dev/stderr | grep -- "$text" >/dev/null; }
equal() { [ "$1" = "$2" ] || { echo "'$1' is not '$2'"; false; }; }
# waits SECONDS COMMAND...: until it succeeds.
waits() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.05; done
}

make_image() { truncate -s "${1:-256M}" "$image" && mkfs.pbfs -q -f "$image"; }
# A loop device over a new image; $loop names it.
make_loop() {
  make_image "$@" || return 1
  loop=$(losetup -f --show "$image") || { loop=; return 1; }
}
mounted() { awk -v m="${1:-$mnt}" '$5 == m {found = 1} END {exit !found}' /proc/self/mountinfo; }
mount_type() { awk -v m="$mnt" '$5 == m {for (i = 7; i <= NF; i++) if ($i == "-") print $(i + 1)}' \
  /proc/self/mountinfo; }
# The server of a device: it holds the lock.
server_pattern="^([^ ]*/)?pbfs "
server() { pgrep -f "$server_pattern.*$1" | head -1; }
no_server() { [ -z "$(server "$1")" ]; }
unlocked() { flock -n "$1" true; }
# The checker finds nothing wrong. Where it is not built, nothing is checked.
clean() {
  [ -x "$bin/fsck.pbfs" ] || return 0
  fsck.pbfs -n -f "$1" >"$work/fsck" 2>&1 || { echo "fsck.pbfs: $?"; tail -20 "$work/fsck"; false; }
}
check_clean() { check "fsck finds it clean${2:+ ($2)}" clean "$1"; }
# Why an ordinary user cannot mount here; nothing if he can.
why_no_user_mounts() {
  if [ "$(stat -c %a /dev/fuse)" != 666 ]; then
    echo "/dev/fuse is not open to users"
  elif [ ! -u "$(command -v fusermount3)" ]; then
    echo "fusermount3 is not setuid"
  elif [ ! -e /etc/mtab ]; then
    echo "there is no /etc/mtab, which fusermount3 needs"
  fi
}
# Puts the programs where users can reach them who may not enter the build directory.
share_programs() {
  mkdir "$work/programs"
  cp "$bin/pbfs" "$bin/mkfs.pbfs" "$bin/umount.pbfs" "$work/programs"
  PATH=$work/programs:$PATH
}
has() { command -v "$1" >/dev/null; }
finish() {
  echo "$passed passed, $failed failed"
  [ "$failed" -eq 0 ]
}

[ -x "$bin/pbfs" ] && [ -x "$bin/mkfs.pbfs" ] || skip "no pbfs in $bin"
[ "$(id -u)" -eq 0 ] || [ -n "${users_may:-}" ] || skip "needs root"
[ -w /dev/fuse ] || skip "/dev/fuse cannot be used"
