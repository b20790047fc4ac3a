// SPDX-License-Identifier: Apache-2.0
// Each rule of the checker: one field of a sound filesystem is damaged, and the checker says so.
#include <dirent.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>

#include "fs/checker.h"
#include "fs/fork.h"
#include "fs/name_hash.h"
#include "fs/tree_node.h"
#include "tests/support/fs_image.h"

namespace pbfs {
namespace {

using ::testing::HasSubstr;

std::string AllLines(const CheckReport& report) {
  std::string text;
  for (const std::string& line : report.problems) absl::StrAppend(&text, line, "\n");
  return text;
}

struct Damage {
  const char* name;
  // Part of the line that must come.
  const char* expected;
  void (*apply)(ImageEditor& editor, const RichContents& has);
};

void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.name; }

// The leftmost leaf below a tree root.
BlockNumber FirstLeaf(ImageEditor& editor, TreeRoot root) {
  while (root.level > 0) {
    AlignedBuffer node = *AlignedBuffer::Create(kBlockBytes);
    editor.Load(root.block, node);
    root.block = NodeChildren(std::as_const(node).data())[0].block;
    --root.level;
  }
  return root.block;
}
BlockNumber DataLeaf(ImageEditor& editor, InodeNumber ino) {
  return FirstLeaf(editor, GetTreeRoot(editor.GetInode(ino), Fork::kData));
}
BlockNumber AttributeLeaf(ImageEditor& editor, InodeNumber ino) {
  return FirstLeaf(editor, GetTreeRoot(editor.GetInode(ino), Fork::kAttributes));
}
uint8_t* ValueOf(std::byte* leaf, uint32_t index) {
  return const_cast<uint8_t*>(LeafValue(leaf, index).data());
}
ExtentValue& ExtentIn(std::byte* leaf, uint32_t index) {
  return *reinterpret_cast<ExtentValue*>(ValueOf(leaf, index));
}
InlineExtent& FirstExtent(DiskInode& inode) {
  return *reinterpret_cast<InlineExtent*>(inode.inline_area);
}

struct Entry {
  std::string name;
  InodeNumber ino;
  uint8_t type;
  uint64_t key = 0;  // 0: the right one.
};

// Gives an inline directory these entries, in ascending order of keys.
void SetEntries(ImageEditor& editor, InodeNumber dir, std::vector<Entry> entries) {
  const NameHash hash(editor.superblock());
  for (Entry& entry : entries) {
    if (entry.key == 0) entry.key = hash.FirstKey(entry.name);
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.key < b.key; });
  std::vector<uint8_t> content;
  for (const Entry& entry : entries) {
    const InlineDirRecord record = {.key = entry.key,
                                    .name_bytes = static_cast<uint8_t>(entry.name.size()),
                                    .record = {.ino = entry.ino, .type = entry.type}};
    const auto* raw = reinterpret_cast<const uint8_t*>(&record);
    content.insert(content.end(), raw, raw + sizeof record);
    content.insert(content.end(), entry.name.begin(), entry.name.end());
  }
  editor.EditInode(dir, [&](DiskInode& inode) {
    SetInline(inode, Fork::kData, content);
    inode.entries = entries.size();
  });
}

void EditFirstChunk(ImageEditor& editor, const std::function<void(InodeChunk&)>& change) {
  editor.Edit(FirstLeaf(editor, editor.GetGroup(0).inode_tree),
              [&](std::byte* leaf) { change(*reinterpret_cast<InodeChunk*>(ValueOf(leaf, 0))); });
}

uint64_t ChunkBit(ImageEditor& editor, InodeNumber ino) {
  AlignedBuffer leaf = *AlignedBuffer::Create(kBlockBytes);
  editor.Load(FirstLeaf(editor, editor.GetGroup(0).inode_tree), leaf);
  return uint64_t{1} << ((InodeBlock(ino) - NodeKey(leaf.data(), 0)) * 8 + InodeSlot(ino));
}

