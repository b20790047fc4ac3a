// SPDX-License-Identifier: Apache-2.0
#include "fs/make_filesystem.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/random.h"
#include "fs/uuid.h"
#include "fs/verify.h"

namespace pbfs {
namespace {

constexpr uint64_t kDiscardBytesMax = uint64_t{16} << 30;

// Aligned for O_DIRECT.
struct alignas(kBlockBytes) BlockMemory {
  std::byte bytes[kBlockBytes];
};

// The metadata of group 0, from block 1 to the log's anchors: consecutive, written as one request.
class Head {
 public:
  explicit Head(const Superblock& superblock)
      : superblock_(superblock), blocks_(superblock.log_start + kLogAnchorBlocks - 1) {}

  template <typename T>
  T& At(BlockNumber block) {
    static_assert(sizeof(T) == kBlockBytes);
    return *reinterpret_cast<T*>(Bytes(block));
  }
  std::byte* Bytes(BlockNumber block) {
    PBFS_CHECK(block >= 1 && block - 1 < blocks_.size());
    return blocks_[block - 1].bytes;
  }
  void SetHeader(BlockNumber block, uint32_t magic, uint64_t owner) {
    auto& header = *reinterpret_cast<BlockHeader*>(Bytes(block));
    header.magic = magic;
    header.meta_uuid = superblock_.meta_uuid;
    header.block = block;
    header.owner = owner;
  }
  void Stamp() {
    for (BlockMemory& block : blocks_) {
      PBFS_CHECK(reinterpret_cast<BlockHeader*>(block.bytes)->magic != 0);
      StampBlock(block.bytes, 0);
    }
  }
  const void* data() const { return blocks_.data(); }
  size_t size_bytes() const { return blocks_.size() * kBlockBytes; }

 private:
  const Superblock& superblock_;
  std::vector<BlockMemory> blocks_;
};

// Where the pieces that have no superblock field lie.
BlockNumber InodeChunkStart(const Superblock& superblock) {
  return superblock.ag_table_start + superblock.ag_table_blocks;
}
BlockNumber InodeTreeLeaf(const Superblock& superblock) {
  return InodeChunkStart(superblock) + kInodeChunkBlocksMax;
}
// Blocks of group 0 in use: everything up to the log's end (and the last block of the device).
BlockNumber HeadEnd(const Superblock& superblock) {
  return superblock.log_start + superblock.log_blocks;
}

Status IoError(int error, const Geometry& geometry, const char* doing) {
  return ErrnoError(error, absl::StrCat(geometry.name, ": cannot ", doing, ": ", strerror(error)));
}

Status CheckLabel(const std::string& label) {
  if (label.size() > kLabelBytes) {
    return ErrnoError(EINVAL, absl::StrCat("the label is too long: ", label.size(),
                                           " bytes, at most ", kLabelBytes, " are possible"));
  }
  for (const char c : label) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      return ErrnoError(EINVAL, "the label contains a control character");
    }
  }
  return OkStatus();
}

uint64_t DefaultLogBytes(uint64_t size_bytes) {
  return std::clamp(size_bytes / 64, kLogBytesAutoMin, kLogBytesAutoMax);
}

StatusOr<uint64_t> PlanBlocks(const Geometry& geometry, const MakeOptions& options) {
  const uint64_t size_bytes = options.size_bytes != 0 ? options.size_bytes : geometry.size_bytes;
  if (size_bytes > geometry.size_bytes) {
    return ErrnoError(EINVAL, absl::StrCat(geometry.name, ": the size asked for, ", size_bytes,
                                           " bytes, is more than the device has (",
                                           geometry.size_bytes, " bytes)"));
  }
  if (size_bytes < kDeviceBytesMin) {
    return ErrnoError(EINVAL, absl::StrCat(geometry.name, ": too small: ", size_bytes,
                                           " bytes; a pbfs filesystem needs at least ",
                                           kDeviceBytesMin >> 20, " MiB"));
  }
  const uint64_t blocks = UsableBlocks(size_bytes);
  // The table of groups has to fit group 0.
  if (blocks > kDeviceBlocksMax || AgCount(blocks) / kAgEntriesPerBlock >= kAgBlocks / 2) {
    return ErrnoError(EFBIG, absl::StrCat(geometry.name, ": too large: ", size_bytes, " bytes"));
  }
  return blocks;
}

