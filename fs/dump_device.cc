// SPDX-License-Identifier: Apache-2.0
// Dumps of what lies in several blocks.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/crc32c.h"
#include "cache/block_cache.h"
#include "fs/aligned_buffer.h"
#include "fs/dump.h"
#include "fs/dump_internal.h"
#include "fs/fork.h"
#include "fs/tree.h"
#include "fs/verify.h"

namespace pbfs {
namespace {

// Records shown of one tree, and of one checkpoint.
constexpr size_t kRecordsMax = 100'000;

class NoNodeSpace : public NodeSpace {
 public:
  StatusOr<BlockNumber> AllocateNode(Transaction&, BlockNumber) override {
    return ErrnoError(EROFS, "a dump allocates nothing");
  }
  void FreeNode(Transaction&, BlockNumber) override {}
};

const BlockHeader& HeaderOf(const std::vector<std::byte>& block) {
  return *reinterpret_cast<const BlockHeader*>(block.data());
}

const char* KindOf(LogRecordKind kind) {
  switch (kind) {
    case LogRecordKind::kImage:
      return "image";
    case LogRecordKind::kRange:
      return "range";
    case LogRecordKind::kCancel:
      return "cancel";
  }
  return "unknown";
}

}  // namespace

StatusOr<std::vector<std::byte>> Dumper::Read(BlockNumber block) {
  if (block >= device_.geometry().size_bytes / kBlockBytes) {
    return ErrnoError(EINVAL, absl::StrCat("block ", block, " is past the end of the device"));
  }
  std::vector<std::byte> bytes(kBlockBytes);
  const int error = ReadSync(device_, block * kBlockBytes, bytes.data(), kBlockBytes);
  if (error == 0) return bytes;
  return ErrnoError(error, absl::StrCat(device_.geometry().name, ": block ", block,
                                        ": cannot be read: ", std::strerror(error)));
}

// Of the inode that owns a tree node; 0 if there is no such inode.
uint32_t Dumper::ModeOf(uint64_t owner) {
  if (!IsInodeNumber(owner, superblock_)) return 0;
  const auto block = Read(InodeBlock(owner));
  if (!block.ok() || HeaderOf(*block).magic != kMagicInodes) return 0;
  return reinterpret_cast<const InodeTableBlock*>(block->data())->inodes[InodeSlot(owner)].mode;
}

StatusOr<DumpNode> Dumper::Block(BlockNumber block) {
  PBFS_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, Read(block));
  const BlockHeader& header = HeaderOf(bytes);
  if (header.magic == kMagicTree) {
    DumpNode node = BlockHead(bytes.data(), block, superblock_);
    AddTreeNode(bytes.data(), block, ModeOf(header.owner), superblock_, node);
    return node;
  }
  DumpNode node = DumpBlock(bytes.data(), block, superblock_);
  if (header.magic == kMagicCheckpoint &&
      VerifyCheckpointHeader(bytes.data(), block, superblock_).ok()) {
    PBFS_RETURN_IF_ERROR(
        AddCheckpointRecords(*reinterpret_cast<const CheckpointHeader*>(bytes.data()), node));
  }
  return node;
}

// The descriptors and whether the body is whole. REQUIRES: the header was verified.
Status Dumper::AddCheckpointRecords(const CheckpointHeader& header, DumpNode& node) {
  const uint64_t ring_start = superblock_.log_start + kLogAnchorBlocks;
  const uint64_t ring_blocks = superblock_.log_blocks - kLogAnchorBlocks;
  const uint64_t position = header.header.block - ring_start;
  uint32_t crc = 0;
  uint32_t left = header.record_count;
  DumpNode list = DumpNode::List("records");
  for (uint64_t i = 1; i < header.total_blocks; ++i) {
    PBFS_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes,
                          Read(ring_start + (position + i) % ring_blocks));
    crc = Crc32c(bytes.data(), bytes.size(), crc);
    const auto* records = reinterpret_cast<const LogRecord*>(bytes.data());
    for (uint32_t r = 0; i <= header.descriptor_blocks && r < kLogRecordsPerBlock && left > 0;
         ++r, --left) {
      if (list.children.size() == kRecordsMax) break;
      DumpNode record = DumpNode::Group("record");
      record.Add("block", records[r].block);
      record.Add("kind", std::string(KindOf(records[r].kind)));
      record.Add("chunks", HexNumber(records[r].chunks));
      list.Add(std::move(record));
    }
  }
  node.Add("whole", std::string(crc == header.body_crc ? "yes" : "no"));
  node.Add(std::move(list));
  return OkStatus();
}

StatusOr<DumpNode> Dumper::Superblocks() {
  DumpNode node = DumpNode::Group("superblocks");
  PBFS_ASSIGN_OR_RETURN(DumpNode primary, Block(0));
  node.Add(std::move(primary));
  DumpNode copies = DumpNode::List("copies");
  const auto add = [&](BlockNumber block) -> Status {
    PBFS_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, Read(block));
    copies.Add(BlockHead(bytes.data(), block, superblock_));
    return OkStatus();
  };
  for (uint64_t ag = 1; ag < superblock_.ag_count; ag *= 3) {
    PBFS_RETURN_IF_ERROR(add(AgStart(static_cast<uint32_t>(ag))));
  }
  PBFS_RETURN_IF_ERROR(add(superblock_.total_blocks - 1));
  node.Add(std::move(copies));
  return node;
}