const Damage kSuperblockDamages[] = {
    {"PrimaryCrc", "block 0: header crc",
     [](ImageEditor& editor, const RichContents&) {
       AlignedBuffer block = *AlignedBuffer::Create(kBlockBytes);
       editor.Load(0, block);
       block.as<Superblock>()->label[0] ^= 1;
       editor.Store(0, block);
     }},
    {"CopyMagic", "header magic",
     [](ImageEditor& editor, const RichContents&) {
       editor.EditAs<BlockHeader>(editor.superblock().total_blocks - 1,
                                  [](BlockHeader& header) { header.magic = 0; });
     }},
    {"CopyDiffers", "superblock copy differs",
     [](ImageEditor& editor, const RichContents&) {
       editor.EditAs<Superblock>(editor.superblock().total_blocks - 1,
                                 [](Superblock& copy) { copy.uuid.bytes[0] ^= 1; });
     }},
    {"RootInode", "the root directory is not in use",
     [](ImageEditor& editor, const RichContents&) {
       for (const BlockNumber block : {BlockNumber{0}, editor.superblock().total_blocks - 1}) {
         editor.EditAs<Superblock>(block, [](Superblock& copy) { copy.root_inode += 8 * 100; });
       }
     }},
    {"RootIsNoDirectory", "the root is no directory",
     [](ImageEditor& editor, const RichContents& has) {
       for (const BlockNumber block : {BlockNumber{0}, editor.superblock().total_blocks - 1}) {
         editor.EditAs<Superblock>(block, [&](Superblock& copy) { copy.root_inode = has.fifo; });
       }
     }},
    {"Anchors", "no valid anchor",
     [](ImageEditor& editor, const RichContents&) {
       for (uint32_t i = 0; i < kLogAnchorBlocks; ++i) {
         editor.EditAs<LogAnchor>(editor.superblock().log_start + i,
                                  [](LogAnchor& anchor) { anchor.clean = 2; });
       }
     }},
    {"StateRoot", "state orphans root",
     [](ImageEditor& editor, const RichContents&) {
       editor.EditAs<StateBlock>(editor.superblock().state_block, [](StateBlock& state) {
         state.orphans = {.block = uint64_t{1} << 40, .level = 0, .zero = {}};
       });
     }},
    {"OrphansForgotten", "nlink is 0, but it is not among the orphans",
     [](ImageEditor& editor, const RichContents&) {
       editor.EditAs<StateBlock>(editor.superblock().state_block,
                                 [](StateBlock& state) { state.orphans = {}; });
     }},
    {"OrphanKind", "kind is 3",
     [](ImageEditor& editor, const RichContents&) {
       const auto state = editor.Get<StateBlock>(editor.superblock().state_block);
       editor.Edit(state.orphans.block, [](std::byte* leaf) { *ValueOf(leaf, 0) = 3; });
     }},
    {"OrphanHasLinks", "unlinked, but nlink is 1",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.orphan, [](DiskInode& inode) { inode.nlink = 1; });
     }},
    {"OrphanTruncatesNoFile", "truncated, but no regular file",
     [](ImageEditor& editor, const RichContents& has) {
       const auto state = editor.Get<StateBlock>(editor.superblock().state_block);
       editor.Edit(state.orphans.block, [&](std::byte* leaf) {
         LeafErase(leaf, 0);
         const uint8_t kind = static_cast<uint8_t>(OrphanKind::kTruncate);
         LeafInsert(leaf, 0, has.fifo, {&kind, 1});
       });
     }},
    {"OrphanNotInUse", "inode is not in use",
     [](ImageEditor& editor, const RichContents&) {
       const auto state = editor.Get<StateBlock>(editor.superblock().state_block);
       editor.Edit(state.orphans.block, [](std::byte* leaf) {
         const uint8_t kind = 1;
         LeafInsert(leaf, NodeCount(leaf), 8'000'000, {&kind, 1});
       });
     }},
};

