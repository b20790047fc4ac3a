// SPDX-License-Identifier: Apache-2.0
#include "fs/verify.h"

#include <algorithm>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/crc32c.h"
#include "fs/tree.h"
#include "fs/tree_node.h"

namespace pbfs {
namespace {

const BlockHeader& HeaderOf(const std::byte* data) {
  return *reinterpret_cast<const BlockHeader*>(data);
}

Status Bad(BlockNumber block, const std::string& field, uint64_t value) {
  return CorruptionError(absl::StrCat("block ", block, ": ", field, " is ", value));
}

Status VerifyOwner(const std::byte* data, BlockNumber block, uint64_t owner) {
  if (HeaderOf(data).owner != owner) return Bad(block, "header owner", HeaderOf(data).owner);
  return OkStatus();
}

bool IsZero(const void* data, size_t length_bytes) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  return std::all_of(bytes, bytes + length_bytes, [](uint8_t byte) { return byte == 0; });
}

// The filesystem and the block that the header names.
Status VerifyPlace(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  const BlockHeader& header = HeaderOf(data);
  if (header.meta_uuid != superblock.meta_uuid) {
    return CorruptionError(
        absl::StrCat("block ", block, ": header meta_uuid is of another filesystem"));
  }
  if (header.block != block) return Bad(block, "header block", header.block);
  return OkStatus();
}

// ---- Superblock

struct Range {
  const char* name;
  uint64_t start;
  uint64_t length;
};

// Geometry that the functions of format.h rely on.
Status VerifyDeviceSize(const Superblock& superblock, BlockNumber block) {
  const uint64_t total = superblock.total_blocks;
  if (total < kDeviceBytesMin / kBlockBytes || total > kDeviceBlocksMax) {
    return Bad(block, "superblock total_blocks", total);
  }
  if (superblock.ag_blocks != kAgBlocks) {
    return Bad(block, "superblock ag_blocks", superblock.ag_blocks);
  }
  if (superblock.ag_count != AgCount(total)) {
    return Bad(block, "superblock ag_count", superblock.ag_count);
  }
  // The last group has room for its head and the superblock copy in the device's last block.
  const uint32_t last = superblock.ag_count - 1;
  if (AgLength(last, total) < kAgBitmapOffset + AgBitmapBlocks(last, total) + 1) {
    return Bad(block, "superblock total_blocks (last group too short)", total);
  }
  const uint32_t table_blocks = (superblock.ag_count - 1) / kAgEntriesPerBlock + 1;
  if (superblock.ag_table_blocks != table_blocks) {
    return Bad(block, "superblock ag_table_blocks", superblock.ag_table_blocks);
  }
  if (superblock.log_blocks < kLogBlocksMin) {
    return Bad(block, "superblock log_blocks", superblock.log_blocks);
  }
  return OkStatus();
}

// What lies in group 0 lies within it and apart.
Status VerifyRanges(const Superblock& superblock, BlockNumber block) {
  const uint64_t total = superblock.total_blocks;
  const uint64_t group_blocks = AgLength(0, total);
  const Range all[] = {
      {"group 0 head", 0, kAgBitmapOffset + AgBitmapBlocks(0, total)},
      {"superblock state_block", superblock.state_block, 1},
      {"superblock ag_table_start", superblock.ag_table_start, superblock.ag_table_blocks},
      {"superblock log_start", superblock.log_start, superblock.log_blocks},
      {"last superblock copy", total - 1, 1},
  };
  // With several groups the last superblock copy lies elsewhere.
  const auto ranges = std::span(all).first(superblock.ag_count == 1 ? 5 : 4);
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];
    if (range.start >= group_blocks || range.length > group_blocks - range.start) {
      return Bad(block, absl::StrCat(range.name, " (outside of group 0)"), range.start);
    }
    for (const Range& other : ranges.subspan(i + 1)) {
      if (other.start < range.start + range.length && range.start < other.start + other.length) {
        return Bad(block, absl::StrCat(other.name, " (overlaps ", range.name, ")"), other.start);
      }
    }
  }
  return OkStatus();
}

bool IsSuperblockPlace(BlockNumber block, uint64_t total_blocks) {
  if (block == 0 || block == total_blocks - 1) return true;
  return block < total_blocks && block % kAgBlocks == 0 && AgHasSuperblockCopy(AgOf(block));
}

}  // namespace

// ---- Header -------------------------------------------------------------------------------------

uint32_t BlockCrc(const std::byte* data) {
  static constexpr uint32_t kZero = 0;
  constexpr size_t kCrcEnd = offsetof(BlockHeader, crc) + sizeof(uint32_t);
  uint32_t crc = Crc32c(data, offsetof(BlockHeader, crc));
  crc = Crc32c(&kZero, sizeof kZero, crc);
  return Crc32c(data + kCrcEnd, kBlockBytes - kCrcEnd, crc);
}

