#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A device that fails: fsync says so and keeps saying so, an error in the log or in metadata makes the
# filesystem read-only with a message, and nothing that was synced before is lost.
. "$(dirname "$0")/lib.sh"
. "$here/recorder_lib.sh"
. "$here/clients_lib.sh"
make_recorded_loop 128M || skip "no loop device over the recorder"
mkfs.pbfs -q -f "$loop"
log=$work/messages

heal() { local what; for what in writes reads flushes begin end; do set_control "fail_$what" 0; done; }
begin() { : >"$log"; pbfs -o "log=$log" "$loop" "$mnt"; }
# Unmounts, whatever state it is in.
end() { umount -i "$mnt" || force_unmount "$mnt"; waits 20 no_server "$loop"; }
write_synced() { echo "$2" >"$1" && sync "$1"; }
new_name_synced() { touch "$1/after-the-end" && sync "$1"; }
is_read_only() { says "Read-only file system" touch "$mnt/new"; }
# The range of the device that holds a marker. (Its blocks are dropped from memory only afterwards.)
fail_where() {
  local at
  at=$(grep -obUaF -- "$1" "$record/image" | head -1 | cut -d: -f1)
  [ -n "$at" ] || return 1
  set_control fail_begin $((at / 4096 * 4096))
  set_control fail_end $((at / 4096 * 4096 + 4096))
}

# --- Everything fails from one moment on, under load.
run=0
for what in writes flushes; do
  run=$((run + 1))
  check "$what fail: mount" begin
  rm -rf "$mnt"/c*
  start_clients 4 60 "$work/logs$run" "$run" --syncfs
  sleep 2
  fail_from "$what"
  for client in "${clients[@]}"; do wait "$client"; done 2>/dev/null
  check "$what fail: clients get EIO or EROFS" \
    bash -c "! grep -hv -e 'Errno 5' -e 'Errno 30' $work/logs$run/*.errors"
  # Each client may have met its error in its file's data, and the log none yet: a new name has to go there.
  check "$what fail: nothing can be synced any more" not new_name_synced "$mnt/c0"
  check "$what fail: read-only" is_read_only
  check "$what fail: the log says so" grep -q "read-only" "$log"
  say "$(grep -m 1 read-only "$log" | cut -c1-160)"
  check "$what fail: still readable" ls -R "$mnt"
  end
  heal
  check "$what fail: mounts again" begin
  check "$what fail: nothing synced was lost" verify "$work/logs$run" "$mnt" --run "$run"
  check "$what fail: writable again" write_synced "$mnt/new" 1
  check "$what fail: unmounts" umount -i "$mnt"
  check_clean "$loop"
done

# --- One block of one file cannot be written.
marker=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
check "one bad block: mount" begin
head -c 400000 /dev/zero | tr '\0' x >"$mnt/victim"
printf '%s' "$marker" | dd of="$mnt/victim" bs=4096 seek=50 conv=notrunc,fsync status=none
write_synced "$mnt/bystander" 1
check "one bad block: is found" fail_where "$marker"
fail_from writes
overwrite() { printf 'new' | dd of="$mnt/victim" bs=4096 seek=50 conv=notrunc,fsync status=none; }
check "one bad block: fsync fails" says "Input/output error" overwrite
check "one bad block: and fails again" not sync "$mnt/victim"
check "one bad block: syncing another file does not" write_synced "$mnt/bystander" 2
refuse "one bad block: the filesystem stays writable" is_read_only
rm -f "$mnt/new"
check "one bad block: the log names the device" grep -q "$loop.*Input/output error" "$log"
heal
check "one bad block: no forgetting, though the device works again" not sync "$mnt/victim"
check "one bad block: written again it is good" overwrite
check "one bad block: to the end" sync "$mnt/victim"
check "one bad block: the contents are there" equal "$(tail -c +204801 "$mnt/victim" | head -c 3)" new
check "one bad block: unmounts" umount -i "$mnt"
check_clean "$loop"

# --- Reads.
begin
check "one unreadable block: is found" fail_where new"${marker:3}"
fail_from reads
check "one unreadable block: EIO" says "Input/output error" cat "$mnt/victim"
check "one unreadable block: the rest is readable" cmp -n 200000 "$mnt/victim" \
  <(head -c 200000 /dev/zero | tr '\0' x)
check "one unreadable block: so are other files" equal "$(cat "$mnt/bystander")" 2
heal
check "one unreadable block: until it works again" cat "$mnt/victim"
end

fail_from reads
check "no superblock can be read: refused" exits 32 begin
check "and it says why" says "Input/output error" begin
heal
fail_from reads 3
begin 2>/dev/null
check "metadata that cannot be read is an error, not a hang" timeout 20 bash -c "! ls -R $mnt/c0"
end
heal
check "after that it mounts" begin
check "with everything" verify "$work/logs2" "$mnt" --run 2
end
check_clean "$loop"
finish
