#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A device that somebody else makes fail: nbdkit with its error, delay and pause filters, through
# nbdfuse under a loop device. Nothing crashes or hangs, callers get the right errno, an fsync that
# failed fails until the data is rewritten, cut off or removed, an error in the log or in metadata
# makes the filesystem read-only and says where it was; and once the device is well again, a new
# mount has everything that was synced.
. "$(dirname "$0")/lib.sh"
. "$here/clients_lib.sh"
for tool in nbdkit nbdfuse; do has "$tool" || skip "no $tool"; done
log=$work/messages
truncate -s 128M "$image"
mkdir "$work/nbd"

# connect ARGUMENT...: nbdkit with these serves the image; sets $loop.
connect() {
  setsid nbdfuse "$work/nbd/disk" [ nbdkit --exit-with-parent "$@" ] >"$work/nbdfuse" 2>&1 &
  disown
  waits 10 test -f "$work/nbd/disk" || { cat "$work/nbdfuse"; return 1; }
  loop=$(losetup --direct-io=on -f --show "$work/nbd/disk")
}
disconnect() { losetup -d "$loop" && waits 10 umount "$work/nbd" 2>/dev/null; }
# connect_failing ERRNO [RATE]: while the file fail_reads or fail_writes is there.
connect_failing() {
  local rate=${2:-100%}
  connect --filter=error file "$image" error="$1" error-pread-rate="$rate" \
    error-pwrite-rate="$rate" error-pread-file="$work/fail_reads" \
    error-pwrite-file="$work/fail_writes"
}
fail() { touch "$work/fail_$1"; }
heal() { rm -f "$work"/fail_*; }

# Commits are late enough not to come between: only what a test syncs is written.
begin() { : >"$log"; pbfs -o "log=$log,commit=${1:-60}" "$loop" "$mnt"; }
end() { umount -i "$mnt" && waits 20 no_server "$loop"; }
# In a given time: a hang is a failure.
within() {
  local seconds=$1
  shift
  if declare -F "$1" >/dev/null; then set -- bash -c "$(declare -f "$1"); $(printf '%q ' "$@")"; fi
  timeout "$seconds" "$@"
}
fails_with() { says "$1" within 20 "${@:2}"; }
eio="Input/output error"
is_read_only() { says "Read-only file system" touch "$mnt/new"; }
fill() { head -c 100000 /dev/zero | tr '\0' "$2" >"$1"; }
rewrite() { dd if=/dev/zero of="$1" bs=4096 seek=3 count=2 conv=notrunc,fsync status=none; }
clients_ended() {
  local client
  for client in "${clients[@]}"; do ! kill -0 "$client" 2>/dev/null || return 1; done
}
says_where() {
  grep -E "$loop: (flush.*|block [0-9]+: .*: write) failed: $1; the filesystem is read-only" "$log"
}

