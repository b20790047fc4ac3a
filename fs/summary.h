// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/status.h"
#include "fs/format.h"
#include "io/block_device.h"

namespace pbfs {

// What a filesystem that is not mounted says of itself, without a walk through it.
struct FilesystemSummary {
  bool log_clean = false;
  // Inodes wait to be freed or cut; the next mount does it.
  bool has_orphans = false;
  uint64_t groups_initialized = 0;
  uint64_t blocks_free = 0;
  uint64_t inode_slots = 0;
  uint64_t inodes_free = 0;  // Of the slots.
};

// Reads log anchors, state block and group table. With a dirty log these are as of some time before
// the crash. May block.
StatusOr<FilesystemSummary> ReadSummary(BlockDevice& device, const Superblock& superblock);

}  // namespace pbfs
