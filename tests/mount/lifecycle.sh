#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Mounting, unmounting, and everything that can come between.
. "$(dirname "$0")/lib.sh"

# --- Plain fuse, on an image.
make_image || exit 1
check "image mounts" pbfs "$image" "$mnt"
check "as plain fuse" equal "$(mount_type)" fuse.pbfs
echo first >"$mnt/file"
refuse "the image is locked" unlocked "$image"
umount -i "$mnt"
check "a mount right after umount waits for the commit" pbfs "$image" "$mnt"
echo more >"$mnt/more"
umount -i "$mnt"
check_clean "$image" "right after umount"
pbfs "$image" "$mnt"
check "and finds everything" equal "$(cat "$mnt/file")" first
check "the umount helper waits" umount.pbfs "$mnt"
check "for the lock" unlocked "$image"

pbfs "$image" "$mnt"
echo second >"$mnt/file"
kill "$(server "$image")"
check "SIGTERM unmounts" waits 10 not mounted
check "and commits" waits 10 unlocked "$image"
pbfs -o "log=$work/log" "$image" "$mnt"
check "nothing is lost" equal "$(cat "$mnt/file")" second

mkdir -p "$work/connections"
mount -t fusectl none "$work/connections"
echo third >"$mnt/file"
sync -f "$mnt/file"
echo 1 >"$work/connections/$(stat -c %d "$mnt")/abort"
check "an aborted connection ends the server" waits 10 no_server "$image"
check "which takes the dead mount away" waits 10 not mounted
umount "$work/connections"
pbfs "$image" "$mnt"
check "what was accepted is there" equal "$(cat "$mnt/file")" third

kill -9 "$(server "$image")"
check "a killed server leaves a dead mount" waits 10 not stat -f "$mnt"
check "that the next mount replaces" pbfs "$image" "$mnt"
check "one mount only" equal "$(grep -c " $mnt " /proc/self/mountinfo)" 1
umount.pbfs "$mnt"

flock -x "$image" sleep 4 &
timeout -s KILL 1 pbfs "$image" "$mnt"
wait
refuse "a caller who gave up while the device was locked gets no mount later" waits 2 mounted
check "-f stays" bash -c "pbfs -f '$image' '$mnt' & p=\$!
  until grep -q ' $mnt ' /proc/self/mountinfo; do sleep 0.05; done
  stat -f '$mnt' && kill \$p && wait \$p"
refuse "and has unmounted" mounted

# --- fuseblk, on a block device.
if ! make_loop; then
  echo "no loop device: the rest is left out"
  finish
  exit
fi
other=$work/other
mkdir "$other"
check "block device mounts" pbfs "$loop" "$mnt"
check "as fuseblk" equal "$(mount_type)" fuseblk.pbfs
echo fourth >"$mnt/file"
refuse "the kernel claims it" mkfs.pbfs -q -f "$loop"
check "in another place it is bind-mounted" pbfs "$loop" "$other"
check "and is the same" equal "$(cat "$other/file")" fourth
umount -i "$other"
check "which can go alone" test -e "$mnt/file"
check "also read-only" pbfs -o ro "$loop" "$other"
refuse "that place alone" touch "$other/file"
check "the first stays writable" touch "$mnt/file"
umount -i "$other"
check "umount waits for the commit" umount -i "$mnt"
check "so that the device is free" unlocked "$loop"
check "at once" mkfs.pbfs -n -f "$loop"

pbfs "$loop" "$mnt"
check "it is all there" equal "$(cat "$mnt/file")" fourth
kill -9 "$(server "$loop")"
check "dead block mount" waits 10 not stat -f "$mnt"
check "is replaced" pbfs "$loop" "$mnt"
kill -9 "$(server "$loop")"
waits 10 not stat -f "$mnt"
check "also by a mount elsewhere" pbfs "$loop" "$other"
refuse "the dead one is gone" mounted "$mnt"
umount -i "$other"

pbfs "$loop" "$mnt"
(cd "$mnt" && sleep 2 && echo late >late) &
busy=$!
sleep 0.3
kill "$(server "$loop")"
check "SIGTERM unmounts a busy one lazily" waits 10 not mounted
wait $busy
check "and serves to the end" waits 10 no_server "$loop"
pbfs "$loop" "$mnt"
check "what was written last is there" equal "$(cat "$mnt/late")" late
umount -i "$mnt"

losetup -d "$loop"
loop=$(losetup -r -f --show "$image")
check "a write-protected device mounts" says "mounting read-only" pbfs "$loop" "$mnt"
check "read-only" grep -q " $mnt ro," /proc/self/mountinfo
check "and is readable" equal "$(cat "$mnt/late")" late
umount -i "$mnt"
losetup -d "$loop"
loop=$(losetup -f --show "$image")

check "type=fuse on a block device" pbfs -o type=fuse "$loop" "$mnt"
check "is plain" equal "$(mount_type)" fuse.pbfs
refuse "and keeps others off all the same" mount -t ext4 "$loop" "$other"
refuse "exclusive openers too" "$python" -c "import os; os.open('$loop', os.O_RDONLY | os.O_EXCL)"
check "and waited for" umount.pbfs "$mnt"
check "until it is free" unlocked "$loop"
# umount(8) does not wait for the server of a plain mount; our tools do, whatever it was started as.
ln -s "$(type -P pbfs)" "$work/mount.fuse.pbfs"
for i in 1 2 3; do
  pbfs -o type=fuse "$loop" "$mnt"
  dd if=/dev/zero of="$mnt/data" bs=1M count=30 status=none
  umount -i "$mnt"
  check "fsck right after umount -i" fsck.pbfs -f "$loop"
  "$work/mount.fuse.pbfs" "$loop" "$mnt" -o type=fuse
  touch "$mnt/again"
  umount -i "$mnt"
  check "mkfs right after umount -i" mkfs.pbfs -q -f "$loop"
done
finish
