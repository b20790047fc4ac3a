// SPDX-License-Identifier: Apache-2.0
#include "fs/symlink.h"

#include <span>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "fs/fork.h"

namespace pbfs {
namespace {

std::span<const uint8_t> BytesOf(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

Status WriteSymlink(const MetaReader& reader, NodeSpace& space, Transaction& transaction,
                    DiskInode& inode, std::string_view target) {
  PBFS_CHECK(FormatOf(inode, Fork::kData) == ForkFormat::kNone);
  if (target.empty()) return ErrnoError(ENOENT, "the target of a symbolic link is empty");
  if (target.size() > kSymlinkBytesMax) {
    return ErrnoError(ENAMETOOLONG, "the target of a symbolic link is too long");
  }
  inode.size_bytes = target.size();
  if (target.size() <= InlineCapacity(inode, Fork::kData)) {
    SetInline(inode, Fork::kData, BytesOf(target));
    return OkStatus();
  }
  TreeRoot root = {};
  Tree tree(reader, space, inode.ino, root);
  for (uint64_t piece = 0; piece * kSymlinkPieceBytes < target.size(); ++piece) {
    const std::string_view bytes = target.substr(piece * kSymlinkPieceBytes, kSymlinkPieceBytes);
    PBFS_RETURN_IF_ERROR(tree.Insert(transaction, piece, BytesOf(bytes)));
  }
  SetTreeRoot(inode, Fork::kData, root);
  AddBlocks(inode, tree.node_delta());
  return OkStatus();
}

StatusOr<std::string> ReadSymlink(const MetaReader& reader, NodeSpace& space,
                                  const DiskInode& inode) {
  std::string target;
  if (FormatOf(inode, Fork::kData) != ForkFormat::kTree) {
    const std::span<const uint8_t> content = ForkBytes(inode, Fork::kData);
    target.assign(content.begin(), content.end());
  } else {
    TreeRoot root = GetTreeRoot(inode, Fork::kData);
    const Tree tree(reader, space, inode.ino, root);
    uint64_t expected = 0;
    PBFS_RETURN_IF_ERROR(tree.Scan(0, [&](uint64_t key, std::span<const uint8_t> value) {
      // Pieces that do not follow each other end it; the length check below tells.
      if (key != expected++ || target.size() >= kSymlinkBytesMax) return false;
      target.append(value.begin(), value.end());
      return true;
    }));
  }
  if (target.empty() || target.size() != inode.size_bytes) {
    return CorruptionError(absl::StrCat("block ", InodeBlock(inode.ino), ": inode ", inode.ino,
                                        ": symlink target has ", target.size(),
                                        " bytes, size_bytes is ", inode.size_bytes));
  }
  return target;
}

}  // namespace pbfs
