// SPDX-License-Identifier: Apache-2.0
#include "fs/tree.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "fs/tree_node.h"
#include "fs/verify.h"

namespace pbfs {
namespace {

constexpr uint64_t kKeyMax = std::numeric_limits<uint64_t>::max();
// Leaves that a scan reads ahead, and how often it looks.
constexpr uint32_t kReadaheadLeaves = 32;

Status VerifyRead(const std::byte* data, uint64_t block, const void* context) {
  return VerifyBlock(data, block, *static_cast<const Superblock*>(context));
}

Tree::Record RecordAt(const std::byte* leaf, uint32_t index) {
  const std::span<const uint8_t> value = LeafValue(leaf, index);
  return {NodeKey(leaf, index), {value.begin(), value.end()}};
}

}  // namespace

// ---- MetaReader ---------------------------------------------------------------------------------

StatusOr<BlockRef> MetaReader::Read(BlockNumber block, uint32_t magic, uint64_t owner) const {
  StatusOr<BlockRef> ref = ReadChecked(block, magic, owner);
  if (ref.ok() || log == nullptr) return ref;
  (*log)(absl::StrCat(StructureName(magic), ": ", std::string(ref.status().message())));
  return ref;
}

StatusOr<BlockRef> MetaReader::ReadChecked(BlockNumber block, uint32_t magic,
                                           uint64_t owner) const {
  if (block >= superblock.total_blocks) {
    return CorruptionError(absl::StrCat("block ", block, ": number is past the device's ",
                                        superblock.total_blocks, " blocks"));
  }
  PBFS_ASSIGN_OR_RETURN(BlockRef ref, cache.Read(block, VerifyRead, &superblock));
  const auto* header = ref.as<BlockHeader>();
  if (header->magic != magic) {
    return CorruptionError(absl::StrCat("block ", block, ": magic is ", absl::Hex(header->magic),
                                        ", not ", absl::Hex(magic)));
  }
  if (header->owner != owner) {
    return CorruptionError(
        absl::StrCat("block ", block, ": owner is ", header->owner, ", not ", owner));
  }
  return ref;
}

void MetaReader::Readahead(BlockNumber first, uint32_t count) const {
  if (first >= superblock.total_blocks) return;
  const uint64_t rest = superblock.total_blocks - first;
  cache.Readahead(first, static_cast<uint32_t>(std::min<uint64_t>(count, rest)), VerifyRead,
                  &superblock);
}

// ---- Walking ------------------------------------------------------------------------------------

StatusOr<Tree::Step> Tree::ReadNode(BlockNumber block, uint8_t level, uint64_t low,
                                    uint64_t high) const {
  PBFS_ASSIGN_OR_RETURN(BlockRef node, reader_.Read(block, kMagicTree, owner_));
  const std::byte* const data = node.data();
  const TreeNodeHeader& header = NodeHeader(data);
  if (header.level != level) {
    return CorruptionError(absl::StrCat("block ", block, ": tree node level is ", header.level,
                                        ", its parent says ", level));
  }
  if (header.count == 0) {
    return CorruptionError(absl::StrCat("block ", block, ": tree node count is 0"));
  }
  const uint64_t first = NodeKey(data, 0);
  const uint64_t last = NodeKey(data, header.count - 1u);
  if (first < low || last > high) {
    return CorruptionError(absl::StrCat("block ", block, ": tree node keys ", first, "..", last,
                                        " are outside its parent's range ", low, "..", high));
  }
  return Step{std::move(node), low, high, 0};
}

StatusOr<Tree::Step> Tree::ReadRoot() const {
  PBFS_CHECK(!empty());
  if (root_.level > kTreeLevelMax) {
    return CorruptionError(
        absl::StrCat("block ", root_.block, ": tree root level is ", root_.level));
  }
  return ReadNode(root_.block, root_.level, 0, kKeyMax);
}

StatusOr<Tree::Step> Tree::ReadChild(const Step& parent, uint32_t index) const {
  const std::byte* const data = parent.data();
  const uint32_t count = NodeCount(data);
  PBFS_CHECK(!IsLeaf(data) && index < count);
  const TreeChild* const children = NodeChildren(data);
  const uint64_t low = index > 0 ? children[index].key : parent.low;
  const uint64_t high = index + 1 < count ? children[index + 1].key - 1 : parent.high;
  return ReadNode(children[index].block, static_cast<uint8_t>(NodeHeader(data).level - 1), low,
                  high);
}

Status Tree::DescendTo(Path& path, uint64_t key) const {
  while (!IsLeaf(path.back().data())) {
    Step& parent = path.back();
    parent.index = ChildIndexFor(parent.data(), key);
    PBFS_ASSIGN_OR_RETURN(Step child, ReadChild(parent, parent.index));
    path.push_back(std::move(child));
  }
  return OkStatus();
}

Status Tree::DescendEdge(Path& path, Side side) const {
  while (!IsLeaf(path.back().data())) {
    Step& parent = path.back();
    parent.index = side == Side::kLeft ? 0 : NodeCount(parent.data()) - 1;
    PBFS_ASSIGN_OR_RETURN(Step child, ReadChild(parent, parent.index));
    path.push_back(std::move(child));
  }
  return OkStatus();
}

StatusOr<Tree::Path> Tree::PathTo(uint64_t key) const {
  Path path;
  PBFS_ASSIGN_OR_RETURN(Step root, ReadRoot());
  path.push_back(std::move(root));
  PBFS_RETURN_IF_ERROR(DescendTo(path, key));
  return path;
}

StatusOr<bool> Tree::MoveLeaf(Path& path, Side side) const {
  size_t depth = path.size() - 1;
  while (depth > 0) {
    const Step& parent = path[depth - 1];
    const bool at_edge =
        side == Side::kLeft ? parent.index == 0 : parent.index + 1 == NodeCount(parent.data());
    if (!at_edge) break;
    --depth;
  }
  if (depth == 0) return false;
  path.resize(depth);
  Step& parent = path.back();
  if (side == Side::kLeft) {
    --parent.index;
  } else {
    ++parent.index;
    if (NodeHeader(parent.data()).level == 1) ReadaheadLeaves(parent);
  }
  PBFS_ASSIGN_OR_RETURN(Step child, ReadChild(parent, parent.index));
  path.push_back(std::move(child));
  PBFS_RETURN_IF_ERROR(DescendEdge(path, side == Side::kLeft ? Side::kRight : Side::kLeft));
  return true;
}

void Tree::ReadaheadLeaves(const Step& parent) const {
  // Look each half window, so that the next leaves are on their way when the scan reaches them.
  if (parent.index % (kReadaheadLeaves / 2) != 1) return;
  const TreeChild* const children = NodeChildren(parent.data());
  const uint32_t end = std::min(NodeCount(parent.data()), parent.index + kReadaheadLeaves);
  uint32_t run = parent.index;
  for (uint32_t i = run + 1; i <= end; ++i) {
    if (i < end && children[i].block == children[i - 1].block + 1) continue;
    reader_.Readahead(children[run].block, i - run);
    run = i;
  }
}

// ---- Reading ------------------------------------------------------------------------------------

StatusOr<std::optional<Tree::Record>> Tree::Find(uint64_t key) const {
  if (empty()) return std::nullopt;
  PBFS_ASSIGN_OR_RETURN(Step step, ReadRoot());
  while (!IsLeaf(step.data())) {
    PBFS_ASSIGN_OR_RETURN(Step child, ReadChild(step, ChildIndexFor(step.data(), key)));
    step = std::move(child);
  }
  const uint32_t index = LeafLowerBound(step.data(), key);
  if (index == NodeCount(step.data()) || NodeKey(step.data(), index) != key) return std::nullopt;
  return RecordAt(step.data(), index);
}

StatusOr<std::optional<Tree::Record>> Tree::LowerBound(uint64_t key) const {
  std::optional<Record> found;
  PBFS_RETURN_IF_ERROR(Scan(key, [&found](uint64_t at, std::span<const uint8_t> value) {
    found = Record{at, {value.begin(), value.end()}};
    return false;
  }));
  return found;
}

StatusOr<std::optional<Tree::Record>> Tree::FindLast(uint64_t key) const {
  if (empty()) return std::nullopt;
  PBFS_ASSIGN_OR_RETURN(Path path, PathTo(key));
  const std::byte* leaf = path.back().data();
  const uint32_t index = LeafLowerBound(leaf, key);
  if (index < NodeCount(leaf) && NodeKey(leaf, index) == key) return RecordAt(leaf, index);
  if (index > 0) return RecordAt(leaf, index - 1);
  PBFS_ASSIGN_OR_RETURN(const bool moved, MoveLeaf(path, Side::kLeft));
  if (!moved) return std::nullopt;
  leaf = path.back().data();
  return RecordAt(leaf, NodeCount(leaf) - 1);
}

Status Tree::Scan(uint64_t first, const Visitor& visit) const {
  if (empty()) return OkStatus();
  PBFS_ASSIGN_OR_RETURN(Path path, PathTo(first));
  uint32_t index = LeafLowerBound(path.back().data(), first);
  for (;;) {
    const std::byte* const leaf = path.back().data();
    for (; index < NodeCount(leaf); ++index) {
      if (!visit(NodeKey(leaf, index), LeafValue(leaf, index))) return OkStatus();
    }
    PBFS_ASSIGN_OR_RETURN(const bool moved, MoveLeaf(path, Side::kRight));
    if (!moved) return OkStatus();
    index = 0;
  }
}

Status Tree::VisitBelow(const Step& step, const NodeVisitor& visit) const {
  PBFS_RETURN_IF_ERROR(visit(step.node.block(), NodeHeader(step.data())));
  if (IsLeaf(step.data())) return OkStatus();
  // At most kTreeLevelMax deep: a child's level is below its parent's.
  for (uint32_t i = 0; i < NodeCount(step.data()); ++i) {
    PBFS_ASSIGN_OR_RETURN(const Step child, ReadChild(step, i));
    PBFS_RETURN_IF_ERROR(VisitBelow(child, visit));
  }
  return OkStatus();
}

Status Tree::VisitNodes(const NodeVisitor& visit) const {
  if (empty()) return OkStatus();
  PBFS_ASSIGN_OR_RETURN(const Step root, ReadRoot());
  return VisitBelow(root, visit);
}

}  // namespace pbfs