const Damage kGroupDamages[] = {
    {"FreeBlocks", "group 0: free_blocks is",
     [](ImageEditor& editor, const RichContents&) {
       editor.EditGroup(0, [](AgEntry& entry) { ++entry.free_blocks; });
     }},
    {"InodeSlots", "group 0: inode_slots is",
     [](ImageEditor& editor, const RichContents&) {
       editor.EditGroup(0, [](AgEntry& entry) { entry.inode_slots += 7; });
     }},
    {"FreeInodes", "group 0: free_inodes is",
     [](ImageEditor& editor, const RichContents&) {
       editor.EditGroup(0, [](AgEntry& entry) { --entry.free_inodes; });
     }},
    {"Uninitialized", "group 0: flags",
     [](ImageEditor& editor, const RichContents&) {
       editor.EditGroup(0, [](AgEntry& entry) { entry.flags = 0; });
     }},
    {"UnknownFlag", "group 0 flags",
     [](ImageEditor& editor, const RichContents&) {
       editor.EditGroup(0, [](AgEntry& entry) { entry.flags = 3; });
     }},
    {"InodeTreeGone", "not connected",
     [](ImageEditor& editor, const RichContents&) {
       // The root's chunk is the first: everything below is gone or hangs in the air.
       editor.Edit(FirstLeaf(editor, editor.GetGroup(0).inode_tree),
                   [](std::byte* leaf) { LeafErase(leaf, 0); });
     }},
    {"ChunkBlocks", "blocks is 9",
     [](ImageEditor& editor, const RichContents&) {
       EditFirstChunk(editor, [](InodeChunk& chunk) { chunk.blocks = 9; });
     }},
    {"ChunkReserved", "reserved field is 1",
     [](ImageEditor& editor, const RichContents&) {
       EditFirstChunk(editor, [](InodeChunk& chunk) { chunk.zero = 1; });
     }},
    {"ChunkSlotSeven", "used_mask has bits of slots that do not exist",
     [](ImageEditor& editor, const RichContents&) {
       EditFirstChunk(editor, [](InodeChunk& chunk) { chunk.used_mask |= 0x80; });
     }},
    {"ChunkForgetsInode", "used_mask has it free",
     [](ImageEditor& editor, const RichContents& has) {
       const uint64_t bit = ChunkBit(editor, has.small_dir);
       EditFirstChunk(editor, [&](InodeChunk& chunk) { chunk.used_mask &= ~bit; });
     }},
    {"InodeCleared", "used_mask has it in use",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.fifo, [](DiskInode& inode) { inode = {}; });
     }},
    {"ChunkRecordLength", "record has 8 bytes",
     [](ImageEditor& editor, const RichContents&) {
       editor.Edit(FirstLeaf(editor, editor.GetGroup(0).inode_tree), [](std::byte* leaf) {
         const uint8_t bytes[8] = {};
         LeafReplace(leaf, 0, bytes);
       });
     }},
    {"ChunkOutsideGroup", "is not within the group",
     [](ImageEditor& editor, const RichContents&) {
       editor.Edit(FirstLeaf(editor, editor.GetGroup(0).inode_tree), [](std::byte* leaf) {
         const InodeChunk chunk = {.used_mask = 0, .blocks = 8, .zero = 0};
         LeafInsert(leaf, NodeCount(leaf), 1'000'000,
                    {reinterpret_cast<const uint8_t*>(&chunk), sizeof chunk});
       });
     }},
    {"ChunkOverlap", "overlaps the one before it",
     [](ImageEditor& editor, const RichContents&) {
       editor.Edit(FirstLeaf(editor, editor.GetGroup(0).inode_tree), [](std::byte* leaf) {
         const InodeChunk chunk = {.used_mask = 0, .blocks = 1, .zero = 0};
         LeafInsert(leaf, 1, NodeKey(leaf, 0) + 1,
                    {reinterpret_cast<const uint8_t*>(&chunk), sizeof chunk});
       });
     }},
    {"BitmapLeak", "marked in use, but nothing uses it",
     [](ImageEditor& editor, const RichContents&) { editor.EditBit(5000, true); }},
    {"BitmapLostData", "marked free, but used by data of inode",
     [](ImageEditor& editor, const RichContents& has) {
       DiskInode inode = editor.GetInode(has.small_file);
       editor.EditBit(FirstExtent(inode).value.block, false);
     }},
    {"BitmapLostNode", "marked free, but used by the data tree of inode",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditBit(DataLeaf(editor, has.large_dir), false);
     }},
    {"BitmapLostChunk", "marked free, but used by inodes of group 0",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditBit(InodeBlock(has.small_dir), false);
     }},
    {"BitmapLostLog", "marked free, but used by the filesystem's fixed structures",
     [](ImageEditor& editor, const RichContents&) {
       editor.EditBit(editor.superblock().log_start + 7, false);
     }},
    {"BitmapUnreadable", "block 1: header magic",
     [](ImageEditor& editor, const RichContents&) {
       editor.EditAs<BlockHeader>(1, [](BlockHeader& header) { header.magic ^= 1; });
     }},
};

