# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# What tests/xfstests/run can run on. Each sets what xfstests wants to know; write_helpers DIRECTORY
# writes the programs mount(8), umount(8), mkfs(8) and fsck(8) look for, where there are none.
MOUNT_OPTIONS='' FSCK_OPTIONS=-n MKFS_OPTIONS=''

pbfs_mode() { FSTYP=$1 MOUNT_OPTIONS=${2:+-o $2} MKFS_OPTIONS="-q -f"; }
profile_pbfs() { pbfs_mode fuseblk.pbfs; }
profile_pbfs-32m() { pbfs_mode fuseblk.pbfs cache=32M; }
profile_pbfs-nowriteback() { pbfs_mode fuseblk.pbfs nowriteback; }
profile_pbfs-fuse() { pbfs_mode fuse.pbfs type=fuse; }
profile_pbfs-uring() { pbfs_mode fuseblk.pbfs transport=uring; }

profile_xfs() { FSTYP=xfs MKFS_OPTIONS=-f FSCK_OPTIONS=; }
profile_ext4() { FSTYP=ext4 MKFS_OPTIONS=-F FSCK_OPTIONS=; }

helper() {
  { echo '#!/bin/bash'; cat; } >"$1"
  chmod 755 "$1"
}
# The arguments of a mount helper as $device, $place and $options, without what only mount(8) knows.
parse_mount='
options=
[[ $1 != -* ]] || { echo "$0: device and mountpoint come first" >&2; exit 1; }
device=$1 place=$2
shift 2
while [ $# -gt 0 ]; do
  case $1 in -o) options=$options,$2; shift ;; -t) shift ;; esac
  shift
done
case ,$options, in *,remount,*) exec mount -i -o "${options#,}" "$place" ;; esac
kept=
IFS=, read -ra all <<<"$options"
for one in "${all[@]}"; do
  case $one in
    "" | rw | defaults | *relatime | *strictatime | *lazytime | atime | *diratime | async) ;;
    *) kept=$kept,$one ;;
  esac
done
'
# umount(2) of a FUSE mount returns before its server has ended: wait for it.
parse_umount='
place= pass=()
while [ $# -gt 0 ]; do
  case $1 in -t) shift ;; -*) pass+=("$1") ;; *) place=$1 ;; esac
  shift
done
device=$(awk -v m="$place" "\$5 == m {for (i = 7; \$i != \"-\"; i++); d = \$(i + 2)} END {print d}" \
  /proc/self/mountinfo)
umount -i "${pass[@]}" "$place" || exit
'

profile_fuse2fs() {
  command -v fuse2fs >/dev/null || die "fuse2fs is not installed"
  FSTYP=fuse.ext4 MOUNT_OPTIONS="-o allow_other,default_permissions"
  write_helpers() {
    helper "$1/mount.fuse.ext4" <<<"$parse_mount"'exec fuse2fs "$device" "$place" -o "suid,dev$kept"'
    helper "$1/umount.fuse.ext4" <<<"$parse_umount"'
for ((i = 0; i < 1000; i++)); do pgrep -f "^fuse2fs $device " >/dev/null || exit 0; sleep 0.05; done'
    helper "$1/mkfs.fuse.ext4" <<<'exec mkfs.ext4 -q -F "$@"'
    helper "$1/fsck.fuse.ext4" <<<'exec e2fsck -f "$@"'
  }
}

# The device carries XFS, mounted where nobody looks; the server passes everything through to it.
profile_reference() {
  reference=$build/tests/reference_fs
  [ -x "$reference" ] || die "$reference is not built"
  FSTYP=fuse.reference
  write_helpers() {
    helper "$1/mount.fuse.reference" <<<"reference=$reference below=$out/tmp/below$parse_mount"'
behind=$below-${device##*/}
mkdir -p "$behind"
# By a loop device of its own: the other must not look mounted.
grep -q " $behind " /proc/self/mountinfo || mount -t xfs -o loop "$device" "$behind" || exit 32
"$reference" -o "fsname=$device,subtype=reference,allow_other,default_permissions,suid,dev$kept" \
  "$behind" "$place" || { umount "$behind"; exit 32; }'
    helper "$1/umount.fuse.reference" <<<"below=$out/tmp/below$parse_umount"'
behind=$below-${device##*/}
! grep -q " fuse.reference $device " /proc/self/mountinfo || exit 0
for ((i = 0; i < 1000; i++)); do
  grep -q " $behind " /proc/self/mountinfo || break
  umount "$behind" 2>/dev/null
  sleep 0.05
done'
    helper "$1/mkfs.fuse.reference" <<<'exec mkfs.xfs -q -f "$@"'
    helper "$1/fsck.fuse.reference" <<<'exec xfs_repair "$@"'
  }
}
