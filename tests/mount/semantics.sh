#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What depends on how the bridge talks with the kernel, once per kind of mount.
. "$(dirname "$0")/lib.sh"
make_loop 512M || skip "no loop device"
user=(setpriv --reuid 12345 --regid 12345 --clear-groups)
chmod 711 "$work"

renameat2() {
  python3 - "$@" <<'PY'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.renameat2(-100, sys.argv[1].encode(), -100, sys.argv[2].encode(), int(sys.argv[3])) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
PY
}

check_seek() {
  timeout 60 python3 - "$1" <<'PY'
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b'x' * 8192, 1 << 20)
version = tuple(int(part) for part in os.uname().release.split('-')[0].split('.')[:2])
if version >= (6, 16):
    # Not yet written back by the kernel: must be seen all the same.
    assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20
    assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
else:
    # All is data (fs/fuse/kernel_behaviour.h).
    assert os.lseek(fd, 0, os.SEEK_DATA) == 0
    assert os.lseek(fd, 0, os.SEEK_HOLE) == (1 << 20) + 8192
assert os.lseek(fd, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 8192
memory = mmap.mmap(fd, (1 << 20) + 8192)
memory[0:5] = b'dirty'
assert os.lseek(fd, 0, os.SEEK_DATA) == 0
assert memory[0:5] == b'dirty'
try:
    os.lseek(fd, 2 << 20, os.SEEK_DATA)
    assert False
except OSError as error:
    assert error.errno == 6
PY
}

check_handle() {
  python3 - "$1" <<'PY'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [('length', ctypes.c_uint), ('type', ctypes.c_int), ('bytes', ctypes.c_ubyte * 128)]
handle = Handle(length=128)
mount_id = ctypes.c_int()
assert libc.name_to_handle_at(-100, sys.argv[1].encode(), ctypes.byref(handle),
                              ctypes.byref(mount_id), 0) == 0
directory = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY)
fd = libc.open_by_handle_at(directory, ctypes.byref(handle), os.O_RDONLY)
assert fd >= 0, os.strerror(ctypes.get_errno())
assert os.fstat(fd).st_ino == os.stat(sys.argv[1]).st_ino
PY
}

check_direct() {
  head -c 5000000 /dev/urandom >"$work/random" &&
    dd if="$work/random" of="$1" bs=1M status=none &&
    cmp "$work/random" "$1" &&
    dd if="$1" bs=256K iflag=direct status=none | cmp "$work/random" - &&
    dd if="$work/random" of="$1" bs=4096 count=512 seek=100 oflag=direct conv=notrunc status=none &&
    dd if="$work/random" of="$work/copy" bs=4096 count=512 seek=100 conv=notrunc status=none &&
    cat "$work/random" >"$work/expected" &&
    dd if="$work/random" of="$work/expected" bs=4096 count=512 seek=100 conv=notrunc status=none &&
    cmp "$work/expected" "$1"
}

suid_gone() { equal "$(stat -c %a "$1")" 755; }
make_suid() { cp /bin/true "$1" && chown 12345:12345 "$1" && chmod 6755 "$1"; }

