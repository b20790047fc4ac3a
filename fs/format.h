// SPDX-License-Identifier: Apache-2.0
// Everything pbfs puts on disk: declarations and constexpr geometry only. docs/FORMAT.md describes
// the same bytes in prose. Little-endian, 4 KiB blocks whatever the sector size, 64-bit block
// numbers counted from the start of the device.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace pbfs {

static_assert(std::endian::native == std::endian::little, "disk structures are used in place");

using BlockNumber = uint64_t;
using InodeNumber = uint64_t;
// Sequence number of the checkpoint that last logged a block. 0: written by mkfs.
using Lsn = uint64_t;

inline constexpr uint32_t kBlockBytes = 4096;
inline constexpr uint16_t kVersionMajor = 0;
inline constexpr uint16_t kVersionMinor = 1;

struct Uuid {
  uint8_t bytes[16];
  friend bool operator==(const Uuid&, const Uuid&) = default;
};

// ---- Block header -------------------------------------------------------------------------------

// First bytes of the magic as they appear in a hex dump.
constexpr uint32_t Magic(const char (&text)[5]) {
  return static_cast<uint32_t>(static_cast<uint8_t>(text[0])) |
         static_cast<uint32_t>(static_cast<uint8_t>(text[1])) << 8 |
         static_cast<uint32_t>(static_cast<uint8_t>(text[2])) << 16 |
         static_cast<uint32_t>(static_cast<uint8_t>(text[3])) << 24;
}
inline constexpr uint32_t kMagicSuperblock = Magic("PBFS");
inline constexpr uint32_t kMagicState = Magic("PBst");
inline constexpr uint32_t kMagicAgTable = Magic("PBag");
inline constexpr uint32_t kMagicBitmap = Magic("PBbm");
inline constexpr uint32_t kMagicInodes = Magic("PBin");
inline constexpr uint32_t kMagicTree = Magic("PBtr");
inline constexpr uint32_t kMagicLogAnchor = Magic("PBla");
inline constexpr uint32_t kMagicCheckpoint = Magic("PBcp");

// Every metadata block starts with this. A block that is wrong, misdirected or stale is recognised
// by itself.
struct BlockHeader {
  uint32_t magic;    // Which structure follows.
  uint32_t crc;      // CRC-32C of the block with this field zero.
  Uuid meta_uuid;    // Superblock::meta_uuid of the filesystem that wrote the block.
  uint64_t block;    // Where the block belongs.
  uint64_t owner;    // Inode number, or a kOwner constant, or kOwnerAgBase + AG number.
  uint64_t lsn;      // Checkpoint that last logged it; 0 from mkfs.
  uint8_t zero[16];  // Reserved, zero.
};
static_assert(sizeof(BlockHeader) == 64 && offsetof(BlockHeader, block) == 24 &&
              offsetof(BlockHeader, lsn) == 40);

inline constexpr uint64_t kOwnerFilesystem = 1;
inline constexpr uint64_t kOwnerLog = 2;
inline constexpr uint64_t kOwnerOrphans = 3;
// Inode numbers stay below this (block numbers are at most 2^51).
inline constexpr uint64_t kOwnerAgBase = uint64_t{1} << 62;

// ---- Geometry -----------------------------------------------------------------------------------

inline constexpr uint32_t kBitsPerBitmapBlock = (kBlockBytes - sizeof(BlockHeader)) * 8;
static_assert(kBitsPerBitmapBlock == 32256);
inline constexpr uint32_t kBitmapBlocksPerAg = 8;
// 1008 MiB; every bit of the eight bitmap blocks is used. The last group may be shorter.
inline constexpr uint32_t kAgBlocks = kBitsPerBitmapBlock * kBitmapBlocksPerAg;
static_assert(kAgBlocks == 258048);

// Within each group: block 0 is reserved for a superblock copy (used in groups whose number is a
// power of three, and the primary in group 0), then as many bitmap blocks as the group needs.
inline constexpr uint32_t kAgBitmapOffset = 1;

