# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the scripts of this folder share; sourced by bash with `root` set to the top of the tree.

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# Prints the comment at the head of the script and exits.
usage() { sed -n '3,$ { /^#/! q; s/^# \{0,1\}//p }' "$0"; exit "$1"; }

# Makes /dev/fuse usable by every user, as the distribution's udev rule would. False: there is none.
ensure_fuse() {
  if [ ! -c /dev/fuse ] && [ "$(id -u)" -eq 0 ]; then
    modprobe fuse 2>/dev/null || true
  fi
  [ -c /dev/fuse ] || return 1
  if [ "$(id -u)" -eq 0 ] && [ "$(stat -c %a /dev/fuse)" = 600 ]; then
    chmod 0666 /dev/fuse 2>/dev/null || true
  fi
  [ -r /dev/fuse ] && [ -w /dev/fuse ]
}

# build PRESET [CMAKE-OPTION...] [-- TARGET...]: configures and builds, printing only what matters.
build() {
  local preset=$1 options=() log
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
  [ $# -eq 0 ] || shift
  log=$(mktemp)
  if (cd "${root:?}" && cmake --preset "$preset" "${options[@]}") >"$log" 2>&1 &&
      (cd "${root:?}" && cmake --build --preset "$preset" ${1:+--target "$@"}) >>"$log" 2>&1; then
    rm -f "$log"
    return 0
  fi
  grep -E 'error|warning|FAILED|CMake Error' -A 12 "$log" | head -100
  say "The build failed; the whole output is in $log"
  return 1
}