void StampBlock(std::byte* data, Lsn lsn) {
  auto& header = *reinterpret_cast<BlockHeader*>(data);
  header.lsn = lsn;
  header.crc = BlockCrc(data);
}

Status VerifyHeader(const std::byte* data, BlockNumber block, uint32_t magic,
                    const Superblock& superblock) {
  const BlockHeader& header = HeaderOf(data);
  if (header.magic != magic) {
    return CorruptionError(absl::StrCat("block ", block, ": header magic is ",
                                        absl::Hex(header.magic), ", not ", absl::Hex(magic)));
  }
  const uint32_t crc = BlockCrc(data);
  if (header.crc != crc) {
    return CorruptionError(absl::StrCat("block ", block, ": header crc is ", absl::Hex(header.crc),
                                        ", computed ", absl::Hex(crc)));
  }
  return VerifyPlace(data, block, superblock);
}

// ---- Superblock ---------------------------------------------------------------------------------

Status VerifySuperblock(const std::byte* data, BlockNumber block) {
  const auto& superblock = *reinterpret_cast<const Superblock*>(data);
  PBFS_RETURN_IF_ERROR(VerifyHeader(data, block, kMagicSuperblock, superblock));
  PBFS_RETURN_IF_ERROR(VerifyOwner(data, block, kOwnerFilesystem));
  // Format 0.x may change with every minor version.
  if (superblock.version_major != kVersionMajor || superblock.version_minor != kVersionMinor) {
    return ErrnoError(EOPNOTSUPP,
                      absl::StrCat("block ", block, ": superblock version is ",
                                   superblock.version_major, ".", superblock.version_minor,
                                   ", this program knows ", kVersionMajor, ".", kVersionMinor));
  }
  if (const uint64_t unknown = superblock.feature_incompat & ~kIncompatKnown; unknown != 0) {
    return ErrnoError(
        EOPNOTSUPP, absl::StrCat("block ", block, ": superblock feature_incompat has unknown bits ",
                                 absl::Hex(unknown)));
  }
  if (superblock.block_bytes != kBlockBytes) {
    return Bad(block, "superblock block_bytes", superblock.block_bytes);
  }
  PBFS_RETURN_IF_ERROR(VerifyDeviceSize(superblock, block));
  if (!IsSuperblockPlace(block, superblock.total_blocks)) {
    return Bad(block, "superblock place for total_blocks", superblock.total_blocks);
  }
  PBFS_RETURN_IF_ERROR(VerifyRanges(superblock, block));
  if (!IsInodeNumber(superblock.root_inode, superblock)) {
    return Bad(block, "superblock root_inode", superblock.root_inode);
  }
  if (superblock.member_count != 1) {
    return Bad(block, "superblock member_count", superblock.member_count);
  }
  if (superblock.member_index != 0) {
    return Bad(block, "superblock member_index", superblock.member_index);
  }
  return OkStatus();
}

// ---- Filesystem-wide blocks ---------------------------------------------------------------------

bool IsInodeNumber(InodeNumber ino, const Superblock& superblock) {
  return InodeBlock(ino) != 0 && InodeBlock(ino) < superblock.total_blocks &&
         InodeSlot(ino) < kInodesPerBlock;
}

bool IsTreeRoot(const TreeRoot& root, const Superblock& superblock) {
  if (!IsZero(root.zero, sizeof root.zero)) return false;
  if (root.block == 0) return root.level == 0;
  return root.block < superblock.total_blocks && root.level <= kTreeLevelMax;
}

