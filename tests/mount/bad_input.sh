#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Devices that are not what they should be, hosts that refuse something, a filesystem that is full:
# each gets a clear message or the right errno, and nothing is lost.
. "$(dirname "$0")/lib.sh"
[ -n "$python" ] || skip "python3 is missing"

# refused TEXT COMMAND...: it is a mount failure, says so, and leaves nothing mounted.
refused() {
  local text=$1 output code=0
  shift
  output=$("$@" 2>&1) || code=$?
  echo "exit code $code: $output"
  [ "$code" -eq 32 ] && grep -q -- "$text" <<<"$output" && ! mounted
}
accepted() {
  local text=$1 output
  shift
  output=$("$@" 2>&1) || { echo "$output"; return 1; }
  echo "$output"
  grep -q -- "$text" <<<"$output"
}
patch() { "$python" "$here/patch_superblock.py" "$image" "$@"; }
new_image() { rm -f "$image" && make_image 64M; }
# Leaves a dirty log in the image.
crash() {
  pbfs "$1" "$mnt" && echo synced >"$mnt/file" && sync "$mnt/file" && kill -9 "$(server "$1")" &&
    waits 10 dead && force_unmount "$mnt"
}
dead() { ! stat -f "$mnt" >/dev/null 2>&1; }

# --- Not what it should be.
head -c 64M /dev/urandom >"$image"
check "not a pbfs device" refused "not a pbfs filesystem" pbfs "$image" "$mnt"
truncate -s 0 "$image" && truncate -s 8M "$image"
check "too small" refused "too small" pbfs "$image" "$mnt"
: >"$image"
check "empty" refused "too small" pbfs "$image" "$mnt"
new_image && truncate -s 40M "$image"
check "truncated image" refused "truncated" pbfs "$image" "$mnt"

new_image && patch damage
check "bad superblock checksum: a copy is used, and it says so" accepted "using the copy in block" \
  pbfs "$image" "$mnt"
check "which works" bash -c "echo 1 >$mnt/file && [ \"\$(cat $mnt/file)\" = 1 ]"
umount.pbfs "$mnt"
dd if=/dev/zero of="$image" bs=4096 seek=16383 count=1 conv=notrunc status=none
check "no good copy" refused "not a pbfs filesystem" pbfs "$image" "$mnt"

new_image && patch incompat=0x8000
check "unknown incompat feature" refused "unknown.*8000" pbfs "$image" "$mnt"
new_image && patch version_major=9
check "unknown version" refused "version is 9" pbfs "$image" "$mnt"
new_image && patch compat=0x8000
check "unknown compat feature is no obstacle" pbfs "$image" "$mnt"
check "nor to writing" touch "$mnt/file"
umount.pbfs "$mnt"
new_image && patch ro_compat=0x8000
check "unknown ro_compat feature: read-only, and it says so" accepted "read-only" pbfs "$image" "$mnt"
refuse "no writing" touch "$mnt/file"
umount.pbfs "$mnt"
new_image && crash "$image" && patch ro_compat=0x8000
check "unknown ro_compat feature and a dirty log" refused "the log is dirty" pbfs "$image" "$mnt"
patch ro_compat=0
check "the log is still there" accepted replayed pbfs -v "$image" "$mnt"
check "with what was synced" equal "$(cat "$mnt/file")" synced
umount.pbfs "$mnt"

# --- Mounted already, or not to be written.
check "mount" pbfs "$image" "$mnt"
mkdir "$work/other"
check "a second mount at the same place" says "already mounted on $mnt" pbfs "$image" "$mnt"
check "with exit code 32" exits 32 pbfs "$image" "$mnt"
check "a second mount elsewhere is the same one" pbfs "$image" "$work/other"
echo both >"$work/other/file"
check "indeed" equal "$(cat "$mnt/file")" both
umount -i "$work/other"
umount.pbfs "$mnt"

new_image
if loop=$(losetup -f --show "$image"); then
  crash "$loop"
  blockdev --setro "$loop"
  check "read-only device, dirty log" refused "norecovery" pbfs "$loop" "$mnt"
  check "norecovery mounts it" pbfs -o norecovery "$loop" "$mnt"
  refuse "read-only" touch "$mnt/new"
  umount -i "$mnt"
  blockdev --setrw "$loop"
  check "writable again, it is replayed" accepted replayed pbfs -v "$loop" "$mnt"
  check "and nothing is lost" equal "$(cat "$mnt/file")" synced
  umount -i "$mnt"
  losetup -d "$loop"
  loop=$(losetup -r -f --show "$image")
  check "read-only device, clean log" pbfs "$loop" "$mnt"
  check "is read" equal "$(cat "$mnt/file")" synced
  refuse "not written" touch "$mnt/new"
  umount -i "$mnt"
  losetup -d "$loop"
else
  say "no loop device: read-only devices are left out"
fi

# --- A host that refuses something.
no_ring() { "$python" "$here/without_io_uring.py" "$@"; }
check "io_uring disabled: falls back, and says so" accepted io_uring no_ring pbfs "$image" "$mnt"
check "reads" equal "$(cat "$mnt/file")" synced
check "writes" dd if=/dev/urandom of="$mnt/random" bs=1M count=8 conv=fsync status=none
sum=$(sha256sum <"$mnt/random")
umount.pbfs "$mnt"
check "with io_uring again" pbfs "$image" "$mnt"
check "it is all there" equal "$(sha256sum <"$mnt/random")" "$sum"
umount.pbfs "$mnt"

