#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Ordinary programs at work: on fuseblk, on plain fuse, and as a user who is not root; everything is
# still there after mounting again. PBFS_TEST_USER names the user (nobody).
users_may=yes
. "$(dirname "$0")/lib.sh"
size=${long:+long}
size=${size:-short}

# At least 8000 files.
big_tree() {
  if [ "$(find /usr/include -type f 2>/dev/null | wc -l)" -ge 8000 ]; then
    echo /usr/include
    return
  fi
  local d i
  for ((d = 0; d < 90; ++d)); do
    mkdir -p "$work/tree/$d"
    for ((i = 0; i < 90; ++i)); do
      printf '%*d\n' $((RANDOM % 20000)) "$i" >"$work/tree/$d/$i.txt"
    done
  done
  echo "$work/tree"
}
# Some hundred of them.
small_tree() {
  mkdir -p "$work/small"
  find "$1" -type f -size -64k | head -600 | xargs -d '\n' cp --parents -t "$work/small"
  echo "$work/small"
}
work_in() { "${as[@]}" bash "$work/programs/everyday_work.sh" "$mnt" "$@"; }
share_programs
cp "$here/everyday_work.sh" "$work/programs"

# everyday NAME SOURCE DEVICE: mounts, works, and looks again after a second mount.
everyday() {
  local name=$1 source=$2 device=$3 before after log=$work/work.log
  say "--- $name"
  check "mounts" "${as[@]}" pbfs "$device" "$mnt"
  work_in "$source" "$small" "$size" "$work/pbfs" 2>&1 | tee "$log"
  passed=$((passed + $(grep -c '^ok ' "$log")))
  failed=$((failed + $(grep -c '^FAIL ' "$log")))
  before=$(work_in checksums)
  check "unmounts" "${as[@]}" umount.pbfs "$mnt"
  check_clean "$device"
  check "mounts again" "${as[@]}" pbfs "$device" "$mnt"
  after=$(work_in checksums)
  check "$(wc -l <<<"$before") checksums as before" equal "$(sha256sum <<<"$before")" \
    "$(sha256sum <<<"$after")"
  check "removes everything" "${as[@]}" find "$mnt" -mindepth 1 -delete
  check "unmounts again" "${as[@]}" umount.pbfs "$mnt"
  check_clean "$device" "emptied"
}

mkdir "$work/pbfs"
tar -C "$here/../.." --exclude './build*' --exclude ./.git -cf - . | tar -C "$work/pbfs" -xf -
tree=$(big_tree)
small=$(small_tree "$tree")
few=$tree
[ "$size" = long ] || few=$small
as=()
if [ "$(id -u)" -ne 0 ]; then
  make_image 4G && everyday "plain fuse, as $(id -un)" "$tree" "$image"
  finish
  exit
fi
if make_loop 4G; then
  everyday "fuseblk" "$tree" "$loop"
  losetup -d "$loop"
else
  say "no loop device: fuseblk is left out"
fi
make_image 4G
everyday "plain fuse" "$few" "$image"

user=${PBFS_TEST_USER:-nobody}
if [ -z "$(why_no_user_mounts)" ]; then
  rm "$image"
  mkdir "$work/home" && chown "$user" "$work/home" "$mnt"
  image=$work/home/image
  as=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups env HOME="$work/home")
  "${as[@]}" mkfs.pbfs -q -s 4G "$image"
  everyday "plain fuse, as $user" "$few" "$image"
else
  say "$(why_no_user_mounts): the ordinary user is left out"
fi
finish
