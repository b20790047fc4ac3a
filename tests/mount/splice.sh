#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Reads whose pages go from the device to the kernel's cache without a copy (splice=always).
. "$(dirname "$0")/lib.sh"

spliced() { pbfsctl stats --json "$mnt" | grep -o '"spliced_reads": *[0-9]*' | grep -o '[0-9]*$'; }
drop_caches() { sync; echo 1 >/proc/sys/vm/drop_caches; }
remount() { umount.pbfs "$mnt" && pbfs -o "$1" "$loop" "$mnt"; }

check "makes an image" make_loop 1G
head -c 100M /dev/urandom >"$work/random"
refuse "splice takes three words" pbfs -o splice=yes "$loop" "$mnt"
for type in fuseblk fuse; do
  check "$type: mounts" pbfs -o "splice=always,type=$type" "$loop" "$mnt"
  check "$type: copies a file" cp "$work/random" "$mnt/file"
  check "$type: mounts again" remount "splice=always,type=$type"
  check "$type: its bytes" cmp "$work/random" "$mnt/file"
  many=$(spliced)
  check "$type: most reads were spliced ($many)" [ "$many" -ge 80 ]
  check "$type: again, from the kernel's cache" cmp "$work/random" "$mnt/file"
  check "$type: nothing was read for that" equal "$(spliced)" "$many"

  # What the kernel keeps is nobody else's: with other bytes on the device it stays as it was.
  check "$type: the kernel's pages are its own" "$python" - "$work/random" "$image" "$mnt/file" <<'END'
import mmap, os, sys
expected = open(sys.argv[1], 'rb').read(1 << 20)
image = os.open(sys.argv[2], os.O_RDWR)
view = mmap.mmap(image, 0)
at = view.find(expected[:4096])
assert at > 0 and view[at:at + len(expected)] == expected, 'the file is not found in the image'
saved = view[at:at + len(expected)]
view[at:at + len(expected)] = bytes(len(expected))
view.flush()
os.fsync(image)
file = os.open(sys.argv[3], os.O_RDONLY)
assert os.pread(file, len(expected), 0) == expected, 'the cache has changed with the device'
os.posix_fadvise(file, 0, len(expected), os.POSIX_FADV_DONTNEED)
assert os.pread(file, len(expected), 0) != expected, 'that was not where the file lies'
view[at:at + len(expected)] = saved
view.flush()
os.fsync(image)
os.posix_fadvise(file, 0, len(expected), os.POSIX_FADV_DONTNEED)
assert os.pread(file, len(expected), 0) == expected
END
  drop_caches
  # Frames and pages change hands while others write.
  check "$type: fio finds what it wrote" timeout 120 fio --name=job --directory="$mnt" --size=96M \
    --rw=randrw --bsrange=4k-1M --blockalign=4k --numjobs=2 --verify=crc32c --verify_fatal=1 \
    --invalidate=1 --verify_state_save=0 --loops=${long:+1}2 --output="$work/fio"
  drop_caches
  check "$type: and again from the device" cmp "$work/random" "$mnt/file"
  check "$type: more were spliced" [ "$(spliced)" -gt "$many" ]
  check "$type: empties it" find "$mnt" -mindepth 1 -delete
  check "$type: unmounts" umount.pbfs "$mnt"
  check_clean "$loop" "$type"
done
check "mounts with splice=never" pbfs -o splice=never "$loop" "$mnt"
check "copies a file" cp "$work/random" "$mnt/file"
check "mounts again" remount splice=never
check "its bytes" cmp "$work/random" "$mnt/file"
check "no read was spliced" equal "$(spliced)" 0
check "unmounts" umount.pbfs "$mnt"
finish
