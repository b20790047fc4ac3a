// SPDX-License-Identifier: Apache-2.0
#include "fs/make_filesystem.h"

#include <sys/stat.h>

#include <bit>
#include <cstring>
#include <memory>
#include <vector>

#include "base/crc32c.h"
#include "fs/uuid.h"
#include "fs/verify.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "io/fault_device.h"
#include "io/memory_device.h"
#include "io/recording_device.h"

namespace pbfs {
namespace {

using testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;
constexpr uint64_t kTiB = uint64_t{1} << 40;

template <typename T>
std::unique_ptr<T> Read(BlockDevice& device, BlockNumber block) {
  static_assert(sizeof(T) == kBlockBytes);
  auto result = std::make_unique<T>();
  EXPECT_EQ(ReadSync(device, block * kBlockBytes, result.get(), kBlockBytes), 0);
  return result;
}

struct AnyBlock {
  BlockHeader header;
  uint8_t rest[kBlockBytes - sizeof(BlockHeader)];
};

bool IsWhole(BlockDevice& device, BlockNumber block, uint32_t magic, uint64_t owner,
             const Uuid& meta_uuid) {
  auto data = Read<AnyBlock>(device, block);
  const BlockHeader header = data->header;
  data->header.crc = 0;
  return header.magic == magic && header.crc == Crc32c(data.get(), kBlockBytes) &&
         header.meta_uuid == meta_uuid && header.block == block && header.owner == owner &&
         header.lsn == 0;
}

std::vector<BlockNumber> SuperblockPlaces(const Superblock& superblock) {
  std::vector<BlockNumber> places = {0};
  for (uint32_t ag = 1; ag < superblock.ag_count; ++ag) {
    if (AgHasSuperblockCopy(ag)) places.push_back(AgStart(ag));
  }
  places.push_back(superblock.total_blocks - 1);
  return places;
}

std::vector<bool> ReadBitmap(BlockDevice& device, const Superblock& superblock) {
  std::vector<bool> used;
  for (uint32_t i = 0; i < AgBitmapBlocks(0, superblock.total_blocks); ++i) {
    EXPECT_TRUE(
        IsWhole(device, kAgBitmapOffset + i, kMagicBitmap, kOwnerAgBase, superblock.meta_uuid));
    const auto bitmap = Read<BitmapBlock>(device, kAgBitmapOffset + i);
    for (const uint64_t word : bitmap->words) {
      for (int bit = 0; bit < 64; ++bit) used.push_back((word >> bit & 1) != 0);
    }
  }
  return used;
}

class MakeFilesystemSizes : public testing::TestWithParam<uint64_t> {};

TEST_P(MakeFilesystemSizes, BitmapAndGroupTableAddUp) {
  MemoryDevice device(GetParam());
  const auto superblock = MakeFilesystem(device, {});
  ASSERT_TRUE(superblock.ok()) << superblock.status();

  const uint32_t length = AgLength(0, superblock->total_blocks);
  const uint64_t head_end = superblock->log_start + superblock->log_blocks;
  const std::vector<bool> used = ReadBitmap(device, *superblock);
  uint32_t free_blocks = 0;
  for (uint32_t i = 0; i < used.size(); ++i) {
    const bool copy = superblock->ag_count == 1 && i == length - 1;
    ASSERT_EQ(used[i], i < head_end || copy || i >= length) << i;
    if (!used[i]) ++free_blocks;
  }

  for (uint32_t i = 0; i < superblock->ag_table_blocks; ++i) {
    ASSERT_TRUE(IsWhole(device, superblock->ag_table_start + i, kMagicAgTable, kOwnerFilesystem,
                        superblock->meta_uuid));
  }
  for (uint32_t ag = 0; ag < superblock->ag_count; ++ag) {
    const auto table =
        Read<AgTableBlock>(device, superblock->ag_table_start + ag / kAgEntriesPerBlock);
    const AgEntry& entry = table->entries[ag % kAgEntriesPerBlock];
    if (ag == 0) {
      EXPECT_EQ(entry.flags, kAgInitialized);
      EXPECT_EQ(entry.free_blocks, free_blocks);
      continue;
    }
    const uint32_t last = ag == superblock->ag_count - 1 ? 1 : 0;
    ASSERT_EQ(entry.flags, 0u);
    ASSERT_EQ(entry.free_blocks, AgLength(ag, superblock->total_blocks) - 1 -
                                     AgBitmapBlocks(ag, superblock->total_blocks) - last);
    ASSERT_EQ(entry.inode_slots, 0u);
  }
}

TEST_P(MakeFilesystemSizes, SuperblockCopiesAreValid) {
  MemoryDevice device(GetParam());
  const auto superblock = MakeFilesystem(device, {});
  ASSERT_TRUE(superblock.ok()) << superblock.status();
  for (const BlockNumber place : SuperblockPlaces(*superblock)) {
    EXPECT_TRUE(IsWhole(device, place, kMagicSuperblock, kOwnerFilesystem, superblock->meta_uuid))
        << place;
    const auto copy = Read<Superblock>(device, place);
    EXPECT_EQ(copy->total_blocks, superblock->total_blocks);
    EXPECT_TRUE(copy->uuid == superblock->uuid);
    EXPECT_EQ(copy->log_start, superblock->log_start);
  }
}

TEST_P(MakeFilesystemSizes, EveryBlockPassesItsVerifier) {
  MemoryDevice device(GetParam());
  const auto superblock = MakeFilesystem(device, {});
  ASSERT_TRUE(superblock.ok()) << superblock.status();
  const auto verify = [&](BlockNumber block) {
    const auto data = Read<AnyBlock>(device, block);
    return VerifyBlock(reinterpret_cast<const std::byte*>(data.get()), block, *superblock);
  };
  for (BlockNumber block = 0; block < superblock->log_start + kLogAnchorBlocks; ++block) {
    EXPECT_TRUE(verify(block).ok()) << verify(block);
  }
  for (const BlockNumber block : SuperblockPlaces(*superblock)) {
    EXPECT_TRUE(verify(block).ok()) << verify(block);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, MakeFilesystemSizes,
                         testing::Values(16 * kMiB, 16 * kMiB + 3584, 126 * kMiB, 127 * kMiB,
                                         1008 * kMiB, 1008 * kMiB + kBlockBytes,
                                         1008 * kMiB + kLastAgBlocksMin * kBlockBytes, 3 * kGiB,
                                         200 * kGiB));

TEST(MakeFilesystem, RootDirectoryIsThere) {
  MemoryDevice device(64 * kMiB);
  const auto superblock = MakeFilesystem(device, {.root_uid = 7, .root_gid = 8});
  ASSERT_TRUE(superblock.ok()) << superblock.status();
  const BlockNumber block = InodeBlock(superblock->root_inode);
  ASSERT_TRUE(IsWhole(device, block, kMagicInodes, kOwnerAgBase, superblock->meta_uuid));
  const auto table = Read<InodeTableBlock>(device, block);
  const DiskInode& root = table->inodes[InodeSlot(superblock->root_inode)];
  EXPECT_EQ(root.ino, superblock->root_inode);
  EXPECT_EQ(root.parent, superblock->root_inode);
  EXPECT_EQ(root.mode, unsigned{S_IFDIR | 0755});
  EXPECT_EQ(root.nlink, 2u);
  EXPECT_EQ(root.uid, 7u);
  EXPECT_EQ(root.gid, 8u);
  EXPECT_NE(root.generation, 0u);
}

TEST(MakeFilesystem, InodeTreeNamesTheFirstChunk) {
  MemoryDevice device(64 * kMiB);
  const auto superblock = MakeFilesystem(device, {});
  ASSERT_TRUE(superblock.ok()) << superblock.status();
  const AgEntry entry = Read<AgTableBlock>(device, superblock->ag_table_start)->entries[0];
  EXPECT_EQ(entry.inode_slots, 56u);
  EXPECT_EQ(entry.free_inodes, 55u);
  ASSERT_TRUE(
      IsWhole(device, entry.inode_tree.block, kMagicTree, kOwnerAgBase, superblock->meta_uuid));
  const auto leaf = Read<AnyBlock>(device, entry.inode_tree.block);
  TreeNodeHeader node;
  TreeSlot slot;
  InodeChunk chunk;
  const auto* bytes = reinterpret_cast<const std::byte*>(leaf.get());
  std::memcpy(&node, bytes, sizeof node);
  std::memcpy(&slot, bytes + sizeof node, sizeof slot);
  ASSERT_EQ(node.count, 1);
  ASSERT_EQ(slot.length, sizeof chunk);
  ASSERT_EQ(slot.offset, node.heap_start);
  std::memcpy(&chunk, bytes + slot.offset, sizeof chunk);
  EXPECT_EQ(slot.key, InodeBlock(superblock->root_inode));
  EXPECT_EQ(chunk.used_mask, 1u);
  EXPECT_EQ(chunk.blocks, kInodeChunkBlocksMax);
}

TEST(MakeFilesystem, LogIsCleanUnderANewEpoch) {
  MemoryDevice device(64 * kMiB);
  uint64_t epoch_before = 0;
  for (int round = 0; round < 2; ++round) {
    const auto superblock = MakeFilesystem(device, {});
    ASSERT_TRUE(superblock.ok()) << superblock.status();
    const auto first = Read<LogAnchor>(device, superblock->log_start);
    const auto second = Read<LogAnchor>(device, superblock->log_start + 1);
    EXPECT_NE(first->generation, second->generation);
    EXPECT_EQ(first->epoch, second->epoch);
    EXPECT_NE(first->epoch, epoch_before);
    EXPECT_EQ(first->clean, 1u);
    EXPECT_EQ(first->first_sequence, 1u);
    epoch_before = first->epoch;
  }
}

TEST(MakeFilesystem, WritesLittleOnAHugeDevice) {
  MemoryDevice memory(15 * kTiB);
  RecordingDevice device(memory);
  ASSERT_TRUE(MakeFilesystem(device, {}).ok());
  size_t written_bytes = 0;
  for (const RecordedIo& io : device.TakeRecording()) written_bytes += io.data.size();
  EXPECT_LT(written_bytes, 1 * kMiB);
}

TEST(MakeFilesystem, RefusesWhatDoesNotFit) {
  MemoryDevice small(16 * kMiB - 512);
  EXPECT_THAT(MakeFilesystem(small, {}).status().message(), HasSubstr("too small"));
  MemoryDevice device(64 * kMiB);
  EXPECT_THAT(MakeFilesystem(device, {.size_bytes = 65 * kMiB}).status().message(),
              HasSubstr("more than the device has"));
  EXPECT_THAT(MakeFilesystem(device, {.log_bytes = 1 * kMiB}).status().message(),
              HasSubstr("log is too small"));
  EXPECT_THAT(MakeFilesystem(device, {.log_bytes = 60 * kMiB}).status().message(),
              HasSubstr("log is too large"));
  EXPECT_TRUE(MakeFilesystem(device, {.label = std::string(64, 'x')}).ok());
  EXPECT_THAT(MakeFilesystem(device, {.label = std::string(65, 'x')}).status().message(),
              HasSubstr("label is too long"));
  EXPECT_THAT(MakeFilesystem(device, {.label = "a\nb"}).status().message(),
              HasSubstr("control character"));
}

TEST(MakeFilesystem, TakesSizeLogLabelAndUuid) {
  MemoryDevice device(256 * kMiB);
  const auto uuid = ParseUuid("12345678-9abc-def0-1234-56789abcdef0");
  ASSERT_TRUE(uuid.ok());
  const auto superblock = MakeFilesystem(
      device, {.size_bytes = 32 * kMiB, .log_bytes = 8 * kMiB, .label = "photos", .uuid = *uuid});
  ASSERT_TRUE(superblock.ok()) << superblock.status();
  const auto primary = Read<Superblock>(device, 0);
  EXPECT_EQ(primary->total_blocks, 32 * kMiB / kBlockBytes);
  EXPECT_EQ(primary->log_blocks, 8 * kMiB / kBlockBytes);
  EXPECT_STREQ(primary->label, "photos");
  EXPECT_EQ(FormatUuid(primary->uuid), "12345678-9abc-def0-1234-56789abcdef0");
  EXPECT_FALSE(primary->uuid == primary->meta_uuid);
}

TEST(MakeFilesystem, SmallerFilesystemDestroysTheOldLastCopy) {
  MemoryDevice device(64 * kMiB);
  const auto old = MakeFilesystem(device, {.size_bytes = 48 * kMiB});
  ASSERT_TRUE(old.ok()) << old.status();
  ASSERT_TRUE(MakeFilesystem(device, {.size_bytes = 32 * kMiB, .discard = false}).ok());
  EXPECT_NE(Read<AnyBlock>(device, old->total_blocks - 1)->header.magic, kMagicSuperblock);
}

// At each write: nothing of the old filesystem mounts any more, and what mounts is complete.
TEST(MakeFilesystem, HalfMadeFilesystemHasNoSuperblock) {
  const uint64_t size_bytes = 4 * kGiB;
  bool complete = false;
  for (int writes_max = 1; !complete; ++writes_max) {
    MemoryDevice memory(size_bytes);
    const auto old = MakeFilesystem(memory, {});
    ASSERT_TRUE(old.ok());
    FaultDevice device(memory);
    int writes = 0;
    device.SetDecide([&](const IoRequest& request) {
      return request.op == IoOp::kWrite && ++writes > writes_max ? EIO : 0;
    });
    const auto made = MakeFilesystem(device, {});
    complete = made.ok();
    bool old_found = false, new_found = false;
    Uuid new_uuid = {};
    for (const BlockNumber place : SuperblockPlaces(*old)) {
      const auto superblock = Read<Superblock>(memory, place);
      if (superblock->header.magic != kMagicSuperblock) continue;
      (superblock->meta_uuid == old->meta_uuid ? old_found : new_found) = true;
      new_uuid = superblock->meta_uuid;
    }
    EXPECT_FALSE(old_found && new_found) << writes_max;
    EXPECT_NE(Read<AnyBlock>(memory, 0)->header.magic == kMagicSuperblock, !complete);
    if (new_found && !old_found) {
      EXPECT_TRUE(IsWhole(memory, old->log_start + 1, kMagicLogAnchor, kOwnerLog, new_uuid));
    }
  }
}

}  // namespace
}  // namespace pbfs
