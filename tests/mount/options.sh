#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The command line: exit codes and messages.
. "$(dirname "$0")/lib.sh"
make_image 64M || exit 1

check "no arguments" exits 1 pbfs
check "an unknown option is named" says "unknown option bogus" pbfs -o bogus "$image" "$mnt"
check "an unknown option is a usage error" exits 1 pbfs -o ro,bogus "$image" "$mnt"
check "an unknown option with a value" exits 1 pbfs -o bogus=3 "$image" "$mnt"
check "-s passes over it" exits 32 pbfs -s -o bogus "$image" "$work/none"
check "cache too small" exits 1 pbfs -o cache=1M "$image" "$mnt"
check "cache without a number" exits 1 pbfs -o cache=big "$image" "$mnt"
check "commit out of range" exits 1 pbfs -o commit=0 "$image" "$mnt"
check "--help" says "cache=SIZE" pbfs --help
check "--version" says "pbfs 0" pbfs --version
check "no such device" exits 32 pbfs "$work/none" "$mnt"
check "no such mountpoint" exits 32 pbfs "$image" "$work/none"
check "a mountpoint that is no directory" says "not a directory" pbfs "$image" "$image"
check "a device that is none" exits 32 pbfs "$work" "$mnt"
truncate -s 64M "$work/empty"
check "an image without a filesystem" exits 32 pbfs "$work/empty" "$mnt"
refuse "leaves no mount behind" mounted
check "fuseblk takes a block device" says "block device" pbfs -o type=fuseblk "$image" "$mnt"

check "options for others are passed over" exits 0 pbfs -o \
  defaults,nofail,_netdev,x-systemd.automount,noauto,user,relatime,cache=32M "$image" "$mnt"
check "mounted" mounted
check "unmounted" umount.pbfs "$mnt"
refuse "gone" mounted
refuse "umount helper refuses what is not ours" umount.pbfs /proc

check "-o log=" pbfs -o "log=$work/log" "$image" "$mnt"
check "an already mounted device is refused at the same place" exits 32 pbfs "$image" "$mnt"
check "and the reason is said" says "already mounted on" pbfs "$image" "$mnt"
check "unmounted again" umount.pbfs "$mnt"

ln -s "$bin/pbfs" "$work/mount.fuse.pbfs"
ln -s "$bin/pbfs" "$work/mount.pbfs"
check "mount(8) helper order" "$work/mount.fuse.pbfs" "$image" "$mnt" -o rw,noatime -n -t fuse.pbfs
check "mounted by the helper" equal "$(mount_type)" fuse.pbfs
check "flags reach the kernel" grep -q " $mnt .*noatime" /proc/self/mountinfo
echo 1 >"$mnt/file"
check "remount,ro, with what mount(8) finds in the mount table" "$work/mount.pbfs" "$image" "$mnt" \
  -o rw,user_id=0,group_id=0,default_permissions,allow_other,max_read=1048576,remount,ro
refuse "is read-only" touch "$mnt/file"
check "remount,rw" "$work/mount.pbfs" "$image" "$mnt" -o remount,rw
check "is writable" touch "$mnt/file"

# mount(2) without the helper tells the server nothing. Each file is read once: what the kernel has
# in its cache does not reach the server.
mkdir "$mnt/atime"
echo data | tee "$mnt/atime/"{1..200} >/dev/null
touch -d 2001-01-01 "$mnt/atime/"{1..200}
umount.pbfs "$mnt"
pbfs "$image" "$mnt"
turn=0
leaves_atime() {
  turn=$((turn + 1))
  cat "$mnt/atime/$turn" && equal "$(stat -c %X "$mnt/atime/$turn")" "$(date -d 2001-01-01 +%s)"
}
refuse "relatime: reading changes the time" leaves_atime
check "remounts with noatime, without the helper" mount -i -o remount,noatime "$mnt"
check "the server follows" waits 10 leaves_atime
check "remounts with strictatime" mount -i -o remount,strictatime "$mnt"
check "the server follows this, too" waits 10 not leaves_atime
check "remounts read-only" mount -i -o remount,ro "$mnt"
check "the server has written everything and stopped" waits 10 says "log: clean" pbfsctl stats "$image"
check "remounts read-write" mount -i -o remount,rw "$mnt"
check "is writable" touch "$mnt/file"
umount.pbfs "$mnt"
check "mount -f does nothing" "$work/mount.pbfs" "$image" "$mnt" -f
refuse "nothing was mounted" mounted
check "ro" pbfs -o ro "$image" "$mnt"
refuse "ro: no writing" touch "$mnt/file"
check "ro: reading" equal "$(cat "$mnt/file")" 1
umount.pbfs "$mnt"
finish
