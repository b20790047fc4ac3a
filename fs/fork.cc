// SPDX-License-Identifier: Apache-2.0
#include "fs/fork.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace pbfs {
namespace {

void SetFormat(DiskInode& inode, Fork fork, ForkFormat format, size_t bytes) {
  const auto value = static_cast<uint8_t>(format);
  if (fork == Fork::kData) {
    inode.data_format = value;
    inode.data_bytes = static_cast<uint16_t>(bytes);
  } else {
    inode.attr_format = value;
    inode.attr_bytes = static_cast<uint16_t>(bytes);
  }
  std::memset(inode.inline_area + inode.data_bytes, 0,
              size_t{kInlineBytes} - inode.data_bytes - inode.attr_bytes);
}

size_t StartOf(const DiskInode& inode, Fork fork) {
  return fork == Fork::kData ? 0 : size_t{kInlineBytes} - inode.attr_bytes;
}

}  // namespace

ForkFormat FormatOf(const DiskInode& inode, Fork fork) {
  return static_cast<ForkFormat>(fork == Fork::kData ? inode.data_format : inode.attr_format);
}

std::span<const uint8_t> ForkBytes(const DiskInode& inode, Fork fork) {
  const size_t bytes = fork == Fork::kData ? inode.data_bytes : inode.attr_bytes;
  PBFS_CHECK(size_t{inode.data_bytes} + inode.attr_bytes <= kInlineBytes);
  return {inode.inline_area + StartOf(inode, fork), bytes};
}

uint32_t InlineCapacity(const DiskInode& inode, Fork fork) {
  const uint32_t other = fork == Fork::kData ? inode.attr_bytes : inode.data_bytes;
  PBFS_CHECK(other <= kForkInlineBytesMax);
  const uint32_t room = kInlineBytes - std::max(other, static_cast<uint32_t>(sizeof(TreeRoot)));
  return fork == Fork::kData ? room : std::min(room, kAttributesInlineBytesMax);
}

void SetInline(DiskInode& inode, Fork fork, std::span<const uint8_t> content) {
  PBFS_CHECK(content.size() <= kForkInlineBytesMax);
  // Copied first: the content may lie where SetFormat() clears.
  uint8_t copy[kForkInlineBytesMax];
  std::copy(content.begin(), content.end(), copy);
  const size_t other = fork == Fork::kData ? inode.attr_bytes : inode.data_bytes;
  PBFS_CHECK(content.size() + other <= kInlineBytes);
  SetFormat(inode, fork, content.empty() ? ForkFormat::kNone : ForkFormat::kInline, content.size());
  std::copy(copy, copy + content.size(), inode.inline_area + StartOf(inode, fork));
}

TreeRoot GetTreeRoot(const DiskInode& inode, Fork fork) {
  TreeRoot root = {};
  if (FormatOf(inode, fork) != ForkFormat::kTree) return root;
  const std::span<const uint8_t> bytes = ForkBytes(inode, fork);
  PBFS_CHECK(bytes.size() == sizeof root);
  std::memcpy(&root, bytes.data(), sizeof root);
  return root;
}

void SetTreeRoot(DiskInode& inode, Fork fork, const TreeRoot& root) {
  const size_t other = fork == Fork::kData ? inode.attr_bytes : inode.data_bytes;
  PBFS_CHECK(sizeof root + other <= kInlineBytes);
  SetFormat(inode, fork, ForkFormat::kTree, sizeof root);
  std::memcpy(inode.inline_area + StartOf(inode, fork), &root, sizeof root);
}

void ClearFork(DiskInode& inode, Fork fork) { SetFormat(inode, fork, ForkFormat::kNone, 0); }

void AddBlocks(DiskInode& inode, int64_t delta) {
  const auto magnitude = static_cast<uint64_t>(delta < 0 ? -delta : delta);
  if (delta < 0) {
    inode.blocks -= std::min(inode.blocks, magnitude);
  } else {
    inode.blocks += std::min(std::numeric_limits<uint64_t>::max() - inode.blocks, magnitude);
  }
}

}  // namespace pbfs