// The last block of the device holds a superblock copy too.
inline constexpr uint64_t kDeviceBytesMin = 16 << 20;
inline constexpr uint64_t kDeviceBlocksMax = uint64_t{1} << 50;

constexpr uint64_t AgCount(uint64_t total_blocks) {
  return (total_blocks + kAgBlocks - 1) / kAgBlocks;
}
constexpr uint32_t AgOf(BlockNumber block) { return static_cast<uint32_t>(block / kAgBlocks); }
constexpr BlockNumber AgStart(uint32_t ag) { return uint64_t{ag} * kAgBlocks; }
constexpr uint32_t AgLength(uint32_t ag, uint64_t total_blocks) {
  const uint64_t rest = total_blocks - AgStart(ag);
  return rest < kAgBlocks ? static_cast<uint32_t>(rest) : kAgBlocks;
}
constexpr uint32_t AgBitmapBlocks(uint32_t ag, uint64_t total_blocks) {
  return (AgLength(ag, total_blocks) + kBitsPerBitmapBlock - 1) / kBitsPerBitmapBlock;
}
constexpr bool AgHasSuperblockCopy(uint32_t ag) {
  uint64_t power = 1;
  while (power < ag) power *= 3;
  return power == ag;
}
static_assert(!AgHasSuperblockCopy(0) && AgHasSuperblockCopy(1) && !AgHasSuperblockCopy(2) &&
              AgHasSuperblockCopy(3) && AgHasSuperblockCopy(9));

// ---- Superblock ---------------------------------------------------------------------------------

// Unknown compat bits are ignored; unknown ro_compat bits allow a read-only mount of a clean log;
// unknown incompat bits refuse. On disk: never renumber.
inline constexpr uint64_t kIncompatDataChecksums = uint64_t{1} << 0;  // Reserved, not implemented.
inline constexpr uint64_t kIncompatDeviceTable = uint64_t{1} << 1;    // Reserved, not implemented.
inline constexpr uint64_t kRoCompatSharedExtents = uint64_t{1} << 0;  // Reserved, not implemented.
inline constexpr uint64_t kRoCompatQuota = uint64_t{1} << 1;          // Reserved, not implemented.
inline constexpr uint64_t kRoCompatSnapshots = uint64_t{1} << 2;      // Reserved, not implemented.
inline constexpr uint64_t kIncompatKnown = 0;
inline constexpr uint64_t kRoCompatKnown = 0;

inline constexpr size_t kLabelBytes = 64;

struct Superblock {
  BlockHeader header;  // owner = kOwnerFilesystem; block = where this copy lies.
  uint16_t version_major;
  uint16_t version_minor;
  uint32_t block_bytes;  // 4096.
  uint64_t total_blocks;
  uint64_t feature_compat;
  uint64_t feature_ro_compat;
  uint64_t feature_incompat;
  Uuid uuid;                // What users see; may be changed.
  Uuid meta_uuid;           // Private, in every block header; never changes.
  char label[kLabelBytes];  // Zero-padded; not necessarily terminated.
  uint32_t ag_blocks;       // kAgBlocks.
  uint32_t ag_count;
  BlockNumber ag_table_start;
  uint32_t ag_table_blocks;
  uint32_t log_blocks;  // Including the two anchors.
  BlockNumber log_start;
  BlockNumber state_block;
  InodeNumber root_inode;
  uint64_t hash_seed[2];  // Keys of the directory and xattr name hash.
  int64_t created_seconds;
  uint32_t member_count;  // 1. Device table: reserved.
  uint32_t member_index;  // 0.
  uint8_t zero[3816];
};
static_assert(sizeof(Superblock) == kBlockBytes);
static_assert(std::is_trivially_copyable_v<Superblock> && std::is_standard_layout_v<Superblock>);
static_assert(offsetof(Superblock, uuid) == 104 && offsetof(Superblock, label) == 136 &&
              offsetof(Superblock, ag_blocks) == 200 && offsetof(Superblock, log_start) == 224 &&
              offsetof(Superblock, hash_seed) == 248);

