#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The filesystem is shut down by XFS's ioctl, idle and under load, in each mode: everything fails at
# once and nothing hangs, it unmounts, the next mount replays and finds what was acknowledged as
# durable.
. "$(dirname "$0")/lib.sh"
. "$here/clients_lib.sh"
[ -x "$bin/pbfsctl" ] || skip "no pbfsctl in $bin"
rounds=${long:+60}
rounds=${rounds:-6}
make_loop 256M || skip "no loop device"
log=$work/messages
modes=(default logflush nologflush)

begin() { : >"$log"; pbfs -v -o "log=$log,$1" "$loop" "$mnt" && cp "$work/output" "$work/said"; }
end() { umount -i "$mnt" && waits 20 no_server "$loop"; }
eio() { says "Input/output error" "$@"; }
# The ioctl with any number, as a program makes it. going_down NUMBER [PROGRAM...]
going_down() {
  "${@:2}" "$python" -c "
import fcntl, os, struct
XFS_IOC_GOINGDOWN = 0x8004587d
fcntl.ioctl(os.open('$mnt', os.O_RDONLY), XFS_IOC_GOINGDOWN, struct.pack('I', $1))"
}

# --- Who may, how it is said, and what it is then.
check "mounts" begin rw
echo kept >"$mnt/synced" && sync "$mnt/synced"
head -c 100000 /dev/urandom >"$mnt/direct" && sync "$mnt/direct"
check "not by a user" says "Operation not permitted" going_down 2 setpriv --reuid 65534 --clear-groups
check "not in a mode that does not exist" says "Invalid argument" going_down 3
check "pbfsctl knows the modes too" says "no mode of shutdown" pbfsctl shutdown "$mnt" --mode soft
check "until then all is well" sync "$mnt/synced"
check "shut down by a program" going_down 2
check "reading gives EIO" eio dd if="$mnt/direct" of=/dev/null iflag=direct
check "so does listing" eio ls "$mnt"
check "and looking for a name" eio cat "$mnt/unknown"
check "and creating" eio touch "$mnt/new"
check "and fsync" eio sync "$mnt/synced"
check "and syncfs" eio sync -f "$mnt/synced"
check "and statfs" eio df "$mnt"
check "once more is no error" pbfsctl shutdown "$mnt"
check "the log says so" grep -q "$loop.*shut down (nologflush)" "$log"
check "once" equal "$(wc -l <"$log")" 1
check "unmounts" end

# --- What each mode keeps of a file that nobody synced and whose data is still in the kernel.
declare -A kept=([default]=data [logflush]=empty [nologflush]=none)
contents() {
  if [ ! -e "$1" ]; then echo none; elif [ -s "$1" ]; then tr -d '\0' <"$1"; else echo empty; fi
}
for mode in "${modes[@]}"; do
  check "$mode: mounts again" begin commit=60
  check "$mode: what was synced is there" equal "$(contents "$mnt/synced")" kept
  echo data >"$mnt/$mode"
  check "$mode: is shut down" pbfsctl shutdown "$mnt" --mode "$mode"
  check "$mode: the log says so" grep -q "shut down ($mode)" "$log"
  check "$mode: unmounts" end
  check_clean "$loop" "$mode, before the replay"
  check "$mode: mounts once more" begin rw
  check "$mode: and replays" grep -q replayed "$work/said"
  check "$mode: keeps what it should" equal "$(contents "$mnt/$mode")" "${kept[$mode]}"
  check "$mode: writable" sync "$mnt/synced"
  if has xfs_io; then
    check "xfs_io shuts it down, unmodified" xfs_io -x -c "shutdown" "$mnt"
    check "then nothing works" eio ls "$mnt"
  fi
  check "$mode: unmounts again" end
done

# --- What is to be durable at once is, without a log that is written for the shutdown.
# at_once WHAT OPTION COMMAND FILE CONTENTS
at_once() {
  check "$1: mounts" begin "commit=60,$2"
  check "$1: is written" bash -c "cd '$mnt' && $3"
  check "$1: is shut down" pbfsctl shutdown "$mnt" --mode nologflush
  check "$1: unmounts" end
  check "$1: mounts again" begin rw
  check "$1: is there" equal "$(contents "$mnt/$4")" "$5"
  check "$1: unmounts again" end
}
at_once "-o sync" sync "echo 1 >a" a 1
at_once "-o sync, its end" sync "truncate -s 0 a" a empty
at_once "-o sync, preallocated" sync "fallocate -l 1 a" a ''
at_once "-o dirsync" dirsync "mkdir d && touch d/b" d/b empty
at_once "a sync file" rw "touch s && chattr +S s && echo 2 >s" s 2
at_once "its end" rw "truncate -s 0 s" s empty
at_once "in a sync directory" rw "mkdir sd && chattr +S sd && echo 3 >sd/f" sd/f 3
at_once "a dirsync directory" rw "mkdir dd && chattr +D dd && mv s dd/s" dd/s empty
at_once "other files" rw "echo 4 >other; echo 5 >kept; sync kept" other empty
at_once "a rename from a sync directory" rw "mv sd/f moved" moved 3
check "remount,sync: mounts" begin commit=60
check "remount,sync: remounts" pbfs -o remount,rw,sync "$loop" "$mnt"
check "remount,sync: is written" bash -c "echo 6 >'$mnt/r'"
check "remount,sync: is shut down" pbfsctl shutdown "$mnt" --mode nologflush
check "remount,sync: unmounts" end
check "remount,sync: mounts again" begin rw
check "remount,sync: is there" equal "$(contents "$mnt/r")" 6
check "remount,sync: unmounts again" end
check_clean "$loop"

# --- Under load.
clients_ended() {
  local client
  for client in "${clients[@]}"; do ! kill -0 "$client" 2>/dev/null || return 1; done
}
options=(rw cache=32M nowriteback type=fuse)
for ((round = 1; round <= rounds; ++round)); do
  mode=${modes[round % 3]}
  option=${options[round % 4]}
  name="round $round, $mode, $option"
  check "$name: mounts" begin "$option"
  rm -rf "$mnt"/c*
  start_clients 4 60 "$work/logs$round" "$round" $([ "$option" = type=fuse ] || echo --syncfs)
  sleep "$((RANDOM % 2)).$((RANDOM % 900 + 100))"
  check "$name: is shut down" timeout 20 "$bin/pbfsctl" shutdown "$mnt" --mode "$mode"
  # At an error, or at SIGBUS in a mapped file.
  check "$name: every client stops" waits 20 clients_ended
  for client in "${clients[@]}"; do wait "$client"; done 2>/dev/null
  # Without the kernel's writeback cache also with a write that is short, because it met EIO then.
  check "$name: with EIO" \
    bash -c "! grep -hv -e 'Errno 5' -e 'bytes written' $work/logs$round/*.errors"
  check "$name: unmounts" end
  check_clean "$loop" "before the replay"
  check "$name: mounts again" begin "$option"
  say "$(grep -o 'replayed.*' "$work/said" || echo 'nothing to replay')"
  check "$name: nothing synced is lost" verify "$work/logs$round" "$mnt" --run "$round"
  check "$name: unmounts again" end
  check_clean "$loop"
done
finish
