#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Power cuts on a mounted server: the device's writes and flushes are recorded while clients work and
# note what was acknowledged as durable; then the device is rebuilt as it may have been at many
# moments, unflushed writes lost or torn, and must hold all of that.
#
# PBFS_CUTS=N says how many cuts, over all kinds of load in turn; PBFS_SEED=S where, so that runs with
# other seeds add to it. PBFS_TEST_KEEP names a directory for what oracle/power_cuts.py needs to show
# again what it found.
. "$(dirname "$0")/lib.sh"
. "$here/recorder_lib.sh"
. "$here/clients_lib.sh"

cuts_wanted=${PBFS_CUTS:-$([ -n "$long" ] && echo 400 || echo 36)}
seed=${PBFS_SEED:-$(date +%s)}

make_recorded_loop 128M || skip "no loop device over the recorder"
check "the recorder sees writes and flushes in order" "$python" "$here/oracle/recorder_trial.py" \
  "$loop" "$record/log"
check "mkfs" mkfs.pbfs -q -f "$loop"

# write + fdatasync in one thread: each call flushes the device itself.
fdatasyncs() {
  local before calls=200 flushes
  before=$(counter flushes)
  "$python" - "$mnt/synced" "$calls" <<'PY' || return 1
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for i in range(int(sys.argv[2])):
    os.pwrite(fd, bytes([i % 251]) * 4096, i % 64 * 4096)
    os.fdatasync(fd)
PY
  flushes=$(($(counter flushes) - before))
  say "$calls calls of write and fdatasync: $flushes flushes"
  [ "$flushes" -ge "$calls" ]
}
check "mounts" pbfs "$loop" "$mnt"
check "as fuseblk" equal "$(mount_type)" fuseblk.pbfs
check "every fdatasync flushes the device" fdatasyncs
check "unmounts" umount -i "$mnt"

# The rebuilt images lie in memory where that is possible.
images=$work
if [ -w /dev/shm ]; then
  images=$(mktemp -d /dev/shm/pbfs-mount-test.XXXXXX)
  trap 'rm -rf "$images"; cleanup' EXIT
fi
power_cuts() {
  "$python" "$here/oracle/power_cuts.py" "$record/log" "$work/logs" --start "$images/start" \
    --work "$work" --images "$images" --run "$run" --seed $((seed * 1000 + run)) "$@" >&3 && return
  if [ -n "${PBFS_TEST_KEEP:-}" ]; then
    mkdir -p "$PBFS_TEST_KEEP/$run"
    cp -r "$record/log" "$images/start" "$work/logs" "$PBFS_TEST_KEEP/$run"
    say "kept, of run $run and seed $((seed * 1000 + run)), for $*"
  fi
  return 1
}
# The record starts anew with what is on the disk now: nobody has it mounted.
restart_record() {
  : >"$record/log"
  set_control entries 0
  cp --sparse=always "$record/image" "$images/start"
}
# Leaves about 6 MiB.
fill_disk() {
  local free
  free=$(df -B1M --output=avail "$mnt" | tail -1)
  head -c $((free - 6))M /dev/urandom >"$mnt/filler" && sync "$mnt/filler"
}

# trial NAME SECONDS CUTS OPTIONS CLIENT-OPTION...
trial() {
  local name=$1 seconds=$2 cuts=$3 options=$4 disk=$loop
  shift 4
  # An image file, on which nothing but fsync(2) makes anything durable.
  [ "$name" != image ] || disk=$work/recorder/disk
  run=$((run + 1))
  name="$run, $name"
  rm -rf "$work/logs"
  check "$name: mounts" pbfs -o "$options" "$disk" "$mnt"
  rm -rf "$mnt"/c* "$mnt/filler"
  mkdir "$mnt"/c{0..3}
  [[ "$*" != *--full* ]] || check "$name: is filled" fill_disk
  check "$name: unmounts" umount.pbfs "$mnt"
  restart_record
  check "$name: mounts for the load" pbfs -o "$options" "$disk" "$mnt"
  set_control hold_us 3000
  start_clients 4 "$seconds" "$work/logs" "$run" --control "$record/control" --seed "$seed" "$@"
  check "$name: the load runs" wait_clients "$work/logs"
  check "$name: everything is there while mounted" verify "$work/logs" "$mnt" --run "$run"
  check "$name: unmounts after it" umount.pbfs "$mnt"
  check_clean "$loop"
  check "$name: mounts again" pbfs "$disk" "$mnt"
  check "$name: everything is there" verify "$work/logs" "$mnt" --run "$run"
  check "$name: unmounts again" umount.pbfs "$mnt"
  set_control hold_us 0
  say "$(cat "$work"/logs/*.log | grep -c '"k"') operations, $(counter entries) log entries"
  check "$name: nothing synced is lost at $cuts cuts" power_cuts --cuts "$cuts" \
    --totals "$work/totals"
}

# next_trial SECONDS CUTS: the kinds take turns.
next_trial() {
  case $((run % 6)) in
    0) trial eager "$@" rw --syncfs --eager 1 ;;
    1) trial lazy "$@" cache=32M --syncfs --eager 0.03 ;;
    2) trial full "$@" nowriteback --syncfs --eager 0.3 --full ;;
    3) trial "small cache" "$@" cache=8M,commit=1 --syncfs --eager 0.3 ;;
    4) trial image "$@" rw --eager 0.5 ;;
    5) trial nowriteback "$@" nowriteback,open --syncfs --eager 0.5 ;;
  esac
}
total() { awk -v i="$1" '{sum += $i} END {print sum + 0}' "$work/totals"; }

run=0
touch "$work/totals"
if [ "$cuts_wanted" -gt 36 ]; then seconds=8 cuts=50; else seconds=4 cuts=12; fi
while left=$((cuts_wanted - $(total 1))) && [ "$left" -gt 0 ]; do
  next_trial "$seconds" $((left < cuts ? left : cuts))
done
# With a disk that lies about its flushes a loss must be found, or the check is worth nothing.
check "a disk that lies is found out" power_cuts --cuts 6 --lie
say "seed $seed: $(total 1) cuts in $run trials, $(total 2) logs replayed, $(total 3) with losses," \
  "$(total 4) with an fsck that was not clean"
finish
