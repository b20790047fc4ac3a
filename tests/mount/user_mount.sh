#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Mounting as an ordinary user, by fusermount3.
. "$(dirname "$0")/lib.sh"
[ -z "$(why_no_user_mounts)" ] || skip "$(why_no_user_mounts)"
share_programs
user=(setpriv --reuid nobody --regid nogroup --clear-groups env HOME="$work")
make_image || exit 1
chown nobody "$image" "$mnt"
chmod 711 "$work"

check "mounts" "${user[@]}" pbfs -o noatime "$image" "$mnt"
check "nosuid, nodev" grep -q " $mnt .*nosuid,nodev" /proc/self/mountinfo
check "and the given flag" grep -q " $mnt .*noatime" /proc/self/mountinfo
# The root directory was made by root.
umount.pbfs "$mnt"
pbfs "$image" "$mnt" && chown nobody "$mnt" && umount.pbfs "$mnt"
check "mounts again" "${user[@]}" pbfs "$image" "$mnt"
check "writes" "${user[@]}" sh -c "echo mine >$mnt/file"
refuse "nobody else gets in, not even root" ls "$mnt"
mkdir "$work/other"
refuse "root does not show it elsewhere" pbfs -o noatime "$image" "$work/other"
check "unmounts" "${user[@]}" umount.pbfs "$mnt"
refuse "gone" mounted
check "committed" unlocked "$image"
check "mounts once more" "${user[@]}" pbfs "$image" "$mnt"
check "reads" equal "$("${user[@]}" cat "$mnt/file")" mine
kill "$(server "$image")"
check "SIGTERM unmounts" waits 10 not mounted
check "and ends the server" waits 10 no_server "$image"
chmod 444 "$image"
refuse "no writable mount of a read-only image" "${user[@]}" pbfs "$image" "$mnt"
check "a read-only one" "${user[@]}" pbfs -o ro "$image" "$mnt"
check "reads that" equal "$("${user[@]}" cat "$mnt/file")" mine
check "unmounts it" "${user[@]}" umount.pbfs "$mnt"
finish
