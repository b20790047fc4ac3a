// SPDX-License-Identifier: Apache-2.0
// One case for each rule of each verifier: a good block, one field changed, the crc made right, and
// the error must name the field.
#include "fs/verify.h"

#include <dirent.h>
#include <sys/stat.h>

#include <cstring>
#include <functional>

#include "fs/fork.h"
#include "fs/xattr.h"
#include "tests/support/meta_fixture.h"

namespace pbfs {
namespace {

struct alignas(kBlockBytes) Block {
  std::byte data[kBlockBytes] = {};
  template <typename T>
  T& as() {
    return *reinterpret_cast<T*>(data);
  }
};

class VerifyTest : public testing::Test {
 protected:
  static constexpr uint64_t kDeviceBytes = uint64_t{2200} << 20;  // Three groups.

  VerifyTest() : device_(kDeviceBytes) {
    MakeOptions options;
    options.discard = false;
    superblock_ = MakeFilesystem(device_, options).value();
  }
  Block Read(BlockNumber number) {
    Block block;
    PBFS_CHECK(ReadSync(device_, number * kBlockBytes, block.data, kBlockBytes) == 0);
    return block;
  }
  Block New(BlockNumber number, uint32_t magic, uint64_t owner) {
    Block block;
    auto& header = block.as<BlockHeader>();
    header.magic = magic;
    header.meta_uuid = superblock_.meta_uuid;
    header.block = number;
    header.owner = owner;
    StampBlock(block.data, 1);
    return block;
  }
  Status Verify(Block& block) {
    const BlockNumber number = block.as<BlockHeader>().block;
    StampBlock(block.data, 1);
    return VerifyBlock(block.data, number, superblock_);
  }
  void ExpectGood(const Block& good) {
    Block block = good;
    PBFS_EXPECT_OK(Verify(block));
  }
  // The block is good, and no longer after `damage`; the message names `word`.
  template <typename T>
  void ExpectBad(const Block& good, const std::string& word, const std::function<void(T&)>& damage,
                 int error = EUCLEAN) {
    Block block = good;
    PBFS_EXPECT_OK(Verify(block));
    damage(block.as<T>());
    const Status status = Verify(block);
    EXPECT_EQ(ErrnoOf(status), error) << word << ": " << status.ToString();
    const std::string message(status.message());
    EXPECT_NE(message.find(word), std::string::npos) << word << ": " << message;
    EXPECT_NE(message.find("block "), std::string::npos) << message;
  }