run_all() {
  local how=$1 d=$mnt/$RANDOM
  shift
  check "$how: mount" pbfs -o "$*" "$loop" "$mnt"
  mkdir "$d" && chmod 777 "$d"

  echo 12345678 >"$d/t"
  echo 1 >"$d/t"
  check "$how: O_TRUNC" equal "$(cat "$d/t")" 1
  check "$how: append" bash -c "echo 2 >>$d/t && [ \"\$(wc -l <$d/t)\" = 2 ]"
  check "$how: truncate down and up" bash -c "truncate -s 1 $d/t && truncate -s 5000 $d/t &&
    [ \"\$(tr -d '\\0' <$d/t)\" = 1 ]"
  check "$how: SEEK_DATA and SEEK_HOLE see dirty pages" check_seek "$d/s"
  check "$how: direct I/O" check_direct "$d/direct"
  check "$how: handles" check_handle "$d/t"

  make_suid "$d/su"
  "${user[@]}" sh -c "echo x >>$d/su"
  check "$how: a write kills setuid" suid_gone "$d/su"
  make_suid "$d/su"
  "${user[@]}" dd if=/dev/zero of="$d/su" bs=4096 count=1 oflag=direct conv=notrunc status=none
  check "$how: a direct write kills setuid" suid_gone "$d/su"
  make_suid "$d/su"
  "${user[@]}" truncate -s 3 "$d/su"
  check "$how: truncate kills setuid" suid_gone "$d/su"
  make_suid "$d/su"
  chown 12346 "$d/su"
  check "$how: chown kills setuid" suid_gone "$d/su"
  mkdir "$d/sg" && chmod 2755 "$d/sg" && chown 12345 "$d/sg"
  check "$how: not a directory's setgid" equal "$(stat -c %a "$d/sg")" 2755

  local long
  long=user.$(head -c 200 /dev/zero | tr '\0' n)
  check "$how: set xattr" setfattr -n "$long" -v value "$d/t"
  check "$how: short xattr name" setfattr -n user.a -v "" "$d/t"
  check "$how: get xattr" equal "$(getfattr --only-values -n "$long" "$d/t")" value
  check "$how: list xattrs" equal "$(getfattr "$d/t" 2>/dev/null | grep -c ^user)" 2
  check "$how: remove xattr" setfattr -x user.a "$d/t"
  refuse "$how: it is gone" getfattr -n user.a "$d/t"
  check "$how: ACL" setfacl -m u:12345:r "$d/t"
  check "$how: is shown" bash -c "getfacl -c $d/t 2>/dev/null | grep -q ^user:12345:r--"

  echo a >"$d/a"; echo b >"$d/b"
  refuse "$how: RENAME_NOREPLACE" renameat2 "$d/a" "$d/b" 1
  check "$how: RENAME_EXCHANGE" renameat2 "$d/a" "$d/b" 2
  check "$how: exchanged" equal "$(cat "$d/a")" b
  check "$how: RENAME_WHITEOUT" renameat2 "$d/a" "$d/c" 4
  check "$how: leaves a whiteout" equal "$(stat -c %t:%T "$d/a")" 0:0
  check "$how: renamed back" mv "$d/c" "$d/a"
  check "$how: link" ln "$d/a" "$d/c"
  check "$how: two links" equal "$(stat -c %h "$d/a")" 2
  check "$how: unlink while open" bash -c "exec 3<>$d/c; rm $d/c $d/a; echo z >&3; [ ! -e $d/a ]"
  check "$how: negative entries end" bash -c "[ ! -e $d/n ]; echo >$d/n; [ -e $d/n ]"
  check "$how: fifo and device" bash -c "mkfifo $d/f && mknod $d/m c 259 70000 &&
    [ \"\$(stat -c %t:%T $d/m)\" = 103:11170 ]"
  check "$how: symlink" bash -c "ln -s some/target $d/l && [ \"\$(readlink $d/l)\" = some/target ]"
  # Entries as large as they get, in more than one reply.
  for i in $(seq 300); do echo "$i" >"$d/sg/$i-$(printf '%0200d' 0)"; done
  check "$how: readdir" equal "$(ls -f "$d/sg" | sort -u | wc -l)" 302
  check "$how: readdirplus" equal "$(ls -l "$d/sg" | grep -c ' 1 root')" 300
  check "$how: rm -r" rm -r "$d/sg"
  check "$how: sync" sync -f "$d/t"
  check "$how: fsync of a directory" sync "$d"
  check "$how: flags" bash -c "chattr +d $d && lsattr -d $d | grep -q -- '-d-'"
  check "$how: statfs" equal "$(stat -f -c '%s %l' "$mnt")" "4096 255"
  check "$how: a file closed during asynchronous direct I/O" \
    timeout -s KILL 60 "${bin%/bin}/tests/async-close" "$d/async-close" 3
  check "$how: unmount" umount.pbfs "$mnt"
  check "$how: mount again" pbfs -o "$*" "$loop" "$mnt"
  check "$how: contents survive" cmp "$work/expected" "$d/direct"
  rm -r "$d"
  check "$how: unmount again" umount.pbfs "$mnt"
}

run_all fuseblk rw
run_all nowriteback nowriteback
run_all open open,workers=2
run_all plain type=fuse
run_all sync sync
# FUSE over io_uring is off until root turns it on, and not in kernels before 6.14.
uring_switch=/sys/module/fuse/parameters/enable_uring
if [ -w "$uring_switch" ]; then
  uring_before=$(cat "$uring_switch")
  echo N >"$uring_switch"
  refuse "transport=uring where it is off" pbfs -o transport=uring "$loop" "$mnt"
  refuse "leaves nothing behind" mounted
  echo Y >"$uring_switch"
  run_all uring transport=uring
  run_all uring-plain transport=uring,type=fuse,cache=32M
  run_all uring-nowriteback transport=uring,nowriteback
  echo "$uring_before" >"$uring_switch"
else
  echo "SKIPPED: transport=uring: this kernel has no FUSE over io_uring"
fi
finish
