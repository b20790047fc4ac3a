# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Clients that write down what they were promised (oracle/client.py). Sourced after lib.sh.

[ -n "$python" ] || skip "python3 is missing"

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
