// SPDX-License-Identifier: Apache-2.0
#include "fs/summary.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "fs/aligned_buffer.h"
#include "fs/recovery.h"
#include "fs/verify.h"

namespace pbfs {
namespace {

Status ReadBlock(BlockDevice& device, BlockNumber block, AlignedBuffer& buffer) {
  const int error = ReadSync(device, block * kBlockBytes, buffer.data(), kBlockBytes);
  if (error == 0) return OkStatus();
  return ErrnoError(error, absl::StrCat(device.geometry().name, ": block ", block,
                                        ": cannot be read: ", std::strerror(error)));
}

}  // namespace

StatusOr<FilesystemSummary> ReadSummary(BlockDevice& device, const Superblock& superblock) {
  FilesystemSummary summary;
  PBFS_ASSIGN_OR_RETURN(const LogAnchor anchor, ReadLogAnchor(device, superblock));
  summary.log_clean = anchor.clean != 0;
  PBFS_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(kBlockBytes));
  PBFS_RETURN_IF_ERROR(ReadBlock(device, superblock.state_block, buffer));
  PBFS_RETURN_IF_ERROR(
      VerifyBlockOf(buffer.data(), superblock.state_block, kMagicState, superblock));
  summary.has_orphans = buffer.as<StateBlock>()->orphans.block != 0;
  for (uint32_t i = 0; i < superblock.ag_table_blocks; ++i) {
    const BlockNumber block = superblock.ag_table_start + i;
    PBFS_RETURN_IF_ERROR(ReadBlock(device, block, buffer));
    PBFS_RETURN_IF_ERROR(VerifyBlockOf(buffer.data(), block, kMagicAgTable, superblock));
    // Entries past the last group are zero.
    for (const AgEntry& entry : buffer.as<AgTableBlock>()->entries) {
      summary.groups_initialized += (entry.flags & kAgInitialized) != 0 ? 1 : 0;
      summary.blocks_free += entry.free_blocks;
      summary.inode_slots += entry.inode_slots;
      summary.inodes_free += entry.free_inodes;
    }
  }
  return summary;
}

}  // namespace pbfs
