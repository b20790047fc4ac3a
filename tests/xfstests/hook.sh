# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Read at the end of xfstests' common/rc: what xfstests keeps in lists of the filesystems it knows.
# Nothing here makes a test that fails one that is not run.
case "${FSTYP:-}" in
fuseblk.pbfs | fuse.pbfs | fuse.ext4 | fuse.reference)
  # blkid does not know the type of the device: mount(8) must be told.
  _mount() {
    local word
    case " $* " in
      *" -t "* | *bind* | *" -B "* | *" --move "* | *" -M "* | *" --make-"* | *remount*) ;;
      *)
        for word; do
          if [ "$word" = "$SCRATCH_DEV" ] || [ "$word" = "$TEST_DEV" ]; then
            $MOUNT_PROG -t "$FSTYP" "$@"
            return
          elif [ -f "$word" ]; then
            $MOUNT_PROG -t "${FSTYP##*.}" "$@"
            return
          fi
        done
        ;;
    esac
    $MOUNT_PROG "$@"
  }
  _fstyp_has_non_default_seek_data_hole() { return 0; }
  _require_names_are_bytes() { :; }
  case "$FSTYP" in
  *.pbfs)
    # Seconds in 64 bits.
    _filesystem_timestamp_range() { echo "-9223372036854775808 9223372036854775807"; }
    _small_fs_size_mb() { echo $(($1 < 16 ? 16 : $1)); }
    _try_scratch_mkfs_sized() {
      local bytes=$1
      shift $(($# > 1 ? 2 : 1))
      mkfs.pbfs $MKFS_OPTIONS -s "$bytes" "$@" "$SCRATCH_DEV"
    }
    ;;
  fuse.ext4)
    _has_metadata_journaling() { echo "fuse2fs writes no journal"; return 1; }
    _try_scratch_mkfs_sized() {
      local bytes=$1 block=${2:-4096}
      mkfs.ext4 -q -F -b "$block" "$SCRATCH_DEV" $((bytes / block))
    }
    ;;
  fuse.reference)
    _small_fs_size_mb() { echo $(($1 < 300 ? 300 : $1)); }
    _try_scratch_mkfs_sized() { mkfs.xfs -q -f -d size="$1" "$SCRATCH_DEV"; }
    ;;
  esac
  ;;
esac
