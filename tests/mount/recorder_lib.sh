# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# A loop device over recorder.cc's disk, and clients that write down what they were promised. Sourced
# after lib.sh.

recorder=${bin%/bin}/tests/recorder
record=$work/record
[ -x "$recorder" ] || skip "no recorder in ${bin%/bin}/tests"
[ -n "$python" ] || skip "python3 is missing"

# make_recorded_loop SIZE: sets $loop.
make_recorded_loop() {
  mkdir -p "$record" "$work/recorder"
  truncate -s "$1" "$record/image"
  truncate -s 4096 "$record/control"
  "$recorder" "$record" "$work/recorder" || return 1
  loop=$(losetup --direct-io=on -f --show "$work/recorder/disk") || { loop=; return 1; }
}

# The fields of Control in recorder.cc.
declare -A control=([entries]=0 [writes]=1 [reads]=2 [flushes]=3 [fail_writes]=4 [fail_reads]=5
  [fail_flushes]=6 [fail_begin]=7 [fail_end]=8 [hold_us]=9)
counter() { od -An -t u8 -j $((control[$1] * 8)) -N 8 "$record/control" | tr -d ' '; }
set_control() {
  local bytes='' i
  for i in 0 1 2 3 4 5 6 7; do bytes+=$(printf '\\x%02x' $(($2 >> (8 * i) & 255))); done
  printf "%b" "$bytes" | dd of="$record/control" bs=1 seek=$((control[$1] * 8)) conv=notrunc status=none
}
# fail_from writes|reads|flushes [N]: after N more of them each fails. 0 in set_control ends it.
fail_from() { set_control "fail_$1" $(($(counter "$1") + 1 + ${2:-0})); }

clients=()
# start_clients COUNT SECONDS LOGS RUN [OPTION...]: in the background, in $mnt/c0, $mnt/c1...
start_clients() {
  local count=$1 seconds=$2 logs=$3 run=$4 i
  shift 4
  mkdir -p "$logs"
  for ((i = 0; i < count; ++i)); do mkdir -p "$mnt/c$i" && sync "$mnt/c$i" "$mnt"; done
  clients=()
  for ((i = 0; i < count; ++i)); do
    "$python" "$here/oracle/client.py" "$mnt/c$i" "$logs/$i.log" --client "$i" --run "$run" \
      --seconds "$seconds" "$@" 2>"$logs/$i.errors" &
    clients+=($!)
  done
}
# Fails if one of them did.
wait_clients() {
  local code=0 client
  for client in "${clients[@]}"; do wait "$client" || code=$?; done
  [ "$code" -eq 0 ] || cat "$1"/*.errors
  return "$code"
}
verify() { "$python" "$here/oracle/verify.py" "$@"; }
