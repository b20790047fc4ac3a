#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fsck.pbfs and pbfsctl beside a mounted filesystem, and after a crash of its server.
. "$(dirname "$0")/lib.sh"
[ -x "$bin/fsck.pbfs" ] && [ -x "$bin/pbfsctl" ] || skip "no fsck.pbfs and pbfsctl in $bin"

# --- Mounted.
make_image || exit 1
pbfs -o commit=30 "$image" "$mnt"
mkdir "$mnt/dir"
for i in $(seq 200); do echo "$i" >"$mnt/dir/$i"; done
check "fsck refuses a mounted image" exits 8 fsck.pbfs -n "$image"
check "and says who has it" says "in use by pbfs" fsck.pbfs -p "$image"
check "-M is content" exits 0 fsck.pbfs -M -p "$image"
check "stats of the mount" says "frames: " pbfsctl stats "$mnt"
check "latencies of requests" says "lookup:" pbfsctl stats "$mnt"
check "the histograms of the device" python3 -c '
import json, sys
read = json.loads(sys.argv[1])["device"]["read"]["size_bytes"]
assert read["count"] == sum(count for _, count in read["classes"]) > 0
' "$(pbfsctl stats --json "$mnt")"
check "as JSON" says '"checkpoints": ' pbfsctl stats --json "$mnt"
refuse "stats of a folder inside" pbfsctl stats "$mnt/dir"
refuse "stats for another user" setpriv --reuid 65534 --clear-groups "$bin/pbfsctl" stats "$mnt"
check "no attribute shows" equal "$(getfattr -d -m - "$mnt" 2>/dev/null)" ""
checkpoints() { pbfsctl stats --json "$mnt" | awk -F'[:,]' '/"checkpoints"/ {print $2 + 0}'; }
before=$(checkpoints)
check "sync" pbfsctl sync "$mnt"
check "commits" test "$(checkpoints)" -gt "$before"
refuse "sync for another user" setpriv --reuid 65534 --clear-groups "$bin/pbfsctl" sync "$mnt"
check "dump of a mounted image" says "kind: superblock" pbfsctl dump "$image"

# --- After a crash.
exec 9>"$mnt/removed"
rm "$mnt/removed"
pbfsctl sync "$mnt"
kill -9 "$(server "$image")"
waits 10 no_server "$image"
exec 9>&-
umount -l "$mnt"
sum=$(sha256sum <"$image")
check "-n replays in memory" says "the log is dirty" fsck.pbfs -n "$image"
check "and finds it clean" exits 0 fsck.pbfs -n "$image"
check "and writes nothing" equal "$(sha256sum <"$image")" "$sum"
check "stats of a dirty image" says "log: dirty" pbfsctl stats "$image"
check "-p finishes it" exits 1 fsck.pbfs -p "$image"
check "once" exits 0 fsck.pbfs -p "$image"
check_clean "$image"
check "stats of a clean image" says "log: clean" pbfsctl stats "$image"
pbfs "$image" "$mnt"
check "what was synced is there" equal "$(cat "$mnt/dir/200")" 200
umount.pbfs "$mnt"

# --- A block device, and fsck(8).
if make_loop; then
  pbfs "$loop" "$mnt"
  echo text >"$mnt/file"
  check "fsck refuses a mounted device" exits 8 fsck.pbfs -n "$loop"
  check "stats of a device's mount" says "frames: " pbfsctl stats "$mnt"
  check "sync of a device's mount" pbfsctl sync "$mnt"
  umount.pbfs "$mnt"
  check_clean "$loop" "a device"
  check "fsck of a device" exits 0 fsck.pbfs "$loop"
  check "progress on a terminal" says "space" script -qec "fsck.pbfs -n $loop" /dev/null
  refuse "an image under a loop device" fsck.pbfs -n "$image"
fi
finish
