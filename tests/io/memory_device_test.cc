// SPDX-License-Identifier: Apache-2.0
#include "io/memory_device.h"

#include <thread>

#include "tests/io/test_util.h"

namespace pbfs {
namespace {

constexpr uint64_t kSize = 4 << 20;

class MemoryDeviceTest : public ::testing::Test {
 protected:
  void Put(uint64_t block, int value, bool fua = false) {
    AlignedMemory data(4096);
    data.Fill(value);
    ASSERT_EQ(WriteSync(device_, block * 4096, data.data(), 4096, fua), 0);
  }
  // The value of each sector of a block; -1 where a sector is mixed.
  static std::vector<int> SectorsOf(BlockDevice& device, uint64_t block) {
    AlignedMemory data(4096);
    EXPECT_EQ(ReadSync(device, block * 4096, data.data(), 4096), 0);
    std::vector<int> values;
    for (size_t sector = 0; sector < 8; ++sector) {
      const std::byte* bytes = data.data() + sector * 512;
      const int value = std::to_integer<int>(bytes[0]);
      values.push_back(AllBytesAre(bytes, 512, value) ? value : -1);
    }
    return values;
  }
  std::vector<int> SectorsOf(uint64_t block) { return SectorsOf(device_, block); }
  static std::vector<int> Whole(int value) { return std::vector<int>(8, value); }