// ---- Trees --------------------------------------------------------------------------------------

// Root of a B+tree, kept wherever the tree's owner lives. block 0: the tree is empty.
struct TreeRoot {
  BlockNumber block;
  uint8_t level;  // Of the root node; 0 is a leaf.
  uint8_t zero[7];
  friend bool operator==(const TreeRoot&, const TreeRoot&) = default;
};
static_assert(sizeof(TreeRoot) == 16);

inline constexpr uint8_t kTreeLevelMax = 8;

// Head of every tree node; header.owner names the tree's owner.
struct TreeNodeHeader {
  BlockHeader header;
  uint8_t level;  // 0: leaf.
  uint8_t zero;
  uint16_t count;       // Records (leaf) or children (inner node); never 0 on disk.
  uint16_t heap_start;  // Leaf: lowest byte of the value heap, which grows down from 4096.
  uint16_t heap_dead;   // Leaf: bytes in the heap that no slot names.
};
static_assert(sizeof(TreeNodeHeader) == 72);

// Inner node: array of these after the header, ascending. A child holds the keys from its own key
// up to the next child's; the first child also holds everything below its key.
struct TreeChild {
  uint64_t key;
  BlockNumber block;
};
static_assert(sizeof(TreeChild) == 16);
inline constexpr uint32_t kTreeChildrenMax =
    (kBlockBytes - sizeof(TreeNodeHeader)) / sizeof(TreeChild);

// Leaf: array of these after the header, ascending by key; the values lie in the heap.
struct [[gnu::packed]] TreeSlot {
  uint64_t key;
  uint16_t offset;  // From the start of the block.
  uint16_t length;  // Bytes, at most kTreeValueBytesMax.
};
static_assert(sizeof(TreeSlot) == 12);
inline constexpr uint32_t kTreeLeafSpace = kBlockBytes - sizeof(TreeNodeHeader);
// Four values fit a leaf whatever their size, so a split always makes room.
inline constexpr uint32_t kTreeValueBytesMax = 960;
static_assert(4 * (kTreeValueBytesMax + sizeof(TreeSlot)) <= kTreeLeafSpace);

// ---- Allocation groups --------------------------------------------------------------------------

inline constexpr uint32_t kAgInitialized = 1;  // Bitmap blocks are valid; else all is free but the
                                               // group's own head.
struct AgEntry {
  uint32_t flags;
  uint32_t free_blocks;  // Blocks whose bitmap bit is 0.
  uint32_t inode_slots;  // In all chunks of the group.
  uint32_t free_inodes;  // Of those, not in use.
  TreeRoot inode_tree;   // Key: first block of a chunk; value: InodeChunk.
};
static_assert(sizeof(AgEntry) == 32);
inline constexpr uint32_t kAgEntriesPerBlock =
    (kBlockBytes - sizeof(BlockHeader)) / sizeof(AgEntry);
static_assert(kAgEntriesPerBlock == 126);

struct AgTableBlock {
  BlockHeader header;  // owner = kOwnerFilesystem.
  AgEntry entries[kAgEntriesPerBlock];
};
static_assert(sizeof(AgTableBlock) == kBlockBytes);

struct BitmapBlock {
  BlockHeader header;                                       // owner = kOwnerAgBase + group.
  uint64_t words[(kBlockBytes - sizeof(BlockHeader)) / 8];  // Bit 1: in use. Bits past the end: 1.
};
static_assert(sizeof(BitmapBlock) == kBlockBytes);

// Filesystem-wide roots that change at run time. (The superblock itself is never written while
// mounted: a torn primary would have to be found before the log can be replayed.)
struct StateBlock {
  BlockHeader header;       // owner = kOwnerFilesystem.
  TreeRoot orphans;         // Key: inode number; value: one byte, OrphanKind.
  uint64_t watched_inodes;  // Inodes with one of kInodeWatched.
  uint8_t zero[4096 - 64 - 24];
};
static_assert(sizeof(StateBlock) == kBlockBytes);

