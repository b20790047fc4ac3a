#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The semantics that POSIX and the man pages promise (tests/posix), on ext4 and XFS of this kernel,
# where every test must pass for it to be right, and on pbfs, mounted in three ways. What takes mount
# options, or looks at the device, is done here.
#
#   tests/mount/posix.sh [KIND...]     ext4 xfs pbfs nowriteback fuse; without: all
#
# POSIX_FILTER=... names tests as --gtest_filter does; then only the program is run.
. "$(dirname "$0")/lib.sh"
[ -n "$python" ] || skip "python3 is missing"
program=${bin%/bin}/tests/posix_test
[ -x "$program" ] || skip "posix_test is not built"
second=$work/second
mkdir "$second"
kind=
options=

make_device() {
  rm -f "$image"
  truncate -s 400M "$image" || return 1
  case $kind in
    ext4) mkfs.ext4 -q -F -b 4096 -I 256 "$image" ;;
    xfs) mkfs.xfs -q -f "$image" ;;
    *) mkfs.pbfs -q -f "$image" ;;
  esac || return 1
  [ "$kind" != fuse ] || { device=$image; return; }
  device=$(losetup -f --show "$image")
}
drop_device() { [ "$device" = "$image" ] || losetup -d "$device"; }
# with OPTION...: as -o takes them, with those of the kind.
with() { local IFS=,; echo "${options:+$options,}$*"; }
mount_it() {
  local place=${2:-$mnt}
  case $kind in
    ext4 | xfs) mount -t "$kind" -o "$(with ${1:-rw})" "$device" "$place" ;;
    *) pbfs -o "$(with ${1:-rw})" "$device" "$place" ;;
  esac
}
unmount_it() {
  case $kind in
    ext4 | xfs) umount "${1:-$mnt}" ;;
    *) umount.pbfs "${1:-$mnt}" ;;
  esac
}
check_it() {
  case $kind in
    ext4) check "$kind: fsck" fsck.ext4 -fn "$image" ;;
    xfs) check "$kind: fsck" xfs_repair -n "$image" ;;
    *) check_clean "$device" "$kind" ;;
  esac
}
# Unmounts and mounts again, for the program.
write_remount() {
  {
    echo '#!/bin/sh'
    case $kind in
      ext4 | xfs) echo "umount $mnt && mount -t $kind -o $(with "$1") $device $mnt" ;;
      *) echo "$bin/umount.pbfs $mnt && $bin/pbfs -o $(with "$1") $device $mnt" ;;
    esac
  } >"$work/remount"
  chmod 755 "$work/remount"
}

# run WHAT FILTER ARGUMENT...: counts its tests, shows those that fail.
run() {
  local what=$1 filter=$2 code=0 log=$work/log good bad
  shift 2
  timeout -k 5 200 "$program" --gtest_brief=1 --gtest_filter="$filter" --dir "$mnt" "$@" \
    >"$log" 2>&1 </dev/null || code=$?
  good=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log")
  bad=$(grep -acE '^\[  FAILED  \] .* \([0-9]+ ms\)$' "$log")
  passed=$((passed + ${good:-0}))
  failed=$((failed + bad))
  if [ "$code" -eq 0 ] && [ "${good:-0}" -gt 0 ]; then
    echo "ok    $what: $good tests"
  else
    [ "$bad" -gt 0 ] || failed=$((failed + 1))
    echo "FAIL  $what: ${good:-0} tests passed, $bad failed, exit code $code"
    grep -a -vE ': Skipped$|^(mounted otherwise|no --second-dir)?$|^\[ +PASSED' "$log" | cut -c1-300 | sed 's/^/      /' |
      head -"${POSIX_LINES:-400}"
  fi
  [ -z "${POSIX_KEEP_LOG:-}" ] || cp "$log" "$POSIX_KEEP_LOG.$kind"
  grep -a -A1 ': Skipped$' "$log" | grep -vE ': Skipped$|^--$|^(mounted otherwise|no --second-dir)?$' |
    sort | uniq -c | sed 's/^/      skipped: /'
}

# With other options than the usual.
run_with() {
  check "$kind: mount -o $1" mount_it "$1"
  mounted || return
  write_remount "$1"
  run "$kind -o $1" "$2" --mounted-with="$1" --remount-command="$work/remount" || true
  check "$kind: unmount" unmount_it
}

blocks() { stat -c %b "$image"; }
fewer_than() { sync -f "$mnt" && [ "$(blocks)" -lt "$1" ]; }
# What is removed is given back by the device, that is, by the image under it.
check_discard() {
  local how=$1 before
  head -c 64M /dev/urandom >"$mnt/large"
  sync "$mnt/large"
  before=$(blocks)
  rm "$mnt/large"
  sync -f "$mnt"
  [ "$how" = discard ] || check "$kind: fstrim" fstrim -v "$mnt"
  check "$kind: $how gives space back" waits 10 fewer_than $((before - 100000))
}

