// SPDX-License-Identifier: Apache-2.0
// Dumps of single blocks.
#include "fs/dump.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "fs/dump_internal.h"
#include "fs/tree.h"
#include "fs/tree_node.h"
#include "fs/uuid.h"
#include "fs/verify.h"

namespace pbfs {
namespace {

// Runs of free blocks shown of one bitmap block.
constexpr size_t kRunsMax = 200;
constexpr size_t kHexBytesPerLine = 32;

// Bytes of the UTF-8 sequence at the start of `bytes`; 0 if it is none.
size_t SequenceBytes(std::string_view bytes) {
  const auto first = static_cast<uint8_t>(bytes[0]);
  const size_t length = first < 0x80                    ? 1
                        : first >= 0xc2 && first < 0xe0 ? 2
                        : first >= 0xe0 && first < 0xf0 ? 3
                        : first >= 0xf0 && first < 0xf5 ? 4
                                                        : 0;
  if (length > bytes.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((static_cast<uint8_t>(bytes[i]) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms and surrogates.
  const auto second = length > 1 ? static_cast<uint8_t>(bytes[1]) : uint8_t{0};
  const bool bad = (first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) ||
                   (first == 0xf0 && second < 0x90) || (first == 0xf4 && second >= 0x90);
  return bad ? 0 : length;
}

void AppendText(const DumpNode& node, size_t depth, std::string& text) {
  const std::string indent(2 * depth, ' ');
  if (node.kind == DumpNode::Kind::kValue) {
    const std::string value =
        std::visit([](const auto& content) { return absl::StrCat(content); }, node.value);
    absl::StrAppend(&text, indent, node.name, ": ", value, "\n");
    return;
  }
  absl::StrAppend(&text, indent, node.name, ":", node.children.empty() ? " none" : "", "\n");
  for (const DumpNode& child : node.children) AppendText(child, depth + 1, text);
}

void AddHeader(const BlockHeader& header, DumpNode& node) {
  DumpNode group = DumpNode::Group("header");
  group.Add("magic", EscapeBytes({reinterpret_cast<const char*>(&header.magic), 4}));
  group.Add("crc", HexNumber(header.crc));
  group.Add("meta_uuid", FormatUuid(header.meta_uuid));
  group.Add("block", header.block);
  group.Add("owner", OwnerText(header.owner));
  group.Add("lsn", header.lsn);
  node.Add(std::move(group));
}

void AddSuperblock(const Superblock& superblock, DumpNode& node) {
  node.Add("version", absl::StrCat(superblock.version_major, ".", superblock.version_minor));
  node.Add("block_bytes", superblock.block_bytes);
  node.Add("total_blocks", superblock.total_blocks);
  node.Add("feature_compat", HexNumber(superblock.feature_compat));
  node.Add("feature_ro_compat", HexNumber(superblock.feature_ro_compat));
  node.Add("feature_incompat", HexNumber(superblock.feature_incompat));
  node.Add("uuid", FormatUuid(superblock.uuid));
  node.Add("meta_uuid", FormatUuid(superblock.meta_uuid));
  node.Add("label", EscapeBytes({superblock.label, strnlen(superblock.label, kLabelBytes)}));
  node.Add("ag_blocks", superblock.ag_blocks);
  node.Add("ag_count", superblock.ag_count);
  node.Add("ag_table_start", superblock.ag_table_start);
  node.Add("ag_table_blocks", superblock.ag_table_blocks);
  node.Add("log_start", superblock.log_start);
  node.Add("log_blocks", superblock.log_blocks);
  node.Add("state_block", superblock.state_block);
  node.Add("root_inode", superblock.root_inode);
  node.Add("hash_seed_0", HexNumber(superblock.hash_seed[0]));
  node.Add("hash_seed_1", HexNumber(superblock.hash_seed[1]));
  node.Add("created_seconds", superblock.created_seconds);
  node.Add("member_count", superblock.member_count);
  node.Add("member_index", superblock.member_index);
}

void AddAgTable(const AgTableBlock& table, BlockNumber block, const Superblock& superblock,
                DumpNode& node) {
  const uint64_t first = (block - superblock.ag_table_start) * kAgEntriesPerBlock;
  DumpNode list = DumpNode::Group("entries");
  for (uint32_t i = 0; i < kAgEntriesPerBlock && first + i < superblock.ag_count; ++i) {
    DumpNode entry = DumpNode::Group(absl::StrCat("group ", first + i));
    AddAgEntry(table.entries[i], entry);
    list.Add(std::move(entry));
  }
  node.Add(std::move(list));
}

void AddBitmap(const BitmapBlock& bitmap, BlockNumber block, DumpNode& node) {
  const auto in_use = [&](uint32_t bit) { return (bitmap.words[bit / 64] >> bit % 64 & 1) != 0; };
  const uint32_t ag = AgOf(block);
  const uint64_t index = block - AgStart(ag) - kAgBitmapOffset;
  const BlockNumber first = AgStart(ag) + index * kBitsPerBitmapBlock;
  uint32_t free_blocks = 0;
  DumpNode runs = DumpNode::List("free_runs");
  for (uint32_t bit = 0; bit < kBitsPerBitmapBlock;) {
    uint32_t end = bit;
    while (end < kBitsPerBitmapBlock && in_use(end) == in_use(bit)) ++end;
    if (!in_use(bit)) {
      free_blocks += end - bit;
      if (runs.children.size() < kRunsMax) {
        runs.Add("run", absl::StrCat(first + bit, "+", end - bit));
      } else if (runs.children.size() == kRunsMax) {
        runs.Add("run", std::string("..."));
      }
    }
    bit = end;
  }
  node.Add("group", ag);
  node.Add("first_block", first);
  node.Add("free_blocks", free_blocks);
  node.Add(std::move(runs));
}

void AddInodes(const InodeTableBlock& table, BlockNumber block, const Superblock& superblock,
               DumpNode& node) {
  DumpNode list = DumpNode::List("inodes");
  uint32_t used = 0;
  for (uint32_t slot = 0; slot < kInodesPerBlock; ++slot) {
    if (table.inodes[slot].mode == 0) continue;
    ++used;
    list.Add(DumpInode(table.inodes[slot], MakeInodeNumber(block, slot), superblock));
  }
  node.Add("used", used);
  node.Add(std::move(list));
}

void AddAnchor(const LogAnchor& anchor, DumpNode& node) {
  node.Add("generation", anchor.generation);
  node.Add("epoch", HexNumber(anchor.epoch));
  node.Add("first_sequence", anchor.first_sequence);
  node.Add("clean", anchor.clean);
}

void AddBytes(const std::byte* data, DumpNode& node) {
  DumpNode list = DumpNode::Group("bytes");
  for (size_t at = 0; at < kBlockBytes; at += kHexBytesPerLine) {
    const auto* line = reinterpret_cast<const char*>(data) + at;
    if (std::all_of(line, line + kHexBytesPerLine, [](char c) { return c == 0; })) continue;
    list.Add(absl::StrCat(absl::Hex(at, absl::kZeroPad4)),
             absl::BytesToHexString({line, kHexBytesPerLine}));
  }
  node.Add(std::move(list));
}

const char* KindName(uint32_t magic) {
  switch (magic) {
    case kMagicSuperblock:
      return "superblock";
    case kMagicState:
      return "state";
    case kMagicAgTable:
      return "group table";
    case kMagicBitmap:
      return "bitmap";
    case kMagicInodes:
      return "inodes";
    case kMagicTree:
      return "tree node";
    case kMagicLogAnchor:
      return "log anchor";
    case kMagicCheckpoint:
      return "checkpoint";
    default:
      return nullptr;
  }
}

}  // namespace

const DumpNode* DumpNode::Find(std::string_view child) const {
  for (const DumpNode& candidate : children) {
    if (candidate.name == child) return &candidate;
  }
  return nullptr;
}

std::string FormatDump(const DumpNode& node) {
  std::string text;
  AppendText(node, 0, text);
  return text;
}

std::string EscapeBytes(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    const size_t length = SequenceBytes(bytes);
    const auto byte = static_cast<uint8_t>(bytes[0]);
    if (length == 0 || byte < 0x20 || byte == 0x7f || byte == '\\') {
      absl::StrAppend(&text, "\\x", absl::Hex(byte, absl::kZeroPad2));
      bytes.remove_prefix(1);
    } else {
      text.append(bytes.substr(0, length));
      bytes.remove_prefix(length);
    }
  }
  return text;
}

// ---- For other files of the dump

std::string HexNumber(uint64_t number) { return absl::StrCat("0x", absl::Hex(number)); }

std::string OwnerText(uint64_t owner) {
  if (owner == kOwnerFilesystem) return "filesystem";
  if (owner == kOwnerLog) return "log";
  if (owner == kOwnerOrphans) return "orphans";
  if (owner >= kOwnerAgBase) return absl::StrCat("group ", owner - kOwnerAgBase);
  return absl::StrCat("inode ", owner);
}

DumpNode RootNode(std::string_view name, const TreeRoot& root) {
  DumpNode node = DumpNode::Group(name);
  node.Add("block", root.block);
  node.Add("level", root.level);
  return node;
}

void AddAgEntry(const AgEntry& entry, DumpNode& node) {
  node.Add("flags", HexNumber(entry.flags));
  node.Add("free_blocks", entry.free_blocks);
  node.Add("inode_slots", entry.inode_slots);
  node.Add("free_inodes", entry.free_inodes);
  node.Add(RootNode("inode_tree", entry.inode_tree));
}

void AddCheckpointHeader(const CheckpointHeader& header, DumpNode& node) {
  node.Add("epoch", HexNumber(header.epoch));
  node.Add("sequence", header.sequence);
  node.Add("tail_sequence", header.tail_sequence);
  node.Add("tail_position", header.tail_position);
  node.Add("total_blocks", header.total_blocks);
  node.Add("durable_sequence", header.durable_sequence);
  node.Add("record_count", header.record_count);
  node.Add("descriptor_blocks", header.descriptor_blocks);
  node.Add("body_crc", HexNumber(header.body_crc));
  node.Add("previous_crc", HexNumber(header.previous_crc));
  node.Add("data_bytes", header.data_bytes);
}

void AddTreeNode(const std::byte* data, BlockNumber block, uint32_t mode,
                 const Superblock& superblock, DumpNode& node) {
  const TreeNodeHeader& header = NodeHeader(data);
  node.Add("level", header.level);
  node.Add("count", header.count);
  node.Add("heap_start", header.heap_start);
  node.Add("heap_dead", header.heap_dead);
  if (!VerifyTreeNode(data, block).ok()) return;
  DumpNode list = DumpNode::List(IsLeaf(data) ? "records" : "children");
  for (uint32_t i = 0; i < NodeCount(data); ++i) {
    if (IsLeaf(data)) {
      list.Add(
          DumpRecord(NodeKey(data, i), LeafValue(data, i), header.header.owner, mode, superblock));
    } else {
      const TreeChild& child = NodeChildren(data)[i];
      DumpNode entry = DumpNode::Group("child");
      entry.Add("key", child.key);
      entry.Add("block", child.block);
      list.Add(std::move(entry));
    }
  }
  node.Add(std::move(list));
}

DumpNode BlockHead(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  const auto& header = *reinterpret_cast<const BlockHeader*>(data);
  DumpNode node = DumpNode::Group(absl::StrCat("block ", block));
  const char* kind = KindName(header.magic);
  node.Add("kind", std::string(kind != nullptr ? kind : "data or free"));
  if (kind == nullptr) return node;
  const Status valid = VerifyBlock(data, block, superblock);
  node.Add("valid",
           valid.ok() ? "yes" : EscapeBytes({valid.message().data(), valid.message().size()}));
  AddHeader(header, node);
  return node;
}

DumpNode DumpBlock(const std::byte* data, BlockNumber block, const Superblock& superblock) {
  DumpNode node = BlockHead(data, block, superblock);
  switch (reinterpret_cast<const BlockHeader*>(data)->magic) {
    case kMagicSuperblock:
      AddSuperblock(*reinterpret_cast<const Superblock*>(data), node);
      break;
    case kMagicState:
      node.Add(RootNode("orphans", reinterpret_cast<const StateBlock*>(data)->orphans));
      node.Add("watched_inodes", reinterpret_cast<const StateBlock*>(data)->watched_inodes);
      break;
    case kMagicAgTable:
      AddAgTable(*reinterpret_cast<const AgTableBlock*>(data), block, superblock, node);
      break;
    case kMagicBitmap:
      AddBitmap(*reinterpret_cast<const BitmapBlock*>(data), block, node);
      break;
    case kMagicInodes:
      AddInodes(*reinterpret_cast<const InodeTableBlock*>(data), block, superblock, node);
      break;
    case kMagicTree:
      AddTreeNode(data, block, /*mode=*/0, superblock, node);
      break;
    case kMagicLogAnchor:
      AddAnchor(*reinterpret_cast<const LogAnchor*>(data), node);
      break;
    case kMagicCheckpoint:
      AddCheckpointHeader(*reinterpret_cast<const CheckpointHeader*>(data), node);
      break;
    default:
      AddBytes(data, node);
  }
  return node;
}

}  // namespace pbfs
