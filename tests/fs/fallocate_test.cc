// SPDX-License-Identifier: Apache-2.0
// fallocate(2) and unwritten extents.
#include <linux/falloc.h>
#include <unistd.h>

#include <random>

#include "absl/strings/str_join.h"
#include "fs/checker.h"
#include "tests/support/fs_fixture.h"
#include "tests/support/fs_image.h"

namespace pbfs {
namespace {

constexpr int kKeep = FALLOC_FL_KEEP_SIZE;
constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZero = FALLOC_FL_ZERO_RANGE;

class FallocateTest : public FsFixture {
 protected:
  void SetUp() override { MakeAndMount(); }

  InodeNumber Make(const char* name = "a") {
    const auto made = client_->Create(root(), name);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *made : 0;
  }
  InodeNumber Find(const char* name = "a") { return *client_->Find(root(), name); }
  std::string Bytes(InodeNumber ino) {
    const auto bytes = client_->Read(ino, 0, 64 << 20);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return bytes.ok() ? *bytes : "";
  }
  uint64_t Blocks(InodeNumber ino) { return fs_->GetAttributes(ino)->blocks_512 / 8; }
  uint64_t Size(InodeNumber ino) { return fs_->GetAttributes(ino)->size_bytes; }
  uint64_t Free() { return fs_->StatFs()->blocks_available; }
  int Allocate(InodeNumber ino, int mode, uint64_t offset, uint64_t length) {
    return ErrnoOf(client_->Fallocate(ino, mode, offset, length));
  }
  // Everything is where it was promised to be.
  void Check() {
    ASSERT_TRUE(fs_->Unmount().ok());
    fs_.reset();
    const auto report = CheckFilesystem(*device_);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->clean()) << absl::StrJoin(report->problems, "\n");
    Mount();
  }
  // How many extents the file has; unmounts and mounts.
  size_t Extents(const char* name = "a") {
    const InodeNumber ino = Find(name);
    EXPECT_TRUE(fs_->Unmount().ok());
    fs_.reset();
    size_t count = 0;
    ImageEditor(*device_).EditInode(
        ino, [&](DiskInode& inode) { count = inode.data_bytes / sizeof(InlineExtent); });
    Mount();
    return count;
  }
  // "data 0..4096, hole 4096..8192", as SEEK_DATA and SEEK_HOLE have it.
  std::string Map(InodeNumber ino) {
    std::string text;
    const uint64_t size = Size(ino);
    for (uint64_t at = 0; at < size;) {
      const auto hole = fs_->Seek(ino, at, SEEK_HOLE);
      EXPECT_TRUE(hole.ok()) << hole.status();
      if (*hole > at) absl::StrAppend(&text, "d", at / kBlockBytes, "-", *hole / kBlockBytes, " ");
      const auto data = fs_->Seek(ino, *hole, SEEK_DATA);
      if (!data.ok()) break;
      at = *data;
    }
    return text;
  }
  // Fills the device; nothing is left for anybody.
  void FillDevice(const char* name = "fill") {
    const InodeNumber ino = Make(name);
    uint64_t at = 0;
    for (uint64_t chunk = 64 << 10; chunk >= kBlockBytes;) {
      if (client_->Write(ino, at, std::string(chunk, 'f')).ok()) {
        at += chunk;
      } else {
        chunk /= 2;
      }
    }
    ASSERT_TRUE(client_->Sync().ok());
    while (client_->Write(ino, at, std::string(kBlockBytes, 'f')).ok()) at += kBlockBytes;
    ASSERT_TRUE(client_->Sync().ok());
  }
};

TEST_F(FallocateTest, AllocatedSpaceReadsAsZeroesAndRaisesTheSize) {
  const InodeNumber ino = Make();
  ASSERT_EQ(Allocate(ino, 0, 5000, 20'000), 0);
  EXPECT_EQ(Size(ino), 25'000u);
  EXPECT_EQ(Blocks(ino), 6u);  // From 4096 on.
  EXPECT_EQ(Bytes(ino), std::string(25'000, '\0'));
  EXPECT_EQ(Map(ino), "");
  Check();
  EXPECT_EQ(Bytes(Find()), std::string(25'000, '\0'));
  EXPECT_EQ(Blocks(Find()), 6u);
}

TEST_F(FallocateTest, WithKeepSizeBlocksLieBehindTheEndUntilATruncation) {
  const InodeNumber ino = Make();
  ASSERT_TRUE(client_->Write(ino, 0, std::string(100, 'x')).ok());
  ASSERT_EQ(Allocate(ino, kKeep, 0, 1 << 20), 0);
  EXPECT_EQ(Size(ino), 100u);
  EXPECT_EQ(Blocks(ino), 256u);
  ASSERT_TRUE(client_->Fsync(ino).ok());
  EXPECT_EQ(Blocks(ino), 256u);
  Check();
  ASSERT_TRUE(client_->Truncate(Find(), 100).ok());
  EXPECT_EQ(Blocks(Find()), 1u);
  EXPECT_EQ(Bytes(Find()), std::string(100, 'x'));
  Check();
}

TEST_F(FallocateTest, BlocksBehindTheEndReadAsZeroesWhenTheFileGrows) {
  const InodeNumber ino = Make();
  ASSERT_EQ(Allocate(ino, kKeep, 0, 100'000), 0);
  ASSERT_TRUE(client_->Truncate(ino, 50'000).ok());
  EXPECT_EQ(Bytes(ino), std::string(50'000, '\0'));
  EXPECT_EQ(Blocks(ino), 25u);
  ASSERT_TRUE(client_->Write(ino, 70'000, "end").ok());
  EXPECT_EQ(Bytes(ino), std::string(70'000, '\0') + "end");
  EXPECT_EQ(Blocks(ino), 25u);
  Check();
  EXPECT_EQ(Bytes(Find()), std::string(70'000, '\0') + "end");
}

TEST_F(FallocateTest, WritesTurnPartsIntoWrittenOnes) {
  const InodeNumber ino = Make();
  ASSERT_EQ(Allocate(ino, 0, 0, 16 * kBlockBytes), 0);
  ASSERT_TRUE(client_->Write(ino, 5 * kBlockBytes + 10, "middle").ok());
  EXPECT_EQ(Map(ino), "d5-6 ");
  EXPECT_EQ(Blocks(ino), 16u);
  ASSERT_TRUE(client_->Fsync(ino).ok());
  EXPECT_EQ(Map(ino), "d5-6 ");
  ASSERT_TRUE(client_->Write(ino, 0, std::string(kBlockBytes, 'a')).ok());
  ASSERT_TRUE(client_->Write(ino, 15 * kBlockBytes, std::string(kBlockBytes, 'z')).ok());
  EXPECT_EQ(Map(ino), "d0-1 d5-6 d15-16 ");
  const std::string expected = Bytes(ino);
  Check();
  EXPECT_EQ(Map(Find()), "d0-1 d5-6 d15-16 ");
  EXPECT_EQ(Bytes(Find()), expected);
  EXPECT_EQ(Blocks(Find()), 16u);
  // All written: one extent again.
  ASSERT_TRUE(client_->Write(Find(), 0, std::string(16 * kBlockBytes, 'y')).ok());
  Check();
  EXPECT_EQ(Map(Find()), "d0-16 ");
}

TEST_F(FallocateTest, ExtentsAreSplitAndMergedAsTheirPartsChange) {
  ASSERT_EQ(Allocate(Make(), 0, 0, 16 * kBlockBytes), 0);
  EXPECT_EQ(Extents(), 1u);
  const auto write = [&](uint64_t block, uint64_t count) {
    ASSERT_TRUE(
        client_->Write(Find(), block * kBlockBytes, std::string(count * kBlockBytes, 'w')).ok());
  };
  write(8, 2);
  EXPECT_EQ(Extents(), 3u);
  write(10, 1);  // Joins what is before.
  EXPECT_EQ(Extents(), 3u);
  write(7, 1);  // Joins what is behind.
  EXPECT_EQ(Extents(), 3u);
  write(5, 1);
  EXPECT_EQ(Extents(), 5u);
  write(6, 1);  // Both.
  EXPECT_EQ(Extents(), 3u);
  ASSERT_EQ(Allocate(Find(), kZero, 5 * kBlockBytes, 2 * kBlockBytes), 0);
  EXPECT_EQ(Extents(), 3u);
  ASSERT_EQ(Allocate(Find(), kPunch, 2 * kBlockBytes, kBlockBytes), 0);
  EXPECT_EQ(Extents(), 4u);
  ASSERT_EQ(Allocate(Find(), kZero, 7 * kBlockBytes, 9 * kBlockBytes), 0);
  EXPECT_EQ(Extents(), 2u);
  write(0, 16);
  EXPECT_EQ(Blocks(Find()), 16u);
  Check();
}

TEST_F(FallocateTest, APunchedRangeIsAHoleAndItsEdgesAreZeroes) {
  const InodeNumber ino = Make();
  std::string expected(10 * kBlockBytes, 'x');
  ASSERT_TRUE(client_->Write(ino, 0, expected).ok());
  ASSERT_TRUE(client_->Fsync(ino).ok());
  const uint64_t free = Free();
  ASSERT_EQ(Allocate(ino, kPunch, 2 * kBlockBytes - 100, 3 * kBlockBytes + 300), 0);
  expected.replace(2 * kBlockBytes - 100, 3 * kBlockBytes + 300, 3 * kBlockBytes + 300, '\0');
  EXPECT_EQ(Bytes(ino), expected);
  EXPECT_EQ(Size(ino), expected.size());
  EXPECT_EQ(Map(ino), "d0-2 d5-10 ");
  EXPECT_EQ(Blocks(ino), 7u);
  ASSERT_TRUE(client_->Sync().ok());
  EXPECT_EQ(Free(), free + 3);
  Check();
  EXPECT_EQ(Bytes(Find()), expected);
}

TEST_F(FallocateTest, APunchWithinABlockOnlyZeroes) {
  const InodeNumber ino = Make();
  std::string expected(6000, 'x');
  ASSERT_TRUE(client_->Write(ino, 0, expected).ok());
  ASSERT_TRUE(client_->Fsync(ino).ok());
  ASSERT_EQ(Allocate(ino, kPunch, 100, 50), 0);
  ASSERT_EQ(Allocate(ino, kPunch, 5000, 1 << 20), 0);  // Over the end.
  ASSERT_EQ(Allocate(ino, kPunch, 1 << 20, 1 << 20), 0);
  expected.replace(100, 50, 50, '\0');
  expected.replace(5000, 1000, 1000, '\0');
  EXPECT_EQ(Bytes(ino), expected);
  EXPECT_EQ(Blocks(ino), 2u);
  Check();
  EXPECT_EQ(Bytes(Find()), expected);
}

TEST_F(FallocateTest, PunchingDropsDataThatWasNeverWritten) {
  const InodeNumber ino = Make();
  const uint64_t free = Free();
  ASSERT_TRUE(client_->Write(ino, 0, std::string(8 * kBlockBytes, 'x')).ok());
  ASSERT_EQ(Allocate(ino, kPunch, 0, 8 * kBlockBytes), 0);
  EXPECT_EQ(Blocks(ino), 0u);
  EXPECT_EQ(Free(), free);
  EXPECT_EQ(Bytes(ino), std::string(8 * kBlockBytes, '\0'));
  ASSERT_EQ(Allocate(ino, 0, 0, 8 * kBlockBytes), 0);
  ASSERT_TRUE(client_->Write(ino, 0, std::string(8 * kBlockBytes, 'x')).ok());
  ASSERT_EQ(Allocate(ino, kPunch, kBlockBytes, 6 * kBlockBytes), 0);
  EXPECT_EQ(Blocks(ino), 2u);
  Check();
  EXPECT_EQ(Map(Find()), "d0-1 d7-8 ");
}

TEST_F(FallocateTest, AZeroedRangeKeepsItsBlocksAndGetsOthers) {
  const InodeNumber ino = Make();
  std::string expected(4 * kBlockBytes, 'x');
  ASSERT_TRUE(client_->Write(ino, 0, expected).ok());
  ASSERT_TRUE(client_->Fsync(ino).ok());
  ASSERT_EQ(Allocate(ino, kZero, 1000, 40'000), 0);
  expected.resize(41'000);
  expected.replace(1000, 40'000, 40'000, '\0');
  EXPECT_EQ(Bytes(ino), expected);
  EXPECT_EQ(Blocks(ino), 11u);
  EXPECT_EQ(Map(ino), "d0-1 ");
  ASSERT_EQ(Allocate(ino, kZero | kKeep, 0, 80'000), 0);
  EXPECT_EQ(Size(ino), 41'000u);
  EXPECT_EQ(Blocks(ino), 20u);
  EXPECT_EQ(Map(ino), "");
  Check();
  EXPECT_EQ(Bytes(Find()), std::string(41'000, '\0'));
}

TEST_F(FallocateTest, ArgumentsAreChecked) {
  const InodeNumber ino = Make();
  const InodeNumber dir = *client_->Mkdir(root(), "d");
  const InodeNumber fifo = *client_->Create(root(), "f", S_IFIFO | 0600);
  EXPECT_EQ(Allocate(ino, 0, 0, 0), EINVAL);
  EXPECT_EQ(Allocate(ino, 0, kFileBytesMax, 1), EFBIG);
  EXPECT_EQ(Allocate(ino, 0, 1, kFileBytesMax), EFBIG);
  EXPECT_EQ(Allocate(ino, FALLOC_FL_PUNCH_HOLE, 0, 1), EOPNOTSUPP);
  EXPECT_EQ(Allocate(ino, FALLOC_FL_COLLAPSE_RANGE, 0, kBlockBytes), EOPNOTSUPP);
  EXPECT_EQ(Allocate(ino, FALLOC_FL_INSERT_RANGE, 0, kBlockBytes), EOPNOTSUPP);
  EXPECT_EQ(Allocate(dir, 0, 0, 1), EISDIR);
  EXPECT_EQ(Allocate(fifo, 0, 0, 1), ENODEV);
  EXPECT_EQ(Allocate(ino, kPunch, 0, kFileBytesMax), 0);
  EXPECT_EQ(Allocate(ino, 0, 0, kFileBytesMax), ENOSPC);
  EXPECT_EQ(Size(ino), 0u);
  EXPECT_EQ(Blocks(ino), 0u);
}

TEST_F(FallocateTest, WhatDoesNotFitChangesNothing) {
  const InodeNumber ino = Make();
  ASSERT_TRUE(client_->Write(ino, 0, "abc").ok());
  const uint64_t free = Free();
  EXPECT_EQ(Allocate(ino, 0, 0, (free + 10) * kBlockBytes), ENOSPC);
  EXPECT_EQ(Size(ino), 3u);
  EXPECT_EQ(Blocks(ino), 1u);
  EXPECT_EQ(Allocate(ino, 0, 0, (free - 40) * kBlockBytes), 0);
  Check();
}

TEST_F(FallocateTest, PreallocatedSpaceCanBeWrittenOnAFullDevice) {
  const InodeNumber ino = Make();
  constexpr uint64_t kBlocks = 2000;
  ASSERT_EQ(Allocate(ino, 0, 0, kBlocks * kBlockBytes), 0);
  FillDevice();
  // Every other block first, so that the map grows into a tree.
  const std::string block(kBlockBytes, 'p');
  for (uint64_t i = 0; i < kBlocks; i += 2) {
    ASSERT_TRUE(client_->Write(ino, i * kBlockBytes, block).ok()) << i;
  }
  ASSERT_TRUE(client_->Fsync(ino).ok());
  for (uint64_t i = 1; i < kBlocks; i += 2) {
    ASSERT_TRUE(client_->Write(ino, i * kBlockBytes + 1, "q").ok()) << i;
    if (i % 199 == 0) ASSERT_TRUE(client_->Fsync(ino).ok());
  }
  const std::string expected = Bytes(ino);
  Check();
  EXPECT_EQ(Bytes(Find()), expected);
  EXPECT_EQ(Map(Find()), absl::StrCat("d0-", kBlocks, " "));
}

// Others have taken all that is kept back; what was accepted has its space all the same.
TEST_F(FallocateTest, WhatWasPreallocatedIsStoredWhenTheReserveIsUsedUp) {
  const InodeNumber ino = Make();
  constexpr uint64_t kBlocks = 800;
  ASSERT_EQ(Allocate(ino, 0, 0, kBlocks * kBlockBytes), 0);
  constexpr int kOthers = 100;
  for (int i = 0; i < kOthers; ++i) {
    ASSERT_EQ(Allocate(Make(absl::StrCat("other ", i).c_str()), 0, 0, kBlockBytes), 0);
  }
  const InodeNumber gone = Make("gone");
  ASSERT_EQ(Allocate(gone, 0, 0, 500 * kBlockBytes), 0);
  FillDevice();
  const std::string block(kBlockBytes, 'p');
  for (uint64_t i = 0; i < kBlocks; i += 2) {
    ASSERT_TRUE(client_->Write(ino, i * kBlockBytes, block).ok()) << i;
  }
  for (int i = 0; i < kOthers && fs_->StatFs()->blocks_free >= 128 + 4; ++i) {
    ASSERT_TRUE(client_->Write(Find(absl::StrCat("other ", i).c_str()), 0, block).ok()) << i;
  }
  EXPECT_TRUE(client_->Truncate(gone, 0).ok());
  EXPECT_TRUE(client_->Fsync(ino).ok());
  const std::string expected = Bytes(ino);
  Check();
  EXPECT_EQ(Bytes(Find()), expected);
}

// Whatever maps have grown by.
TEST_F(FallocateTest, WritesToPreallocatedSpaceLeaveEnoughToDeleteSomething) {
  constexpr int kFiles = 300;
  constexpr uint64_t kBlocks = 20;
  std::vector<InodeNumber> files;
  for (int i = 0; i < kFiles; ++i) {
    files.push_back(Make(absl::StrCat(i).c_str()));
    ASSERT_EQ(Allocate(files.back(), 0, 0, kBlocks * kBlockBytes), 0);
  }
  FillDevice();
  const std::string block(kBlockBytes, 'p');
  Status status;
  for (int i = 0; i < kFiles && status.ok(); ++i) {
    for (uint64_t at = 0; at < kBlocks && status.ok(); at += 2) {
      status = client_->Write(files[i], at * kBlockBytes, block);
    }
    ASSERT_TRUE(client_->Fsync(files[i]).ok());
  }
  EXPECT_EQ(ErrnoOf(status), ENOSPC);
  EXPECT_TRUE(client_->Truncate(files[0], 0).ok());
  EXPECT_TRUE(fs_->Unlink(root(), "1").ok());
  EXPECT_TRUE(fs_->Unlink(root(), "fill").ok());
  Check();
}

// An accepted page may fall into any leaf of the map, and leaves that were filled in order are
// full.
TEST_F(FallocateTest, PagesInManyFullLeavesAreStoredWhenTheReserveIsUsedUp) {
  constexpr uint64_t kExtents = 60 * 143;
  constexpr uint64_t kGap = 143 * 2;
  const InodeNumber ino = Make();
  const std::string block(kBlockBytes, 'p');
  for (uint64_t i = 0; i < kExtents; ++i) {
    ASSERT_TRUE(client_->Write(ino, 2 * i * kBlockBytes, block).ok()) << i;
    if (i % 500 == 0) ASSERT_TRUE(client_->Fsync(ino).ok());
  }
  ASSERT_TRUE(client_->Fsync(ino).ok());
  FillDevice();
  ASSERT_TRUE(client_->Truncate(Find("fill"), Size(Find("fill")) - 400 * kBlockBytes).ok());
  Status status;
  uint64_t accepted = 0;
  for (uint64_t at = 71; at < 2 * kExtents; at += kGap) {
    status = client_->Write(ino, (2 * (at / 2) + 1) * kBlockBytes, block);
    if (!status.ok()) break;
    ++accepted;
  }
  EXPECT_GT(accepted, 50u);
  const uint64_t free = fs_->StatFs()->blocks_free;
  EXPECT_TRUE(client_->Fsync(ino).ok());
  // It took no more than was promised.
  EXPECT_GE(fs_->StatFs()->blocks_free, free);
  Check();
}

TEST_F(FallocateTest, AFullDeviceCanBePunchedAndZeroed) {
  const InodeNumber ino = Make();
  std::string expected(100 * kBlockBytes, 'x');
  ASSERT_TRUE(client_->Write(ino, 0, expected).ok());
  FillDevice();
  ASSERT_EQ(Allocate(ino, kZero, 10 * kBlockBytes + 7, 20 * kBlockBytes), 0);
  ASSERT_EQ(Allocate(ino, kPunch, 50 * kBlockBytes + 7, 20 * kBlockBytes), 0);
  expected.replace(10 * kBlockBytes + 7, 20 * kBlockBytes, 20 * kBlockBytes, '\0');
  expected.replace(50 * kBlockBytes + 7, 20 * kBlockBytes, 20 * kBlockBytes, '\0');
  ASSERT_TRUE(client_->Fsync(ino).ok());
  ASSERT_TRUE(client_->Write(Find("fill"), 0, std::string(kBlockBytes, 'g')).ok());
  EXPECT_EQ(Bytes(ino), expected);
  Check();
  EXPECT_EQ(Bytes(Find()), expected);
}

TEST_F(FallocateTest, RangesOfAFileInManyPiecesTakeManySteps) {
  const InodeNumber ino = Make();
  constexpr uint64_t kBlocks = 1000;
  std::string expected(kBlocks * kBlockBytes, '\0');
  for (uint64_t i = 0; i < kBlocks; i += 2) {
    ASSERT_TRUE(client_->Write(ino, i * kBlockBytes, std::string(kBlockBytes, 'x')).ok());
    expected.replace(i * kBlockBytes, kBlockBytes, kBlockBytes, 'x');
    if (i % 100 == 0) ASSERT_TRUE(client_->Fsync(ino).ok());
  }
  ASSERT_TRUE(client_->Fsync(ino).ok());
  ASSERT_EQ(Allocate(ino, kPunch, 100 * kBlockBytes, 100 * kBlockBytes), 0);
  ASSERT_EQ(Allocate(ino, kZero, 300 * kBlockBytes, 100 * kBlockBytes), 0);
  ASSERT_EQ(Allocate(ino, 0, 500 * kBlockBytes, 500 * kBlockBytes), 0);
  expected.replace(100 * kBlockBytes, 100 * kBlockBytes, 100 * kBlockBytes, '\0');
  expected.replace(300 * kBlockBytes, 100 * kBlockBytes, 100 * kBlockBytes, '\0');
  expected.resize(kBlocks * kBlockBytes);
  EXPECT_EQ(Bytes(ino), expected);
  Check();
  EXPECT_EQ(Bytes(Find()), expected);
  ASSERT_TRUE(client_->Truncate(Find(), 0).ok());
  EXPECT_EQ(Blocks(Find()), 0u);
  Check();
}

TEST_F(FallocateTest, ACutAfterAPreallocationShowsZeroes) {
  const InodeNumber ino = Make();
  // Old data lies where the space will be.
  ASSERT_TRUE(client_->Write(ino, 0, std::string(200 * kBlockBytes, 's')).ok());
  ASSERT_TRUE(client_->Sync().ok());
  ASSERT_TRUE(client_->Truncate(ino, 0).ok());
  ASSERT_TRUE(client_->Sync().ok());
  ASSERT_EQ(Allocate(ino, 0, 0, 200 * kBlockBytes), 0);
  ASSERT_TRUE(client_->Fsync(ino).ok());
  ASSERT_TRUE(client_->Write(ino, 0, std::string(100 * kBlockBytes, 'n')).ok());
  CutPower(3);
  Mount();
  EXPECT_EQ(Bytes(Find()), std::string(200 * kBlockBytes, '\0'));
  Check();
}

// One file against a byte array, with remounts.
class FallocateModelTest : public FallocateTest, public testing::WithParamInterface<uint32_t> {
 protected:
  static constexpr uint32_t kMost = 300'000;

  uint32_t Below(uint32_t end) { return static_cast<uint32_t>(random_() % end); }
  void Resize(uint64_t size) { model_.resize(size); }
  void Reach(uint64_t size) { Resize(std::max<size_t>(model_.size(), size)); }
  void Zero(uint64_t offset, uint64_t length) {
    const size_t end = std::min<size_t>(model_.size(), offset + length);
    if (offset < end) model_.replace(offset, end - offset, end - offset, '\0');
  }

  void Step() {
    uint64_t offset = Below(kMost);
    uint64_t length = 1 + Below(Below(4) == 0 ? 120'000 : 9000);
    if (Below(2) == 0) offset = offset / kBlockBytes * kBlockBytes;
    if (Below(3) == 0) length = (length / kBlockBytes + 1) * kBlockBytes;
    const bool keep = Below(2) == 0;
    const uint32_t kind = Below(10);
    if (kind < 3) {
      const std::string bytes(length, static_cast<char>('a' + Below(26)));
      ASSERT_TRUE(client_->Write(ino_, offset, bytes).ok());
      Reach(offset + length);
      model_.replace(offset, length, bytes);
    } else if (kind < 5) {
      ASSERT_EQ(Allocate(ino_, keep ? kKeep : 0, offset, length), 0);
      if (!keep) Reach(offset + length);
    } else if (kind < 7) {
      ASSERT_EQ(Allocate(ino_, kPunch, offset, length), 0);
      Zero(offset, length);
    } else if (kind == 7) {
      ASSERT_EQ(Allocate(ino_, keep ? kZero | kKeep : kZero, offset, length), 0);
      if (!keep) Reach(offset + length);
      Zero(offset, length);
    } else if (kind == 8) {
      ASSERT_TRUE(client_->Truncate(ino_, offset).ok());
      Resize(offset);
    } else if (Below(6) == 0) {
      Check();
      ino_ = Find();
    } else {
      ASSERT_TRUE(client_->Fsync(ino_).ok());
    }
  }
  // What is not zero is data to SEEK_DATA.
  void Look() {
    if (model_.empty()) return;
    const uint64_t from = Below(static_cast<uint32_t>(model_.size()));
    const size_t not_zero = model_.find_first_not_of('\0', from);
    const auto data = fs_->Seek(ino_, from, SEEK_DATA);
    if (not_zero == std::string::npos) return;
    ASSERT_TRUE(data.ok()) << data.status();
    ASSERT_LE(*data, not_zero);
  }

  std::mt19937 random_{GetParam()};
  InodeNumber ino_ = 0;
  std::string model_;
};

TEST_P(FallocateModelTest, RandomOperationsDoWhatAByteArrayDoes) {
  ino_ = Make();
  for (int i = 0; i < 500; ++i) {
    Step();
    if (HasFatalFailure()) return;
    ASSERT_EQ(Bytes(ino_), model_) << "step " << i;
    Look();
  }
  Check();
  ASSERT_EQ(Bytes(Find()), model_);
}
INSTANTIATE_TEST_SUITE_P(Seeds, FallocateModelTest, testing::Range(1u, 9u));

TEST_F(FallocateTest, EndOfFileIsNeitherDataNorHole) {
  const InodeNumber ino = Make();
  ASSERT_EQ(Allocate(ino, 0, 0, 5000), 0);
  EXPECT_EQ(ErrnoOf(fs_->Seek(ino, 5000, SEEK_HOLE).status()), ENXIO);
  EXPECT_EQ(ErrnoOf(fs_->Seek(ino, 5000, SEEK_DATA).status()), ENXIO);
  EXPECT_EQ(ErrnoOf(fs_->Seek(ino, 0, SEEK_DATA).status()), ENXIO);
  EXPECT_EQ(*fs_->Seek(ino, 4999, SEEK_HOLE), 4999u);
}

}  // namespace
}  // namespace pbfs
