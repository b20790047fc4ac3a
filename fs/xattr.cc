// SPDX-License-Identifier: Apache-2.0
#include "fs/xattr.h"

#include <sys/xattr.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace pbfs {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint64_t kPieceMask = (uint64_t{1} << kXattrPieceBits) - 1;
constexpr uint32_t kCollisionShift = kXattrPieceBits;
constexpr uint32_t kHashShift = kXattrPieceBits + kHashCollisionBits;

std::span<const uint8_t> BytesOf(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}
std::string_view TextOf(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

uint32_t PieceCount(size_t name_bytes, size_t value_bytes) {
  return static_cast<uint32_t>(
      (sizeof(XattrRecord) + name_bytes + value_bytes + kTreeValueBytesMax - 1) /
      kTreeValueBytesMax);
}

void AppendRecord(Bytes& bytes, std::string_view name, std::span<const uint8_t> value) {
  const XattrRecord head = {.value_bytes = static_cast<uint32_t>(value.size()),
                            .name_bytes = static_cast<uint8_t>(name.size())};
  const auto* raw = reinterpret_cast<const uint8_t*>(&head);
  bytes.insert(bytes.end(), raw, raw + sizeof head);
  bytes.insert(bytes.end(), name.begin(), name.end());
  bytes.insert(bytes.end(), value.begin(), value.end());
}

bool IsXattrName(std::string_view name) {
  return !name.empty() && name.size() <= kNameBytesMax && name.find('\0') == std::string_view::npos;
}

Status CheckName(std::string_view name) {
  if (name.empty() || name.size() > kNameBytesMax) {
    return ErrnoError(ERANGE, "the length of the attribute name is out of range");
  }
  if (!IsXattrName(name)) return ErrnoError(EINVAL, "the attribute name contains NUL");
  return OkStatus();
}

Status NoSuchAttribute() { return ErrnoError(ENODATA, "no such attribute"); }

Status CheckFlags(bool found, int flags) {
  if (found && (flags & XATTR_CREATE) != 0) return ErrnoError(EEXIST, "the attribute exists");
  if (!found && (flags & XATTR_REPLACE) != 0) return NoSuchAttribute();
  return OkStatus();
}

// Head and name at the start of `bytes`, the rest (not more than value_bytes) as the value.
std::optional<std::pair<XattrRecord, XattrView>> ParseHead(std::span<const uint8_t> bytes) {
  XattrRecord head;
  if (bytes.size() < sizeof head) return std::nullopt;
  std::memcpy(&head, bytes.data(), sizeof head);
  bytes = bytes.subspan(sizeof head);
  if (bytes.size() < head.name_bytes || head.value_bytes > kXattrValueBytesMax) {
    return std::nullopt;
  }
  const std::string_view name = TextOf(bytes.first(head.name_bytes));
  if (!IsXattrName(name)) return std::nullopt;
  bytes = bytes.subspan(head.name_bytes);
  return std::pair{head,
                   XattrView{name, bytes.first(std::min<size_t>(bytes.size(), head.value_bytes))}};
}

}  // namespace

std::optional<XattrView> ParseInlineXattr(std::span<const uint8_t> content, size_t offset) {
  if (offset > content.size()) return std::nullopt;
  const auto parsed = ParseHead(content.subspan(offset));
  if (!parsed || parsed->second.value.size() != parsed->first.value_bytes) return std::nullopt;
  return parsed->second;
}

Status Xattrs::Damaged(const std::string& what) const {
  return CorruptionError(
      absl::StrCat("block ", InodeBlock(inode_.ino), ": inode ", inode_.ino, ": xattr ", what));
}

// ---- Reading ------------------------------------------------------------------------------------

Status Xattrs::ScanInline(const InlineVisitor& visit) const {
  const std::span<const uint8_t> content = ForkBytes(inode_, Fork::kAttributes);
  for (size_t offset = 0; offset < content.size();) {
    const std::optional<XattrView> xattr = ParseInlineXattr(content, offset);
    if (!xattr) return Damaged("inline record is malformed");
    offset += InlineXattrBytes(*xattr);
    if (!visit(*xattr)) break;
  }
  return OkStatus();
}