namespace {

Status VerifyState(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  PBFS_RETURN_IF_ERROR(VerifyOwner(data, block, kOwnerFilesystem));
  if (block != superblock.state_block) {
    return Bad(superblock.state_block, "state block's place, not where this one lies,", block);
  }
  const auto& state = *reinterpret_cast<const StateBlock*>(data);
  if (!IsTreeRoot(state.orphans, superblock)) {
    return Bad(block, "state orphans root", state.orphans.block);
  }
  return OkStatus();
}

// ---- Allocation groups

Status VerifyAgEntry(const AgEntry& entry, uint32_t ag, BlockNumber block,
                     const Superblock& superblock) {
  const auto field = [ag](const char* name) { return absl::StrCat("group ", ag, " ", name); };
  if (ag >= superblock.ag_count) {
    if (!IsZero(&entry, sizeof entry)) return Bad(block, field("entry (past ag_count)"), ag);
    return OkStatus();
  }
  const uint32_t length = AgLength(ag, superblock.total_blocks);
  if ((entry.flags & ~kAgInitialized) != 0) return Bad(block, field("flags"), entry.flags);
  if (entry.free_blocks > length) return Bad(block, field("free_blocks"), entry.free_blocks);
  if (entry.inode_slots > uint64_t{length} * kInodesPerBlock) {
    return Bad(block, field("inode_slots"), entry.inode_slots);
  }
  if (entry.free_inodes > entry.inode_slots) {
    return Bad(block, field("free_inodes"), entry.free_inodes);
  }
  if (!IsTreeRoot(entry.inode_tree, superblock)) {
    return Bad(block, field("inode_tree root"), entry.inode_tree.block);
  }
  return OkStatus();
}

Status VerifyAgTable(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  PBFS_RETURN_IF_ERROR(VerifyOwner(data, block, kOwnerFilesystem));
  if (block < superblock.ag_table_start ||
      block - superblock.ag_table_start >= superblock.ag_table_blocks) {
    return CorruptionError(absl::StrCat("block ", block, ": is no place of the group table"));
  }
  const auto& table = *reinterpret_cast<const AgTableBlock*>(data);
  const auto first =
      static_cast<uint32_t>((block - superblock.ag_table_start) * kAgEntriesPerBlock);
  for (uint32_t i = 0; i < kAgEntriesPerBlock; ++i) {
    PBFS_RETURN_IF_ERROR(VerifyAgEntry(table.entries[i], first + i, block, superblock));
  }
  return OkStatus();
}

Status VerifyBitmap(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  if (block >= superblock.total_blocks) {
    return CorruptionError(absl::StrCat("block ", block, ": lies past the device"));
  }
  const uint32_t ag = AgOf(block);
  const uint32_t bitmaps = AgBitmapBlocks(ag, superblock.total_blocks);
  const uint64_t offset = block - AgStart(ag);
  if (offset < kAgBitmapOffset || offset - kAgBitmapOffset >= bitmaps) {
    return CorruptionError(absl::StrCat("block ", block, ": is no place of a bitmap"));
  }
  PBFS_RETURN_IF_ERROR(VerifyOwner(data, block, kOwnerAgBase + ag));
  const auto& bitmap = *reinterpret_cast<const BitmapBlock*>(data);
  const auto in_use = [&bitmap](uint32_t bit) {
    return (bitmap.words[bit / 64] >> (bit % 64) & 1) != 0;
  };
  const auto index = static_cast<uint32_t>(offset - kAgBitmapOffset);
  if (index == 0) {
    for (uint32_t bit = 0; bit < kAgBitmapOffset + bitmaps; ++bit) {
      if (!in_use(bit)) return Bad(block, "bitmap: free block of the group's own head", bit);
    }
  }
  const uint32_t length = AgLength(ag, superblock.total_blocks) - index * kBitsPerBitmapBlock;
  for (uint32_t bit = length; bit < kBitsPerBitmapBlock; ++bit) {
    if (!in_use(bit)) return Bad(block, "bitmap: free block past the group's end", bit);
  }
  return OkStatus();
}

// ---- Trees

Status VerifyTree(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  PBFS_RETURN_IF_ERROR(VerifyTreeNode(data, block));
  if (IsLeaf(data)) return OkStatus();
  const TreeChild* const children = NodeChildren(data);
  for (uint32_t i = 0; i < NodeCount(data); ++i) {
    if (children[i].block >= superblock.total_blocks) {
      return Bad(block, absl::StrCat("tree node child ", i, " block"), children[i].block);
    }
  }
  return OkStatus();
}

}  // namespace

// ---- Log ----------------------------------------------------------------------------------------

Status VerifyLogAnchor(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  PBFS_RETURN_IF_ERROR(VerifyHeader(data, block, kMagicLogAnchor, superblock));
  PBFS_RETURN_IF_ERROR(VerifyOwner(data, block, kOwnerLog));
  if (block < superblock.log_start || block - superblock.log_start >= kLogAnchorBlocks) {
    return CorruptionError(absl::StrCat("block ", block, ": is no place of a log anchor"));
  }
  const auto& anchor = *reinterpret_cast<const LogAnchor*>(data);
  if (anchor.clean > 1) return Bad(block, "log anchor clean", anchor.clean);
  if (anchor.first_sequence == 0 || anchor.first_sequence > kSequenceMax) {
    return Bad(block, "log anchor first_sequence", anchor.first_sequence);
  }
  if (anchor.generation > kSequenceMax) {
    return Bad(block, "log anchor generation", anchor.generation);
  }
  return OkStatus();
}

