#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The server is killed at random moments under load; the next mount takes the dead one away, replays
# the log, and finds everything that was acknowledged as durable.
. "$(dirname "$0")/lib.sh"
. "$here/clients_lib.sh"
rounds=${long:+50}
rounds=${rounds:-5}
make_loop 256M || skip "no loop device"

# Every third round on plain fuse, where syncfs(2) promises nothing.
plain() { [ $((round % 3)) -eq 0 ]; }
options() { if plain; then echo "type=fuse"; else echo "type=fuseblk"; fi; }

replayed=0
for ((round = 1; round <= rounds; ++round)); do
  check "round $round: mounts, $(options)" pbfs -o "$(options)" "$loop" "$mnt"
  rm -rf "$mnt"/c*
  start_clients 4 60 "$work/logs$round" "$round" $(plain || echo --syncfs)
  sleep "$((RANDOM % 3)).$((RANDOM % 1000 + 1000))"
  kill -9 "$(server "$loop")"
  # Each client stops at an error, or at SIGBUS in a mapped file.
  for client in "${clients[@]}"; do wait "$client"; done 2>/dev/null
  check "round $round: mounts over the dead mount" pbfs -v -o "$(options)" "$loop" "$mnt"
  cp "$work/output" "$work/said"
  grep -qE 'replayed [1-9][0-9]* checkpoints' "$work/said" && replayed=$((replayed + 1))
  say "$(grep replayed "$work/said" || echo 'nothing to replay')"
  check "round $round: one mount" equal "$(grep -c " $mnt " /proc/self/mountinfo)" 1
  check "round $round: nothing synced is lost" verify "$work/logs$round" "$mnt" --run "$round"
  check "round $round: unmounts" umount.pbfs "$mnt"
  check_clean "$loop" "round $round"
done
say "$replayed of $rounds mounts replayed a log that was not empty"
check "most logs were not empty" test $((replayed * 5)) -ge $((rounds * 4))
finish
