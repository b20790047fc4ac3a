// SPDX-License-Identifier: Apache-2.0
// The bytes of one tree node, in place. Used by Tree and by tools that show nodes; everyone else
// goes through Tree. All functions REQUIRE a node that VerifyTreeNode accepted (or a new one from
// InitTreeNode); those that change it, that the caller declared the change to its transaction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "fs/format.h"

namespace pbfs {

inline const TreeNodeHeader& NodeHeader(const std::byte* data) {
  return *reinterpret_cast<const TreeNodeHeader*>(data);
}
inline bool IsLeaf(const std::byte* data) { return NodeHeader(data).level == 0; }
inline uint32_t NodeCount(const std::byte* data) { return NodeHeader(data).count; }
// Of record or child `index`.
uint64_t NodeKey(const std::byte* data, uint32_t index);
// Sets the fields behind the block header of a zeroed block.
void InitTreeNode(std::byte* data, uint8_t level);
// Below a third: worth joining with a neighbour.
bool NodeIsSparse(const std::byte* data);
// The contents of both fit one node. REQUIRES: same level.
bool NodesFitOne(const std::byte* a, const std::byte* b);

// ---- Inner nodes

inline const TreeChild* NodeChildren(const std::byte* data) {
  return reinterpret_cast<const TreeChild*>(data + sizeof(TreeNodeHeader));
}
inline TreeChild* NodeChildren(std::byte* data) {
  return reinterpret_cast<TreeChild*>(data + sizeof(TreeNodeHeader));
}
// The child whose range holds `key`.
uint32_t ChildIndexFor(const std::byte* data, uint64_t key);
// REQUIRES: count < kTreeChildrenMax.
void InsertChild(std::byte* data, uint32_t index, TreeChild child);
void EraseChild(std::byte* data, uint32_t index);
// Moves the children from `first` on to the (empty) node `to`.
void MoveChildren(std::byte* data, uint32_t first, std::byte* to);
// Adds all children of `from`, which lie on the given side of those of `data`.
void AppendChildren(std::byte* data, const std::byte* from);
void PrependChildren(std::byte* data, const std::byte* from);

// ---- Leaves

// First record with key >= `key`; count if there is none.
uint32_t LeafLowerBound(const std::byte* data, uint64_t key);
std::span<const uint8_t> LeafValue(const std::byte* data, uint32_t index);
// Bytes of slots and live values.
uint32_t LeafUsed(const std::byte* data);
// Room for one more record.
bool LeafFits(const std::byte* data, size_t value_bytes);
// REQUIRES: LeafFits, `value` outside the node.
void LeafInsert(std::byte* data, uint32_t index, uint64_t key, std::span<const uint8_t> value);
void LeafErase(std::byte* data, uint32_t index);
// True if record `index` can be given a value of this length within the node.
bool LeafCanReplace(const std::byte* data, uint32_t index, size_t value_bytes);
// REQUIRES: LeafCanReplace, `value` outside the node.
void LeafReplace(std::byte* data, uint32_t index, std::span<const uint8_t> value);
// Where to cut a leaf that shall get one more record at `index`: records from the result on go to
// the right, counted with the new one included. Ascending inserts leave the left node full.
uint32_t LeafSplitPoint(const std::byte* data, uint32_t index, size_t value_bytes);
// Moves the records from `first` on to the (empty) leaf `to`.
void LeafMove(std::byte* data, uint32_t first, std::byte* to);
// Adds all records of `from`, which lie on the given side of those of `data`. REQUIRES: they fit.
void LeafAppend(std::byte* data, const std::byte* from);
void LeafPrepend(std::byte* data, const std::byte* from);

}  // namespace pbfs