// Visits the first pieces with key >= first_key; steps over the other pieces without reading them.
Status Xattrs::ScanTree(uint64_t first_key, const TreeVisitor& visit) const {
  TreeRoot root = GetTreeRoot(inode_, Fork::kAttributes);
  const Tree tree(reader_, space_, inode_.ino, root);
  Status status;
  bool more = true;
  while (more && status.ok()) {
    more = false;
    PBFS_RETURN_IF_ERROR(tree.Scan(first_key, [&](uint64_t key, std::span<const uint8_t> bytes) {
      const auto parsed = ParseHead(bytes);
      if ((key & kPieceMask) != 0 || !parsed) {
        status = Damaged(absl::StrCat("record with key ", key, " is malformed"));
        return false;
      }
      const auto& [head, view] = *parsed;
      if (!visit({key, head.value_bytes, view.name, view.value})) return false;
      if (view.value.size() == head.value_bytes) return true;
      first_key = (key | kPieceMask) + 1;
      more = first_key != 0;
      return false;
    }));
  }
  return status;
}

uint64_t Xattrs::FirstKey(std::string_view name) const {
  return hash_.Hash(name) >> kHashCollisionBits << kHashShift;
}

StatusOr<Xattrs::Slot> Xattrs::Locate(std::string_view name) const {
  const uint64_t first = FirstKey(name);
  const uint64_t last = first + (uint64_t{kNameCollisionsMax - 1} << kCollisionShift);
  Slot slot = {.found = false, .key = first, .pieces = 0, .value_bytes = 0};
  PBFS_RETURN_IF_ERROR(ScanTree(first, [&](const TreeXattr& xattr) {
    if (xattr.key > last) return false;
    if (xattr.name == name) {
      slot = {.found = true,
              .key = xattr.key,
              .pieces = PieceCount(name.size(), xattr.value_bytes),
              .value_bytes = xattr.value_bytes};
      return false;
    }
    if (xattr.key == slot.key) slot.key += uint64_t{1} << kCollisionShift;
    return true;
  }));
  if (!slot.found && slot.key > last) slot.key = kNoKey;
  return slot;
}

StatusOr<std::string> Xattrs::ReadTreeValue(const Slot& slot, std::string_view name) const {
  const size_t head_bytes = sizeof(XattrRecord) + name.size();
  const size_t wanted = head_bytes + slot.value_bytes;
  std::string bytes;
  bytes.reserve(wanted);
  TreeRoot root = GetTreeRoot(inode_, Fork::kAttributes);
  const Tree tree(reader_, space_, inode_.ino, root);
  uint64_t expected = slot.key;
  PBFS_RETURN_IF_ERROR(tree.Scan(slot.key, [&](uint64_t key, std::span<const uint8_t> piece) {
    // A piece that is missing or has a wrong length shows in the total.
    if (key != expected++) return false;
    bytes.append(TextOf(piece));
    return bytes.size() < wanted;
  }));
  if (bytes.size() != wanted) {
    return Damaged(absl::StrCat("value with key ", slot.key, " has ", bytes.size(),
                                " bytes with its head, not ", wanted));
  }
  return bytes.substr(head_bytes);
}

StatusOr<std::string> Xattrs::Get(std::string_view name) const {
  PBFS_RETURN_IF_ERROR(CheckName(name));
  if (in_tree()) {
    PBFS_ASSIGN_OR_RETURN(const Slot slot, Locate(name));
    if (!slot.found) return NoSuchAttribute();
    return ReadTreeValue(slot, name);
  }
  std::optional<std::string> value;
  PBFS_RETURN_IF_ERROR(ScanInline([&](const XattrView& xattr) {
    if (xattr.name == name) value = std::string(TextOf(xattr.value));
    return !value.has_value();
  }));
  if (!value) return NoSuchAttribute();
  return *std::move(value);
}