const Damage kInodeDamages[] = {
    {"Links", "nlink is 2, it has 1 names",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_file, [](DiskInode& inode) { ++inode.nlink; });
     }},
    {"WrittenBlocksBehindTheEnd", "has written blocks behind its end",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_file, [](DiskInode& inode) { inode.size_bytes = 1; });
     }},
    {"LinksZero", "nlink is 0, but it is not among the orphans",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_file, [](DiskInode& inode) { inode.nlink = 0; });
     }},
    {"DirectoryLinks", "a directory with 1 subdirectories has 3",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_dir, [](DiskInode& inode) { inode.nlink = 2; });
     }},
    {"Blocks", "blocks is 6, it has 5",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_file, [](DiskInode& inode) { ++inode.blocks; });
     }},
    {"TreeBlocks", "blocks is",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.large_dir, [](DiskInode& inode) { --inode.blocks; });
     }},
    {"Number", ": ino is",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_file, [](DiskInode& inode) { ++inode.ino; });
     }},
    {"Mode", ": mode is",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_file, [](DiskInode& inode) { inode.mode |= S_IFMT; });
     }},
    {"ParentOfFile", "parent is 77, not 0",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_file, [](DiskInode& inode) { inode.parent = 77; });
     }},
    {"EntriesOfFile", "entries is 7, not 0",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_file, [](DiskInode& inode) { inode.entries = 7; });
     }},
    {"ExtentLength", ": extent 0 length is 0",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_file,
                        [](DiskInode& inode) { FirstExtent(inode).value.length = 0; });
     }},
    {"ExtentTwice", "used twice: by data of inode",
     [](ImageEditor& editor, const RichContents& has) {
       DiskInode other = editor.GetInode(has.other_file);
       const BlockNumber block = FirstExtent(other).value.block;
       editor.EditInode(has.small_file,
                        [&](DiskInode& inode) { FirstExtent(inode).value.block = block; });
     }},
    {"ExtentOverMetadata", "and by inodes of group 0 and by data of inode",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_file,
                        [](DiskInode& inode) { FirstExtent(inode).value.block = 1; });
     }},
    {"TreeExtentLength", "length is 0",
     [](ImageEditor& editor, const RichContents& has) {
       editor.Edit(DataLeaf(editor, has.sparse_file),
                   [](std::byte* leaf) { ExtentIn(leaf, 2).length = 0; });
     }},
    {"TreeExtentBlock", "block is 1099511627776",
     [](ImageEditor& editor, const RichContents& has) {
       editor.Edit(DataLeaf(editor, has.sparse_file),
                   [](std::byte* leaf) { ExtentIn(leaf, 2).block = uint64_t{1} << 40; });
     }},
    {"TreeExtentOverlap", "overlap with the extent before it",
     [](ImageEditor& editor, const RichContents& has) {
       editor.Edit(DataLeaf(editor, has.sparse_file),
                   [](std::byte* leaf) { ExtentIn(leaf, 2).length = 4; });
     }},
    {"TreeExtentFlags", "flags is 16",
     [](ImageEditor& editor, const RichContents& has) {
       editor.Edit(DataLeaf(editor, has.sparse_file),
                   [](std::byte* leaf) { ExtentIn(leaf, 2).flags = 16; });
     }},
    {"TreeExtentMember", "member is 1",
     [](ImageEditor& editor, const RichContents& has) {
       editor.Edit(DataLeaf(editor, has.sparse_file),
                   [](std::byte* leaf) { ExtentIn(leaf, 2).member = 1; });
     }},
    {"TreeExtentRecord", "extent record 6 has 3 bytes",
     [](ImageEditor& editor, const RichContents& has) {
       editor.Edit(DataLeaf(editor, has.sparse_file), [](std::byte* leaf) {
         const uint8_t bytes[3] = {};
         LeafReplace(leaf, 2, bytes);
       });
     }},
    {"SymlinkSize", "size_bytes",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.short_link, [](DiskInode& inode) { ++inode.size_bytes; });
     }},
    {"SymlinkNul", "symlink target is malformed",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.short_link, [](DiskInode& inode) { inode.inline_area[1] = 0; });
     }},
    {"SymlinkPiece", "symlink target is malformed",
     [](ImageEditor& editor, const RichContents& has) {
       editor.Edit(DataLeaf(editor, has.long_link), [](std::byte* leaf) { LeafErase(leaf, 1); });
     }},
    {"XattrInlineTwice", "its name is there twice",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_xattrs, [](DiskInode& inode) {
         auto* bytes = inode.inline_area;
         for (uint32_t i = 0; i + 8 <= kInlineBytes; ++i) {
           if (std::memcmp(bytes + i, "user.two", 8) == 0) std::memcpy(bytes + i + 5, "one", 3);
         }
       });
     }},
    {"XattrKey", "key does not match the name",
     [](ImageEditor& editor, const RichContents& has) {
       editor.Edit(AttributeLeaf(editor, has.large_xattrs), [](std::byte* leaf) {
         for (uint32_t i = 0; i < NodeCount(leaf); ++i) {
           uint8_t* value = ValueOf(leaf, i);
           if (LeafValue(leaf, i).size() > 12 && std::memcmp(value + 5, "user.", 5) == 0) {
             value[11] ^= 1;
           }
         }
       });
     }},
    {"XattrPieceMissing", "xattr",
     [](ImageEditor& editor, const RichContents& has) {
       editor.Edit(AttributeLeaf(editor, has.large_xattrs), [](std::byte* leaf) {
         for (uint32_t i = 0; i < NodeCount(leaf); ++i) {
           if ((NodeKey(leaf, i) & 127) == 2) return LeafErase(leaf, i);
         }
       });
     }},
    {"FifoHasData", "data_format is",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.fifo, [](DiskInode& inode) { inode.data_format = 1; });
     }},
};