enum class OrphanKind : uint8_t {
  kUnlinked = 1,  // nlink 0, still referenced: free it.
  kTruncate = 2,  // Blocks past the size are being freed.
};

// ---- Inodes -------------------------------------------------------------------------------------

inline constexpr uint32_t kInodesPerBlock = 7;
inline constexpr uint32_t kInodeBytes = (kBlockBytes - sizeof(BlockHeader)) / kInodesPerBlock;
static_assert(kInodeBytes == 576);
inline constexpr uint32_t kInodeChunkBlocksMax = 8;
inline constexpr uint32_t kInlineBytes = 448;

// Inode number = block * 8 + slot; slot 7 does not exist.
constexpr InodeNumber MakeInodeNumber(BlockNumber block, uint32_t slot) { return block * 8 + slot; }
constexpr BlockNumber InodeBlock(InodeNumber ino) { return ino / 8; }
constexpr uint32_t InodeSlot(InodeNumber ino) { return static_cast<uint32_t>(ino % 8); }

// How a fork keeps its content. On disk: never renumber.
enum class ForkFormat : uint8_t {
  kNone = 0,
  kInline = 1,  // Bytes in the inline area: symlink target, directory entries, extents, xattrs.
  kTree = 2,    // A TreeRoot in the inline area.
};

// Flags that pbfs knows, with the numbers of FS_*_FL. On disk: never renumber.
inline constexpr uint32_t kInodeSync = 0x8;  // Changes are durable when they are answered.
inline constexpr uint32_t kInodeImmutable = 0x10;
inline constexpr uint32_t kInodeAppendOnly = 0x20;
inline constexpr uint32_t kInodeNoDump = 0x40;
inline constexpr uint32_t kInodeNoAtime = 0x80;
// Directories: changes of their names are durable when they are answered.
inline constexpr uint32_t kInodeDirSync = 0x1'0000;
inline constexpr uint32_t kInodeProjectInherit = 0x2000'0000;  // Directories.
inline constexpr uint32_t kInodeFlagsKnown = kInodeSync | kInodeImmutable | kInodeAppendOnly |
                                             kInodeNoDump | kInodeNoAtime | kInodeDirSync |
                                             kInodeProjectInherit;
// They forbid something.
inline constexpr uint32_t kInodeGuards = kInodeImmutable | kInodeAppendOnly;
// They change what operations do, and the kernel's FUSE does not know them: where an inode has one,
// the kernel must ask us at each open.
inline constexpr uint32_t kInodeWatched = kInodeGuards | kInodeSync | kInodeDirSync;
// Only directories have them.
inline constexpr uint32_t kInodeDirectoryFlags = kInodeDirSync | kInodeProjectInherit;
// A new file or directory has them from its directory.
inline constexpr uint32_t kInodeFlagsInherited =
    kInodeSync | kInodeNoDump | kInodeNoAtime | kInodeDirSync | kInodeProjectInherit;

struct DiskInode {
  InodeNumber ino;  // Own number.
  uint32_t mode;    // S_IF... and permissions. 0: the slot is free.
  uint32_t nlink;
  uint32_t uid;
  uint32_t gid;
  uint32_t generation;  // New at each use of the slot.
  uint32_t flags;       // Of kInodeFlagsKnown.
  uint64_t size_bytes;
  uint64_t blocks;  // Device blocks of both forks, trees included.
  int64_t atime_seconds;
  int64_t mtime_seconds;
  int64_t ctime_seconds;
  int64_t btime_seconds;
  uint32_t atime_nanoseconds;
  uint32_t mtime_nanoseconds;
  uint32_t ctime_nanoseconds;
  uint32_t btime_nanoseconds;
  InodeNumber parent;  // Directories: ".."; else 0.
  uint32_t rdev;     // Device nodes: as in struct stat, 32 bits (major << 20 | minor is kernel's).
  uint32_t project;  // Project id.
  uint64_t entries;  // Directories: number of entries, without "." and "..".
  uint8_t data_format;  // ForkFormat.
  uint8_t attr_format;  // ForkFormat.
  uint16_t data_bytes;  // Bytes of the inline area the data fork uses, from its start.
  uint16_t attr_bytes;  // Bytes the attribute fork uses, at its end.
  uint16_t zero;
  uint8_t inline_area[kInlineBytes];
};
static_assert(sizeof(DiskInode) == kInodeBytes);
static_assert(offsetof(DiskInode, inline_area) == 128);