StatusOr<std::vector<std::string>> Xattrs::List() const {
  std::vector<std::string> names;
  if (in_tree()) {
    PBFS_RETURN_IF_ERROR(ScanTree(0, [&](const TreeXattr& xattr) {
      names.emplace_back(xattr.name);
      return true;
    }));
  } else {
    PBFS_RETURN_IF_ERROR(ScanInline([&](const XattrView& xattr) {
      names.emplace_back(xattr.name);
      return true;
    }));
  }
  return names;
}

// ---- Changing -----------------------------------------------------------------------------------

StatusOr<Xattrs::InlineRest> Xattrs::InlineWithout(std::string_view name) const {
  InlineRest rest = {.found = false, .content = {}};
  rest.content.reserve(kInlineBytes);
  PBFS_RETURN_IF_ERROR(ScanInline([&](const XattrView& xattr) {
    if (xattr.name == name) {
      rest.found = true;
    } else {
      AppendRecord(rest.content, xattr.name, xattr.value);
    }
    return true;
  }));
  return rest;
}

Status Xattrs::Set(Transaction& transaction, std::string_view name, std::string_view value,
                   int flags) {
  PBFS_RETURN_IF_ERROR(CheckName(name));
  if (value.size() > kXattrValueBytesMax) {
    return ErrnoError(E2BIG, "the attribute value is too large");
  }
  if (in_tree()) return SetInTree(transaction, name, value, flags);
  PBFS_ASSIGN_OR_RETURN(InlineRest rest, InlineWithout(name));
  PBFS_RETURN_IF_ERROR(CheckFlags(rest.found, flags));
  const size_t bytes = rest.content.size() + InlineXattrBytes({name, BytesOf(value)});
  if (bytes <= InlineCapacity(inode_, Fork::kAttributes)) {
    AppendRecord(rest.content, name, BytesOf(value));
    SetInline(inode_, Fork::kAttributes, rest.content);
    return OkStatus();
  }
  PBFS_RETURN_IF_ERROR(MoveToTree(transaction, /*except=*/name));
  return SetInTree(transaction, name, value, /*flags=*/0);
}

Status Xattrs::Remove(Transaction& transaction, std::string_view name) {
  PBFS_RETURN_IF_ERROR(CheckName(name));
  if (!in_tree()) {
    PBFS_ASSIGN_OR_RETURN(const InlineRest rest, InlineWithout(name));
    if (!rest.found) return NoSuchAttribute();
    SetInline(inode_, Fork::kAttributes, rest.content);
    return OkStatus();
  }
  PBFS_ASSIGN_OR_RETURN(const Slot slot, Locate(name));
  if (!slot.found) return NoSuchAttribute();
  TreeRoot root = GetTreeRoot(inode_, Fork::kAttributes);
  Tree tree(reader_, space_, inode_.ino, root);
  tree.CountTouched();
  PBFS_RETURN_IF_ERROR(ErasePieces(transaction, tree, slot.key, 0, slot.pieces));
  SetTreeRoot(inode_, Fork::kAttributes, root);
  AddBlocks(inode_, tree.node_delta());
  return TryMoveInline(transaction);
}

Status Xattrs::SetInTree(Transaction& transaction, std::string_view name, std::string_view value,
                         int flags) {
  PBFS_ASSIGN_OR_RETURN(const Slot slot, Locate(name));
  PBFS_RETURN_IF_ERROR(CheckFlags(slot.found, flags));
  if (slot.key == kNoKey) {
    return ErrnoError(ENOSPC, "too many attributes of this inode share one hash");
  }
  TreeRoot root = GetTreeRoot(inode_, Fork::kAttributes);
  Tree tree(reader_, space_, inode_.ino, root);
  tree.CountTouched();
  const uint32_t pieces = PieceCount(name.size(), value.size());
  PBFS_RETURN_IF_ERROR(ErasePieces(transaction, tree, slot.key, pieces, slot.pieces));
  PBFS_RETURN_IF_ERROR(PutPieces(transaction, tree, slot.key, name, value));
  SetTreeRoot(inode_, Fork::kAttributes, root);
  AddBlocks(inode_, tree.node_delta());
  return TryMoveInline(transaction);
}