const Damage kNameDamages[] = {
    {"KeyMismatch", "does not match the name",
     [](ImageEditor& editor, const RichContents& has) {
       SetEntries(editor, has.other_dir, {{"b", has.other_file, DT_REG, 1 << 20}});
     }},
    {"Dot", "the name is not legal",
     [](ImageEditor& editor, const RichContents& has) {
       SetEntries(editor, has.other_dir,
                  {{"b", has.other_file, DT_REG}, {".", has.other_file, DT_REG}});
     }},
    {"Slash", "malformed",
     [](ImageEditor& editor, const RichContents& has) {
       SetEntries(editor, has.other_dir, {{"a/b", has.other_file, DT_REG}});
     }},
    {"Twice", "the name is there twice",
     [](ImageEditor& editor, const RichContents& has) {
       const NameHash hash(editor.superblock());
       SetEntries(
           editor, has.other_dir,
           {{"b", has.other_file, DT_REG}, {"b", has.other_file, DT_REG, hash.FirstKey("b") + 1}});
     }},
    {"Type", "type is 4, inode",
     [](ImageEditor& editor, const RichContents& has) {
       SetEntries(editor, has.other_dir, {{"b", has.other_file, DT_DIR}});
     }},
    {"TargetNotInUse", "is not in use",
     [](ImageEditor& editor, const RichContents& has) {
       SetEntries(editor, has.other_dir, {{"b", has.other_file, DT_REG}, {"c", 8'000, DT_REG}});
     }},
    {"Unreachable", "not connected: no directory names it",
     [](ImageEditor& editor, const RichContents& has) {
       SetEntries(editor, has.small_dir, {{"sub", has.sub_dir, DT_DIR}});
     }},
    {"NamesTheRoot", "names the root directory",
     [](ImageEditor& editor, const RichContents& has) {
       SetEntries(editor, has.sub_dir, {{"r", editor.superblock().root_inode, DT_DIR}});
     }},
    {"TwoParents", "directory has two names",
     [](ImageEditor& editor, const RichContents& has) {
       SetEntries(editor, has.other_dir,
                  {{"b", has.other_file, DT_REG}, {"sub", has.sub_dir, DT_DIR}});
     }},
    {"Parent", "parent is",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.sub_dir, [&](DiskInode& inode) { inode.parent = has.other_dir; });
     }},
    {"ParentOfRoot", "the root's parent is",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(editor.superblock().root_inode,
                        [&](DiskInode& inode) { inode.parent = has.other_dir; });
     }},
    {"Cycle", "directory is below itself",
     [](ImageEditor& editor, const RichContents& has) {
       SetEntries(editor, has.small_dir, {{"a", has.small_file, DT_REG}});
       SetEntries(editor, has.sub_dir, {{"self", has.sub_dir, DT_DIR}});
       editor.EditInode(has.sub_dir, [&](DiskInode& inode) {
         inode.parent = has.sub_dir;
         inode.nlink = 3;
       });
       editor.EditInode(has.small_dir, [&](DiskInode& inode) { inode.nlink = 2; });
     }},
    {"Entries", "entries is",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.large_dir, [](DiskInode& inode) { ++inode.entries; });
     }},
    {"InlineEntries", "entries is",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_dir, [](DiskInode& inode) { ++inode.entries; });
     }},
    {"TreeRecord", "is malformed",
     [](ImageEditor& editor, const RichContents& has) {
       editor.Edit(DataLeaf(editor, has.large_dir),
                   [](std::byte* leaf) { ValueOf(leaf, 0)[12] = '/'; });
     }},
    {"TreeNodeLevel", "tree node level is 1",
     [](ImageEditor& editor, const RichContents& has) {
       const TreeRoot root = GetTreeRoot(editor.GetInode(has.large_dir), Fork::kData);
       editor.EditInode(has.large_dir, [&](DiskInode& inode) {
         SetTreeRoot(inode, Fork::kData, {.block = root.block, .level = 2, .zero = {}});
       });
     }},
    {"TreeNodeOwner", "owner is",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditAs<BlockHeader>(DataLeaf(editor, has.large_dir),
                                  [](BlockHeader& header) { ++header.owner; });
     }},
    {"TreeNodeRange", "outside its parent's range",
     [](ImageEditor& editor, const RichContents& has) {
       const TreeRoot root = GetTreeRoot(editor.GetInode(has.large_dir), Fork::kData);
       editor.Edit(root.block, [](std::byte* node) { NodeChildren(node)[1].key += 1u << 30; });
     }},
    {"TreeNodeTwice", "outside its parent's range",
     [](ImageEditor& editor, const RichContents& has) {
       const TreeRoot root = GetTreeRoot(editor.GetInode(has.large_dir), Fork::kData);
       editor.Edit(root.block, [](std::byte* node) {
         NodeChildren(node)[1].block = NodeChildren(node)[0].block;
       });
     }},
    {"TreeNodeCycle", "child 0 block is",
     [](ImageEditor& editor, const RichContents& has) {
       const TreeRoot root = GetTreeRoot(editor.GetInode(has.large_dir), Fork::kData);
       editor.Edit(root.block, [&](std::byte* node) { NodeChildren(node)[0].block = root.block; });
     }},
    {"RemovedDirectoryHasEntries", "directory without links has 2 entries",
     [](ImageEditor& editor, const RichContents& has) {
       editor.EditInode(has.small_dir, [](DiskInode& inode) { inode.nlink = 0; });
     }},
};

