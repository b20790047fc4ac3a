// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "base/status.h"
#include "fs/format.h"
#include "fs/transaction.h"

namespace pbfs {

// Where tree nodes come from and go to (the space manager; a counter in tests).
class NodeSpace {
 public:
  virtual ~NodeSpace() = default;
  // Allocates one metadata block near `hint`, in this transaction.
  virtual StatusOr<BlockNumber> AllocateNode(Transaction& transaction, BlockNumber hint) = 0;
  // Frees it (cancel record included). On a damaged filesystem `block` may be marked free already;
  // that must not be treated as our bug.
  virtual void FreeNode(Transaction& transaction, BlockNumber block) = 0;
};

// How to read metadata blocks: the cache and what the verifier checks against.
struct MetaReader {
  BlockCache& cache;
  const Superblock& superblock;
  // Gets a line for each block that cannot be read or is not what it should be; may be nullptr.
  const std::function<void(const std::string& line)>* log = nullptr;
  // Reads and verifies a block of the given magic and owner (both checked on every access, since
  // the cache is shared). Errors name the block and the field.
  StatusOr<BlockRef> Read(BlockNumber block, uint32_t magic, uint64_t owner) const;
  // Starts reading blocks that are not cached; block numbers past the device are passed over.
  void Readahead(BlockNumber first, uint32_t count) const;

 private:
  StatusOr<BlockRef> ReadChecked(BlockNumber block, uint32_t magic, uint64_t owner) const;
};

// The one on-disk B+tree of pbfs: 64-bit keys, values of 0..kTreeValueBytesMax bytes. It serves
// inode chunks, extents, directories, extended attributes and orphans.
//
// The root lives with the owner: operations that change the tree update `root` in place and the
// caller stores it (in the same transaction) when it changed. Nodes split by bytes, at the end for
// ascending inserts; a node that empties is freed, a root with one child is replaced by it, and a
// node below a third is joined with a neighbour when both fit one node.
//
// When an operation that changes the tree fails, the caller aborts the transaction and puts the old
// root back; node_delta() is meaningless then.
//
// Not locked: the caller holds the owner's lock (shared to read, and the gate plus exclusive to
// change).
//
// Invariants (checked on every node that is read, so that a damaged tree gives an error and no
// operation can loop): a child's level is one below its parent's; all keys of a node, separators
// included, lie in the range its parent gives it. Ranges of the nodes of one level are disjoint.
class Tree {
 public:
  // All borrowed. `owner` goes into every node's header.
  Tree(const MetaReader& reader, NodeSpace& space, uint64_t owner, TreeRoot& root)
      : reader_(reader), space_(space), owner_(owner), root_(root) {}

  struct Record {
    uint64_t key;
    std::vector<uint8_t> value;
  };

  bool empty() const { return root_.block == 0; }
  const TreeRoot& root() const { return root_; }
  StatusOr<std::optional<Record>> Find(uint64_t key) const;
  // First record with key >= `key`; last record with key <= `key`.
  StatusOr<std::optional<Record>> LowerBound(uint64_t key) const;
  StatusOr<std::optional<Record>> FindLast(uint64_t key) const;
  // Visits records with key >= first in ascending order until `visit` returns false. The value span
  // is valid during the call only. `visit` must not change the tree.
  using Visitor = std::function<bool(uint64_t key, std::span<const uint8_t> value)>;
  Status Scan(uint64_t first, const Visitor& visit) const;

  // EEXIST if the key is there. EFBIG beyond kTreeLevelMax. `value` must not lie in the tree
  // itself.
  Status Insert(Transaction& transaction, uint64_t key, std::span<const uint8_t> value);
  // Insert or replace (of any length).
  Status Put(Transaction& transaction, uint64_t key, std::span<const uint8_t> value);
  // False if the key was not there.
  StatusOr<bool> Erase(Transaction& transaction, uint64_t key);
  // Frees up to `nodes_max` nodes of the tree with whatever they hold, from the right end; true
  // when the tree is empty. For trees whose records need no further care. Always makes progress:
  // when nodes_max is below kTreeLevelMax + 1 it may free that many to remove one leaf. Besides the
  // freed nodes it changes one path of nodes. Until it is done the root may be left with one child.
  StatusOr<bool> DestroySome(Transaction& transaction, uint32_t nodes_max);

