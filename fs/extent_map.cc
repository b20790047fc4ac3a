// SPDX-License-Identifier: Apache-2.0
#include "fs/extent_map.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "fs/fork.h"

namespace pbfs {
namespace {

Extent FromValue(uint64_t file_block, const ExtentValue& value) {
  return {file_block, value.block, value.length, (value.flags & kExtentUnwritten) != 0};
}

ExtentValue ToValue(const Extent& extent) {
  return {extent.block, extent.length,
          static_cast<uint16_t>(extent.unwritten ? kExtentUnwritten : 0), 0};
}

std::span<const uint8_t> BytesOf(const ExtentValue& value) {
  return {reinterpret_cast<const uint8_t*>(&value), sizeof(value)};
}

std::span<const uint8_t> BytesOf(const std::vector<InlineExtent>& records) {
  return {reinterpret_cast<const uint8_t*>(records.data()), records.size() * sizeof(InlineExtent)};
}

bool GoesOn(const Extent& extent, const Extent& next) {
  return extent.length > 0 && next.length > 0 &&
         extent.file_block + extent.length == next.file_block &&
         extent.block + extent.length == next.block && extent.unwritten == next.unwritten &&
         AgOf(extent.block) == AgOf(next.block);
}

// A tree's root kept in a local while a Tree works on it, stored back when it changed.
class DataTree {
 public:
  DataTree(const MetaReader& reader, SpaceManager& space, DiskInode& inode)
      : inode_(inode),
        root_(GetTreeRoot(inode, Fork::kData)),
        tree_(reader, space, inode.ino, root_) {}
  ~DataTree() {
    SetTreeRoot(inode_, Fork::kData, root_);
    AddBlocks(inode_, tree_.node_delta());
  }
  Tree* operator->() { return &tree_; }

