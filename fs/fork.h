// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "fs/format.h"

namespace pbfs {

// The two contents of an inode that share its inline area: the data fork (extents, directory,
// symlink target) from the start, the attribute fork at the end.
//
// Room: data_bytes + attr_bytes <= kInlineBytes, and neither is above kForkInlineBytesMax, so that
// whatever one fork does, the other can always turn into a tree (16 bytes for its root). A fork in
// kNone uses 0 bytes, in kTree 16, in kInline what its content needs.
//
// The functions work on any DiskInode (in the table block or a copy), are pure, and do not touch
// trees. They REQUIRE an inode that VerifyInode accepted.
enum class Fork { kData, kAttributes };

inline constexpr uint32_t kForkInlineBytesMax = kInlineBytes - sizeof(TreeRoot);
static_assert(kForkInlineBytesMax == 432);
// What xattrs use before they move to a tree, so that they do not push the extents of common files
// out of the inode. A choice of this code, not a rule of the format.
inline constexpr uint32_t kAttributesInlineBytesMax = 256;

ForkFormat FormatOf(const DiskInode& inode, Fork fork);
// The bytes the fork uses: content (kInline), tree root (kTree), nothing (kNone).
std::span<const uint8_t> ForkBytes(const DiskInode& inode, Fork fork);
// Most bytes the fork may use inline, as far as the other fork goes now.
uint32_t InlineCapacity(const DiskInode& inode, Fork fork);

// Makes the fork's content inline; kNone when empty. `content` may lie in the fork itself. Unused
// bytes of the area become zero. REQUIRES: content.size() <= InlineCapacity().
void SetInline(DiskInode& inode, Fork fork, std::span<const uint8_t> content);

// The root of the fork's tree; {} (an empty tree) when the fork is not in kTree.
TreeRoot GetTreeRoot(const DiskInode& inode, Fork fork);
// Makes the fork a tree (it may be empty). Inline content is gone: read it first.
void SetTreeRoot(DiskInode& inode, Fork fork, const TreeRoot& root);
// kNone.
void ClearFork(DiskInode& inode, Fork fork);

// Adds Tree::node_delta() to DiskInode::blocks. A count that would leave 0..2^64-1 (damaged inode)
// stays at the limit; fsck recounts it.
void AddBlocks(DiskInode& inode, int64_t delta);

}  // namespace pbfs