struct InodeTableBlock {
  BlockHeader header;  // owner = kOwnerAgBase + group.
  DiskInode inodes[kInodesPerBlock];
};
static_assert(sizeof(InodeTableBlock) == kBlockBytes);

// Value of the inode tree.
struct InodeChunk {
  uint64_t used_mask;  // Bit block_in_chunk * 8 + slot; the bits of slot 7 are 0.
  uint32_t blocks;     // 1..kInodeChunkBlocksMax.
  uint32_t zero;
};
static_assert(sizeof(InodeChunk) == 16);

// ---- Extents ------------------------------------------------------------------------------------

inline constexpr uint16_t kExtentUnwritten = 1;  // Allocated, reads as zeroes.

// Value of an extent tree; key: file block. Extents of a file do not overlap; holes have none. An
// extent lies within one group.
struct ExtentValue {
  BlockNumber block;
  uint32_t length;  // Blocks, 1..kAgBlocks.
  uint16_t flags;
  uint16_t member;  // 0. Device table: reserved.
};
static_assert(sizeof(ExtentValue) == 16);

// Inline form (data_format kInline of a regular file): array of these, ascending.
struct InlineExtent {
  uint64_t file_block;
  ExtentValue value;
};
static_assert(sizeof(InlineExtent) == 24);

inline constexpr uint64_t kFileBytesMax = (uint64_t{1} << 63) - 1;  // 8 EiB - 1.

// ---- Directories and extended attributes --------------------------------------------------------

// Directories map names to records by a 63-bit key: SipHash of the name (seeded per filesystem),
// cut to 56 bits, shifted left by 7, plus a number 0..127 that tells names of one hash apart. A
// record's key is its readdir cookie: it never changes while the entry exists. Extended attributes
// use the same hash; see XattrRecord.
inline constexpr uint32_t kHashCollisionBits = 7;
inline constexpr uint64_t kCookieDot = 1;
inline constexpr uint64_t kCookieDotDot = 2;
inline constexpr uint64_t kCookieFirst = 128;  // Name hashes of 0 are stored as 1.

// Value of a directory tree; followed by the name (1..255 bytes, no '/' and no NUL).
struct [[gnu::packed]] DirRecord {
  InodeNumber ino;
  uint8_t type;  // DT_* of the inode.
};
static_assert(sizeof(DirRecord) == 9);

// Inline directory: records one after another, ascending by key, each followed by its name.
struct [[gnu::packed]] InlineDirRecord {
  uint64_t key;
  uint8_t name_bytes;
  DirRecord record;
};
static_assert(sizeof(InlineDirRecord) == 18);
inline constexpr uint32_t kNameBytesMax = 255;

// Head of an extended attribute; followed by the name (1..255 bytes, no NUL, prefix included), then
// by the value.
//
// Inline (attr_format kInline): whole attributes one after another, in any order.
//
// Tree (attr_format kTree): this head, name and value make one string of bytes that is cut into
// pieces of kTreeValueBytesMax (the last is shorter); one record for each piece. Key: bits 14..62
// the name's 56-bit hash without its low 7 bits, bits 7..13 a number 0..127 that tells names of one
// such hash apart, bits 0..6 the number of the piece, from 0. Pieces are numbered without gaps.
struct [[gnu::packed]] XattrRecord {
  uint32_t value_bytes;  // 0..kXattrValueBytesMax.
  uint8_t name_bytes;
};
static_assert(sizeof(XattrRecord) == 5);
inline constexpr uint32_t kXattrValueBytesMax = 65536;
inline constexpr uint32_t kXattrPieceBits = 7;
inline constexpr uint32_t kXattrPiecesMax =
    (sizeof(XattrRecord) + kNameBytesMax + kXattrValueBytesMax + kTreeValueBytesMax - 1) /
    kTreeValueBytesMax;