StatusOr<uint32_t> PlanLogBlocks(const Superblock& superblock, const MakeOptions& options) {
  const uint64_t asked_bytes = options.log_bytes;
  const uint64_t blocks =
      (asked_bytes != 0 ? asked_bytes : DefaultLogBytes(superblock.total_blocks * kBlockBytes)) /
      kBlockBytes;
  if (blocks < kLogBlocksMin) {
    return ErrnoError(EINVAL,
                      absl::StrCat("the log is too small: ", asked_bytes, " bytes; at least ",
                                   kLogBlocksMin * kBlockBytes >> 10, " KiB are needed"));
  }
  // It lies in group 0 and leaves a quarter of that to files.
  const uint64_t length = AgLength(0, superblock.total_blocks);
  const uint64_t most = length - length / 4 - 1 - superblock.log_start;
  if (blocks > most) {
    return ErrnoError(EINVAL, absl::StrCat("the log is too large: ", blocks * kBlockBytes >> 10,
                                           " KiB; at most ", most * kBlockBytes >> 10,
                                           " KiB fit the first allocation group of this device"));
  }
  return static_cast<uint32_t>(blocks);
}

void FillBitmaps(Head& head, const Superblock& superblock) {
  const uint32_t length = AgLength(0, superblock.total_blocks);
  const uint32_t bitmaps = AgBitmapBlocks(0, superblock.total_blocks);
  const auto set_range = [&](uint64_t first, uint64_t end) {
    for (uint64_t i = first; i < end; ++i) {
      auto& bitmap = head.At<BitmapBlock>(kAgBitmapOffset + i / kBitsPerBitmapBlock);
      const uint64_t bit = i % kBitsPerBitmapBlock;
      bitmap.words[bit / 64] |= uint64_t{1} << (bit % 64);
    }
  };
  for (uint32_t i = 0; i < bitmaps; ++i) {
    head.SetHeader(kAgBitmapOffset + i, kMagicBitmap, kOwnerAgBase);
  }
  set_range(0, HeadEnd(superblock));
  if (superblock.ag_count == 1) set_range(length - 1, length);
  set_range(length, uint64_t{bitmaps} * kBitsPerBitmapBlock);
}

// Of a group nobody has used yet: all but its head and, in the last one, the superblock copy.
AgEntry FreshAgEntry(uint32_t ag, const Superblock& superblock) {
  AgEntry entry = {};
  const uint32_t last = ag + 1 == superblock.ag_count ? 1 : 0;
  entry.free_blocks = AgLength(ag, superblock.total_blocks) - kAgBitmapOffset -
                      AgBitmapBlocks(ag, superblock.total_blocks) - last;
  return entry;
}

void FillAgTable(Head& head, const Superblock& superblock) {
  for (uint32_t i = 0; i < superblock.ag_table_blocks; ++i) {
    head.SetHeader(superblock.ag_table_start + i, kMagicAgTable, kOwnerFilesystem);
  }
  for (uint32_t ag = 0; ag < superblock.ag_count; ++ag) {
    auto& block = head.At<AgTableBlock>(superblock.ag_table_start + ag / kAgEntriesPerBlock);
    block.entries[ag % kAgEntriesPerBlock] = FreshAgEntry(ag, superblock);
  }
  AgEntry& first = head.At<AgTableBlock>(superblock.ag_table_start).entries[0];
  first.flags = kAgInitialized;
  first.free_blocks = AgLength(0, superblock.total_blocks) -
                      static_cast<uint32_t>(HeadEnd(superblock)) -
                      (superblock.ag_count == 1 ? 1 : 0);
  first.inode_slots = kInodeChunkBlocksMax * kInodesPerBlock;
  first.free_inodes = first.inode_slots - 1;
  first.inode_tree.block = InodeTreeLeaf(superblock);
}