// Old pieces with the same numbers are replaced where they lie: all but the last are of one size.
Status Xattrs::PutPieces(Transaction& transaction, Tree& tree, uint64_t key, std::string_view name,
                         std::string_view value) {
  Bytes bytes;
  bytes.reserve(sizeof(XattrRecord) + name.size() + value.size());
  AppendRecord(bytes, name, BytesOf(value));
  std::span<const uint8_t> rest = bytes;
  for (; !rest.empty(); ++key) {
    const size_t length = std::min<size_t>(rest.size(), kTreeValueBytesMax);
    PBFS_RETURN_IF_ERROR(CheckRoom(tree));
    PBFS_RETURN_IF_ERROR(tree.Put(transaction, key, rest.first(length)));
    rest = rest.subspan(length);
  }
  return OkStatus();
}

// Erases the pieces [first, end) of the attribute, the last one first.
Status Xattrs::ErasePieces(Transaction& transaction, Tree& tree, uint64_t key, uint32_t first,
                           uint32_t end) {
  while (end > first) {
    --end;
    PBFS_RETURN_IF_ERROR(CheckRoom(tree));
    PBFS_ASSIGN_OR_RETURN(const bool erased, tree.Erase(transaction, key + end));
    if (!erased) return Damaged(absl::StrCat("piece with key ", key + end, " is missing"));
  }
  return OkStatus();
}

// The next change of the tree must not pass the transaction's limit.
Status Xattrs::CheckRoom(const Tree& tree) const {
  if (tree.touched_nodes() + TreeChangeBlocks(tree.root()) <= kXattrChangeBlocksMax) {
    return OkStatus();
  }
  return ErrnoError(ENOSPC,
                    absl::StrCat("inode ", inode_.ino,
                                 ": the attribute tree is too loose to be changed at once"));
}

// ---- Moving between inline and tree -------------------------------------------------------------

Status Xattrs::MoveToTree(Transaction& transaction, std::string_view except) {
  PBFS_CHECK(!in_tree());
  PBFS_ASSIGN_OR_RETURN(const InlineRest rest, InlineWithout(except));
  SetTreeRoot(inode_, Fork::kAttributes, {});
  for (size_t offset = 0; offset < rest.content.size();) {
    const std::optional<XattrView> xattr = ParseInlineXattr(rest.content, offset);
    PBFS_CHECK(xattr.has_value());
    offset += InlineXattrBytes(*xattr);
    PBFS_ASSIGN_OR_RETURN(const Slot slot, Locate(xattr->name));
    if (slot.found || slot.key == kNoKey) return Damaged("inline names are not unique");
    TreeRoot root = GetTreeRoot(inode_, Fork::kAttributes);
    Tree tree(reader_, space_, inode_.ino, root);
    PBFS_RETURN_IF_ERROR(PutPieces(transaction, tree, slot.key, xattr->name, TextOf(xattr->value)));
    SetTreeRoot(inode_, Fork::kAttributes, root);
    AddBlocks(inode_, tree.node_delta());
  }
  return OkStatus();
}

Status Xattrs::TryMoveInline(Transaction& transaction) {
  TreeRoot root = GetTreeRoot(inode_, Fork::kAttributes);
  if (root.level != 0) return OkStatus();
  // Half, so that an inode at the limit does not move to and fro.
  const size_t limit = InlineCapacity(inode_, Fork::kAttributes) / 2;
  Bytes content;
  content.reserve(kInlineBytes);
  bool fits = true;
  PBFS_RETURN_IF_ERROR(ScanTree(0, [&](const TreeXattr& xattr) {
    fits = xattr.value.size() == xattr.value_bytes &&
           content.size() + InlineXattrBytes({xattr.name, xattr.value}) <= limit;
    if (fits) AppendRecord(content, xattr.name, xattr.value);
    return fits;
  }));
  if (!fits) return OkStatus();
  Tree tree(reader_, space_, inode_.ino, root);
  PBFS_ASSIGN_OR_RETURN(const bool gone, tree.DestroySome(transaction, 1));
  PBFS_CHECK(gone);
  AddBlocks(inode_, tree.node_delta());
  SetInline(inode_, Fork::kAttributes, content);
  return OkStatus();
}

}  // namespace pbfs