mkdir "$work/ramfs"
if mount -t ramfs none "$work/ramfs" &&
    ! dd if=/dev/zero of="$work/ramfs/try" bs=4096 count=1 oflag=direct status=none 2>/dev/null; then
  cp "$image" "$work/ramfs/image"
  check "O_DIRECT refused: falls back, and says so" accepted "refuses direct I/O" \
    pbfs "$work/ramfs/image" "$mnt"
  check "it is all there, buffered" equal "$(sha256sum <"$mnt/random")" "$sum"
  check "and can be written" dd if=/dev/urandom of="$mnt/more" bs=1M count=8 conv=fsync status=none
  umount.pbfs "$mnt"
  check_clean "$work/ramfs/image"
  umount "$work/ramfs"
else
  say "nothing here refuses O_DIRECT: left out"
fi

check "an unknown option is named" says "unknown option nonsense" pbfs -o nonsense "$image" "$mnt"
check "and is a usage error" exits 1 pbfs -o nonsense "$image" "$mnt"
check "a missing mountpoint" refused "No such file" pbfs "$image" "$work/none"
check "a missing device" refused "No such file" pbfs "$work/none" "$mnt"
check "a mountpoint that is a file" refused "not a directory" pbfs "$image" "$image"

# --- Names, and no space.
pbfs "$image" "$mnt"
name=$(printf '%0255d' 0)
check "a name of 255 bytes" touch "$mnt/$name"
check "is found" test -e "$mnt/$name"
check "a name of 256 bytes" says "File name too long" touch "$mnt/${name}0"
check "to rename to" says "File name too long" mv "$mnt/$name" "$mnt/${name}0"
umount.pbfs "$mnt"

# Fills the filesystem with synced files; what was acknowledged is in $work/sums.
fill() {
  local i=0
  : >"$work/sums"
  while head -c $((RANDOM * 8)) /dev/urandom >"$work/piece" &&
      dd if="$work/piece" of="$mnt/full/$i" bs=64K conv=fsync status=none 2>"$work/error"; do
    echo "$(sha256sum <"$work/piece" | cut -d' ' -f1)  $mnt/full/$i" >>"$work/sums"
    i=$((i + 1))
  done
  cat "$work/error"
  grep -q "No space left" "$work/error" && rm -f "$mnt/full/$i"
}
for options in rw nowriteback; do
  check "$options: mount" pbfs -o "$options" "$image" "$mnt"
  mkdir -p "$mnt/full"
  check "$options: filling it ends with ENOSPC" fill
  say "$(wc -l <"$work/sums") files, $(df --output=pcent "$mnt" | tail -1) used"
  check "$options: what was synced is there" sha256sum -c --quiet "$work/sums"
  check "$options: a full filesystem unmounts" umount.pbfs "$mnt"
  check_clean "$image"
  check "$options: and mounts" pbfs -o "$options" "$image" "$mnt"
  check "$options: with everything" sha256sum -c --quiet "$work/sums"
  check "$options: deleting works" rm -r "$mnt/full"
  check "$options: and makes room" dd if=/dev/zero of="$mnt/new" bs=1M count=20 conv=fsync status=none
  rm "$mnt/new"
  umount.pbfs "$mnt"
  check_clean "$image"
done

# What write(2) accepted is there, although the kernel collects it before it asks: while others fill
# the filesystem, too.
accepted() { "$python" - "$mnt" "$@" <<'PY'
import errno, mmap, os, sys
directory, direct, step = sys.argv[1], sys.argv[2] == 'beside-direct', int(sys.argv[3])
other = os.open(f'{directory}/direct', os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
page = mmap.mmap(-1, 1 << 17)
file = os.open(f'{directory}/collected', os.O_CREAT | os.O_RDWR)
written = 0
try:
    while written < 1 << 34:
        written += os.write(file, (written // step).to_bytes(8, 'little') * (step // 8))
        try:
            if direct:
                os.write(other, page)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
except OSError as error:
    print(written, 'bytes:', error.strerror)
    assert error.errno == errno.ENOSPC, error
os.fsync(file)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
assert os.fstat(file).st_size == written
for at in range(0, written, step):
    assert os.pread(file, 8, at) == (at // step).to_bytes(8, 'little'), at
PY
}
for beside in alone beside-direct; do
  for step in 4096 131072; do
    check "mount" pbfs "$image" "$mnt"
    check "write(2) $beside, $step bytes: nothing accepted is lost" accepted $beside $step
    say "$(cat "$work/output")"
    rm "$mnt/direct" "$mnt/collected"
    umount.pbfs "$mnt"
    check_clean "$image"
  done
done

# Until nothing can be created any more, then all of it away again.
pbfs "$image" "$mnt"
mkdir "$mnt/many"
create_all() { "$python" - "$mnt/many" <<'PY'
import errno, os, sys
count = 0
try:
    while True:
        os.close(os.open(f'{sys.argv[1]}/{"n" * 200}{count}', os.O_CREAT | os.O_WRONLY))
        count += 1
except OSError as error:
    print(count, 'files:', error.strerror)
    sys.exit(0 if error.errno == errno.ENOSPC and count > 1000 else 1)
PY
}
check "creating files until ENOSPC" create_all
say "$(cat "$work/output")"
check "and removing them all" find "$mnt/many" -delete
umount.pbfs "$mnt"
check_clean "$image"
finish
