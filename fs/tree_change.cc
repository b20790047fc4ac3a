// SPDX-License-Identifier: Apache-2.0
// The operations of Tree that change it.
#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "fs/tree.h"
#include "fs/tree_node.h"

namespace pbfs {
namespace {

// Near what the tree belongs to.
BlockNumber HintForOwner(uint64_t owner) {
  if (owner >= kOwnerAgBase) return AgStart(static_cast<uint32_t>(owner - kOwnerAgBase));
  return InodeBlock(owner);  // 0 for the filesystem's own trees.
}

}  // namespace

// ---- Nodes --------------------------------------------------------------------------------------

std::byte* Tree::Change(Transaction& transaction, const BlockRef& node) {
  if (count_touched_) touched_.insert(node.block());
  return transaction.Modify(node);
}

StatusOr<BlockRef> Tree::NewNode(Transaction& transaction, const Path& path, BlockNumber hint,
                                 uint8_t level) {
  PBFS_ASSIGN_OR_RETURN(const BlockNumber block, space_.AllocateNode(transaction, hint));
  // Damaged free space must not hand us the nodes we are working on.
  for (const Step& step : path) {
    if (step.node.block() == block) {
      return CorruptionError(
          absl::StrCat("block ", block, ": is a tree node but marked free in the bitmap"));
    }
  }
  if (count_touched_) touched_.insert(block);
  BlockRef node = transaction.Create(block, kMagicTree, owner_);
  InitTreeNode(node.data(), level);
  ++node_delta_;
  return node;
}

void Tree::FreeNode(Transaction& transaction, BlockNumber block) {
  if (count_touched_) touched_.insert(block);
  space_.FreeNode(transaction, block);
  --node_delta_;
}

// ---- Growing ------------------------------------------------------------------------------------

Status Tree::Insert(Transaction& transaction, uint64_t key, std::span<const uint8_t> value) {
  PBFS_CHECK(value.size() <= kTreeValueBytesMax);
  if (empty()) return InsertFirst(transaction, key, value);
  PBFS_ASSIGN_OR_RETURN(Path path, PathTo(key));
  const std::byte* const leaf = path.back().data();
  const uint32_t index = LeafLowerBound(leaf, key);
  if (index < NodeCount(leaf) && NodeKey(leaf, index) == key) {
    return ErrnoError(EEXIST, absl::StrCat("tree key ", key, " exists"));
  }
  return InsertAt(transaction, path, index, key, value);
}

Status Tree::Put(Transaction& transaction, uint64_t key, std::span<const uint8_t> value) {
  PBFS_CHECK(value.size() <= kTreeValueBytesMax);
  if (empty()) return InsertFirst(transaction, key, value);
  PBFS_ASSIGN_OR_RETURN(Path path, PathTo(key));
  const BlockRef& leaf = path.back().node;
  const uint32_t index = LeafLowerBound(leaf.data(), key);
  if (index < NodeCount(leaf.data()) && NodeKey(leaf.data(), index) == key) {
    if (LeafCanReplace(leaf.data(), index, value.size())) {
      LeafReplace(Change(transaction, leaf), index, value);
      return OkStatus();
    }
    // A value that grew out of the leaf is inserted anew.
    LeafErase(Change(transaction, leaf), index);
  }
  return InsertAt(transaction, path, index, key, value);
}

Status Tree::InsertFirst(Transaction& transaction, uint64_t key, std::span<const uint8_t> value) {
  PBFS_ASSIGN_OR_RETURN(const BlockRef node,
                        NewNode(transaction, {}, HintForOwner(owner_), /*level=*/0));
  LeafInsert(node.data(), 0, key, value);
  root_ = {};
  root_.block = node.block();
  return OkStatus();
}

Status Tree::InsertAt(Transaction& transaction, Path& path, uint32_t index, uint64_t key,
                      std::span<const uint8_t> value) {
  const BlockRef& leaf = path.back().node;
  if (LeafFits(leaf.data(), value.size())) {
    LeafInsert(Change(transaction, leaf), index, key, value);
    return OkStatus();
  }
  PBFS_ASSIGN_OR_RETURN(const BlockRef right,
                        NewNode(transaction, path, leaf.block(), /*level=*/0));
  const uint32_t cut = LeafSplitPoint(leaf.data(), index, value.size());
  const bool in_right = index >= cut;
  const uint32_t first = in_right ? cut : cut - 1;
  if (first < NodeCount(leaf.data())) LeafMove(Change(transaction, leaf), first, right.data());
  if (in_right) {
    LeafInsert(right.data(), index - first, key, value);
  } else {
    LeafInsert(Change(transaction, leaf), index, key, value);
  }
  const TreeChild child = {NodeKey(right.data(), 0), right.block()};
  return AddChild(transaction, path, child);
}

// path.back() was split: `child` is its new right neighbour. Enters it in the parent, which may
// split in turn.
Status Tree::AddChild(Transaction& transaction, Path& path, TreeChild child) {
  while (path.size() > 1) {
    path.pop_back();
    const Step& parent = path.back();
    const uint32_t index = parent.index + 1;
    const uint32_t count = NodeCount(parent.data());
    // The first child also held keys below its own, and the split may have been among those.
    if (NodeChildren(parent.data())[0].key >= child.key) {
      NodeChildren(Change(transaction, parent.node))[0].key = parent.low;
    }
    if (count < kTreeChildrenMax) {
      InsertChild(Change(transaction, parent.node), index, child);
      return OkStatus();
    }
    PBFS_ASSIGN_OR_RETURN(const BlockRef right, NewNode(transaction, path, parent.node.block(),
                                                        NodeHeader(parent.data()).level));
    const uint32_t cut = index == count ? count : count / 2;
    if (cut < count) MoveChildren(Change(transaction, parent.node), cut, right.data());
    // A child at the cut goes right only at the end: the right node's first key must divide.
    if (index > cut || cut == count) {
      InsertChild(right.data(), index - cut, child);
    } else {
      InsertChild(Change(transaction, parent.node), index, child);
    }
    child = {NodeKey(right.data(), 0), right.block()};
  }
  return GrowRoot(transaction, path, child);
}

Status Tree::GrowRoot(Transaction& transaction, const Path& path, TreeChild child) {
  if (root_.level >= kTreeLevelMax) {
    return ErrnoError(EFBIG, absl::StrCat("tree of owner ", owner_, " cannot grow any higher"));
  }
  const auto level = static_cast<uint8_t>(root_.level + 1);
  PBFS_ASSIGN_OR_RETURN(const BlockRef node, NewNode(transaction, path, root_.block, level));
  InsertChild(node.data(), 0, {0, root_.block});
  InsertChild(node.data(), 1, child);
  root_ = {};
  root_.block = node.block();
  root_.level = level;
  return OkStatus();
}

// ---- Shrinking ----------------------------------------------------------------------------------

StatusOr<bool> Tree::Erase(Transaction& transaction, uint64_t key) {
  if (empty()) return false;
  PBFS_ASSIGN_OR_RETURN(Path path, PathTo(key));
  const BlockRef& leaf = path.back().node;
  const uint32_t index = LeafLowerBound(leaf.data(), key);
  const uint32_t count = NodeCount(leaf.data());
  if (index == count || NodeKey(leaf.data(), index) != key) return false;
  if (count > 1) {
    LeafErase(Change(transaction, leaf), index);
    if (!NodeIsSparse(leaf.data())) return true;
  }
  PBFS_RETURN_IF_ERROR(Shrink(transaction, path, /*gone=*/count == 1));
  return true;
}

// path.back() became sparse or, if `gone`, is to be freed with the one record or child it has left.
Status Tree::Shrink(Transaction& transaction, Path& path, bool gone) {
  while (path.size() > 1) {
    if (gone) {
      FreeNode(transaction, path.back().node.block());
      path.pop_back();
      const Step& parent = path.back();
      gone = NodeCount(parent.data()) == 1;
      if (!gone) EraseChild(Change(transaction, parent.node), parent.index);
    } else {
      PBFS_ASSIGN_OR_RETURN(const bool joined, TryJoin(transaction, path));
      if (!joined) return OkStatus();
      path.pop_back();
    }
    if (!gone && !NodeIsSparse(path.back().data())) return OkStatus();
  }
  if (!gone) return ShrinkRoot(transaction);
  FreeNode(transaction, root_.block);
  root_ = {};
  return OkStatus();
}

// A root with one child is replaced by it.
Status Tree::ShrinkRoot(Transaction& transaction) {
  while (root_.level > 0) {
    PBFS_ASSIGN_OR_RETURN(const Step root, ReadRoot());
    if (NodeCount(root.data()) > 1) break;
    // Its level and owner are checked before anything points to it.
    PBFS_ASSIGN_OR_RETURN(const Step child, ReadChild(root, 0));
    FreeNode(transaction, root_.block);
    root_.block = child.node.block();
    --root_.level;
  }
  return OkStatus();
}

// Joins path.back() with its right or left neighbour of the same parent if both fit one node.
StatusOr<bool> Tree::TryJoin(Transaction& transaction, Path& path) {
  const Step& node = path.back();
  const Step& parent = path[path.size() - 2];
  const uint32_t index = parent.index;
  if (index + 1 < NodeCount(parent.data())) {
    PBFS_ASSIGN_OR_RETURN(const Step right, ReadChild(parent, index + 1));
    if (NodesFitOne(node.data(), right.data())) {
      Join(transaction, parent, index, node, right);
      return true;
    }
  }
  if (index > 0) {
    PBFS_ASSIGN_OR_RETURN(const Step left, ReadChild(parent, index - 1));
    if (NodesFitOne(left.data(), node.data())) {
      Join(transaction, parent, index - 1, left, node);
      return true;
    }
  }
  return false;
}

// Moves the contents of the smaller of two neighbours into the larger and frees the smaller.
void Tree::Join(Transaction& transaction, const Step& parent, uint32_t left_index, const Step& left,
                const Step& right) {
  std::byte* const children = Change(transaction, parent.node);
  const uint64_t left_key = NodeChildren(children)[left_index].key;
  const uint64_t right_key = NodeChildren(children)[left_index + 1].key;
  const bool leaf = IsLeaf(left.data());
  const bool keep_left = leaf ? LeafUsed(left.data()) >= LeafUsed(right.data())
                              : NodeCount(left.data()) >= NodeCount(right.data());
  const Step& kept = keep_left ? left : right;
  const Step& freed = keep_left ? right : left;
  std::byte* const data = Change(transaction, kept.node);
  if (leaf) {
    keep_left ? LeafAppend(data, freed.data()) : LeafPrepend(data, freed.data());
  } else {
    // The right node's first child, as the first, also held the keys from the node's own key on up
    // to the child's; now that it is no longer first, its key has to say so.
    const uint32_t left_count = NodeCount(left.data());
    keep_left ? AppendChildren(data, freed.data()) : PrependChildren(data, freed.data());
    NodeChildren(data)[left_count].key = right_key;
  }
  FreeNode(transaction, freed.node.block());
  if (!keep_left) NodeChildren(children)[left_index + 1].key = left_key;
  EraseChild(children, keep_left ? left_index + 1 : left_index);
}

StatusOr<bool> Tree::DestroySome(Transaction& transaction, uint32_t nodes_max) {
  PBFS_CHECK(nodes_max > 0);
  uint32_t freed = 0;
  while (!empty() && freed < nodes_max) {
    PBFS_ASSIGN_OR_RETURN(
        const uint32_t more,
        DestroyLastLeaf(transaction, freed == 0 ? UINT32_MAX : nodes_max - freed));
    if (more == 0) break;
    freed += more;
  }
  return empty();
}

// Frees the last leaf and the nodes above that have no other child; none if that would be more than
// `nodes_max`. Returns the number of nodes freed.
StatusOr<uint32_t> Tree::DestroyLastLeaf(Transaction& transaction, uint32_t nodes_max) {
  Path path;
  PBFS_ASSIGN_OR_RETURN(Step root, ReadRoot());
  path.push_back(std::move(root));
  PBFS_RETURN_IF_ERROR(DescendEdge(path, Side::kRight));
  uint32_t nodes = 1;
  while (nodes < path.size() && NodeCount(path[path.size() - 1 - nodes].data()) == 1) ++nodes;
  if (nodes > nodes_max) return 0u;
  for (uint32_t i = 0; i < nodes; ++i) {
    FreeNode(transaction, path.back().node.block());
    path.pop_back();
  }
  if (path.empty()) {
    root_ = {};
  } else {
    EraseChild(Change(transaction, path.back().node), path.back().index);
  }
  return nodes;
}

}  // namespace pbfs