  MemoryDevice device_{kSize};
};

TEST_F(MemoryDeviceTest, ReadsZerosWhereNothingWasWritten) { EXPECT_EQ(SectorsOf(17), Whole(0)); }

TEST_F(MemoryDeviceTest, ReadsBackScatteredWritesThatSpanBlocks) {
  AlignedMemory out(64 << 10);
  out.FillPattern(1);
  IoRequest request;
  request.op = IoOp::kWrite;
  request.offset_bytes = 4096 * 3 + 512;
  for (size_t at = 0; at < out.size(); at += 1024) request.buffer.Append(out.data() + at, 512);
  ASSERT_EQ(RunSync(device_, request), 0);
  AlignedMemory in(32 << 10);
  ASSERT_EQ(ReadSync(device_, 4096 * 3 + 512, in.data(), in.size()), 0);
  for (size_t sector = 0; sector < 64; ++sector) {
    EXPECT_EQ(std::memcmp(in.data() + sector * 512, out.data() + sector * 1024, 512), 0) << sector;
  }
}

TEST_F(MemoryDeviceTest, RangesPastTheEndFail) {
  AlignedMemory data(8192);
  EXPECT_EQ(ReadSync(device_, kSize - 4096, data.data(), 8192), EIO);
  EXPECT_EQ(WriteSync(device_, kSize, data.data(), 512), EIO);
  EXPECT_EQ(ReadSync(device_, kSize - 8192, data.data(), 8192), 0);
  EXPECT_EQ(RunRange(device_, IoOp::kDiscard, 4096, kSize), EIO);
}

TEST_F(MemoryDeviceTest, WriteZeroesClearsItsRangeOnly) {
  for (uint64_t block = 0; block < 4; ++block) Put(block, 9);
  ASSERT_EQ(RunRange(device_, IoOp::kWriteZeroes, 1024, 4096 * 2), 0);
  EXPECT_EQ(SectorsOf(0), (std::vector<int>{9, 9, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(SectorsOf(1), Whole(0));
  EXPECT_EQ(SectorsOf(2), (std::vector<int>{0, 0, 9, 9, 9, 9, 9, 9}));
  EXPECT_EQ(SectorsOf(3), Whole(9));
}

TEST_F(MemoryDeviceTest, AHugeDiscardVisitsOnlyWhatExists) {
  MemoryDevice huge(uint64_t{1} << 50);
  AlignedMemory data(4096);
  data.Fill(3);
  ASSERT_EQ(WriteSync(huge, uint64_t{1} << 49, data.data(), 4096), 0);
  ASSERT_EQ(RunRange(huge, IoOp::kDiscard, 0, uint64_t{1} << 50), 0);
  EXPECT_EQ(SectorsOf(huge, (uint64_t{1} << 49) / 4096), Whole(0));
}

TEST_F(MemoryDeviceTest, FlushedWritesSurviveEveryPowerCut) {
  for (uint64_t block = 0; block < 64; ++block) Put(block, 1);
  ASSERT_EQ(FlushSync(device_), 0);
  EXPECT_EQ(device_.flush_count(), 1u);
  device_.PowerCut(1, 0);
  for (uint64_t block = 0; block < 64; ++block) EXPECT_EQ(SectorsOf(block), Whole(1));
}

TEST_F(MemoryDeviceTest, FuaWritesSurviveWithoutAFlush) {
  Put(5, 7, /*fua=*/true);
  Put(6, 8);
  device_.PowerCut(1, 0);
  EXPECT_EQ(SectorsOf(5), Whole(7));
  EXPECT_EQ(SectorsOf(6), Whole(0));
}

TEST_F(MemoryDeviceTest, AFuaWriteOfOneSectorSavesThatSectorOnly) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Put(5, 1);
    FlushSync(device_);
    Put(5, 2);
    AlignedMemory sector(512);
    sector.Fill(3);
    ASSERT_EQ(WriteSync(device_, 5 * 4096 + 1024, sector.data(), 512, true), 0);
    EXPECT_EQ(SectorsOf(5), (std::vector<int>{2, 2, 3, 2, 2, 2, 2, 2}));
    device_.PowerCut(seed, 500);
    const std::vector<int> after = SectorsOf(5);
    for (size_t i = 0; i < 8; ++i) {
      if (i == 2) {
        EXPECT_EQ(after[i], 3);
      } else {
        EXPECT_TRUE(after[i] == 1 || after[i] == 2);
      }
    }
  }
}

TEST_F(MemoryDeviceTest, UnflushedWritesAreLostKeptAndTornIndependently) {
  int lost = 0;
  int kept = 0;
  int torn = 0;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    for (uint64_t block = 0; block < 32; ++block) Put(block, 1);
    FlushSync(device_);
    for (uint64_t block = 0; block < 32; ++block) Put(block, 2);
    device_.PowerCut(seed, 500);
    for (uint64_t block = 0; block < 32; ++block) {
      const std::vector<int> after = SectorsOf(block);
      for (const int value : after) EXPECT_TRUE(value == 1 || value == 2) << value;
      if (after == Whole(1)) {
        ++lost;
      } else if (after == Whole(2)) {
        ++kept;
      } else {
        ++torn;
      }
    }
  }
  EXPECT_GT(lost, 40);
  EXPECT_GT(kept, 40);
  EXPECT_GT(torn, 5);
}

TEST_F(MemoryDeviceTest, KeepPermilleZeroLosesAllAndThousandLosesNone) {
  for (uint64_t block = 0; block < 32; ++block) Put(block, 2);
  const auto all = device_.Clone();
  device_.PowerCut(3, 0);
  for (uint64_t block = 0; block < 32; ++block) EXPECT_EQ(SectorsOf(block), Whole(0));
  for (uint64_t block = 0; block < 32; ++block) Put(block, 2);
  device_.PowerCut(3, 1000);
  int whole = 0;
  for (uint64_t block = 0; block < 32; ++block) whole += SectorsOf(block) == Whole(2) ? 1 : 0;
  EXPECT_GT(whole, 16);
}

TEST_F(MemoryDeviceTest, OfSeveralUnflushedWritesAnEarlierOneMaySurvive) {
  std::vector<int> seen(8, 0);
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Put(1, 1);
    FlushSync(device_);
    for (int value = 2; value <= 4; ++value) Put(1, value);
    EXPECT_EQ(SectorsOf(1), Whole(4));
    device_.PowerCut(seed, 800);
    const std::vector<int> after = SectorsOf(1);
    for (int value = 1; value <= 4; ++value) {
      if (after == Whole(value)) ++seen[static_cast<size_t>(value)];
    }
  }
  for (size_t value = 1; value <= 4; ++value) EXPECT_GT(seen[value], 0) << value;
}

TEST_F(MemoryDeviceTest, PowerCutIsDeterministicInTheSeed) {
  // The blocks are written in another order, so the hash maps differ.
  const auto run = [](uint64_t seed, bool reverse) {
    MemoryDevice device(kSize);
    for (uint64_t i = 0; i < 200; ++i) {
      const uint64_t block = reverse ? 199 - i : i;
      AlignedMemory data(4096);
      data.FillPattern(block);
      EXPECT_EQ(WriteSync(device, block * 4096, data.data(), 4096), 0);
    }
    device.PowerCut(seed, 500);
    AlignedMemory all(200 * 4096);
    EXPECT_EQ(ReadSync(device, 0, all.data(), all.size()), 0);
    return all;
  };
  EXPECT_TRUE(run(11, false) == run(11, true));
  EXPECT_FALSE(run(11, false) == run(12, false));
}

TEST_F(MemoryDeviceTest, WhatAPowerCutLeftIsDurable) {
  for (uint64_t block = 0; block < 32; ++block) Put(block, 2);
  device_.PowerCut(5, 500);
  std::vector<std::vector<int>> first;
  for (uint64_t block = 0; block < 32; ++block) first.push_back(SectorsOf(block));
  device_.PowerCut(6, 0);
  for (uint64_t block = 0; block < 32; ++block) EXPECT_EQ(SectorsOf(block), first[block]);
}

TEST_F(MemoryDeviceTest, UnflushedZeroesMayBeLostToo) {
  Put(1, 1);
  FlushSync(device_);
  ASSERT_EQ(RunRange(device_, IoOp::kWriteZeroes, 4096, 4096), 0);
  EXPECT_EQ(SectorsOf(1), Whole(0));
  device_.PowerCut(1, 0);
  EXPECT_EQ(SectorsOf(1), Whole(1));
}

TEST_F(MemoryDeviceTest, ACloneHasAllWritesDurableAndIsIndependent) {
  Put(1, 1);
  FlushSync(device_);
  Put(2, 2);
  const auto clone = device_.Clone();
  EXPECT_EQ(clone->geometry().size_bytes, kSize);
  Put(1, 9);
  clone->PowerCut(1, 0);
  EXPECT_EQ(SectorsOf(*clone, 1), Whole(1));
  EXPECT_EQ(SectorsOf(*clone, 2), Whole(2));
  AlignedMemory data(4096);
  data.Fill(5);
  ASSERT_EQ(WriteSync(*clone, 3 * 4096, data.data(), 4096), 0);
  EXPECT_EQ(SectorsOf(3), Whole(0));
}

TEST_F(MemoryDeviceTest, ServesSeveralThreads) {
  std::vector<std::thread> threads;
  for (int id = 0; id < 4; ++id) {
    threads.emplace_back([this, id] {
      AlignedMemory data(8192);
      AlignedMemory back(8192);
      for (uint64_t round = 0; round < 200; ++round) {
        const uint64_t offset = (static_cast<uint64_t>(id) * 64 + round % 32) * 8192;
        data.FillPattern(round * 7 + static_cast<uint64_t>(id));
        EXPECT_EQ(WriteSync(device_, offset, data.data(), data.size()), 0);
        if (round % 16 == 0) {
          EXPECT_EQ(FlushSync(device_), 0);
        }
        EXPECT_EQ(ReadSync(device_, offset, back.data(), back.size()), 0);
        EXPECT_TRUE(back == data);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(MemoryDeviceDeathTest, UnalignedTransfersAreOurBugs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  MemoryDevice device(1 << 20);
  AlignedMemory data(4096);
  IoRequest request;
  request.op = IoOp::kRead;
  request.buffer.Append(data.data() + 8, 512);
  EXPECT_DEATH(RunSync(device, request), "CHECK failed");
}

}  // namespace
}  // namespace pbfs
