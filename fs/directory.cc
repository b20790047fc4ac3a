// SPDX-License-Identifier: Apache-2.0
#include "fs/directory.h"

#include <dirent.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace pbfs {
namespace {

using Bytes = std::vector<uint8_t>;

std::string_view NameView(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <typename T>
void Append(Bytes& bytes, const T& value) {
  const auto* raw = reinterpret_cast<const uint8_t*>(&value);
  bytes.insert(bytes.end(), raw, raw + sizeof value);
}

void AppendInlineRecord(Bytes& bytes, const DirEntryView& entry) {
  Append(bytes, InlineDirRecord{.key = entry.key,
                                .name_bytes = static_cast<uint8_t>(entry.name.size()),
                                .record = {.ino = entry.ino, .type = entry.type}});
  bytes.insert(bytes.end(), entry.name.begin(), entry.name.end());
}

}  // namespace

bool IsDirentType(uint8_t type) {
  switch (type) {
    case DT_REG:
    case DT_DIR:
    case DT_LNK:
    case DT_CHR:
    case DT_BLK:
    case DT_FIFO:
    case DT_SOCK:
      return true;
    default:
      return false;
  }
}

bool IsEntryName(std::string_view name) {
  return !name.empty() && name.size() <= kNameBytesMax &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

std::optional<DirEntryView> ParseInlineDirRecord(std::span<const uint8_t> content, size_t offset) {
  if (offset > content.size() || content.size() - offset < sizeof(InlineDirRecord)) {
    return std::nullopt;
  }
  InlineDirRecord record;
  std::memcpy(&record, content.data() + offset, sizeof record);
  const std::span<const uint8_t> rest = content.subspan(offset + sizeof record);
  if (rest.size() < record.name_bytes) return std::nullopt;
  const std::string_view name = NameView(rest.first(record.name_bytes));
  if (!IsEntryName(name) || !IsDirentType(record.record.type)) return std::nullopt;
  return DirEntryView{record.key, record.record.ino, record.record.type, name};
}

std::optional<DirEntryView> ParseTreeDirRecord(uint64_t key, std::span<const uint8_t> value) {
  if (value.size() < sizeof(DirRecord)) return std::nullopt;
  DirRecord record;
  std::memcpy(&record, value.data(), sizeof record);
  const std::string_view name = NameView(value.subspan(sizeof record));
  if (!IsEntryName(name) || !IsDirentType(record.type)) return std::nullopt;
  return DirEntryView{key, record.ino, record.type, name};
}

Status Directory::Damaged(const char* what) const {
  return CorruptionError(
      absl::StrCat("block ", InodeBlock(inode_.ino), ": inode ", inode_.ino, ": directory ", what));
}

// ---- Reading ------------------------------------------------------------------------------------

Status Directory::ScanInline(uint64_t first_key, const Visitor& visit) const {
  const std::span<const uint8_t> content = ForkBytes(inode_, Fork::kData);
  for (size_t offset = 0; offset < content.size();) {
    const std::optional<DirEntryView> entry = ParseInlineDirRecord(content, offset);
    if (!entry) return Damaged("has a bad inline record");
    offset += InlineRecordBytes(*entry);
    if (entry->key < first_key) continue;
    if (!visit(entry->key, entry->ino, entry->type, entry->name)) break;
  }
  return OkStatus();
}

Status Directory::ScanTree(uint64_t first_key, const Visitor& visit) const {
  TreeRoot root = GetTreeRoot(inode_, Fork::kData);
  const Tree tree(reader_, space_, inode_.ino, root);
  Status status;
  PBFS_RETURN_IF_ERROR(tree.Scan(first_key, [&](uint64_t key, std::span<const uint8_t> value) {
    const std::optional<DirEntryView> entry = ParseTreeDirRecord(key, value);
    if (!entry) {
      status = Damaged(absl::StrCat("has a bad record with key ", key).c_str());
      return false;
    }
    return visit(key, entry->ino, entry->type, entry->name);
  }));
  return status;
}

Status Directory::Scan(uint64_t after_key, const Visitor& visit) const {
  if (after_key == UINT64_MAX) return OkStatus();
  return in_tree() ? ScanTree(after_key + 1, visit) : ScanInline(after_key + 1, visit);
}

// All names of one hash lie next to each other, possibly with gaps: a name is found by looking at
// all of them, so removing one never hides another.
StatusOr<Directory::Slot> Directory::Locate(std::string_view name) const {
  PBFS_CHECK(IsEntryName(name));
  const uint64_t first = hash_.FirstKey(name);
  const uint64_t last = first + kNameCollisionsMax - 1;
  Slot slot = {.found = false, .key = first, .ino = 0, .type = 0};
  PBFS_RETURN_IF_ERROR(Scan(
      first - 1, [&](uint64_t key, InodeNumber ino, uint8_t type, std::string_view entry_name) {
        if (key > last) return false;
        if (entry_name == name) {
          slot = {.found = true, .key = key, .ino = ino, .type = type};
          return false;
        }
        if (key == slot.key) ++slot.key;
        return true;
      }));
  if (!slot.found && slot.key > last) slot.key = 0;
  return slot;
}

StatusOr<std::optional<Directory::Found>> Directory::Find(std::string_view name) const {
  PBFS_ASSIGN_OR_RETURN(const Slot slot, Locate(name));
  if (!slot.found) return std::nullopt;
  return Found{slot.key, slot.ino, slot.type};
}

// ---- Changing -----------------------------------------------------------------------------------

Status Directory::Insert(Transaction& transaction, std::string_view name, InodeNumber ino,
                         uint8_t type) {
  PBFS_CHECK(IsDirentType(type));
  PBFS_ASSIGN_OR_RETURN(const Slot slot, Locate(name));
  if (slot.found) return ErrnoError(EEXIST, "the name exists");
  if (slot.key == 0) return ErrnoError(ENOSPC, "too many names of this directory share one hash");
  if (!in_tree()) {
    const size_t content = ForkBytes(inode_, Fork::kData).size();
    if (content + sizeof(InlineDirRecord) + name.size() <= InlineCapacity(inode_, Fork::kData)) {
      PBFS_RETURN_IF_ERROR(InsertInline(slot.key, name, ino, type));
      ++inode_.entries;
      return OkStatus();
    }
    PBFS_RETURN_IF_ERROR(MoveToTree(transaction));
  }
  PBFS_RETURN_IF_ERROR(PutInTree(transaction, slot.key, name, ino, type));
  ++inode_.entries;
  return OkStatus();
}

Status Directory::Replace(Transaction& transaction, std::string_view name, InodeNumber ino,
                          uint8_t type) {
  PBFS_CHECK(IsDirentType(type));
  PBFS_ASSIGN_OR_RETURN(const Slot slot, Locate(name));
  if (!slot.found) return ErrnoError(ENOENT, "no such name");
  if (in_tree()) return PutInTree(transaction, slot.key, name, ino, type);
  PBFS_RETURN_IF_ERROR(EraseInline(slot.key));
  return InsertInline(slot.key, name, ino, type);
}

StatusOr<bool> Directory::Remove(Transaction& transaction, std::string_view name) {
  PBFS_ASSIGN_OR_RETURN(const Slot slot, Locate(name));
  if (!slot.found) return false;
  if (inode_.entries == 0) return Damaged("has more names than its entries field says");
  --inode_.entries;
  if (in_tree()) {
    PBFS_RETURN_IF_ERROR(EraseInTree(transaction, slot.key));
  } else {
    PBFS_RETURN_IF_ERROR(EraseInline(slot.key));
  }
  return true;
}

Status Directory::InsertInline(uint64_t key, std::string_view name, InodeNumber ino, uint8_t type) {
  const DirEntryView added = {.key = key, .ino = ino, .type = type, .name = name};
  Bytes content;
  content.reserve(kInlineBytes);
  bool done = false;
  PBFS_RETURN_IF_ERROR(ScanInline(
      0, [&](uint64_t at, InodeNumber at_ino, uint8_t at_type, std::string_view at_name) {
        if (!done && at > key) {
          AppendInlineRecord(content, added);
          done = true;
        }
        AppendInlineRecord(content, {at, at_ino, at_type, at_name});
        return true;
      }));
  if (!done) AppendInlineRecord(content, added);
  SetInline(inode_, Fork::kData, content);
  return OkStatus();
}

Status Directory::EraseInline(uint64_t key) {
  Bytes content;
  content.reserve(kInlineBytes);
  PBFS_RETURN_IF_ERROR(
      ScanInline(0, [&](uint64_t at, InodeNumber ino, uint8_t type, std::string_view name) {
        if (at != key) AppendInlineRecord(content, {at, ino, type, name});
        return true;
      }));
  SetInline(inode_, Fork::kData, content);
  return OkStatus();
}

Status Directory::PutInTree(Transaction& transaction, uint64_t key, std::string_view name,
                            InodeNumber ino, uint8_t type) {
  Bytes value;
  value.reserve(sizeof(DirRecord) + name.size());
  Append(value, DirRecord{.ino = ino, .type = type});
  value.insert(value.end(), name.begin(), name.end());
  TreeRoot root = GetTreeRoot(inode_, Fork::kData);
  Tree tree(reader_, space_, inode_.ino, root);
  PBFS_RETURN_IF_ERROR(tree.Put(transaction, key, value));
  SetTreeRoot(inode_, Fork::kData, root);
  AddBlocks(inode_, tree.node_delta());
  return OkStatus();
}

Status Directory::EraseInTree(Transaction& transaction, uint64_t key) {
  TreeRoot root = GetTreeRoot(inode_, Fork::kData);
  Tree tree(reader_, space_, inode_.ino, root);
  PBFS_ASSIGN_OR_RETURN(const bool erased, tree.Erase(transaction, key));
  if (!erased) return Damaged("lost a record");
  SetTreeRoot(inode_, Fork::kData, root);
  AddBlocks(inode_, tree.node_delta());
  return TryMoveInline(transaction);
}

// ---- Moving between inline and tree -------------------------------------------------------------

Status Directory::MoveToTree(Transaction& transaction) {
  PBFS_CHECK(!in_tree());
  TreeRoot root = {};
  Tree tree(reader_, space_, inode_.ino, root);
  Status status;
  PBFS_RETURN_IF_ERROR(
      ScanInline(0, [&](uint64_t key, InodeNumber ino, uint8_t type, std::string_view name) {
        Bytes value;
        Append(value, DirRecord{.ino = ino, .type = type});
        value.insert(value.end(), name.begin(), name.end());
        status = tree.Insert(transaction, key, value);
        return status.ok();
      }));
  PBFS_RETURN_IF_ERROR(status);
  SetTreeRoot(inode_, Fork::kData, root);
  AddBlocks(inode_, tree.node_delta());
  return OkStatus();
}

Status Directory::TryMoveInline(Transaction& transaction) {
  TreeRoot root = GetTreeRoot(inode_, Fork::kData);
  if (root.level != 0) return OkStatus();
  // Half, so that a directory at the limit does not move to and fro.
  const size_t limit = InlineCapacity(inode_, Fork::kData) / 2;
  Bytes content;
  content.reserve(kInlineBytes);
  bool fits = true;
  PBFS_RETURN_IF_ERROR(
      ScanTree(0, [&](uint64_t key, InodeNumber ino, uint8_t type, std::string_view name) {
        fits = content.size() + sizeof(InlineDirRecord) + name.size() <= limit;
        if (fits) AppendInlineRecord(content, {key, ino, type, name});
        return fits;
      }));
  if (!fits) return OkStatus();
  Tree tree(reader_, space_, inode_.ino, root);
  PBFS_ASSIGN_OR_RETURN(const bool gone, tree.DestroySome(transaction, 1));
  PBFS_CHECK(gone);
  AddBlocks(inode_, tree.node_delta());
  SetInline(inode_, Fork::kData, content);
  return OkStatus();
}

}  // namespace pbfs
