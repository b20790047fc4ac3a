// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/status.h"
#include "fs/format.h"
#include "io/block_device.h"

namespace pbfs {

// What a structure on disk says, as a tree of names and values: the tools print it as text or JSON.
struct DumpNode {
  enum class Kind {
    kValue,
    kGroup,  // Children with names of their own.
    kList,   // Children of one sort, in order.
  };
  std::string name;
  Kind kind = Kind::kValue;
  std::variant<uint64_t, int64_t, std::string> value;
  std::vector<DumpNode> children = {};

  static DumpNode Group(std::string_view name) { return {std::string(name), Kind::kGroup, {}}; }
  static DumpNode List(std::string_view name) { return {std::string(name), Kind::kList, {}}; }

  void Add(DumpNode child) { children.push_back(std::move(child)); }
  void Add(std::string_view child, std::unsigned_integral auto number) {
    children.push_back({std::string(child), Kind::kValue, uint64_t{number}});
  }
  void Add(std::string_view child, std::signed_integral auto number) {
    children.push_back({std::string(child), Kind::kValue, int64_t{number}});
  }
  void Add(std::string_view child, std::string text) {
    children.push_back({std::string(child), Kind::kValue, std::move(text)});
  }
  // The child of this name; nullptr if there is none. The first of several.
  const DumpNode* Find(std::string_view child) const;
};

// As indented lines "name: value".
std::string FormatDump(const DumpNode& node);

// Bytes from disk as text: control characters, backslashes and what is no UTF-8 become \xNN.
std::string EscapeBytes(std::string_view bytes);

// One metadata block, by the magic it has. Every field is there, damaged or not; what depends on
// sound bytes (slots, records, inline contents) only if these are. "valid" is "yes" or what the
// verifier says. Other blocks: their bytes.
DumpNode DumpBlock(const std::byte* data, BlockNumber block, const Superblock& superblock);

// A used inode with its inline contents.
DumpNode DumpInode(const DiskInode& inode, InodeNumber ino, const Superblock& superblock);

// A record of a tree, as far as the owner of its node tells what it is: `mode` is that of the inode
// that owns it, 0 if none does or it cannot be read.
DumpNode DumpRecord(uint64_t key, std::span<const uint8_t> value, uint64_t owner, uint32_t mode,
                    const Superblock& superblock);

// Looks at structures that lie in several blocks. Reads only. Single thread; may block.
class Dumper {
 public:
  // Both borrowed.
  Dumper(BlockDevice& device, const Superblock& superblock)
      : device_(device), superblock_(superblock) {}

  // As DumpBlock; tree records are told apart by their inode, checkpoints come with their records.
  StatusOr<DumpNode> Block(BlockNumber block);
  // The primary and its copies.
  StatusOr<DumpNode> Superblocks();
  StatusOr<DumpNode> State() { return Block(superblock_.state_block); }
  // Table entry, bitmaps, inode chunks.
  StatusOr<DumpNode> Group(uint32_t ag);
  // All fields, and the records of its trees.
  StatusOr<DumpNode> Inode(InodeNumber ino);
  // Anchors, and the checkpoints that are in the ring.
  StatusOr<DumpNode> Log();

 private:
  StatusOr<std::vector<std::byte>> Read(BlockNumber block);
  uint32_t ModeOf(uint64_t owner);
  Status AddCheckpointRecords(const CheckpointHeader& header, DumpNode& node);
  Status AddRecords(const TreeRoot& root, uint64_t owner, uint32_t mode, DumpNode& list);

  BlockDevice& device_;
  const Superblock& superblock_;
};

}  // namespace pbfs
