// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/status.h"
#include "fs/format.h"
#include "fs/space.h"
#include "fs/tree.h"

namespace pbfs {

// A range of a file and where it lies. block 0: a hole.
struct Extent {
  uint64_t file_block = 0;
  BlockNumber block = 0;
  uint32_t length = 0;
  bool unwritten = false;
  bool is_hole() const { return block == 0; }
};

// Extents a transaction may add or free at most: each may touch a bitmap block or two, a group
// entry and a tree path.
inline constexpr uint32_t kExtentsPerTransaction = 6;

// The extents of a regular file: inline in the inode while they fit, then a tree. A view over the
// caller's DiskInode, which it changes in place (forks, blocks); the caller writes that back in the
// same transaction and holds the inode's lock.
class ExtentMap {
 public:
  ExtentMap(const MetaReader& reader, SpaceManager& space, DiskInode& inode)
      : reader_(reader), space_(space), inode_(inode) {}

  // What lies at `file_block`: an extent or hole that starts there, cut to `length_max` blocks.
  StatusOr<Extent> Lookup(uint64_t file_block, uint32_t length_max) const;
  // First extent that ends behind `file_block` (so it may contain it); length 0: none.
  StatusOr<Extent> Next(uint64_t file_block) const;
  // Device block right behind the last extent before `file_block`; 0 if there is none. An
  // allocation goal.
  StatusOr<BlockNumber> Goal(uint64_t file_block) const;

  // Maps a hole; merged with the extents before and behind it where they go on, in file, on the
  // device and in state.
  Status Insert(Transaction& transaction, const Extent& extent);

  // Makes a part of one extent unwritten, or written: it is split and merged as needed. EUCLEAN
  // when `part` (its place, its former state reversed) is not what the map has there.
  Status Convert(Transaction& transaction, const Extent& part);

  // Unmaps and frees the highest extents at or behind `first`, at most kExtentsPerTransaction of
  // them; true when none is left there.
  StatusOr<bool> RemoveTail(Transaction& transaction, uint64_t first);

  // Unmaps and frees what lies in [first, end), from the start on, at most kExtentsPerTransaction
  // pieces; returns the file block up to which nothing is left, at most `end`.
  StatusOr<uint64_t> RemoveRange(Transaction& transaction, uint64_t first, uint64_t end);

  // Visits all extents, ascending, until false.
  Status Scan(const std::function<bool(const Extent&)>& visit) const;

 private:
  StatusOr<Extent> LastBefore(uint64_t file_block) const;  // Highest with start <= file_block.
  Status Check(const Extent& extent) const;
  Status Put(Transaction& transaction, const Extent& extent);
  // As Put(), merged with its neighbours. What is not merged stays as it is.
  Status PutMerged(Transaction& transaction, Extent extent);
  Status Free(Transaction& transaction, const BlockRun& run);
  Status Erase(Transaction& transaction, uint64_t file_block);
  Status ToTree(Transaction& transaction);
  uint32_t inline_count() const {
    return static_cast<uint32_t>(inode_.data_bytes / sizeof(InlineExtent));
  }
  Extent InlineAt(uint32_t index) const;
  std::vector<InlineExtent> InlineRecords() const;

  const MetaReader& reader_;
  SpaceManager& space_;
  DiskInode& inode_;
};

}  // namespace pbfs