std::vector<Damage> AllDamages() {
  std::vector<Damage> all;
  const auto add = [&all](std::span<const Damage> part) {
    for (const Damage& damage : part) all.push_back(damage);
  };
  add(kSuperblockDamages);
  add(kGroupDamages);
  add(kInodeDamages);
  add(kNameDamages);
  return all;
}

const RichImage& SharedImage() {
  static const auto& image = *new RichImage(MakeRichImage());
  return image;
}

class CheckerDamageTest : public ::testing::TestWithParam<Damage> {};

TEST_P(CheckerDamageTest, IsReported) {
  const RichImage& image = SharedImage();
  const auto device = image.device->Clone();
  ImageEditor editor(*device);
  GetParam().apply(editor, image.contents);
  const auto report = CheckFilesystem(*device);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->clean());
  EXPECT_EQ(report->problem_count, report->problems.size());
  EXPECT_THAT(AllLines(*report), HasSubstr(GetParam().expected));
}

INSTANTIATE_TEST_SUITE_P(All, CheckerDamageTest, ::testing::ValuesIn(AllDamages()),
                         [](const auto& info) { return info.param.name; });

// ---- Groups that nobody has used yet

class CheckerUnusedGroupTest : public ::testing::Test {
 protected:
  CheckerUnusedGroupTest() : image_(MakeRichImage(uint64_t{3} << 30)), editor_(*image_.device) {}