 private:
  DiskInode& inode_;
  TreeRoot root_;
  Tree tree_;
};

}  // namespace

Extent ExtentMap::InlineAt(uint32_t index) const {
  InlineExtent record;
  std::memcpy(&record, inode_.inline_area + index * sizeof(record), sizeof(record));
  return FromValue(record.file_block, record.value);
}

std::vector<InlineExtent> ExtentMap::InlineRecords() const {
  std::vector<InlineExtent> records(inline_count());
  if (records.empty()) return records;
  std::memcpy(records.data(), inode_.inline_area, records.size() * sizeof(InlineExtent));
  return records;
}

Status ExtentMap::Check(const Extent& extent) const {
  const uint64_t total = reader_.superblock.total_blocks;
  if (extent.block == 0 || extent.length == 0 || extent.length > kAgBlocks ||
      extent.block >= total || extent.length > total - extent.block ||
      AgOf(extent.block) != AgOf(extent.block + extent.length - 1) ||
      extent.file_block > kFileBytesMax / kBlockBytes) {
    return CorruptionError(absl::StrCat("inode ", inode_.ino, ": extent at ", extent.file_block,
                                        " -> ", extent.block, "+", extent.length, " out of range"));
  }
  return OkStatus();
}

StatusOr<Extent> ExtentMap::LastBefore(uint64_t file_block) const {
  if (FormatOf(inode_, Fork::kData) == ForkFormat::kInline) {
    Extent found;
    for (uint32_t i = 0; i < inline_count(); ++i) {
      const Extent extent = InlineAt(i);
      if (extent.file_block > file_block) break;
      found = extent;
    }
    return found;
  }
  if (FormatOf(inode_, Fork::kData) != ForkFormat::kTree) return Extent{};
  TreeRoot root = GetTreeRoot(inode_, Fork::kData);
  Tree tree(reader_, space_, inode_.ino, root);
  std::optional<Tree::Record> record;
  PBFS_ASSIGN_OR_RETURN(record, tree.FindLast(file_block));
  if (!record) return Extent{};
  if (record->value.size() != sizeof(ExtentValue)) {
    return CorruptionError(
        absl::StrCat("inode ", inode_.ino, ": extent record of ", record->value.size(), " bytes"));
  }
  ExtentValue value;
  std::memcpy(&value, record->value.data(), sizeof(value));
  const Extent extent = FromValue(record->key, value);
  PBFS_RETURN_IF_ERROR(Check(extent));
  return extent;
}

StatusOr<Extent> ExtentMap::Next(uint64_t file_block) const {
  Extent before;
  PBFS_ASSIGN_OR_RETURN(before, LastBefore(file_block));
  if (before.length > 0 && before.file_block + before.length > file_block) return before;
  if (FormatOf(inode_, Fork::kData) == ForkFormat::kInline) {
    for (uint32_t i = 0; i < inline_count(); ++i) {
      if (InlineAt(i).file_block > file_block) return InlineAt(i);
    }
    return Extent{};
  }
  if (FormatOf(inode_, Fork::kData) != ForkFormat::kTree) return Extent{};
  TreeRoot root = GetTreeRoot(inode_, Fork::kData);
  Tree tree(reader_, space_, inode_.ino, root);
  std::optional<Tree::Record> record;
  PBFS_ASSIGN_OR_RETURN(record, tree.LowerBound(file_block));
  if (!record) return Extent{};
  return LastBefore(record->key);
}

StatusOr<Extent> ExtentMap::Lookup(uint64_t file_block, uint32_t length_max) const {
  Extent next;
  PBFS_ASSIGN_OR_RETURN(next, Next(file_block));
  if (next.length == 0) return Extent{file_block, 0, length_max, false};
  if (next.file_block > file_block) {
    const uint64_t gap = next.file_block - file_block;
    return Extent{file_block, 0, static_cast<uint32_t>(std::min<uint64_t>(gap, length_max)), false};
  }
  const uint32_t skip = static_cast<uint32_t>(file_block - next.file_block);
  return Extent{file_block, next.block + skip, std::min(next.length - skip, length_max),
                next.unwritten};
}

StatusOr<BlockNumber> ExtentMap::Goal(uint64_t file_block) const {
  if (file_block == 0) return BlockNumber{0};
  Extent before;
  PBFS_ASSIGN_OR_RETURN(before, LastBefore(file_block - 1));
  if (before.length == 0) return BlockNumber{0};
  const BlockNumber goal = before.block + before.length;
  return goal < reader_.superblock.total_blocks ? goal : BlockNumber{0};
}

Status ExtentMap::ToTree(Transaction& transaction) {
  std::vector<Extent> extents;
  for (uint32_t i = 0; i < inline_count(); ++i) extents.push_back(InlineAt(i));
  SetTreeRoot(inode_, Fork::kData, TreeRoot{});
  DataTree tree(reader_, space_, inode_);
  for (const Extent& extent : extents) {
    PBFS_RETURN_IF_ERROR(tree->Put(transaction, extent.file_block, BytesOf(ToValue(extent))));
  }
  return OkStatus();
}

Status ExtentMap::Put(Transaction& transaction, const Extent& extent) {
  if (FormatOf(inode_, Fork::kData) != ForkFormat::kTree) {
    std::vector<InlineExtent> records = InlineRecords();
    const auto at = std::lower_bound(
        records.begin(), records.end(), extent.file_block,
        [](const InlineExtent& record, uint64_t block) { return record.file_block < block; });
    if (at != records.end() && at->file_block == extent.file_block) {
      at->value = ToValue(extent);
    } else {
      records.insert(at, {extent.file_block, ToValue(extent)});
    }
    const std::span<const uint8_t> content = BytesOf(records);
    if (content.size() <= InlineCapacity(inode_, Fork::kData)) {
      SetInline(inode_, Fork::kData, content);
      return OkStatus();
    }
    PBFS_RETURN_IF_ERROR(ToTree(transaction));
  }
  DataTree tree(reader_, space_, inode_);
  return tree->Put(transaction, extent.file_block, BytesOf(ToValue(extent)));
}

Status ExtentMap::Erase(Transaction& transaction, uint64_t file_block) {
  if (FormatOf(inode_, Fork::kData) == ForkFormat::kTree) {
    bool empty = false;
    {
      DataTree tree(reader_, space_, inode_);
      PBFS_RETURN_IF_ERROR(tree->Erase(transaction, file_block).status());
      empty = tree->empty();
    }
    if (empty) ClearFork(inode_, Fork::kData);
    return OkStatus();
  }
  std::vector<InlineExtent> records = InlineRecords();
  std::erase_if(records,
                [&](const InlineExtent& record) { return record.file_block == file_block; });
  SetInline(inode_, Fork::kData, BytesOf(records));
  return OkStatus();
}

Status ExtentMap::Insert(Transaction& transaction, const Extent& extent) {
  PBFS_RETURN_IF_ERROR(Check(extent));
  Extent next;
  PBFS_ASSIGN_OR_RETURN(next, Next(extent.file_block));
  if (next.length > 0 && next.file_block < extent.file_block + extent.length) {
    return CorruptionError(absl::StrCat("inode ", inode_.ino, ": file block ", extent.file_block,
                                        " is mapped already"));
  }
  inode_.blocks += extent.length;
  return PutMerged(transaction, extent);
}

Status ExtentMap::PutMerged(Transaction& transaction, Extent extent) {
  Extent next;
  PBFS_ASSIGN_OR_RETURN(next, Next(extent.file_block + extent.length));
  if (GoesOn(extent, next)) {
    PBFS_RETURN_IF_ERROR(Erase(transaction, next.file_block));
    extent.length += next.length;
  }
  if (extent.file_block > 0) {
    Extent before;
    PBFS_ASSIGN_OR_RETURN(before, LastBefore(extent.file_block - 1));
    if (GoesOn(before, extent)) {
      before.length += extent.length;
      extent = before;
    }
  }
  return Put(transaction, extent);
}

Status ExtentMap::Convert(Transaction& transaction, const Extent& part) {
  Extent whole;
  PBFS_ASSIGN_OR_RETURN(whole, LastBefore(part.file_block));
  const uint64_t skip = part.file_block - whole.file_block;
  if (whole.length == 0 || skip >= whole.length || part.length == 0 ||
      part.length > whole.length - skip || whole.block + skip != part.block ||
      whole.unwritten == part.unwritten) {
    return CorruptionError(absl::StrCat("inode ", inode_.ino, ": no extent of ", part.length,
                                        " blocks to convert at ", part.file_block));
  }
  const auto before = static_cast<uint32_t>(skip);
  const uint32_t behind = whole.length - before - part.length;
  if (before > 0) {
    PBFS_RETURN_IF_ERROR(
        Put(transaction, {whole.file_block, whole.block, before, whole.unwritten}));
  } else {
    PBFS_RETURN_IF_ERROR(Erase(transaction, whole.file_block));
  }
  if (behind > 0) {
    PBFS_RETURN_IF_ERROR(Put(transaction, {part.file_block + part.length, part.block + part.length,
                                           behind, whole.unwritten}));
  }
  return PutMerged(transaction, part);
}

Status ExtentMap::Free(Transaction& transaction, const BlockRun& run) {
  if (inode_.blocks < run.length) {
    return CorruptionError(absl::StrCat("inode ", inode_.ino, ": blocks is ", inode_.blocks));
  }
  PBFS_RETURN_IF_ERROR(space_.Free(transaction, run));
  inode_.blocks -= run.length;
  return OkStatus();
}

StatusOr<uint64_t> ExtentMap::RemoveRange(Transaction& transaction, uint64_t first, uint64_t end) {
  for (uint32_t i = 0; i < kExtentsPerTransaction && first < end; ++i) {
    Extent extent;
    PBFS_ASSIGN_OR_RETURN(extent, Next(first));
    if (extent.length == 0 || extent.file_block >= end) return end;
    const uint64_t start = std::max(first, extent.file_block);
    const uint64_t stop = std::min(end, extent.file_block + extent.length);
    const auto before = static_cast<uint32_t>(start - extent.file_block);
    const auto gone = static_cast<uint32_t>(stop - start);
    const uint32_t behind = extent.length - before - gone;
    PBFS_RETURN_IF_ERROR(Free(transaction, {extent.block + before, gone}));
    if (before > 0) {
      PBFS_RETURN_IF_ERROR(
          Put(transaction, {extent.file_block, extent.block, before, extent.unwritten}));
    } else {
      PBFS_RETURN_IF_ERROR(Erase(transaction, extent.file_block));
    }
    if (behind > 0) {
      PBFS_RETURN_IF_ERROR(
          Put(transaction, {stop, extent.block + before + gone, behind, extent.unwritten}));
    }
    first = stop;
  }
  return first;
}

StatusOr<bool> ExtentMap::RemoveTail(Transaction& transaction, uint64_t first) {
  for (uint32_t i = 0; i < kExtentsPerTransaction; ++i) {
    Extent last;
    PBFS_ASSIGN_OR_RETURN(last, LastBefore(UINT64_MAX));
    if (last.length == 0 || last.file_block + last.length <= first) return true;
    const uint32_t keep =
        last.file_block < first ? static_cast<uint32_t>(first - last.file_block) : 0;
    const uint32_t gone = last.length - keep;
    PBFS_RETURN_IF_ERROR(Free(transaction, {last.block + keep, gone}));
    if (keep == 0) {
      PBFS_RETURN_IF_ERROR(Erase(transaction, last.file_block));
    } else {
      last.length = keep;
      PBFS_RETURN_IF_ERROR(Put(transaction, last));
    }
  }
  Extent last;
  PBFS_ASSIGN_OR_RETURN(last, LastBefore(UINT64_MAX));
  return last.length == 0 || last.file_block + last.length <= first;
}

Status ExtentMap::Scan(const std::function<bool(const Extent&)>& visit) const {
  uint64_t at = 0;
  for (;;) {
    Extent next;
    PBFS_ASSIGN_OR_RETURN(next, Next(at));
    if (next.length == 0 || !visit(next)) return OkStatus();
    at = next.file_block + next.length;
  }
}

}  // namespace pbfs