Status VerifyCheckpointHeader(const std::byte* data, BlockNumber block,
                              const Superblock& superblock) {
  PBFS_RETURN_IF_ERROR(VerifyHeader(data, block, kMagicCheckpoint, superblock));
  PBFS_RETURN_IF_ERROR(VerifyOwner(data, block, kOwnerLog));
  const uint64_t ring_start = superblock.log_start + kLogAnchorBlocks;
  const uint64_t ring_blocks = superblock.log_blocks - kLogAnchorBlocks;
  if (block < ring_start || block - ring_start >= ring_blocks) {
    return CorruptionError(absl::StrCat("block ", block, ": is no place of a checkpoint"));
  }
  const auto& header = *reinterpret_cast<const CheckpointHeader*>(data);
  const auto bad = [block](const char* field, uint64_t value) {
    return Bad(block, absl::StrCat("checkpoint ", field), value);
  };
  if (header.sequence == 0 || header.sequence > kSequenceMax) {
    return bad("sequence", header.sequence);
  }
  if (header.tail_sequence == 0 || header.tail_sequence > header.sequence) {
    return bad("tail_sequence", header.tail_sequence);
  }
  if (header.tail_position >= ring_blocks) return bad("tail_position", header.tail_position);
  if (header.durable_sequence >= header.sequence) {
    return bad("durable_sequence", header.durable_sequence);
  }
  if (header.total_blocks == 0 || header.total_blocks > ring_blocks) {
    return bad("total_blocks", header.total_blocks);
  }
  const uint64_t descriptors =
      (uint64_t{header.record_count} + kLogRecordsPerBlock - 1) / kLogRecordsPerBlock;
  if (header.descriptor_blocks != descriptors) {
    return bad("descriptor_blocks", header.descriptor_blocks);
  }
  if (header.data_bytes % kLogChunkBytes != 0 ||
      header.data_bytes > uint64_t{header.total_blocks} * kBlockBytes) {
    return bad("data_bytes", header.data_bytes);
  }
  const uint64_t data_blocks = (header.data_bytes + kBlockBytes - 1) / kBlockBytes;
  if (header.total_blocks != 1 + descriptors + data_blocks) {
    return bad("total_blocks", header.total_blocks);
  }
  return OkStatus();
}

// ---- Dispatch -----------------------------------------------------------------------------------

const char* StructureName(uint32_t magic) {
  switch (magic) {
    case kMagicSuperblock:
      return "superblock";
    case kMagicState:
      return "state block";
    case kMagicAgTable:
      return "group table";
    case kMagicBitmap:
      return "bitmap";
    case kMagicInodes:
      return "inodes";
    case kMagicTree:
      return "tree node";
    case kMagicLogAnchor:
      return "log anchor";
    case kMagicCheckpoint:
      return "checkpoint";
    default:
      return "metadata";
  }
}

Status VerifyContent(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  switch (HeaderOf(data).magic) {
    case kMagicState:
      return VerifyState(data, block, superblock);
    case kMagicAgTable:
      return VerifyAgTable(data, block, superblock);
    case kMagicBitmap:
      return VerifyBitmap(data, block, superblock);
    case kMagicInodes:
      return VerifyInodeTable(data, block, superblock);
    case kMagicTree:
      return VerifyTree(data, block, superblock);
    default:
      return CorruptionError(absl::StrCat("block ", block, ": header magic is ",
                                          absl::Hex(HeaderOf(data).magic), ", which is unknown"));
  }
}

Status VerifyUnstamped(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  PBFS_RETURN_IF_ERROR(VerifyPlace(data, block, superblock));
  return VerifyContent(data, block, superblock);
}

Status VerifyBlockOf(const std::byte* data, BlockNumber block, uint32_t magic,
                     const Superblock& superblock) {
  PBFS_RETURN_IF_ERROR(VerifyHeader(data, block, magic, superblock));
  return VerifyContent(data, block, superblock);
}

Status VerifyBlock(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  switch (HeaderOf(data).magic) {
    case kMagicSuperblock:
      PBFS_RETURN_IF_ERROR(VerifyHeader(data, block, kMagicSuperblock, superblock));
      return VerifySuperblock(data, block);
    case kMagicState:
    case kMagicAgTable:
    case kMagicBitmap:
    case kMagicInodes:
    case kMagicTree:
      return VerifyBlockOf(data, block, HeaderOf(data).magic, superblock);
    case kMagicLogAnchor:
      return VerifyLogAnchor(data, block, superblock);
    case kMagicCheckpoint:
      return VerifyCheckpointHeader(data, block, superblock);
    default:
      return VerifyContent(data, block, superblock);  // Says that the magic is unknown.
  }
}

}  // namespace pbfs