# --- Data cannot be written.
data_errors() {
  local name=$1 text=$2 file
  check "$name: is connected" connect_failing "$name"
  check "$name: mkfs" mkfs.pbfs -q -f "$loop"
  check "$name: mounts" begin
  for file in rewritten cut removed other; do fill "$mnt/$file" a; done
  sync "$mnt" "$mnt"/*
  fail writes
  for file in rewritten cut removed; do
    check "$name: fsync of what is $file fails" fails_with "$text" rewrite "$mnt/$file"
    check "$name: and again" fails_with "$text" sync "$mnt/$file"
  done
  heal
  for file in rewritten cut removed; do
    check "$name: though the device is well, of what is $file" fails_with "$text" sync "$mnt/$file"
  done
  check "$name: sync(2) says so too" fails_with "$text" sync -f "$mnt"
  check "$name: another file can be synced" within 20 sync "$mnt/other"
  check "$name: rewritten it is good" rewrite "$mnt/rewritten"
  check "$name: cut off it is good" truncate -s 0 "$mnt/cut"
  check "$name: to the disk" sync "$mnt/rewritten" "$mnt/cut"
  check "$name: removed it is no problem" rm "$mnt/removed"
  check "$name: for sync(2)" within 20 sync -f "$mnt"
  refuse "$name: still writable" is_read_only
  rm -f "$mnt/new"
  check "$name: the log names inode, device and block" \
    grep -qE "$loop: block [0-9]+: data of inode [0-9]+: write failed: $text" "$log"
  check "$name: unmounts" end
  check_clean "$loop" "$name"
}

# --- Nothing can be read.
read_errors() {
  check "reads: mounts" begin
  mkdir "$mnt/dir" && touch "$mnt/dir/"{1..500} && sync -f "$mnt"
  end
  check "reads: mounts cold" begin
  fail reads
  check "reads: of data" fails_with "$eio" cat "$mnt/other"
  check "reads: of metadata" fails_with "$eio" ls "$mnt/dir"
  heal
  check "reads: well again" cmp -n 100000 "$mnt/other" <(tr '\0' a </dev/zero)
  check "reads: all of it" equal "$(ls "$mnt/dir" | wc -l)" 500
  check "reads: writable" rm -r "$mnt/dir"
  check "reads: unmounts" end
  check_clean "$loop" "reads"
}

# --- Under load. Clients stop at their first error, or when their time is over.
run=0
load() {
  local name=$1 seconds=$2
  run=$((run + 1))
  check "$name: mounts" begin 1
  rm -rf "$mnt"/c*
  start_clients 4 "$seconds" "$work/logs$run" "$run" --syncfs
  sleep 1.5
  "${@:3}"
  check "$name: every client ends" waits 40 clients_ended
  for client in "${clients[@]}"; do wait "$client"; done 2>/dev/null
}
right_errno() { ! grep -hv -e 'Errno 5' -e 'Errno 28' -e 'Errno 30' "$work/logs$run"/*.errors; }
failed_for_good() {
  local name=$1 text=$2
  check "$name: they got the right errno" right_errno
  check "$name: read-only" waits 20 is_read_only
  check "$name: the log says where and why" says_where "$text"
  check "$name: nothing can be synced" not within 20 sync "$mnt/c0"
  check "$name: unmounts" end
}
recovered() {
  check "$1: mounts again" begin
  check "$1: nothing synced was lost" verify "$work/logs$run" "$mnt" --run "$run"
  check "$1: writable" within 20 fill "$mnt/after" c
  check "$1: unmounts again" end
  check_clean "$loop" "$1"
}

data_errors EIO "$eio"
read_errors
load "writes fail" 60 fail writes
failed_for_good "writes fail" "$eio"
heal
recovered "writes fail"
disconnect

data_errors ENOSPC "No space left on device"
load "no space" 60 fail writes
failed_for_good "no space" "No space left on device"
heal
recovered "no space"
disconnect

connect_failing EIO 1%
load "one in a hundred fails" 5 eval "fail writes; fail reads"
check "one in a hundred fails: they got the right errno" right_errno
heal
check "one in a hundred fails: unmounts" end
recovered "one in a hundred fails"
disconnect

# --- The error filter leaves flushes alone; a server of a few shell commands does not.
flushes="[ ! -e '$work/fail_flushes' ] || { echo 'EIO no flush' >&2; exit 1; }"
check "flushes: is connected" connect eval get_size="stat -c %s '$image'" flush="$flushes" \
  can_write="exit 0" can_flush="exit 0" can_fua="echo emulate" \
  pread="dd if='$image' skip=\$4 count=\$3 status=none iflag=skip_bytes,count_bytes" \
  pwrite="dd of='$image' seek=\$4 conv=notrunc status=none oflag=seek_bytes"
load "flushes fail" 60 fail flushes
failed_for_good "flushes fail" "$eio"
heal
recovered "flushes fail"
disconnect

# --- Slow, and stuck for a while: nothing but patience.
check "slow: is connected" connect --filter=delay file "$image" delay-read=500ms delay-write=2
check "slow: mounts" within 60 pbfs "$loop" "$mnt"
check "slow: writes and syncs" within 30 rewrite "$mnt/rewritten"
check "slow: reads" within 20 cmp -n 100000 "$mnt/other" <(tr '\0' a </dev/zero)
check "slow: unmounts" within 60 umount -i "$mnt"
check "slow: in full" waits 60 no_server "$loop"
disconnect

tell_nbdkit() {
  "$python" -c "
import socket
control = socket.socket(socket.AF_UNIX)
control.connect('$work/pause')
control.send(b'$1')
control.recv(1)"
}
stuck() { tell_nbdkit p; sleep 4; tell_nbdkit r; }
check "stuck: is connected" connect --filter=pause file "$image" pause-control="$work/pause"
load "stuck for four seconds" 8 stuck
check "stuck for four seconds: no client noticed" equal "$(cat "$work/logs$run"/*.errors)" ""
check "stuck for four seconds: unmounts" end
recovered "stuck for four seconds"
disconnect
finish
