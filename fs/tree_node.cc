// SPDX-License-Identifier: Apache-2.0
#include "fs/tree_node.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "fs/tree.h"

namespace pbfs {
namespace {

TreeNodeHeader& Mutable(std::byte* data) { return *reinterpret_cast<TreeNodeHeader*>(data); }

const TreeSlot* Slots(const std::byte* data) {
  return reinterpret_cast<const TreeSlot*>(data + sizeof(TreeNodeHeader));
}
TreeSlot* Slots(std::byte* data) {
  return reinterpret_cast<TreeSlot*>(data + sizeof(TreeNodeHeader));
}

// Bytes between the slots and the heap.
uint32_t LeafGap(const std::byte* data) {
  const TreeNodeHeader& header = NodeHeader(data);
  return header.heap_start - static_cast<uint32_t>(sizeof(TreeNodeHeader)) -
         header.count * static_cast<uint32_t>(sizeof(TreeSlot));
}

// Rewrites the heap without its dead bytes.
void LeafCompact(std::byte* data) {
  TreeNodeHeader& header = Mutable(data);
  std::array<std::byte, kBlockBytes> heap;
  uint32_t start = kBlockBytes;
  TreeSlot* const slots = Slots(data);
  for (uint32_t i = 0; i < header.count; ++i) {
    const uint16_t length = slots[i].length;
    start -= length;
    std::memcpy(heap.data() + start, data + slots[i].offset, length);
    slots[i].offset = static_cast<uint16_t>(start);
  }
  std::memcpy(data + start, heap.data() + start, kBlockBytes - start);
  header.heap_start = static_cast<uint16_t>(start);
  header.heap_dead = 0;
}

// Writes `value` below the heap. REQUIRES: it fits the gap.
uint16_t PushValue(std::byte* data, std::span<const uint8_t> value) {
  TreeNodeHeader& header = Mutable(data);
  // No bytes lie at the end of the block, wherever the heap starts later.
  if (value.empty()) return kBlockBytes;
  header.heap_start = static_cast<uint16_t>(header.heap_start - value.size());
  std::memcpy(data + header.heap_start, value.data(), value.size());
  return header.heap_start;
}

// The bytes of one value are no longer used.
void DropValue(std::byte* data, const TreeSlot& slot) {
  TreeNodeHeader& header = Mutable(data);
  if (slot.length != 0 && slot.offset == header.heap_start) {
    header.heap_start = static_cast<uint16_t>(header.heap_start + slot.length);
  } else {
    header.heap_dead = static_cast<uint16_t>(header.heap_dead + slot.length);
  }
}

Status Bad(BlockNumber block, std::string_view field, uint64_t value) {
  return CorruptionError(
      absl::StrCat("block ", block, ": tree node ", std::string(field), " is ", value));
}

Status VerifyInner(const std::byte* data, BlockNumber block) {
  const TreeNodeHeader& header = NodeHeader(data);
  if (header.count > kTreeChildrenMax) return Bad(block, "count", header.count);
  if (header.heap_start != 0) return Bad(block, "heap_start", header.heap_start);
  if (header.heap_dead != 0) return Bad(block, "heap_dead", header.heap_dead);
  const TreeChild* const children = NodeChildren(data);
  for (uint32_t i = 0; i < header.count; ++i) {
    const BlockNumber child = children[i].block;
    if (child == 0 || child >= kDeviceBlocksMax || child == block) {
      return Bad(block, absl::StrCat("child ", i, " block"), child);
    }
    if (i > 0 && children[i].key <= children[i - 1].key) {
      return Bad(block, absl::StrCat("child ", i, " key (not ascending)"), children[i].key);
    }
  }
  return OkStatus();
}

// Marks `length` bytes from `offset` on; false if one was marked before.
bool MarkBytes(std::array<uint64_t, kBlockBytes / 64>& used, uint32_t offset, uint32_t length) {
  while (length > 0) {
    const uint32_t bit = offset % 64;
    const uint32_t bits = std::min(length, 64 - bit);
    const uint64_t mask = (bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1) << bit;
    if ((used[offset / 64] & mask) != 0) return false;
    used[offset / 64] |= mask;
    offset += bits;
    length -= bits;
  }
  return true;
}

Status VerifyLeaf(const std::byte* data, BlockNumber block) {
  const TreeNodeHeader& header = NodeHeader(data);
  const uint64_t slots_end = sizeof(TreeNodeHeader) + uint64_t{header.count} * sizeof(TreeSlot);
  if (slots_end > kBlockBytes) return Bad(block, "count", header.count);
  if (header.heap_start < slots_end || header.heap_start > kBlockBytes) {
    return Bad(block, "heap_start", header.heap_start);
  }
  const TreeSlot* const slots = Slots(data);
  std::array<uint64_t, kBlockBytes / 64> used = {};
  uint32_t live_bytes = 0;
  for (uint32_t i = 0; i < header.count; ++i) {
    const TreeSlot slot = slots[i];
    if (i > 0 && slot.key <= slots[i - 1].key) {
      return Bad(block, absl::StrCat("slot ", i, " key (not ascending)"), slot.key);
    }
    if (slot.length > kTreeValueBytesMax) {
      return Bad(block, absl::StrCat("slot ", i, " length"), slot.length);
    }
    if (slot.offset < header.heap_start || uint32_t{slot.offset} + slot.length > kBlockBytes) {
      return Bad(block, absl::StrCat("slot ", i, " offset"), slot.offset);
    }
    if (!MarkBytes(used, slot.offset, slot.length)) {
      return Bad(block, absl::StrCat("slot ", i, " offset (overlaps another value)"), slot.offset);
    }
    live_bytes += slot.length;
  }
  if (live_bytes + header.heap_dead != kBlockBytes - header.heap_start) {
    return Bad(block, "heap_dead", header.heap_dead);
  }
  return OkStatus();
}

}  // namespace

Status VerifyTreeNode(const std::byte* data, BlockNumber block) {
  const TreeNodeHeader& header = NodeHeader(data);
  if (header.level > kTreeLevelMax) return Bad(block, "level", header.level);
  if (header.zero != 0) return Bad(block, "reserved byte", header.zero);
  if (header.count == 0) return Bad(block, "count", 0);
  return header.level == 0 ? VerifyLeaf(data, block) : VerifyInner(data, block);
}

// ---- Any node -----------------------------------------------------------------------------------

uint64_t NodeKey(const std::byte* data, uint32_t index) {
  PBFS_DCHECK(index < NodeCount(data));
  return IsLeaf(data) ? Slots(data)[index].key : NodeChildren(data)[index].key;
}

void InitTreeNode(std::byte* data, uint8_t level) {
  TreeNodeHeader& header = Mutable(data);
  header.level = level;
  header.heap_start = level == 0 ? kBlockBytes : 0;
}

bool NodeIsSparse(const std::byte* data) {
  return IsLeaf(data) ? LeafUsed(data) < kTreeLeafSpace / 3
                      : NodeCount(data) < kTreeChildrenMax / 3;
}

bool NodesFitOne(const std::byte* a, const std::byte* b) {
  PBFS_CHECK(NodeHeader(a).level == NodeHeader(b).level);
  return IsLeaf(a) ? LeafUsed(a) + LeafUsed(b) <= kTreeLeafSpace
                   : NodeCount(a) + NodeCount(b) <= kTreeChildrenMax;
}

// ---- Inner nodes --------------------------------------------------------------------------------

uint32_t ChildIndexFor(const std::byte* data, uint64_t key) {
  const TreeChild* const children = NodeChildren(data);
  const TreeChild* const found =
      std::upper_bound(children, children + NodeCount(data), key,
                       [](uint64_t wanted, const TreeChild& child) { return wanted < child.key; });
  return found == children ? 0 : static_cast<uint32_t>(found - children - 1);
}

void InsertChild(std::byte* data, uint32_t index, TreeChild child) {
  TreeNodeHeader& header = Mutable(data);
  PBFS_CHECK(index <= header.count && header.count < kTreeChildrenMax);
  TreeChild* const children = NodeChildren(data);
  std::memmove(children + index + 1, children + index, (header.count - index) * sizeof(TreeChild));
  children[index] = child;
  ++header.count;
}

void EraseChild(std::byte* data, uint32_t index) {
  TreeNodeHeader& header = Mutable(data);
  PBFS_CHECK(index < header.count);
  TreeChild* const children = NodeChildren(data);
  --header.count;
  std::memmove(children + index, children + index + 1, (header.count - index) * sizeof(TreeChild));
}

void MoveChildren(std::byte* data, uint32_t first, std::byte* to) {
  TreeNodeHeader& header = Mutable(data);
  PBFS_CHECK(first <= header.count && NodeCount(to) == 0);
  Mutable(to).count = static_cast<uint16_t>(header.count - first);
  std::memcpy(NodeChildren(to), NodeChildren(data) + first, NodeCount(to) * sizeof(TreeChild));
  header.count = static_cast<uint16_t>(first);
}

void AppendChildren(std::byte* data, const std::byte* from) {
  TreeNodeHeader& header = Mutable(data);
  PBFS_CHECK(header.count + NodeCount(from) <= kTreeChildrenMax);
  std::memcpy(NodeChildren(data) + header.count, NodeChildren(from),
              NodeCount(from) * sizeof(TreeChild));
  header.count = static_cast<uint16_t>(header.count + NodeCount(from));
}

void PrependChildren(std::byte* data, const std::byte* from) {
  TreeNodeHeader& header = Mutable(data);
  PBFS_CHECK(header.count + NodeCount(from) <= kTreeChildrenMax);
  TreeChild* const children = NodeChildren(data);
  std::memmove(children + NodeCount(from), children, header.count * sizeof(TreeChild));
  std::memcpy(children, NodeChildren(from), NodeCount(from) * sizeof(TreeChild));
  header.count = static_cast<uint16_t>(header.count + NodeCount(from));
}

// ---- Leaves -------------------------------------------------------------------------------------

uint32_t LeafLowerBound(const std::byte* data, uint64_t key) {
  const TreeSlot* const slots = Slots(data);
  uint32_t first = 0;
  uint32_t count = NodeCount(data);
  while (count > 0) {
    const uint32_t half = count / 2;
    if (slots[first + half].key < key) {
      first += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return first;
}

std::span<const uint8_t> LeafValue(const std::byte* data, uint32_t index) {
  PBFS_DCHECK(index < NodeCount(data));
  const TreeSlot slot = Slots(data)[index];
  return {reinterpret_cast<const uint8_t*>(data) + slot.offset, slot.length};
}

uint32_t LeafUsed(const std::byte* data) {
  const TreeNodeHeader& header = NodeHeader(data);
  return header.count * static_cast<uint32_t>(sizeof(TreeSlot)) + kBlockBytes - header.heap_start -
         header.heap_dead;
}

bool LeafFits(const std::byte* data, size_t value_bytes) {
  return LeafUsed(data) + sizeof(TreeSlot) + value_bytes <= kTreeLeafSpace;
}

void LeafInsert(std::byte* data, uint32_t index, uint64_t key, std::span<const uint8_t> value) {
  PBFS_CHECK(LeafFits(data, value.size()));
  PBFS_CHECK(index <= NodeCount(data) && value.size() <= kTreeValueBytesMax);
  if (LeafGap(data) < sizeof(TreeSlot) + value.size()) LeafCompact(data);
  TreeNodeHeader& header = Mutable(data);
  TreeSlot* const slots = Slots(data);
  std::memmove(slots + index + 1, slots + index, (header.count - index) * sizeof(TreeSlot));
  ++header.count;
  slots[index] = {
      .key = key, .offset = PushValue(data, value), .length = static_cast<uint16_t>(value.size())};
}

void LeafErase(std::byte* data, uint32_t index) {
  TreeNodeHeader& header = Mutable(data);
  PBFS_CHECK(index < header.count);
  TreeSlot* const slots = Slots(data);
  DropValue(data, slots[index]);
  --header.count;
  std::memmove(slots + index, slots + index + 1, (header.count - index) * sizeof(TreeSlot));
}

bool LeafCanReplace(const std::byte* data, uint32_t index, size_t value_bytes) {
  return LeafUsed(data) - LeafValue(data, index).size() + value_bytes <= kTreeLeafSpace;
}

void LeafReplace(std::byte* data, uint32_t index, std::span<const uint8_t> value) {
  PBFS_CHECK(LeafCanReplace(data, index, value.size()) && value.size() <= kTreeValueBytesMax);
  TreeSlot& slot = Slots(data)[index];
  if (value.size() == slot.length) {
    if (!value.empty()) std::memcpy(data + slot.offset, value.data(), value.size());
    return;
  }
  DropValue(data, slot);
  slot.offset = kBlockBytes;
  slot.length = 0;
  if (LeafGap(data) < value.size()) LeafCompact(data);
  slot.offset = PushValue(data, value);
  slot.length = static_cast<uint16_t>(value.size());
}

uint32_t LeafSplitPoint(const std::byte* data, uint32_t index, size_t value_bytes) {
  const uint32_t count = NodeCount(data);
  if (index == count) return count;
  const TreeSlot* const slots = Slots(data);
  // The first cut whose left side is at least half of the total. A record is at most a quarter of a
  // leaf, so both sides fit.
  const uint32_t total = LeafUsed(data) + static_cast<uint32_t>(sizeof(TreeSlot) + value_bytes);
  uint32_t left = 0;
  for (uint32_t i = 0; i <= count; ++i) {
    if (i > 0 && 2 * left >= total) return i;
    const size_t value = i < index    ? slots[i].length
                         : i == index ? value_bytes
                                      : slots[i - 1].length;
    left += static_cast<uint32_t>(sizeof(TreeSlot) + value);
  }
  return count;
}

void LeafMove(std::byte* data, uint32_t first, std::byte* to) {
  TreeNodeHeader& header = Mutable(data);
  PBFS_CHECK(first <= header.count && NodeCount(to) == 0);
  const TreeSlot* const slots = Slots(data);
  for (uint32_t i = first; i < header.count; ++i) {
    LeafInsert(to, i - first, slots[i].key, LeafValue(data, i));
    DropValue(data, slots[i]);
  }
  header.count = static_cast<uint16_t>(first);
}

void LeafAppend(std::byte* data, const std::byte* from) {
  for (uint32_t i = 0; i < NodeCount(from); ++i) {
    LeafInsert(data, NodeCount(data), NodeKey(from, i), LeafValue(from, i));
  }
}

void LeafPrepend(std::byte* data, const std::byte* from) {
  for (uint32_t i = 0; i < NodeCount(from); ++i) {
    LeafInsert(data, i, NodeKey(from, i), LeafValue(from, i));
  }
}

}  // namespace pbfs