StatusOr<DumpNode> Dumper::Group(uint32_t ag) {
  if (ag >= superblock_.ag_count) {
    return ErrnoError(
        EINVAL, absl::StrCat("group ", ag, " does not exist: there are ", superblock_.ag_count));
  }
  PBFS_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes,
                        Read(superblock_.ag_table_start + ag / kAgEntriesPerBlock));
  const AgEntry& entry =
      reinterpret_cast<const AgTableBlock*>(bytes.data())->entries[ag % kAgEntriesPerBlock];
  DumpNode node = DumpNode::Group(absl::StrCat("group ", ag));
  node.Add("first_block", AgStart(ag));
  node.Add("blocks", AgLength(ag, superblock_.total_blocks));
  AddAgEntry(entry, node);
  if ((entry.flags & kAgInitialized) == 0) return node;
  DumpNode bitmaps = DumpNode::List("bitmaps");
  for (uint32_t i = 0; i < AgBitmapBlocks(ag, superblock_.total_blocks); ++i) {
    PBFS_ASSIGN_OR_RETURN(DumpNode bitmap, Block(AgStart(ag) + kAgBitmapOffset + i));
    bitmaps.Add(std::move(bitmap));
  }
  node.Add(std::move(bitmaps));
  DumpNode chunks = DumpNode::List("chunks");
  PBFS_RETURN_IF_ERROR(AddRecords(entry.inode_tree, kOwnerAgBase + ag, 0, chunks));
  node.Add(std::move(chunks));
  return node;
}

Status Dumper::AddRecords(const TreeRoot& root, uint64_t owner, uint32_t mode, DumpNode& list) {
  if (!IsTreeRoot(root, superblock_)) return OkStatus();
  PageCache pages(PageCache::kFramesMin * kPageBytes);
  BlockCache cache(pages, device_);
  const MetaReader reader{cache, superblock_};
  NoNodeSpace space;
  TreeRoot copy = root;
  const Tree tree(reader, space, owner, copy);
  const Status status = tree.Scan(0, [&](uint64_t key, std::span<const uint8_t> value) {
    list.Add(DumpRecord(key, value, owner, mode, superblock_));
    return list.children.size() < kRecordsMax;
  });
  if (!status.ok()) list.Add("error", std::string(status.message()));
  return OkStatus();
}

StatusOr<DumpNode> Dumper::Inode(InodeNumber ino) {
  if (!IsInodeNumber(ino, superblock_)) {
    return ErrnoError(EINVAL, absl::StrCat("there can be no inode ", ino));
  }
  PBFS_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, Read(InodeBlock(ino)));
  if (HeaderOf(bytes).magic != kMagicInodes) {
    return ErrnoError(ENOENT, absl::StrCat("inode ", ino, " does not exist: block ",
                                           InodeBlock(ino), " has no inodes"));
  }
  const DiskInode& inode =
      reinterpret_cast<const InodeTableBlock*>(bytes.data())->inodes[InodeSlot(ino)];
  DumpNode node = DumpInode(inode, ino, superblock_);
  if (inode.mode == 0) return node;
  const Status valid = VerifyInode(inode, ino, superblock_);
  node.Add("valid", valid.ok() ? "yes" : std::string(valid.message()));
  if (!valid.ok()) return node;
  for (const Fork fork : {Fork::kData, Fork::kAttributes}) {
    if (FormatOf(inode, fork) != ForkFormat::kTree) continue;
    DumpNode list = DumpNode::List(fork == Fork::kData ? "data_records" : "attribute_records");
    PBFS_RETURN_IF_ERROR(AddRecords(GetTreeRoot(inode, fork), ino, inode.mode, list));
    node.Add(std::move(list));
  }
  return node;
}

StatusOr<DumpNode> Dumper::Log() {
  DumpNode node = DumpNode::Group("log");
  node.Add("start", superblock_.log_start);
  node.Add("blocks", superblock_.log_blocks);
  for (uint32_t i = 0; i < kLogAnchorBlocks; ++i) {
    PBFS_ASSIGN_OR_RETURN(DumpNode anchor, Block(superblock_.log_start + i));
    node.Add(std::move(anchor));
  }
  DumpNode list = DumpNode::List("checkpoints");
  for (uint32_t i = kLogAnchorBlocks; i < superblock_.log_blocks; ++i) {
    const BlockNumber block = superblock_.log_start + i;
    PBFS_ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, Read(block));
    if (!VerifyCheckpointHeader(bytes.data(), block, superblock_).ok()) continue;
    DumpNode checkpoint = DumpNode::Group("checkpoint");
    checkpoint.Add("block", block);
    AddCheckpointHeader(*reinterpret_cast<const CheckpointHeader*>(bytes.data()), checkpoint);
    list.Add(std::move(checkpoint));
  }
  node.Add(std::move(list));
  return node;
}

}  // namespace pbfs
