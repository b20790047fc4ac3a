// SPDX-License-Identifier: Apache-2.0
// The verifier of inode table blocks, down to the inline content of each inode.
#include <sys/stat.h>

#include <cstring>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"
#include "fs/directory.h"
#include "fs/fork.h"
#include "fs/symlink.h"
#include "fs/verify.h"
#include "fs/xattr.h"

namespace pbfs {
namespace {

constexpr uint32_t kNanosecondsPerSecond = 1'000'000'000;

Status Bad(InodeNumber ino, const std::string& field, uint64_t value) {
  return CorruptionError(
      absl::StrCat("block ", InodeBlock(ino), ": inode ", ino, ": ", field, " is ", value));
}

bool IsFileMode(uint32_t mode) {
  if ((mode & ~uint32_t{S_IFMT | 07777}) != 0) return false;
  switch (mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFLNK:
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
      return true;
    default:
      return false;
  }
}

Status VerifyForkShape(const DiskInode& inode, Fork fork) {
  const bool data = fork == Fork::kData;
  const std::string name = data ? "data" : "attr";
  const uint8_t format = data ? inode.data_format : inode.attr_format;
  const uint16_t bytes = data ? inode.data_bytes : inode.attr_bytes;
  bool legal = false;
  switch (format) {
    case static_cast<uint8_t>(ForkFormat::kNone):
      legal = bytes == 0;
      break;
    case static_cast<uint8_t>(ForkFormat::kInline):
      legal = bytes <= kForkInlineBytesMax;
      break;
    case static_cast<uint8_t>(ForkFormat::kTree):
      legal = bytes == sizeof(TreeRoot);
      break;
    default:
      return Bad(inode.ino, name + "_format", format);
  }
  if (!legal) return Bad(inode.ino, name + "_bytes", bytes);
  return OkStatus();
}

Status VerifyForkRoot(const DiskInode& inode, Fork fork, const Superblock& superblock) {
  const TreeRoot root = GetTreeRoot(inode, fork);
  if (IsTreeRoot(root, superblock)) return OkStatus();
  return Bad(inode.ino, fork == Fork::kData ? "data tree root" : "attr tree root", root.block);
}

Status VerifyInlineExtents(const DiskInode& inode, const Superblock& superblock) {
  const std::span<const uint8_t> content = ForkBytes(inode, Fork::kData);
  if (content.size() % sizeof(InlineExtent) != 0) {
    return Bad(inode.ino, "data_bytes (extents)", content.size());
  }
  constexpr uint64_t kFileBlocksMax = kFileBytesMax / kBlockBytes + 1;
  uint64_t previous_end = 0;
  for (size_t i = 0; i < content.size() / sizeof(InlineExtent); ++i) {
    InlineExtent extent;
    std::memcpy(&extent, content.data() + i * sizeof extent, sizeof extent);
    const ExtentValue& value = extent.value;
    const auto bad = [&](const char* field, uint64_t what) {
      return Bad(inode.ino, absl::StrCat("extent ", i, " ", field), what);
    };
    if (extent.file_block < previous_end) return bad("file_block (overlaps)", extent.file_block);
    if (value.length == 0 || value.length > kAgBlocks) return bad("length", value.length);
    if (extent.file_block >= kFileBlocksMax || value.length > kFileBlocksMax - extent.file_block) {
      return bad("file_block", extent.file_block);
    }
    if (value.block == 0 || value.block >= superblock.total_blocks ||
        value.length > superblock.total_blocks - value.block ||
        AgOf(value.block) != AgOf(value.block + value.length - 1)) {
      return bad("block", value.block);
    }
    if ((value.flags & ~kExtentUnwritten) != 0) return bad("flags", value.flags);
    if (value.member != 0) return bad("member", value.member);
    previous_end = extent.file_block + value.length;
  }
  return OkStatus();
}

Status VerifyInlineDirectory(const DiskInode& inode, const Superblock& superblock) {
  const std::span<const uint8_t> content = ForkBytes(inode, Fork::kData);
  uint64_t previous = kCookieFirst - 1;
  uint64_t count = 0;
  for (size_t offset = 0; offset < content.size(); ++count) {
    const std::optional<DirEntryView> entry = ParseInlineDirRecord(content, offset);
    if (!entry) return Bad(inode.ino, "inline directory record (malformed) at", offset);
    if (entry->key <= previous || entry->key >> 63 != 0) {
      return Bad(inode.ino, absl::StrCat("inline directory record ", count, " key"), entry->key);
    }
    if (!IsInodeNumber(entry->ino, superblock)) {
      return Bad(inode.ino, absl::StrCat("inline directory record ", count, " ino"), entry->ino);
    }
    previous = entry->key;
    offset += InlineRecordBytes(*entry);
  }
  if (count != inode.entries) return Bad(inode.ino, "entries", inode.entries);
  return OkStatus();
}

Status VerifyInlineAttributes(const DiskInode& inode) {
  const std::span<const uint8_t> content = ForkBytes(inode, Fork::kAttributes);
  for (size_t offset = 0; offset < content.size();) {
    const std::optional<XattrView> xattr = ParseInlineXattr(content, offset);
    if (!xattr) return Bad(inode.ino, "inline xattr record (malformed) at", offset);
    offset += InlineXattrBytes(*xattr);
  }
  return OkStatus();
}

// What the type says about the data fork.
Status VerifyDataFork(const DiskInode& inode, const Superblock& superblock) {
  const ForkFormat format = FormatOf(inode, Fork::kData);
  const bool is_inline = format == ForkFormat::kInline;
  switch (inode.mode & S_IFMT) {
    case S_IFREG:
      return is_inline ? VerifyInlineExtents(inode, superblock) : OkStatus();
    case S_IFDIR:
      if (!IsInodeNumber(inode.parent, superblock)) return Bad(inode.ino, "parent", inode.parent);
      // An empty directory has no content, whatever its format.
      if (format != ForkFormat::kTree) return VerifyInlineDirectory(inode, superblock);
      return OkStatus();
    case S_IFLNK:
      if (inode.size_bytes > kSymlinkBytesMax ||
          (is_inline && inode.size_bytes != inode.data_bytes)) {
        return Bad(inode.ino, "size_bytes (symlink)", inode.size_bytes);
      }
      return OkStatus();
    default:
      if (format != ForkFormat::kNone) return Bad(inode.ino, "data_format", inode.data_format);
      return OkStatus();
  }
}

}  // namespace

Status VerifyInode(const DiskInode& inode, InodeNumber ino, const Superblock& superblock) {
  if (inode.ino != ino) return Bad(ino, "ino", inode.ino);
  if (!IsFileMode(inode.mode)) return Bad(ino, "mode", inode.mode);
  if ((inode.flags & ~kInodeFlagsKnown) != 0) return Bad(ino, "flags", inode.flags);
  if (inode.size_bytes > kFileBytesMax) return Bad(ino, "size_bytes", inode.size_bytes);
  if (inode.blocks > superblock.total_blocks) return Bad(ino, "blocks", inode.blocks);
  for (const uint32_t nanoseconds : {inode.atime_nanoseconds, inode.mtime_nanoseconds,
                                     inode.ctime_nanoseconds, inode.btime_nanoseconds}) {
    if (nanoseconds >= kNanosecondsPerSecond) return Bad(ino, "time nanoseconds", nanoseconds);
  }
  PBFS_RETURN_IF_ERROR(VerifyForkShape(inode, Fork::kData));
  PBFS_RETURN_IF_ERROR(VerifyForkShape(inode, Fork::kAttributes));
  if (inode.data_bytes + inode.attr_bytes > int{kInlineBytes}) {
    return Bad(ino, "data_bytes + attr_bytes", uint64_t{inode.data_bytes} + inode.attr_bytes);
  }
  PBFS_RETURN_IF_ERROR(VerifyForkRoot(inode, Fork::kData, superblock));
  PBFS_RETURN_IF_ERROR(VerifyForkRoot(inode, Fork::kAttributes, superblock));
  PBFS_RETURN_IF_ERROR(VerifyDataFork(inode, superblock));
  if (FormatOf(inode, Fork::kAttributes) == ForkFormat::kInline) {
    return VerifyInlineAttributes(inode);
  }
  return OkStatus();
}

Status VerifyInodeTable(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  const auto& table = *reinterpret_cast<const InodeTableBlock*>(data);
  if (block >= superblock.total_blocks || table.header.owner != kOwnerAgBase + AgOf(block)) {
    return CorruptionError(absl::StrCat("block ", block, ": header owner is ", table.header.owner));
  }
  for (uint32_t slot = 0; slot < kInodesPerBlock; ++slot) {
    const DiskInode& inode = table.inodes[slot];
    if (inode.mode == 0) continue;
    PBFS_RETURN_IF_ERROR(VerifyInode(inode, MakeInodeNumber(block, slot), superblock));
  }
  return OkStatus();
}

}  // namespace pbfs