  // Nodes in use after the last change are counted by the owner through these: number of nodes
  // allocated minus freed by operations of this object so far.
  int64_t node_delta() const { return node_delta_; }

  // Distinct nodes changed, created or freed by this object since CountTouched(); for owners that
  // do many changes in one transaction and must keep to their log reservation.
  void CountTouched() { count_touched_ = true; }
  size_t touched_nodes() const { return touched_.size(); }

  // Visits every node, top down, keys ascending (fsck, dump). `visit` gets the node's contents: the
  // header and, behind it, the whole block.
  using NodeVisitor = std::function<Status(BlockNumber block, const TreeNodeHeader& node)>;
  Status VisitNodes(const NodeVisitor& visit) const;

 private:
  // One node on the way from the root to a leaf, and the keys it may hold.
  struct Step {
    BlockRef node;
    uint64_t low;  // Keys are in [low, high].
    uint64_t high;
    uint32_t index;  // Child that was taken; unused in a leaf.

    std::byte* data() const { return node.data(); }
  };
  // Root first. Six levels of directory entries are more than any device holds.
  using Path = absl::InlinedVector<Step, 6>;
  enum class Side { kLeft, kRight };

  StatusOr<Step> ReadNode(BlockNumber block, uint8_t level, uint64_t low, uint64_t high) const;
  StatusOr<Step> ReadRoot() const;
  StatusOr<Step> ReadChild(const Step& parent, uint32_t index) const;
  // Goes down from path.back() to the leaf whose range holds `key`.
  Status DescendTo(Path& path, uint64_t key) const;
  // Goes down from path.back() along the first or last children.
  Status DescendEdge(Path& path, Side side) const;
  // Root to leaf. REQUIRES: !empty().
  StatusOr<Path> PathTo(uint64_t key) const;
  // Moves to the neighbouring leaf; false at the end of the tree.
  StatusOr<bool> MoveLeaf(Path& path, Side side) const;
  void ReadaheadLeaves(const Step& parent) const;
  Status VisitBelow(const Step& step, const NodeVisitor& visit) const;

  std::byte* Change(Transaction& transaction, const BlockRef& node);
  StatusOr<BlockRef> NewNode(Transaction& transaction, const Path& path, BlockNumber hint,
                             uint8_t level);
  void FreeNode(Transaction& transaction, BlockNumber block);
  Status InsertFirst(Transaction& transaction, uint64_t key, std::span<const uint8_t> value);
  // Inserts into the leaf at path.back(), at slot `index`, splitting as needed.
  Status InsertAt(Transaction& transaction, Path& path, uint32_t index, uint64_t key,
                  std::span<const uint8_t> value);
  Status AddChild(Transaction& transaction, Path& path, TreeChild child);
  Status GrowRoot(Transaction& transaction, const Path& path, TreeChild child);
  Status Shrink(Transaction& transaction, Path& path, bool gone);
  Status ShrinkRoot(Transaction& transaction);
  StatusOr<bool> TryJoin(Transaction& transaction, Path& path);
  void Join(Transaction& transaction, const Step& parent, uint32_t left_index, const Step& left,
            const Step& right);
  StatusOr<uint32_t> DestroyLastLeaf(Transaction& transaction, uint32_t nodes_max);

  const MetaReader& reader_;
  NodeSpace& space_;
  const uint64_t owner_;
  TreeRoot& root_;
  int64_t node_delta_ = 0;
  bool count_touched_ = false;
  absl::flat_hash_set<BlockNumber> touched_;
};

// Blocks a single Insert/Put/Erase may touch at most, for log reservations: on each level a node
// and the neighbour it is split into or joined with. A tree of known height needs less.
inline constexpr uint32_t kTreeChangeBlocksMax = 2 * (kTreeLevelMax + 1);
constexpr uint32_t TreeChangeBlocks(const TreeRoot& root) {
  const uint32_t blocks = 2 * (uint32_t{root.level} + 1) + 1;
  return blocks < kTreeChangeBlocksMax ? blocks : kTreeChangeBlocksMax;
}

// Stateless structural check of a node (fields, bounds, order); part of the block verifier.
Status VerifyTreeNode(const std::byte* data, BlockNumber block);

}  // namespace pbfs