check_readonly() {
  mount_it rw
  echo contents >"$mnt/file"
  mkdir -p "$mnt/directory"
  ln -s file "$mnt/link"
  exec 4>>"$mnt/file"
  refuse "$kind: remount,ro while a file is open for writing" mount_it remount,ro
  echo more >&4
  exec 4>&-
  check "$kind: remount,ro" mount_it remount,ro
  run "$kind, remounted ro" "ReadOnly.*" --mounted-with=ro
  check "$kind: remount,rw" mount_it remount,rw
  check "$kind: writing again" touch "$mnt/file"
  unmount_it
  check "$kind: mount -o ro" mount_it ro
  check "$kind: what was written before remount,ro is there" equal "$(wc -l <"$mnt/file")" 2
  run "$kind -o ro" "ReadOnly.*" --mounted-with=ro
  unmount_it
}

check_two_places() {
  mount_it rw
  if [ "$kind" = fuse ]; then
    check "$kind: bind mount" mount --bind "$mnt" "$second"
  else
    check "$kind: the device at a second place" mount_it rw "$second"
  fi
  run "$kind at two places" "TwoPlaces.*" --second-dir "$second"
  check "$kind: the first goes" unmount_it
  check "$kind: the second stays" touch "$second/file"
  check "$kind: the second goes" unmount_it "$second"
}

# The ioctl of XFS that ext4 has, too. shut_down MODE: 0 all is written, 1 the log is, 2 nothing is.
shut_down() {
  "$python" -c "
import fcntl, os, struct
XFS_IOC_GOINGDOWN = 0x8004587d
fcntl.ioctl(os.open('$mnt', os.O_RDONLY), XFS_IOC_GOINGDOWN, struct.pack('I', $1))"
}
# survives WHAT OPTION MODE COMMAND FILE CONTENTS: what COMMAND made is there after a shutdown.
survives() {
  mount_it "$2" || { check "$kind: mount -o $2" false; return; }
  check "$kind, shutdown: $1, is written" bash -c "cd '$mnt' && $4"
  check "$kind, shutdown: $1, mode $3" shut_down "$3"
  check "$kind, shutdown: then nothing can be created" says "Input/output error" touch "$mnt/new"
  check "$kind, shutdown: or synced" says "Input/output error" sync "$mnt"
  check "$kind, shutdown: $1, unmount" unmount_it
  mount_it rw
  check "$kind, shutdown: $1, is there" equal "$(cat "$mnt/$5")" "$6"
  unmount_it
}
check_shutdown() {
  local mode
  survives "nothing synced" rw 0 "echo 1 >all" all 1
  for mode in 1 2; do
    survives "fsync" rw "$mode" "echo $mode >synced; sync synced; echo >more" synced "$mode"
    # The kernel tells a server of syncfs(2) on fuseblk only.
    [ "$kind" = fuse ] || survives "syncfs" rw "$mode" "mkdir -p d; echo $mode >d/e; sync -f ." d/e "$mode"
  done
  survives "-o sync" sync 2 "echo 3 >a" a 3
  survives "-o sync, size" sync 2 "truncate -s 0 a" a ''
  survives "-o dirsync" dirsync 2 "ln -s a b; mv b c; readlink c; echo 4 >x; sync x; mv x y" y 4
  survives "a sync file" rw 2 "touch s; chattr +S s; sync s; echo 5 >s" s 5
}

run_kind() {
  kind=$1
  options=
  if [[ $kind == @(ext4|xfs) ]]; then
    has "mkfs.$kind" || { echo "SKIPPED $kind: no mkfs.$kind"; return; }
    grep -qw "$kind" /proc/filesystems || modprobe "$kind" 2>/dev/null ||
      { echo "SKIPPED $kind: this kernel does not have it"; return; }
  fi
  [ "$kind" != nowriteback ] || options=nowriteback
  make_device || { echo "SKIPPED $kind: no device"; return; }
  check "$kind: mount" mount_it rw
  # Nothing else than the small filesystem may be filled.
  mounted || { drop_device; return; }
  write_remount rw
  run "$kind" "${POSIX_FILTER:-*}" --may-fill --remount-command="$work/remount"
  check "$kind: unmount" unmount_it
  check_it
  [ -z "${POSIX_FILTER:-}" ] || { drop_device; return; }
  if [ "$kind" != nowriteback ]; then
    run_with strictatime "AtimeTest.*"
    run_with strictatime,nodiratime "AtimeTest.*"
    run_with noatime "AtimeTest.*"
    run_with nodiratime "AtimeTest.*"
    run_with lazytime "AtimeTest.*"
    run_with sync "Sync.*"
    run_with dirsync "Sync.*"
    check_readonly
    check_two_places
    check_shutdown
    mount_it rw && check_discard FITRIM && unmount_it
    mount_it discard && check_discard discard && unmount_it
    check_it
  fi
  drop_device
}

[ $# -gt 0 ] || set -- ext4 xfs pbfs nowriteback fuse
for name; do run_kind "$name"; done
finish