static_assert(kXattrPiecesMax == 69 && kXattrPiecesMax <= 1u << kXattrPieceBits);

// ---- Log ----------------------------------------------------------------------------------------

// log_start, log_start + 1: two anchors, written in turn. The rest is a ring of blocks that holds
// checkpoints. Positions in the ring count from 0 (block log_start + 2).
inline constexpr uint32_t kLogAnchorBlocks = 2;

// Blocks one transaction may touch at most; every reservation is this large or smaller. A log holds
// at least 16 of them.
inline constexpr uint32_t kTransactionBlocksMax = 96;
inline constexpr uint32_t kLogBlocksMin = 16 * kTransactionBlocksMax + kLogAnchorBlocks;

// Sequences of checkpoints and generations of anchors count from 1 and never get this far (a
// million a second would take 140000 years), so that nothing that adds to them overflows.
inline constexpr uint64_t kSequenceMax = uint64_t{1} << 62;

struct LogAnchor {
  BlockHeader header;   // owner = kOwnerLog.
  uint64_t generation;  // The valid anchor with the larger one counts.
  uint64_t epoch;       // Random; only checkpoints with it are of this log.
  uint64_t
      first_sequence;  // Sequence the next checkpoint of this epoch starts with (if none is valid).
  uint32_t clean;      // 1: unmounted clean, there is nothing to replay.
  uint8_t zero[4096 - 64 - 28];
};
static_assert(sizeof(LogAnchor) == kBlockBytes);

// A checkpoint: this header block, `descriptor_blocks` blocks of LogRecords, then the data chunks
// of the records, in order, packed; all in consecutive ring blocks (wrapping at the end of the
// ring).
struct CheckpointHeader {
  BlockHeader header;  // owner = kOwnerLog; block = device block of this header; crc covers
                       // this block only.
  uint64_t epoch;
  uint64_t sequence;          // One more than the checkpoint before.
  uint64_t tail_sequence;     // Replay starts with this checkpoint, ...
  uint32_t tail_position;     // ... whose header lies at this ring position.
  uint32_t total_blocks;      // Of the whole checkpoint.
  uint64_t durable_sequence;  // Everything up to this one was durable before this one was written.
  uint32_t record_count;
  uint32_t descriptor_blocks;
  uint32_t body_crc;      // CRC-32C of everything after this block.
  uint32_t previous_crc;  // header.crc of the checkpoint before; 0 for the first of an epoch.
  uint64_t data_bytes;    // Of the chunks.
  uint8_t zero[4096 - 64 - 64];
};
static_assert(sizeof(CheckpointHeader) == kBlockBytes);

// Blocks are logged in chunks of 128 bytes; bit i of `chunks` says that chunk i follows.
inline constexpr uint32_t kLogChunkBytes = 128;
inline constexpr uint32_t kLogWholeBlock = 0xffffffff;

enum class LogRecordKind : uint32_t {
  kImage = 1,   // All 32 chunks: the base for later ranges.
  kRange = 2,   // Some chunks; replay has seen an image of the block before.
  kCancel = 3,  // The block was freed: images and ranges of this and older checkpoints are void.
};
struct LogRecord {
  BlockNumber block;
  LogRecordKind kind;
  uint32_t chunks;
};
static_assert(sizeof(LogRecord) == 16);
inline constexpr uint32_t kLogRecordsPerBlock = kBlockBytes / sizeof(LogRecord);

}  // namespace pbfs