void FillInodes(Head& head, const Superblock& superblock, const MakeOptions& options) {
  const BlockNumber start = InodeChunkStart(superblock);
  for (uint32_t i = 0; i < kInodeChunkBlocksMax; ++i) {
    head.SetHeader(start + i, kMagicInodes, kOwnerAgBase);
  }
  const timespec now = RealTimeNow();
  const auto nanoseconds = static_cast<uint32_t>(now.tv_nsec);
  DiskInode& root = head.At<InodeTableBlock>(start).inodes[0];
  root.ino = superblock.root_inode;
  root.mode = S_IFDIR | 0755;
  root.nlink = 2;
  root.uid = options.root_uid;
  root.gid = options.root_gid;
  root.generation = static_cast<uint32_t>(RandomBits()) | 1;
  root.atime_seconds = root.mtime_seconds = root.ctime_seconds = root.btime_seconds = now.tv_sec;
  root.atime_nanoseconds = root.mtime_nanoseconds = nanoseconds;
  root.ctime_nanoseconds = root.btime_nanoseconds = nanoseconds;
  root.parent = superblock.root_inode;
  root.data_format = static_cast<uint8_t>(ForkFormat::kInline);

  const BlockNumber leaf = InodeTreeLeaf(superblock);
  head.SetHeader(leaf, kMagicTree, kOwnerAgBase);
  std::byte* const bytes = head.Bytes(leaf);
  auto& node = *reinterpret_cast<TreeNodeHeader*>(bytes);
  node.count = 1;
  node.heap_start = kBlockBytes - sizeof(InodeChunk);
  const TreeSlot slot = {.key = start, .offset = node.heap_start, .length = sizeof(InodeChunk)};
  std::memcpy(bytes + sizeof(TreeNodeHeader), &slot, sizeof slot);
  const InodeChunk chunk = {.used_mask = 1, .blocks = kInodeChunkBlocksMax, .zero = 0};
  std::memcpy(bytes + node.heap_start, &chunk, sizeof chunk);
}

// Whatever the ring holds is of another epoch, so it needs no wiping.
void FillLog(Head& head, const Superblock& superblock) {
  const uint64_t epoch = RandomBits();
  for (uint32_t i = 0; i < kLogAnchorBlocks; ++i) {
    const BlockNumber block = superblock.log_start + i;
    head.SetHeader(block, kMagicLogAnchor, kOwnerLog);
    auto& anchor = head.At<LogAnchor>(block);
    anchor.generation = kLogAnchorBlocks - 1 - i;
    anchor.epoch = epoch;
    anchor.first_sequence = 1;
    anchor.clean = 1;
  }
}

// Every place where a superblock of a filesystem of this size lies, but the primary.
std::vector<BlockNumber> CopyBlocks(uint64_t total_blocks) {
  std::vector<BlockNumber> blocks;
  for (uint64_t ag = 1; ag < AgCount(total_blocks); ag *= 3) {
    blocks.push_back(AgStart(static_cast<uint32_t>(ag)));
  }
  blocks.push_back(total_blocks - 1);
  return blocks;
}

Status WriteBlock(BlockDevice& device, BlockNumber block, const BlockMemory& memory) {
  if (const int error = WriteSync(device, block * kBlockBytes, memory.bytes, kBlockBytes)) {
    return IoError(error, device.geometry(), "write");
  }
  return OkStatus();
}

Status Flush(BlockDevice& device) {
  if (const int error = FlushSync(device)) return IoError(error, device.geometry(), "flush");
  return OkStatus();
}

Status WriteSuperblock(BlockDevice& device, const Superblock& superblock, BlockNumber block) {
  auto memory = std::make_unique<BlockMemory>();
  std::memcpy(memory->bytes, &superblock, sizeof superblock);
  reinterpret_cast<BlockHeader*>(memory->bytes)->block = block;
  StampBlock(memory->bytes, 0);
  return WriteBlock(device, block, *memory);
}

// Destroys all superblocks a mount could find: at the places of the new filesystem, of one on the
// whole device, and of the old filesystem by its own word. The primary goes first.
Status DestroyOldSuperblocks(BlockDevice& device, const Superblock& superblock) {
  auto memory = std::make_unique<BlockMemory>();
  if (const int error = ReadSync(device, 0, memory->bytes, kBlockBytes)) {
    return IoError(error, device.geometry(), "read");
  }
  Superblock old;
  std::memcpy(&old, memory->bytes, sizeof old);
  const uint64_t device_blocks = device.geometry().size_bytes / kBlockBytes;
  const uint64_t usable_blocks = UsableBlocks(device.geometry().size_bytes);
  std::vector<BlockNumber> blocks = CopyBlocks(usable_blocks);
  blocks.push_back(superblock.total_blocks - 1);
  if (old.header.magic == kMagicSuperblock && old.total_blocks != 0 &&
      old.total_blocks <= device_blocks) {
    blocks.push_back(old.total_blocks - 1);
  }
  *memory = {};
  PBFS_RETURN_IF_ERROR(WriteBlock(device, 0, *memory));
  for (const BlockNumber block : blocks) {
    PBFS_RETURN_IF_ERROR(WriteBlock(device, block, *memory));
  }
  return Flush(device);
}

