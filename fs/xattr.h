// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "fs/fork.h"
#include "fs/format.h"
#include "fs/name_hash.h"
#include "fs/tree.h"

namespace pbfs {

// One attribute; the views point into the bytes it was read from.
struct XattrView {
  std::string_view name;
  std::span<const uint8_t> value;
};
// The inline record that starts at `offset` (its length is InlineXattrBytes); nullopt if there is
// no whole, legal record.
std::optional<XattrView> ParseInlineXattr(std::span<const uint8_t> content, size_t offset);
constexpr size_t InlineXattrBytes(const XattrView& xattr) {
  return sizeof(XattrRecord) + xattr.name.size() + xattr.value.size();
}

// Tree nodes that one Set or Remove may change, create or free at most; free space bitmaps and the
// block of the inode come on top. The largest value has 69 or 70 pieces; apart from the two ends
// these lie four in a leaf, so an old and a new value touch up to some 30 leaves, the rest is for
// the nodes above. A tree of odd shape that needed more (no sequence of operations of this code
// makes one) gets ENOSPC before the limit is passed.
inline constexpr uint32_t kXattrChangeBlocksMax = 64;

// The extended attributes of one inode: a view on its DiskInode (and tree), which VerifyInode
// accepted. Operations that change them update the DiskInode in place (inline area, blocks; not
// times) and the caller stores it in the same transaction; when one fails, the caller aborts the
// transaction and forgets the changed DiskInode.
//
// Records are inline (fs/format.h: XattrRecord) in the attribute fork while they fit, else in a
// tree; they move back when all of them need at most half of the inline room, and without
// attributes the fork is kNone.
//
// Names are 1..kNameBytesMax bytes without NUL, prefix ("user.") included: ERANGE or EINVAL
// otherwise. Policy (who may set what) is the caller's.
//
// Not locked: the caller holds the inode's lock, shared to read, and the gate plus exclusive to
// change.
class Xattrs {
 public:
  // All borrowed. `inode` is not changed by Get and List.
  Xattrs(const MetaReader& reader, NodeSpace& space, const NameHash& hash, DiskInode& inode)
      : reader_(reader), space_(space), hash_(hash), inode_(inode) {}

  // ENODATA.
  StatusOr<std::string> Get(std::string_view name) const;
  // flags: XATTR_CREATE (EEXIST if the name exists), XATTR_REPLACE (ENODATA if not) or 0. E2BIG for
  // values over kXattrValueBytesMax; ENOSPC when kNameCollisionsMax names share a hash.
  Status Set(Transaction& transaction, std::string_view name, std::string_view value, int flags);
  // ENODATA.
  Status Remove(Transaction& transaction, std::string_view name);
  StatusOr<std::vector<std::string>> List() const;

 private:
  // First piece of an attribute in the tree.
  struct TreeXattr {
    uint64_t key;  // Of piece 0.
    uint32_t value_bytes;
    std::string_view name;
    std::span<const uint8_t> value;  // What piece 0 has of it.
  };
  using TreeVisitor = std::function<bool(const TreeXattr& xattr)>;
  // Where a name is, or would be.
  struct Slot {
    bool found;
    uint64_t key;     // Of piece 0; if not found the lowest free one, kNoKey if there is none.
    uint32_t pieces;  // 0 if not found.
    uint32_t value_bytes;
  };
  static constexpr uint64_t kNoKey = UINT64_MAX;

  bool in_tree() const { return FormatOf(inode_, Fork::kAttributes) == ForkFormat::kTree; }
  Status Damaged(const std::string& what) const;
  using InlineVisitor = std::function<bool(const XattrView& xattr)>;
  Status ScanInline(const InlineVisitor& visit) const;
  Status ScanTree(uint64_t first_key, const TreeVisitor& visit) const;
  // Inline content without the record of `name`.
  struct InlineRest {
    bool found;
    std::vector<uint8_t> content;
  };
  StatusOr<InlineRest> InlineWithout(std::string_view name) const;
  StatusOr<Slot> Locate(std::string_view name) const;
  uint64_t FirstKey(std::string_view name) const;
  StatusOr<std::string> ReadTreeValue(const Slot& slot, std::string_view name) const;

  Status SetInTree(Transaction& transaction, std::string_view name, std::string_view value,
                   int flags);
  // Writes the pieces of one attribute, over those of its old value if there is one.
  Status PutPieces(Transaction& transaction, Tree& tree, uint64_t key, std::string_view name,
                   std::string_view value);
  Status ErasePieces(Transaction& transaction, Tree& tree, uint64_t key, uint32_t first,
                     uint32_t end);
  Status CheckRoom(const Tree& tree) const;
  Status MoveToTree(Transaction& transaction, std::string_view except);
  Status TryMoveInline(Transaction& transaction);

  const MetaReader& reader_;
  NodeSpace& space_;
  const NameHash& hash_;
  DiskInode& inode_;
};

}  // namespace pbfs
