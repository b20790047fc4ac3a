// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "fs/fork.h"
#include "fs/format.h"
#include "fs/name_hash.h"
#include "fs/tree.h"

namespace pbfs {

// True for the DT_* of the seven file types.
bool IsDirentType(uint8_t type);
// 1..kNameBytesMax bytes without '/' and NUL. ("." and ".." are the caller's to refuse.)
bool IsEntryName(std::string_view name);

// One entry; `name` points into the bytes it was read from.
struct DirEntryView {
  uint64_t key;
  InodeNumber ino;
  uint8_t type;
  std::string_view name;
};
// The inline record that starts at `offset` (its length is InlineRecordBytes); nullopt if there is
// no whole, legal record.
std::optional<DirEntryView> ParseInlineDirRecord(std::span<const uint8_t> content, size_t offset);
constexpr size_t InlineRecordBytes(const DirEntryView& entry) {
  return sizeof(InlineDirRecord) + entry.name.size();
}
// The record of a directory tree with this key.
std::optional<DirEntryView> ParseTreeDirRecord(uint64_t key, std::span<const uint8_t> value);

// The names of one directory: a view on its DiskInode (and tree), which must be a directory that
// VerifyInode accepted. Operations that change it update the DiskInode in place (inline area,
// entries, blocks; not times, size or nlink) and the caller stores it in the same transaction; when
// one fails, the caller aborts the transaction and forgets the changed DiskInode.
//
// Content is inline while it fits, then in a tree; back inline when a single leaf is left whose
// records need at most half of the inline room. A record keeps its key (the readdir cookie) over
// all of this, so a Scan in several calls sees every entry that exists throughout exactly once.
//
// Not locked: the caller holds the inode's lock, shared to read, and the gate plus exclusive to
// change. "." and ".." are not stored.
class Directory {
 public:
  // All borrowed. `inode` is not changed by Find and Scan.
  Directory(const MetaReader& reader, NodeSpace& space, const NameHash& hash, DiskInode& inode)
      : reader_(reader), space_(space), hash_(hash), inode_(inode) {}

  struct Found {
    uint64_t key;
    InodeNumber ino;
    uint8_t type;
  };

  // For all: REQUIRES IsEntryName(name).
  StatusOr<std::optional<Found>> Find(std::string_view name) const;
  // EEXIST; ENOSPC when kNameCollisionsMax names share the hash.
  Status Insert(Transaction& transaction, std::string_view name, InodeNumber ino, uint8_t type);
  // Makes the name stand for another inode; its key stays. ENOENT.
  Status Replace(Transaction& transaction, std::string_view name, InodeNumber ino, uint8_t type);
  // False if there is no such name.
  StatusOr<bool> Remove(Transaction& transaction, std::string_view name);

  // Visits the entries with key > after_key, ascending, until `visit` returns false. The name is
  // valid during the call only. `visit` must not change the directory.
  using Visitor =
      std::function<bool(uint64_t key, InodeNumber ino, uint8_t type, std::string_view name)>;
  Status Scan(uint64_t after_key, const Visitor& visit) const;

  bool empty() const { return inode_.entries == 0; }

 private:
  // Where a name is, or the key it would get.
  struct Slot {
    bool found;
    uint64_t key;  // Of the record; else the lowest free key of the hash, 0 if all are taken.
    InodeNumber ino;
    uint8_t type;
  };

  bool in_tree() const { return FormatOf(inode_, Fork::kData) == ForkFormat::kTree; }
  StatusOr<Slot> Locate(std::string_view name) const;
  Status ScanInline(uint64_t first_key, const Visitor& visit) const;
  Status ScanTree(uint64_t first_key, const Visitor& visit) const;
  Status InsertInline(uint64_t key, std::string_view name, InodeNumber ino, uint8_t type);
  Status EraseInline(uint64_t key);
  Status PutInTree(Transaction& transaction, uint64_t key, std::string_view name, InodeNumber ino,
                   uint8_t type);
  Status EraseInTree(Transaction& transaction, uint64_t key);
  Status MoveToTree(Transaction& transaction);
  // Moves the content back inline if it is small.
  Status TryMoveInline(Transaction& transaction);
  Status Damaged(const char* what) const;

  const MetaReader& reader_;
  NodeSpace& space_;
  const NameHash& hash_;
  DiskInode& inode_;
};

// Blocks that one Insert, Replace or Remove may touch at most, not counting free space bitmaps and
// the block of the inode: moving between inline and tree touches one leaf only.
inline constexpr uint32_t kDirectoryChangeBlocksMax = kTreeChangeBlocksMax;

}  // namespace pbfs