// A hint: a device that cannot is left as it is.
void Discard(BlockDevice& device, uint64_t size_bytes) {
  if (!device.geometry().can_discard) return;
  for (uint64_t offset = 0; offset < size_bytes; offset += kDiscardBytesMax) {
    IoRequest request;
    request.op = IoOp::kDiscard;
    request.offset_bytes = offset;
    request.length_bytes = std::min(kDiscardBytesMax, size_bytes - offset);
    if (RunSync(device, request) != 0) return;
  }
}

}  // namespace

uint64_t UsableBlocks(uint64_t size_bytes) {
  const uint64_t blocks = size_bytes / kBlockBytes;
  const uint64_t rest = blocks % kAgBlocks;
  return blocks > kAgBlocks && rest < kLastAgBlocksMin ? blocks - rest : blocks;
}

StatusOr<Superblock> PlanFilesystem(const Geometry& geometry, const MakeOptions& options) {
  PBFS_RETURN_IF_ERROR(CheckLabel(options.label));
  Superblock superblock = {};
  PBFS_ASSIGN_OR_RETURN(superblock.total_blocks, PlanBlocks(geometry, options));
  superblock.header.magic = kMagicSuperblock;
  superblock.header.owner = kOwnerFilesystem;
  superblock.version_major = kVersionMajor;
  superblock.version_minor = kVersionMinor;
  superblock.block_bytes = kBlockBytes;
  superblock.meta_uuid = superblock.header.meta_uuid = RandomUuid();
  superblock.uuid = options.uuid.value_or(RandomUuid());
  std::memcpy(superblock.label, options.label.data(), options.label.size());
  superblock.ag_blocks = kAgBlocks;
  superblock.ag_count = static_cast<uint32_t>(AgCount(superblock.total_blocks));
  superblock.state_block = kAgBitmapOffset + AgBitmapBlocks(0, superblock.total_blocks);
  superblock.ag_table_start = superblock.state_block + 1;
  superblock.ag_table_blocks = (superblock.ag_count + kAgEntriesPerBlock - 1) / kAgEntriesPerBlock;
  superblock.root_inode = MakeInodeNumber(InodeChunkStart(superblock), 0);
  superblock.log_start = InodeTreeLeaf(superblock) + 1;
  PBFS_ASSIGN_OR_RETURN(superblock.log_blocks, PlanLogBlocks(superblock, options));
  superblock.hash_seed[0] = RandomBits();
  superblock.hash_seed[1] = RandomBits();
  superblock.created_seconds = time(nullptr);
  superblock.member_count = 1;
  return superblock;
}

StatusOr<Superblock> MakeFilesystem(BlockDevice& device, const MakeOptions& options) {
  const Geometry& geometry = device.geometry();
  PBFS_ASSIGN_OR_RETURN(const Superblock superblock, PlanFilesystem(geometry, options));

  Head head(superblock);
  FillBitmaps(head, superblock);
  head.SetHeader(superblock.state_block, kMagicState, kOwnerFilesystem);
  FillAgTable(head, superblock);
  FillInodes(head, superblock, options);
  FillLog(head, superblock);
  head.Stamp();

  PBFS_RETURN_IF_ERROR(DestroyOldSuperblocks(device, superblock));
  if (options.discard) Discard(device, superblock.total_blocks * kBlockBytes);
  if (const int error = WriteSync(device, kBlockBytes, head.data(), head.size_bytes())) {
    return IoError(error, geometry, "write");
  }
  PBFS_RETURN_IF_ERROR(Flush(device));
  for (const BlockNumber block : CopyBlocks(superblock.total_blocks)) {
    PBFS_RETURN_IF_ERROR(WriteSuperblock(device, superblock, block));
  }
  PBFS_RETURN_IF_ERROR(Flush(device));
  PBFS_RETURN_IF_ERROR(WriteSuperblock(device, superblock, 0));
  PBFS_RETURN_IF_ERROR(Flush(device));
  return superblock;
}

}  // namespace pbfs