  std::string Lines() {
    const auto report = CheckFilesystem(*image_.device);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? AllLines(*report) : "";
  }

  const RichImage image_;
  ImageEditor editor_;
};

TEST_F(CheckerUnusedGroupTest, AreSoundWithoutBitmaps) { EXPECT_EQ(Lines(), ""); }

TEST_F(CheckerUnusedGroupTest, HaveAllTheirBlocksFree) {
  editor_.EditGroup(2, [](AgEntry& entry) { --entry.free_blocks; });
  EXPECT_THAT(Lines(), HasSubstr("group 2: free_blocks is"));
}

TEST_F(CheckerUnusedGroupTest, HaveNoInodes) {
  editor_.EditGroup(2, [](AgEntry& entry) {
    entry.inode_slots = 7;
    entry.free_inodes = 7;
  });
  EXPECT_THAT(Lines(), HasSubstr("group 2: inode_slots is 7, its chunks have 0"));
}

TEST_F(CheckerUnusedGroupTest, HaveNoInodeTree) {
  const TreeRoot root = editor_.GetGroup(0).inode_tree;
  editor_.EditGroup(2, [&](AgEntry& entry) { entry.inode_tree = root; });
  EXPECT_THAT(Lines(), HasSubstr("group 2: is not initialized, but has an inode tree"));
}

TEST_F(CheckerUnusedGroupTest, HaveNoData) {
  editor_.EditInode(image_.contents.small_file,
                    [](DiskInode& inode) { FirstExtent(inode).value.block = AgStart(2) + 500; });
  EXPECT_THAT(Lines(),
              HasSubstr("group 2: is not initialized, but block 516596+5 belongs to data"));
}

TEST_F(CheckerUnusedGroupTest, MustHaveBitmapsOnceInitialized) {
  editor_.EditGroup(1, [](AgEntry& entry) { entry.flags = kAgInitialized; });
  EXPECT_THAT(Lines(), HasSubstr("block 258049: header magic"));
}

TEST_F(CheckerUnusedGroupTest, HaveSuperblockCopiesAtPowersOfThree) {
  editor_.EditAs<BlockHeader>(AgStart(1), [](BlockHeader& header) { header.block = 0; });
  EXPECT_THAT(Lines(), HasSubstr("block 258048: header block is 0"));
}

}  // namespace
}  // namespace pbfs