  MemoryDevice device_;
  Superblock superblock_;
};

// ---- Header and places --------------------------------------------------------------------------

TEST_F(VerifyTest, EverythingThatMkfsWroteIsGood) {
  const BlockNumber end = superblock_.log_start + kLogAnchorBlocks;
  for (BlockNumber number = 0; number < end; ++number) {
    Block block = Read(number);
    PBFS_EXPECT_OK(VerifyBlock(block.data, number, superblock_));
  }
  for (const BlockNumber copy : {BlockNumber{kAgBlocks}, superblock_.total_blocks - 1}) {
    Block block = Read(copy);
    PBFS_EXPECT_OK(VerifyBlock(block.data, copy, superblock_));
    PBFS_EXPECT_OK(VerifySuperblock(block.data, copy));
  }
}

TEST_F(VerifyTest, HeaderFieldsAreChecked) {
  const Block good = Read(superblock_.state_block);
  const auto verify = [&](const std::function<void(BlockHeader&)>& damage, bool stamp) {
    Block block = good;
    damage(block.as<BlockHeader>());
    if (stamp) StampBlock(block.data, 1);
    return std::string(VerifyBlock(block.data, superblock_.state_block, superblock_).message());
  };
  const auto has = [](const std::string& message, const char* word) {
    return message.find(word) != std::string::npos;
  };
  EXPECT_TRUE(has(verify([](BlockHeader& h) { h.magic = 7; }, true), "magic"));
  EXPECT_TRUE(has(verify([](BlockHeader& h) { h.crc ^= 1; }, false), "crc"));
  EXPECT_TRUE(has(verify([](BlockHeader& h) { h.lsn ^= 1; }, false), "crc"));
  EXPECT_TRUE(has(verify([](BlockHeader& h) { h.meta_uuid.bytes[3] ^= 1; }, true), "meta_uuid"));
  EXPECT_TRUE(has(verify([](BlockHeader& h) { h.block += 1; }, true), "header block"));
  EXPECT_TRUE(has(verify([](BlockHeader& h) { h.owner += 1; }, true), "owner"));
  EXPECT_TRUE(has(verify([](BlockHeader& h) { h.magic = kMagicTree; }, true), "tree node"));
}

TEST_F(VerifyTest, EveryFlippedBitIsFound) {
  const Block good = Read(superblock_.state_block);
  for (uint32_t bit = 0; bit < kBlockBytes * 8; bit += 97) {
    Block block = good;
    block.data[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_FALSE(VerifyBlock(block.data, superblock_.state_block, superblock_).ok()) << bit;
  }
}

TEST_F(VerifyTest, StampSetsLsnAndCrc) {
  Block block = Read(superblock_.state_block);
  StampBlock(block.data, 77);
  EXPECT_EQ(block.as<BlockHeader>().lsn, 77u);
  EXPECT_EQ(block.as<BlockHeader>().crc, BlockCrc(block.data));
  PBFS_EXPECT_OK(VerifyBlock(block.data, superblock_.state_block, superblock_));
}

TEST_F(VerifyTest, BlocksInWrongPlacesAreFound) {
  struct Case {
    BlockNumber from;
    BlockNumber to;
  };
  const BlockNumber free_block = superblock_.log_start + superblock_.log_blocks;
  for (const Case& move :
       {Case{0, free_block}, Case{1, free_block}, Case{1, kAgBlocks},
        Case{superblock_.state_block, free_block}, Case{superblock_.ag_table_start, free_block},
        Case{superblock_.log_start, free_block},
        Case{superblock_.log_start, superblock_.log_start + 2}}) {
    Block block = Read(move.from);
    block.as<BlockHeader>().block = move.to;
    EXPECT_FALSE(Verify(block).ok()) << move.from << " to " << move.to;
  }
}

// ---- Superblock ---------------------------------------------------------------------------------

TEST_F(VerifyTest, SuperblockFieldsAreChecked) {
  const Block good = Read(0);
  const auto bad = [&](const char* word, const std::function<void(Superblock&)>& damage,
                       int error = EUCLEAN) { ExpectBad<Superblock>(good, word, damage, error); };
  bad("owner", [](Superblock& s) { s.header.owner = 2; });
  bad(
      "version", [](Superblock& s) { ++s.version_major; }, EOPNOTSUPP);
  bad(
      "version", [](Superblock& s) { ++s.version_minor; }, EOPNOTSUPP);
  bad(
      "feature_incompat", [](Superblock& s) { s.feature_incompat = 1 << 20; }, EOPNOTSUPP);
  bad("block_bytes", [](Superblock& s) { s.block_bytes = 512; });
  bad("total_blocks", [](Superblock& s) { s.total_blocks = 0; });
  bad("total_blocks", [](Superblock& s) { s.total_blocks = 4095; });
  bad("total_blocks", [](Superblock& s) { s.total_blocks = kDeviceBlocksMax + 1; });
  bad("total_blocks", [](Superblock& s) { s.total_blocks = UINT64_MAX; });
  bad("ag_blocks", [](Superblock& s) { s.ag_blocks = 0; });
  bad("ag_count", [](Superblock& s) { ++s.ag_count; });
  bad("ag_count", [](Superblock& s) { s.ag_count = 0; });
  bad("last group", [](Superblock& s) {
    s.total_blocks = 2 * uint64_t{kAgBlocks} + 2;
    s.ag_count = 3;
  });
  bad("ag_table_blocks", [](Superblock& s) { s.ag_table_blocks = 0; });
  bad("ag_table_blocks", [](Superblock& s) { s.ag_table_blocks = UINT32_MAX; });
  bad("log_blocks", [](Superblock& s) { s.log_blocks = kLogAnchorBlocks; });
  bad("log_blocks", [](Superblock& s) { s.log_blocks = kLogBlocksMin - 1; });
  bad("state_block", [](Superblock& s) { s.state_block = UINT64_MAX; });
  bad("state_block", [](Superblock& s) { s.state_block = kAgBlocks; });
  bad("state_block", [](Superblock& s) { s.state_block = 1; });
  bad("ag_table_start", [](Superblock& s) { s.ag_table_start = kAgBlocks; });
  bad("ag_table_start", [](Superblock& s) { s.ag_table_start = s.state_block; });
  bad("log_start", [](Superblock& s) { s.log_start = UINT64_MAX - 5; });
  bad("log_start", [](Superblock& s) { s.log_start = kAgBlocks - 10; });
  bad("log_start", [](Superblock& s) { s.log_start = 0; });
  bad("log_start", [](Superblock& s) { s.log_start = s.ag_table_start; });
  bad("log_start", [](Superblock& s) { s.log_blocks = UINT32_MAX; });
  bad("root_inode", [](Superblock& s) { s.root_inode = 0; });
  bad("root_inode", [](Superblock& s) { s.root_inode |= 7; });
  bad("root_inode", [](Superblock& s) { s.root_inode = s.total_blocks * 8; });
  bad("member_count", [](Superblock& s) { s.member_count = 2; });
  bad("member_index", [](Superblock& s) { s.member_index = 1; });
}

TEST_F(VerifyTest, SuperblockPlaceFollowsFromTheSize) {
  Block block = Read(0);
  block.as<BlockHeader>().block = 2 * uint64_t{kAgBlocks};  // Two is no power of three.
  StampBlock(block.data, 0);
  EXPECT_FALSE(VerifySuperblock(block.data, 2 * uint64_t{kAgBlocks}).ok());
  block.as<BlockHeader>().block = 5;
  StampBlock(block.data, 0);
  EXPECT_FALSE(VerifySuperblock(block.data, 5).ok());
}

TEST(VerifySmallTest, SuperblockOfOneGroupKeepsItsLastBlockFree) {
  MemoryDevice device(64 << 20);
  MakeOptions options;
  options.discard = false;
  const Superblock made = MakeFilesystem(device, options).value();
  Block block;
  block.as<Superblock>() = made;
  Superblock& superblock = block.as<Superblock>();
  superblock.header.block = 0;
  StampBlock(block.data, 0);
  PBFS_EXPECT_OK(VerifySuperblock(block.data, 0));
  superblock.state_block = superblock.total_blocks - 1;
  StampBlock(block.data, 0);
  const Status status = VerifySuperblock(block.data, 0);
  EXPECT_NE(status.message().find("last superblock copy"), absl::string_view::npos)
      << status.ToString();
}

// ---- Filesystem-wide blocks ---------------------------------------------------------------------

TEST_F(VerifyTest, StateFieldsAreChecked) {
  const Block good = Read(superblock_.state_block);
  const auto bad = [&](const std::function<void(StateBlock&)>& damage) {
    ExpectBad<StateBlock>(good, "orphans", damage);
  };
  bad([](StateBlock& s) { s.orphans.block = UINT64_MAX; });
  bad([&](StateBlock& s) { s.orphans.block = superblock_.total_blocks; });
  bad([](StateBlock& s) { s.orphans.level = 1; });
  bad([](StateBlock& s) { s.orphans = {100, kTreeLevelMax + 1, {}}; });
  bad([](StateBlock& s) { s.orphans.zero[6] = 1; });
}

TEST_F(VerifyTest, AgTableFieldsAreChecked) {
  const Block good = Read(superblock_.ag_table_start);
  const auto bad = [&](const char* word, const std::function<void(AgTableBlock&)>& damage) {
    ExpectBad<AgTableBlock>(good, word, damage);
  };
  bad("owner", [](AgTableBlock& t) { t.header.owner = 2; });
  bad("group 1 flags", [](AgTableBlock& t) { t.entries[1].flags = 2; });
  bad("group 0 free_blocks", [](AgTableBlock& t) { t.entries[0].free_blocks = kAgBlocks + 1; });
  bad("group 2 free_blocks", [](AgTableBlock& t) { t.entries[2].free_blocks = kAgBlocks; });
  bad("group 1 inode_slots", [](AgTableBlock& t) { t.entries[1].inode_slots = UINT32_MAX; });
  bad("group 1 free_inodes", [](AgTableBlock& t) { t.entries[1].free_inodes = 1; });
  bad("group 0 inode_tree", [](AgTableBlock& t) { t.entries[0].inode_tree.block = UINT64_MAX; });
  bad("past ag_count", [](AgTableBlock& t) { t.entries[3].free_blocks = 1; });
}

TEST_F(VerifyTest, BitmapBitsAreChecked) {
  const Block first = Read(kAgBitmapOffset);
  const auto bad = [&](const Block& good, const char* word,
                       const std::function<void(BitmapBlock&)>& damage) {
    ExpectBad<BitmapBlock>(good, word, damage);
  };
  bad(first, "owner", [](BitmapBlock& b) { ++b.header.owner; });
  bad(first, "head", [](BitmapBlock& b) { b.words[0] &= ~uint64_t{1}; });
  bad(first, "head", [](BitmapBlock& b) { b.words[0] &= ~(uint64_t{1} << 8); });
  // The last group is shorter than its bitmap.
  const uint32_t length = AgLength(2, superblock_.total_blocks);
  const BlockNumber last = AgStart(2) + AgBitmapBlocks(2, superblock_.total_blocks);
  const uint32_t used = length % kBitsPerBitmapBlock;
  ASSERT_NE(used, 0u);
  Block tail = New(last, kMagicBitmap, kOwnerAgBase + 2);
  for (uint32_t bit = used; bit < kBitsPerBitmapBlock; ++bit) {
    tail.as<BitmapBlock>().words[bit / 64] |= uint64_t{1} << bit % 64;
  }
  bad(tail, "past the group's end",
      [used](BitmapBlock& b) { b.words[used / 64] &= ~(uint64_t{1} << used % 64); });
  bad(tail, "past the group's end", [](BitmapBlock& b) { b.words[503] = 0; });
}

// ---- Trees --------------------------------------------------------------------------------------

class VerifyTreeTest : public VerifyTest {
 protected:
  Block Leaf() {
    Block block = New(5000, kMagicTree, 800);
    InitTreeNode(block.data, 0);
    const std::vector<uint8_t> value(10, 1);
    for (uint32_t i = 0; i < 3; ++i) LeafInsert(block.data, i, i * 10, value);
    return block;
  }
  Block Inner() {
    Block block = New(5000, kMagicTree, 800);
    InitTreeNode(block.data, 1);
    for (uint32_t i = 0; i < 3; ++i) InsertChild(block.data, i, {i * 10, 6000 + i});
    return block;
  }
  static TreeSlot* SlotsOf(TreeNodeHeader& node) { return reinterpret_cast<TreeSlot*>(&node + 1); }
  static TreeChild* ChildrenOf(TreeNodeHeader& node) {
    return reinterpret_cast<TreeChild*>(&node + 1);
  }
  void Bad(const Block& good, const char* word,
           const std::function<void(TreeNodeHeader&)>& damage) {
    ExpectBad<TreeNodeHeader>(good, word, damage);
  }
};

TEST_F(VerifyTreeTest, NodeFieldsAreChecked) {
  for (const Block& good : {Leaf(), Inner()}) {
    Bad(good, "level", [](TreeNodeHeader& n) { n.level = kTreeLevelMax + 1; });
    Bad(good, "reserved", [](TreeNodeHeader& n) { n.zero = 1; });
    Bad(good, "count", [](TreeNodeHeader& n) { n.count = 0; });
    Bad(good, "count", [](TreeNodeHeader& n) { n.count = UINT16_MAX; });
  }
}

TEST_F(VerifyTreeTest, InnerNodesAreChecked) {
  const Block good = Inner();
  Bad(good, "count", [](TreeNodeHeader& n) { n.count = kTreeChildrenMax + 1; });
  Bad(good, "heap_start", [](TreeNodeHeader& n) { n.heap_start = 1; });
  Bad(good, "heap_dead", [](TreeNodeHeader& n) { n.heap_dead = 1; });
  Bad(good, "child 1 key", [](TreeNodeHeader& n) { ChildrenOf(n)[1].key = 0; });
  Bad(good, "child 2 key", [](TreeNodeHeader& n) { ChildrenOf(n)[2].key = 9; });
  Bad(good, "child 2 block", [](TreeNodeHeader& n) { ChildrenOf(n)[2].block = 0; });
  Bad(good, "child 0 block", [](TreeNodeHeader& n) { ChildrenOf(n)[0].block = 5000; });
  Bad(good, "child 1 block", [](TreeNodeHeader& n) { ChildrenOf(n)[1].block = UINT64_MAX; });
  Bad(good, "child 1 block",
      [&](TreeNodeHeader& n) { ChildrenOf(n)[1].block = superblock_.total_blocks; });
}

TEST_F(VerifyTreeTest, LeavesAreChecked) {
  const Block good = Leaf();
  Bad(good, "count", [](TreeNodeHeader& n) { n.count = 336; });
  Bad(good, "heap_start", [](TreeNodeHeader& n) { n.heap_start = 72 + 3 * 12 - 1; });
  Bad(good, "heap_start", [](TreeNodeHeader& n) { n.heap_start = kBlockBytes + 1; });
  Bad(good, "slot 1 key", [](TreeNodeHeader& n) { SlotsOf(n)[1].key = 0; });
  Bad(good, "slot 2 length", [](TreeNodeHeader& n) { SlotsOf(n)[2].length = 961; });
  Bad(good, "slot 0 offset", [](TreeNodeHeader& n) { SlotsOf(n)[0].offset = 4087; });
  Bad(good, "slot 0 offset", [](TreeNodeHeader& n) { SlotsOf(n)[0].offset = UINT16_MAX; });
  Bad(good, "slot 2 offset", [](TreeNodeHeader& n) { SlotsOf(n)[2].offset = 4000; });
  Bad(good, "slot 1 offset", [](TreeNodeHeader& n) { ++SlotsOf(n)[1].offset; });
  Bad(good, "heap_dead", [](TreeNodeHeader& n) { n.heap_dead = 1; });
  Bad(good, "heap_dead", [](TreeNodeHeader& n) { SlotsOf(n)[1].length = 9; });
}

// ---- Log ----------------------------------------------------------------------------------------

TEST_F(VerifyTest, LogAnchorFieldsAreChecked) {
  const Block good = Read(superblock_.log_start);
  const auto bad = [&](const char* word, const std::function<void(LogAnchor&)>& damage) {
    ExpectBad<LogAnchor>(good, word, damage);
  };
  bad("owner", [](LogAnchor& a) { a.header.owner = 1; });
  bad("clean", [](LogAnchor& a) { a.clean = 2; });
  bad("first_sequence", [](LogAnchor& a) { a.first_sequence = 0; });
  bad("first_sequence", [](LogAnchor& a) { a.first_sequence = kSequenceMax + 1; });
  bad("generation", [](LogAnchor& a) { a.generation = UINT64_MAX; });
}

TEST_F(VerifyTest, CheckpointFieldsAreChecked) {
  Block good = New(superblock_.log_start + 9, kMagicCheckpoint, kOwnerLog);
  auto& header = good.as<CheckpointHeader>();
  header.sequence = 10;
  header.tail_sequence = 8;
  header.durable_sequence = 9;
  header.record_count = 257;
  header.descriptor_blocks = 2;
  header.data_bytes = 4096 + 128;
  header.total_blocks = 5;
  const auto bad = [&](const char* word, const std::function<void(CheckpointHeader&)>& damage) {
    ExpectBad<CheckpointHeader>(good, word, damage);
  };
  bad("owner", [](CheckpointHeader& h) { h.header.owner = 1; });
  bad("checkpoint sequence", [](CheckpointHeader& h) { h.sequence = 0; });
  bad("checkpoint sequence", [](CheckpointHeader& h) { h.sequence = kSequenceMax + 1; });
  bad("tail_sequence", [](CheckpointHeader& h) { h.tail_sequence = 0; });
  bad("tail_sequence", [](CheckpointHeader& h) { h.tail_sequence = 11; });
  bad("tail_position",
      [&](CheckpointHeader& h) { h.tail_position = superblock_.log_blocks - kLogAnchorBlocks; });
  bad("durable_sequence", [](CheckpointHeader& h) { h.durable_sequence = 10; });
  bad("total_blocks", [](CheckpointHeader& h) { h.total_blocks = 0; });
  bad("total_blocks", [](CheckpointHeader& h) { h.total_blocks = UINT32_MAX; });
  bad("total_blocks", [](CheckpointHeader& h) { h.total_blocks = 6; });
  bad("descriptor_blocks", [](CheckpointHeader& h) { h.descriptor_blocks = 1; });
  bad("descriptor_blocks", [](CheckpointHeader& h) { h.record_count = UINT32_MAX; });
  bad("data_bytes", [](CheckpointHeader& h) { h.data_bytes = 100; });
  bad("data_bytes", [](CheckpointHeader& h) { h.data_bytes = UINT64_MAX - 127; });
}

// ---- Inodes -------------------------------------------------------------------------------------

class VerifyInodeTest : public VerifyTest {
 protected:
  static constexpr BlockNumber kBlock = 7000;

  Block With(const DiskInode& inode) {
    Block block = New(kBlock, kMagicInodes, kOwnerAgBase);
    block.as<InodeTableBlock>().inodes[2] = inode;
    return block;
  }
  static DiskInode Inode(uint32_t mode) {
    DiskInode inode = {};
    inode.ino = MakeInodeNumber(kBlock, 2);
    inode.mode = mode;
    inode.nlink = 1;
    if (S_ISDIR(mode)) inode.parent = MakeInodeNumber(kBlock, 0);
    return inode;
  }
  static DiskInode FileWith(const std::vector<InlineExtent>& extents) {
    DiskInode inode = Inode(S_IFREG | 0600);
    SetInline(
        inode, Fork::kData,
        {reinterpret_cast<const uint8_t*>(extents.data()), extents.size() * sizeof(InlineExtent)});
    return inode;
  }
  static InlineExtent& ExtentOf(DiskInode& inode, size_t index) {
    return reinterpret_cast<InlineExtent*>(inode.inline_area)[index];
  }
  static DiskInode DirectoryWith(const std::vector<uint64_t>& keys) {
    DiskInode inode = Inode(S_IFDIR | 0700);
    std::vector<uint8_t> content;
    for (const uint64_t key : keys) {
      const InlineDirRecord record = {
          .key = key, .name_bytes = 3, .record = {.ino = inode.ino, .type = DT_DIR}};
      const auto* bytes = reinterpret_cast<const uint8_t*>(&record);
      content.insert(content.end(), bytes, bytes + sizeof record);
      for (const char c : {'a', 'b', 'c'}) content.push_back(static_cast<uint8_t>(c));
    }
    SetInline(inode, Fork::kData, content);
    inode.entries = keys.size();
    return inode;
  }
  static InlineDirRecord& RecordOf(DiskInode& inode, size_t index) {
    return *reinterpret_cast<InlineDirRecord*>(inode.inline_area +
                                               index * (sizeof(InlineDirRecord) + 3));
  }
  void Bad(const DiskInode& good, const char* word, const std::function<void(DiskInode&)>& damage) {
    ExpectBad<InodeTableBlock>(With(good), word,
                               [&](InodeTableBlock& block) { damage(block.inodes[2]); });
  }
};

TEST_F(VerifyInodeTest, AllTypesAreGood) {
  for (const uint32_t type : {S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK}) {
    ExpectGood(With(Inode(type | 07777)));
  }
}

TEST_F(VerifyInodeTest, TableOwnerIsChecked) {
  ExpectBad<InodeTableBlock>(With(Inode(S_IFREG)), "owner",
                             [](InodeTableBlock& block) { ++block.header.owner; });
}

TEST_F(VerifyInodeTest, FreeSlotsAreNotLookedAt) {
  DiskInode inode = Inode(S_IFREG);
  inode.size_bytes = UINT64_MAX;
  inode.ino = 0;
  inode.mode = 0;
  ExpectGood(With(inode));
}

TEST_F(VerifyInodeTest, CommonFieldsAreChecked) {
  const DiskInode good = Inode(S_IFREG | 0644);
  Bad(good, "ino is", [](DiskInode& i) { ++i.ino; });
  Bad(good, "mode", [](DiskInode& i) { i.mode = 0644; });
  Bad(good, "mode", [](DiskInode& i) { i.mode = S_IFMT; });
  Bad(good, "mode", [](DiskInode& i) { i.mode |= 1 << 16; });
  Bad(good, "size_bytes", [](DiskInode& i) { i.size_bytes = kFileBytesMax + 1; });
  Bad(good, "blocks", [&](DiskInode& i) { i.blocks = superblock_.total_blocks + 1; });
  Bad(good, "nanoseconds", [](DiskInode& i) { i.atime_nanoseconds = 1'000'000'000; });
  Bad(good, "nanoseconds", [](DiskInode& i) { i.mtime_nanoseconds = 1'000'000'000; });
  Bad(good, "nanoseconds", [](DiskInode& i) { i.ctime_nanoseconds = 1'000'000'000; });
  Bad(good, "nanoseconds", [](DiskInode& i) { i.btime_nanoseconds = UINT32_MAX; });
}

TEST_F(VerifyInodeTest, ForksAreChecked) {
  const DiskInode good = Inode(S_IFREG | 0644);
  Bad(good, "data_format", [](DiskInode& i) { i.data_format = 3; });
  Bad(good, "attr_format", [](DiskInode& i) { i.attr_format = 255; });
  Bad(good, "data_bytes", [](DiskInode& i) { i.data_bytes = 24; });
  Bad(good, "attr_bytes", [](DiskInode& i) { i.attr_bytes = 1; });
  Bad(good, "data_bytes", [](DiskInode& i) {
    i.data_format = 1;
    i.data_bytes = 433;
  });
  Bad(good, "attr_bytes", [](DiskInode& i) {
    i.attr_format = 1;
    i.attr_bytes = UINT16_MAX;
  });
  Bad(good, "data_bytes", [](DiskInode& i) { i.data_format = 2; });
  Bad(good, "attr_bytes", [](DiskInode& i) {
    i.attr_format = 2;
    i.attr_bytes = 15;
  });
  Bad(good, "data_bytes + attr_bytes", [](DiskInode& i) {
    i.data_format = i.attr_format = 1;
    i.data_bytes = 240;
    i.attr_bytes = 209;
  });
  const auto tree = [](Fork fork, TreeRoot root) {
    return [=](DiskInode& inode) { SetTreeRoot(inode, fork, root); };
  };
  Bad(good, "data tree root", tree(Fork::kData, {UINT64_MAX, 0, {}}));
  Bad(good, "data tree root", tree(Fork::kData, {superblock_.total_blocks, 0, {}}));
  Bad(good, "data tree root", tree(Fork::kData, {0, 1, {}}));
  Bad(good, "attr tree root", tree(Fork::kAttributes, {100, kTreeLevelMax + 1, {}}));
  Bad(good, "attr tree root", tree(Fork::kAttributes, {100, 1, {1}}));
  for (const uint32_t type : {S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK}) {
    Bad(Inode(type), "data_format", tree(Fork::kData, {100, 0, {}}));
  }
}

TEST_F(VerifyInodeTest, InlineExtentsAreChecked) {
  const DiskInode good = FileWith(
      {{0, {8000, 10, 0, 0}}, {10, {9000, 5, kExtentUnwritten, 0}}, {100, {7990, 10, 0, 0}}});
  Bad(good, "data_bytes", [](DiskInode& i) { i.data_bytes = 71; });
  Bad(good, "extent 1 file_block", [](DiskInode& i) { ExtentOf(i, 1).file_block = 9; });
  Bad(good, "extent 2 file_block", [](DiskInode& i) { ExtentOf(i, 2).file_block = 0; });
  Bad(good, "extent 2 file_block", [](DiskInode& i) { ExtentOf(i, 2).file_block = UINT64_MAX; });
  Bad(good, "extent 2 file_block",
      [](DiskInode& i) { ExtentOf(i, 2).file_block = kFileBytesMax / kBlockBytes - 8; });
  Bad(good, "extent 0 length", [](DiskInode& i) { ExtentOf(i, 0).value.length = 0; });
  Bad(good, "extent 2 length", [](DiskInode& i) { ExtentOf(i, 2).value.length = kAgBlocks + 1; });
  Bad(good, "extent 0 block", [](DiskInode& i) { ExtentOf(i, 0).value.block = 0; });
  Bad(good, "extent 0 block", [](DiskInode& i) { ExtentOf(i, 0).value.block = UINT64_MAX; });
  Bad(good, "extent 0 block",
      [&](DiskInode& i) { ExtentOf(i, 0).value.block = superblock_.total_blocks - 9; });
  Bad(good, "extent 0 block", [](DiskInode& i) { ExtentOf(i, 0).value.block = kAgBlocks - 9; });
  Bad(good, "extent 1 flags", [](DiskInode& i) { ExtentOf(i, 1).value.flags = 2; });
  Bad(good, "extent 1 member", [](DiskInode& i) { ExtentOf(i, 1).value.member = 1; });
}

TEST_F(VerifyInodeTest, InlineDirectoriesAreChecked) {
  const DiskInode good = DirectoryWith({128, 129, (uint64_t{1} << 63) - 1});
  const auto at = [](DiskInode& inode, size_t offset) -> uint8_t& {
    return inode.inline_area[offset];
  };
  Bad(good, "parent", [](DiskInode& i) { i.parent = 0; });
  Bad(good, "parent", [](DiskInode& i) { i.parent |= 7; });
  Bad(good, "entries", [](DiskInode& i) { i.entries = 2; });
  Bad(good, "malformed", [](DiskInode& i) { i.data_bytes = 62; });
  Bad(good, "malformed", [](DiskInode& i) { i.data_bytes = 45; });
  Bad(good, "malformed", [](DiskInode& i) { RecordOf(i, 2).name_bytes = 4; });
  Bad(good, "malformed", [](DiskInode& i) { RecordOf(i, 0).name_bytes = 0; });
  Bad(good, "malformed", [](DiskInode& i) { RecordOf(i, 1).record.type = DT_UNKNOWN; });
  Bad(good, "malformed", [&](DiskInode& i) { at(i, sizeof(InlineDirRecord) + 1) = '/'; });
  Bad(good, "malformed", [&](DiskInode& i) { at(i, sizeof(InlineDirRecord)) = 0; });
  Bad(good, "record 0 key", [](DiskInode& i) { RecordOf(i, 0).key = kCookieFirst - 1; });
  Bad(good, "record 1 key", [](DiskInode& i) { RecordOf(i, 1).key = 128; });
  Bad(good, "record 2 key", [](DiskInode& i) { RecordOf(i, 2).key = uint64_t{1} << 63; });
  Bad(good, "record 1 ino", [](DiskInode& i) { RecordOf(i, 1).record.ino = 0; });
  Bad(good, "record 1 ino", [](DiskInode& i) { RecordOf(i, 1).record.ino = 15; });
  Bad(good, "record 1 ino",
      [&](DiskInode& i) { RecordOf(i, 1).record.ino = superblock_.total_blocks * 8; });
  Bad(Inode(S_IFDIR), "entries", [](DiskInode& i) { i.entries = 1; });
}

TEST_F(VerifyInodeTest, SymlinksAreChecked) {
  DiskInode good = Inode(S_IFLNK | 0777);
  SetInline(good, Fork::kData, std::vector<uint8_t>(20, 'x'));
  good.size_bytes = 20;
  Bad(good, "size_bytes", [](DiskInode& i) { i.size_bytes = 21; });
  DiskInode in_tree = Inode(S_IFLNK | 0777);
  SetTreeRoot(in_tree, Fork::kData, {100, 1, {}});
  in_tree.size_bytes = 4095;
  Bad(in_tree, "size_bytes", [](DiskInode& i) { i.size_bytes = 4096; });
}

TEST_F(VerifyInodeTest, InlineAttributesAreChecked) {
  DiskInode good = Inode(S_IFREG | 0644);
  // value_bytes 2, name "ab", value "xy".
  SetInline(good, Fork::kAttributes, std::vector<uint8_t>{2, 0, 0, 0, 2, 'a', 'b', 'x', 'y'});
  constexpr size_t kStart = kInlineBytes - 9;
  const auto bad = [&](size_t offset, uint8_t value) {
    Bad(good, "xattr", [=](DiskInode& i) { i.inline_area[kStart + offset] = value; });
  };
  bad(0, 3);
  bad(3, 255);
  bad(4, 0);
  bad(4, 1);
  bad(4, 200);
  bad(5, 0);
  Bad(good, "xattr", [](DiskInode& i) { i.attr_bytes = 10; });
  Bad(good, "xattr", [](DiskInode& i) { i.attr_bytes = 4; });
}

}  // namespace
}  // namespace pbfs
