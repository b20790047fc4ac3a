// SPDX-License-Identifier: Apache-2.0
// What the checker finds in the forks of one inode: extents, symlink targets, extended attributes.
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "fs/acl.h"
#include "fs/checker_impl.h"
#include "fs/symlink.h"
#include "fs/xattr.h"

namespace pbfs {
namespace {

constexpr uint64_t kFileBlocksMax = kFileBytesMax / kBlockBytes + 1;
constexpr uint64_t kPieceMask = (uint64_t{1} << kXattrPieceBits) - 1;
constexpr uint32_t kAttributeHashShift = kXattrPieceBits + kHashCollisionBits;

std::string_view TextOf(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool HasNul(std::span<const uint8_t> bytes) {
  return std::find(bytes.begin(), bytes.end(), 0) != bytes.end();
}

}  // namespace

bool Checker::HashNames::AddUnique(uint64_t of_hash, std::string_view name) {
  if (of_hash != hash) {
    hash = of_hash;
    names.clear();
  }
  if (std::find(names.begin(), names.end(), name) != names.end()) return false;
  names.emplace_back(name);
  return true;
}

// Everything but a directory. An inode without links is being freed: its forks may be half gone.
Status Checker::WalkFile(const DiskInode& inode) {
  Walked walked;
  switch (inode.mode & S_IFMT) {
    case S_IFREG:
      PBFS_RETURN_IF_ERROR(WalkExtents(inode, walked));
      break;
    case S_IFLNK:
      PBFS_RETURN_IF_ERROR(WalkSymlink(inode, walked));
      break;
    default:
      break;
  }
  PBFS_RETURN_IF_ERROR(WalkAttributes(inode, walked));
  CheckBlocks(inode, walked);
  return OkStatus();
}

void Checker::CheckBlocks(const DiskInode& inode, const Walked& walked) {
  if (!walked.whole || inode.blocks == walked.blocks) return;
  problems_.Add("inode ", inode.ino, ": blocks is ", inode.blocks, ", it has ", walked.blocks);
}

// ---- Extents

Status Checker::WalkExtents(const DiskInode& inode, Walked& walked) {
  uint64_t previous_end = 0;
  if (FormatOf(inode, Fork::kData) == ForkFormat::kInline) {
    const std::span<const uint8_t> content = ForkBytes(inode, Fork::kData);
    for (size_t at = 0; at + sizeof(InlineExtent) <= content.size(); at += sizeof(InlineExtent)) {
      InlineExtent extent;
      std::memcpy(&extent, content.data() + at, sizeof extent);
      CheckExtent(inode, extent.file_block, extent.value, previous_end, walked);
    }
    return OkStatus();
  }
  return WalkTree(
      {BlockOwner::Kind::kDataTree, inode.ino}, inode.ino, GetTreeRoot(inode, Fork::kData),
      [&](uint64_t key, std::span<const uint8_t> value) {
        if (value.size() != sizeof(ExtentValue)) {
          problems_.Add("inode ", inode.ino, ": extent record ", key, " has ", value.size(),
                        " bytes");
          walked.whole = false;
          return;
        }
        ExtentValue extent;
        std::memcpy(&extent, value.data(), sizeof extent);
        CheckExtent(inode, key, extent, previous_end, walked);
      },
      walked);
}

void Checker::CheckExtent(const DiskInode& inode, uint64_t file_block, const ExtentValue& value,
                          uint64_t& previous_end, Walked& walked) {
  const auto bad = [&](const char* field, uint64_t is) {
    problems_.Add("inode ", inode.ino, ": extent at file block ", file_block, ": ", field, " is ",
                  is);
    walked.whole = false;
  };
  if (value.length == 0 || value.length > kAgBlocks) return bad("length", value.length);
  if (file_block >= kFileBlocksMax || value.length > kFileBlocksMax - file_block) {
    return bad("file block past the largest file, length", value.length);
  }
  if (file_block < previous_end)
    bad("overlap with the extent before it, which ends at", previous_end);
  previous_end = std::max(previous_end, file_block + value.length);
  const uint64_t total = superblock_.total_blocks;
  if (value.block == 0 || value.block >= total || value.length > total - value.block ||
      AgOf(value.block) != AgOf(value.block + value.length - 1)) {
    return bad("block", value.block);
  }
  if ((value.flags & ~kExtentUnwritten) != 0) bad("flags", value.flags);
  if (value.member != 0) bad("member", value.member);
  usage_.Use({BlockOwner::Kind::kFileData, inode.ino}, value.block, value.length);
  walked.blocks += value.length;
  if (searching_owners_) return;
  const uint64_t size_blocks =
      inode.size_bytes / kBlockBytes + (inode.size_bytes % kBlockBytes != 0 ? 1 : 0);
  if (inode.nlink > 0 && (value.flags & kExtentUnwritten) == 0 &&
      file_block + value.length > size_blocks &&
      (written_behind_end_.empty() || written_behind_end_.back() != inode.ino)) {
    written_behind_end_.push_back(inode.ino);
  }
  report_.stats.data_blocks += value.length;
  ++report_.stats.extents;
}

// ---- Symlinks

Status Checker::WalkSymlink(const DiskInode& inode, Walked& walked) {
  uint64_t bytes = 0;
  bool good = true;
  if (FormatOf(inode, Fork::kData) != ForkFormat::kTree) {
    const std::span<const uint8_t> content = ForkBytes(inode, Fork::kData);
    bytes = content.size();
    good = !HasNul(content);
  } else {
    uint64_t expected = 0;
    PBFS_RETURN_IF_ERROR(WalkTree(
        {BlockOwner::Kind::kDataTree, inode.ino}, inode.ino, GetTreeRoot(inode, Fork::kData),
        [&](uint64_t key, std::span<const uint8_t> value) {
          // All pieces but the last are full.
          good = good && key == expected && bytes == key * kSymlinkPieceBytes && !HasNul(value);
          ++expected;
          bytes += value.size();
        },
        walked));
  }
  if (inode.nlink == 0 || !walked.whole) return OkStatus();
  if (!good) problems_.Add("inode ", inode.ino, ": symlink target is malformed");
  if (bytes == 0 || bytes != inode.size_bytes) {
    problems_.Add("inode ", inode.ino, ": size_bytes is ", inode.size_bytes,
                  ", its symlink target has ", bytes, " bytes");
  }
  return OkStatus();
}

// ---- Extended attributes

Status Checker::WalkAttributes(const DiskInode& inode, Walked& walked) {
  if (FormatOf(inode, Fork::kAttributes) != ForkFormat::kTree) {
    CheckInlineAttributes(inode);
    return OkStatus();
  }
  const bool freeing = inode.nlink == 0;
  PieceWalk walk;
  PBFS_RETURN_IF_ERROR(WalkTree(
      {BlockOwner::Kind::kAttributeTree, inode.ino}, inode.ino,
      GetTreeRoot(inode, Fork::kAttributes),
      [&](uint64_t key, std::span<const uint8_t> value) {
        if (!freeing) CheckAttributePiece(inode, key, value, walk);
      },
      walked));
  if (walk.bytes_left != 0 && walked.whole) {
    problems_.Add("inode ", inode.ino, ": the last xattr lacks ", walk.bytes_left, " bytes");
  }
  return OkStatus();
}

void Checker::CheckInlineAttributes(const DiskInode& inode) {
  const std::span<const uint8_t> content = ForkBytes(inode, Fork::kAttributes);
  HashNames names;
  for (size_t offset = 0; offset < content.size();) {
    const std::optional<XattrView> xattr = ParseInlineXattr(content, offset);
    if (!xattr) {
      problems_.Add("inode ", inode.ino, ": inline xattr at ", offset, " is malformed");
      return;
    }
    if (!names.AddUnique(0, xattr->name)) {
      problems_.Add("inode ", inode.ino, ": inline xattr at ", offset, ": its name is there twice");
    }
    CheckAcl(inode, xattr->name, TextOf(xattr->value));
    offset += InlineXattrBytes(*xattr);
  }
}

// An access list and the mode are changed together.
void Checker::CheckAcl(const DiskInode& inode, std::string_view name, std::string_view value) {
  if (!IsAclXattr(name)) return;
  const bool is_default = name == kAclDefaultXattr;
  const char* what = is_default ? "default ACL" : "access ACL";
  const auto acl = ParseAcl(value);
  if (!acl.ok() || acl->empty()) {
    problems_.Add("inode ", inode.ino, ": ", what, " is malformed");
  } else if (S_ISLNK(inode.mode) || (is_default && !S_ISDIR(inode.mode))) {
    problems_.Add("inode ", inode.ino, ": ", what, ", but mode is ", absl::Hex(inode.mode));
  } else if (!is_default && ModeWithAcl(*acl, inode.mode) != inode.mode) {
    problems_.Add("inode ", inode.ino, ": mode is ", absl::Hex(inode.mode), ", by its ACL ",
                  absl::Hex(ModeWithAcl(*acl, inode.mode)));
  }
}

void Checker::CheckAttributePiece(const DiskInode& inode, uint64_t key,
                                  std::span<const uint8_t> value, PieceWalk& walk) {
  if ((key & kPieceMask) == 0) {
    if (walk.bytes_left != 0) {
      problems_.Add("inode ", inode.ino, ": xattr piece ", walk.next_key, " is missing");
    }
    BeginAttribute(inode, key, value, walk);
    return;
  }
  const uint64_t wanted = std::min<uint64_t>(walk.bytes_left, kTreeValueBytesMax);
  if (wanted == 0 || key != walk.next_key || value.size() != wanted) {
    problems_.Add("inode ", inode.ino, ": xattr piece ", key, " with ", value.size(),
                  " bytes does not continue the one before it");
    walk.bytes_left = 0;
    return;
  }
  walk.bytes_left -= wanted;
  ++walk.next_key;
  if (walk.acl_name.empty()) return;
  walk.acl_bytes.append(TextOf(value));
  if (walk.bytes_left == 0) CheckAcl(inode, walk.acl_name, walk.acl_bytes);
}

void Checker::BeginAttribute(const DiskInode& inode, uint64_t key, std::span<const uint8_t> value,
                             PieceWalk& walk) {
  walk.bytes_left = 0;
  walk.acl_name.clear();
  XattrRecord head;
  if (value.size() >= sizeof head) std::memcpy(&head, value.data(), sizeof head);
  if (value.size() < sizeof head || head.name_bytes == 0 ||
      value.size() < sizeof head + head.name_bytes || head.value_bytes > kXattrValueBytesMax ||
      HasNul(value.subspan(sizeof head, head.name_bytes))) {
    problems_.Add("inode ", inode.ino, ": xattr record ", key, " is malformed");
    return;
  }
  const std::string_view name(reinterpret_cast<const char*>(value.data()) + sizeof head,
                              head.name_bytes);
  const uint64_t hash = hash_.Hash(name) >> kHashCollisionBits;
  if (key >> kAttributeHashShift != hash) {
    problems_.Add("inode ", inode.ino, ": xattr record ", key, ": key does not match the name");
  } else if (!walk.names.AddUnique(hash, name)) {
    problems_.Add("inode ", inode.ino, ": xattr record ", key, ": its name is there twice");
  }
  const uint64_t bytes = sizeof head + head.name_bytes + head.value_bytes;
  if (value.size() != std::min<uint64_t>(bytes, kTreeValueBytesMax)) {
    problems_.Add("inode ", inode.ino, ": xattr record ", key, " has ", value.size(),
                  " bytes, value_bytes is ", head.value_bytes);
    return;
  }
  walk.bytes_left = bytes - value.size();
  walk.next_key = key + 1;
  if (!IsAclXattr(name)) return;
  walk.acl_name = std::string(name);
  walk.acl_bytes = std::string(TextOf(value.subspan(sizeof head + head.name_bytes)));
  if (walk.bytes_left == 0) CheckAcl(inode, name, walk.acl_bytes);
}

}  // namespace pbfs
