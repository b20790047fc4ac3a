# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# A loop device over recorder.cc's disk. Sourced after lib.sh.

recorder=${bin%/bin}/tests/recorder
record=$work/record
[ -x "$recorder" ] || skip "no recorder in ${bin%/bin}/tests"

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
