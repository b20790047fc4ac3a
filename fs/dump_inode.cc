// SPDX-License-Identifier: Apache-2.0
// Dumps of inodes, what is inline in them, and tree records.
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>
#include <span>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "fs/directory.h"
#include "fs/dump.h"
#include "fs/dump_internal.h"
#include "fs/fork.h"
#include "fs/name_hash.h"
#include "fs/verify.h"
#include "fs/xattr.h"

namespace pbfs {
namespace {

// Of values that have no structure of their own.
constexpr size_t kBytesShownMax = 64;

std::string_view TextOf(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string HexBytes(std::span<const uint8_t> bytes) {
  const auto shown = bytes.first(std::min(bytes.size(), kBytesShownMax));
  std::string text = absl::BytesToHexString({TextOf(shown).data(), shown.size()});
  if (shown.size() < bytes.size()) absl::StrAppend(&text, "... (", bytes.size(), " bytes)");
  return text;
}

std::string ValueText(std::span<const uint8_t> bytes) {
  std::string text = EscapeBytes(TextOf(bytes.first(std::min(bytes.size(), kBytesShownMax))));
  if (bytes.size() > kBytesShownMax) absl::StrAppend(&text, "... (", bytes.size(), " bytes)");
  return text;
}

std::string TimeText(int64_t seconds, uint32_t nanoseconds) {
  return absl::StrCat(seconds, ".", absl::Dec(nanoseconds, absl::kZeroPad9));
}

std::string OctalNumber(uint32_t number) {
  char text[16];
  std::snprintf(text, sizeof text, "0%o", number);
  return text;
}

DumpNode ExtentNode(uint64_t file_block, const ExtentValue& value) {
  DumpNode node = DumpNode::Group("extent");
  node.Add("file_block", file_block);
  node.Add("block", value.block);
  node.Add("length", value.length);
  node.Add("flags", HexNumber(value.flags));
  node.Add("member", value.member);
  return node;
}

DumpNode EntryNode(const DirEntryView& entry) {
  DumpNode node = DumpNode::Group("entry");
  node.Add("key", entry.key);
  node.Add("ino", entry.ino);
  node.Add("type", entry.type);
  node.Add("name", EscapeBytes(entry.name));
  return node;
}

DumpNode XattrNode(const XattrView& xattr) {
  DumpNode node = DumpNode::Group("xattr");
  node.Add("name", EscapeBytes(xattr.name));
  node.Add("value_bytes", xattr.value.size());
  node.Add("value", ValueText(xattr.value));
  return node;
}

DumpNode InlineData(const DiskInode& inode) {
  const std::span<const uint8_t> content = ForkBytes(inode, Fork::kData);
  if (S_ISDIR(inode.mode)) {
    DumpNode list = DumpNode::List("entries");
    for (size_t offset = 0; offset < content.size();) {
      const std::optional<DirEntryView> entry = ParseInlineDirRecord(content, offset);
      if (!entry) break;
      list.Add(EntryNode(*entry));
      offset += InlineRecordBytes(*entry);
    }
    return list;
  }
  if (S_ISLNK(inode.mode)) {
    DumpNode node = DumpNode::Group("symlink");
    node.Add("target", EscapeBytes(TextOf(content)));
    return node;
  }
  DumpNode list = DumpNode::List("extents");
  for (size_t at = 0; at + sizeof(InlineExtent) <= content.size(); at += sizeof(InlineExtent)) {
    InlineExtent extent;
    std::memcpy(&extent, content.data() + at, sizeof extent);
    list.Add(ExtentNode(extent.file_block, extent.value));
  }
  return list;
}

DumpNode InlineAttributes(const DiskInode& inode) {
  const std::span<const uint8_t> content = ForkBytes(inode, Fork::kAttributes);
  DumpNode list = DumpNode::List("xattrs");
  for (size_t offset = 0; offset < content.size();) {
    const std::optional<XattrView> xattr = ParseInlineXattr(content, offset);
    if (!xattr) break;
    list.Add(XattrNode(*xattr));
    offset += InlineXattrBytes(*xattr);
  }
  return list;
}

void AddForks(const DiskInode& inode, DumpNode& node) {
  switch (FormatOf(inode, Fork::kData)) {
    case ForkFormat::kNone:
      break;
    case ForkFormat::kInline:
      node.Add(InlineData(inode));
      break;
    case ForkFormat::kTree:
      node.Add(RootNode("data_tree", GetTreeRoot(inode, Fork::kData)));
  }
  switch (FormatOf(inode, Fork::kAttributes)) {
    case ForkFormat::kNone:
      break;
    case ForkFormat::kInline:
      node.Add(InlineAttributes(inode));
      break;
    case ForkFormat::kTree:
      node.Add(RootNode("attribute_tree", GetTreeRoot(inode, Fork::kAttributes)));
  }
}

DumpNode ChunkNode(uint64_t key, std::span<const uint8_t> value) {
  InodeChunk chunk;
  std::memcpy(&chunk, value.data(), sizeof chunk);
  DumpNode node = DumpNode::Group("chunk");
  node.Add("start", key);
  node.Add("blocks", chunk.blocks);
  node.Add("used_mask", HexNumber(chunk.used_mask));
  return node;
}

// The first piece of an attribute, if the key belongs to the name in it.
std::optional<DumpNode> XattrPieceNode(uint64_t key, std::span<const uint8_t> value,
                                       const Superblock& superblock) {
  XattrRecord head;
  if (value.size() < sizeof head) return std::nullopt;
  std::memcpy(&head, value.data(), sizeof head);
  if (value.size() < sizeof head + head.name_bytes) return std::nullopt;
  const std::span<const uint8_t> name = value.subspan(sizeof head, head.name_bytes);
  const uint64_t hash = NameHash(superblock).Hash(TextOf(name)) >> kHashCollisionBits;
  if (key >> (kXattrPieceBits + kHashCollisionBits) != hash) return std::nullopt;
  DumpNode node = DumpNode::Group("xattr");
  node.Add("key", key);
  node.Add("name", EscapeBytes(TextOf(name)));
  node.Add("value_bytes", head.value_bytes);
  node.Add("value", ValueText(value.subspan(sizeof head + head.name_bytes)));
  return node;
}

// A record of an inode's tree. Both forks have the same owner: the contents tell.
std::optional<DumpNode> InodeRecord(uint64_t key, std::span<const uint8_t> value, uint32_t mode,
                                    const Superblock& superblock) {
  if (S_ISDIR(mode)) {
    const std::optional<DirEntryView> entry = ParseTreeDirRecord(key, value);
    if (entry && key >> kHashCollisionBits == NameHash(superblock).Hash(entry->name)) {
      return EntryNode(*entry);
    }
  }
  if (std::optional<DumpNode> node = XattrPieceNode(key, value, superblock)) return node;
  if (S_ISREG(mode) && value.size() == sizeof(ExtentValue)) {
    ExtentValue extent;
    std::memcpy(&extent, value.data(), sizeof extent);
    return ExtentNode(key, extent);
  }
  if (S_ISLNK(mode) && key < kXattrPiecesMax) {
    DumpNode node = DumpNode::Group("symlink");
    node.Add("piece", key);
    node.Add("target", EscapeBytes(TextOf(value)));
    return node;
  }
  return std::nullopt;
}

}  // namespace

DumpNode DumpRecord(uint64_t key, std::span<const uint8_t> value, uint64_t owner, uint32_t mode,
                    const Superblock& superblock) {
  if (owner >= kOwnerAgBase && value.size() == sizeof(InodeChunk)) return ChunkNode(key, value);
  if (owner == kOwnerOrphans && value.size() == 1) {
    DumpNode node = DumpNode::Group("orphan");
    node.Add("ino", key);
    node.Add("kind", value[0]);
    return node;
  }
  if (std::optional<DumpNode> node = InodeRecord(key, value, mode, superblock)) {
    return *std::move(node);
  }
  DumpNode node = DumpNode::Group("record");
  node.Add("key", key);
  node.Add("value", HexBytes(value));
  return node;
}

DumpNode DumpInode(const DiskInode& inode, InodeNumber ino, const Superblock& superblock) {
  DumpNode node = DumpNode::Group(absl::StrCat("inode ", ino));
  node.Add("ino", inode.ino);
  node.Add("mode", OctalNumber(inode.mode));
  node.Add("nlink", inode.nlink);
  node.Add("uid", inode.uid);
  node.Add("gid", inode.gid);
  node.Add("generation", inode.generation);
  node.Add("flags", HexNumber(inode.flags));
  node.Add("size_bytes", inode.size_bytes);
  node.Add("blocks", inode.blocks);
  node.Add("atime", TimeText(inode.atime_seconds, inode.atime_nanoseconds));
  node.Add("mtime", TimeText(inode.mtime_seconds, inode.mtime_nanoseconds));
  node.Add("ctime", TimeText(inode.ctime_seconds, inode.ctime_nanoseconds));
  node.Add("btime", TimeText(inode.btime_seconds, inode.btime_nanoseconds));
  node.Add("parent", inode.parent);
  node.Add("rdev", HexNumber(inode.rdev));
  node.Add("project", inode.project);
  node.Add("entry_count", inode.entries);
  node.Add("data_format", inode.data_format);
  node.Add("attr_format", inode.attr_format);
  node.Add("data_bytes", inode.data_bytes);
  node.Add("attr_bytes", inode.attr_bytes);
  if (inode.mode != 0 && VerifyInode(inode, ino, superblock).ok()) AddForks(inode, node);
  return node;
}

}  // namespace pbfs
