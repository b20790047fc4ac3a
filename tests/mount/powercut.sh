#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Power cuts on a mounted server: the device's writes and flushes are recorded while clients work and
# note what was acknowledged as durable; then the device is rebuilt as it may have been at many
# moments, unflushed writes lost or torn, and must hold all of that. PBFS_TEST_KEEP names a directory
# for the images that failed.
. "$(dirname "$0")/lib.sh"
. "$here/recorder_lib.sh"
. "$here/clients_lib.sh"

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
  "$python" "$here/oracle/power_cuts.py" "$record/log" "$work/logs$run" --images "$images" \
    --mount "$mnt" --size $((128 << 20)) --run "$run" --from "$start" --to "$end" "$@" >&3 &&
    return
  if [ -n "${PBFS_TEST_KEEP:-}" ]; then cp -r "$record/log" "$work/logs$run" "$PBFS_TEST_KEEP"; fi
  return 1
}

# trial NAME SECONDS CUTS OPTIONS CLIENT-OPTION...
trial() {
  local name=$1 seconds=$2 cuts=$3 options=$4 client
  shift 4
  run=$((run + 1))
  check "$name: mounts" pbfs -o "$options" "$loop" "$mnt"
  set_control hold_us 3000
  rm -rf "$mnt"/c*
  start_clients 4 "$seconds" "$work/logs$run" "$run" --control "$record/control" --syncfs "$@"
  start=$(counter entries)
  check "$name: the load runs" wait_clients "$work/logs$run"
  end=$(counter entries)
  check "$name: everything is there while mounted" verify "$work/logs$run" "$mnt" --run "$run"
  check "$name: unmounts" umount -i "$mnt"
  check_clean "$loop"
  check "$name: mounts again" pbfs "$loop" "$mnt"
  check "$name: everything is there" verify "$work/logs$run" "$mnt" --run "$run"
  check "$name: unmounts again" umount -i "$mnt"
  say "$(cat "$work/logs$run"/*.log | grep -c '"k"') operations, $((end - start)) log entries"
  set_control hold_us 0
  check "$name: nothing synced is lost at $cuts cuts" power_cuts --cuts "$cuts"
}

run=0
if [ -n "$long" ]; then
  trial eager 30 160 rw --eager 1
  trial lazy 40 90 cache=32M --eager 0.03
else
  trial eager 6 15 rw --eager 1
  trial lazy 9 7 cache=32M --eager 0.03
fi
# With a disk that lies about its flushes a loss must be found, or the check is worth nothing.
check "a disk that lies is found out" power_cuts --cuts 6 --lie
finish
