// SPDX-License-Identifier: Apache-2.0
#include "cache/block_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <random>
#include <thread>

#include "io/fault_device.h"
#include "io/memory_device.h"
#include "tests/cache/test_support.h"

namespace pbfs {
namespace {

using testing::HasSubstr;

constexpr uint64_t kBlocks = 5000;

// A block of the test device begins with its own number.
Status VerifyNumber(const std::byte* data, uint64_t block, const void* context) {
  EXPECT_EQ(context, nullptr);
  uint64_t found = 0;
  std::memcpy(&found, data, sizeof(found));
  return found == block ? OkStatus() : CorruptionError("wrong number");
}

class BlockCacheTest : public testing::Test {
 protected:
  BlockCacheTest() {
    for (uint64_t block = 0; block < kBlocks; ++block) WriteNumber(block, block);
  }
  void WriteNumber(uint64_t block, uint64_t number) {
    std::array<std::byte, kPageBytes> bytes{};
    std::memcpy(bytes.data(), &number, sizeof(number));
    ASSERT_EQ(WriteSync(memory_, block * kPageBytes, bytes.data(), kPageBytes), 0);
  }
  StatusOr<BlockRef> Read(uint64_t block) { return cache_->Read(block, &VerifyNumber, nullptr); }
  uint64_t NumberIn(const BlockRef& ref) { return *ref.as<uint64_t>(); }

  MemoryDevice memory_{kBlocks * kPageBytes};
  FaultDevice fault_{memory_};
  HoldDevice device_{fault_};
  PageCache pages_{PageCache::kFramesMin * kPageBytes};
  std::unique_ptr<BlockCache> cache_ = std::make_unique<BlockCache>(pages_, device_);
};

TEST_F(BlockCacheTest, ASecondReadTakesNoIo) {
  {
    StatusOr<BlockRef> ref = Read(77);
    ASSERT_TRUE(ref.ok());
    EXPECT_EQ(NumberIn(*ref), 77u);
    EXPECT_EQ(ref->block(), 77u);
  }
  ASSERT_TRUE(Read(77).ok());
  EXPECT_EQ(device_.request_count(), 1u);
  EXPECT_EQ(cache_->stats().hits, 1u);
  EXPECT_EQ(cache_->stats().misses, 1u);
}

TEST_F(BlockCacheTest, ConcurrentReadersOfABlockShareOneRead) {
  device_.Hold();
  std::vector<std::thread> readers;
  for (int i = 0; i < 6; ++i) {
    readers.emplace_back([this] {
      StatusOr<BlockRef> ref = Read(5);
      ASSERT_TRUE(ref.ok());
      EXPECT_EQ(NumberIn(*ref), 5u);
    });
  }
  device_.WaitForHeld(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(cache_->Find(5));
  device_.Release();
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(device_.request_count(), 1u);
  EXPECT_EQ(cache_->stats().misses, 1u);
  EXPECT_EQ(cache_->stats().hits, 5u);
}

TEST_F(BlockCacheTest, ADeviceErrorIsEioNamesTheBlockAndIsNotCached) {
  fault_.FailAll(IoOp::kRead, ENXIO);
  const StatusOr<BlockRef> failed = Read(123);
  EXPECT_EQ(ErrnoOf(failed.status()), EIO);
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("block 123"));
  EXPECT_EQ(pages_.frames_free(), pages_.frames_total());
  fault_.FailAll(IoOp::kRead, 0);
  const StatusOr<BlockRef> again = Read(123);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(NumberIn(*again), 123u);
}

TEST_F(BlockCacheTest, ABlockThatDoesNotVerifyIsRefusedUntilTheDeviceIsRepaired) {
  WriteNumber(9, 10);
  EXPECT_TRUE(IsCorruption(Read(9).status()));
  EXPECT_FALSE(cache_->Find(9));
  EXPECT_TRUE(IsCorruption(Read(9).status()));
  WriteNumber(9, 9);
  EXPECT_TRUE(Read(9).ok());
}

TEST_F(BlockCacheTest, WaitersOfAFailedReadTryThemselvesAndAllGetTheError) {
  device_.Hold();
  fault_.FailAll(IoOp::kRead, EIO);
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([this] { EXPECT_EQ(ErrnoOf(Read(5).status()), EIO); });
  }
  device_.WaitForHeld(1);
  device_.Release();
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(pages_.frames_free(), pages_.frames_total());
  fault_.FailAll(IoOp::kRead, 0);
  EXPECT_TRUE(Read(5).ok());
}

TEST_F(BlockCacheTest, AWaiterRecoversWhenOnlyTheFirstReadFailed) {
  device_.Hold();
  int reads = 0;
  fault_.SetDecide([&reads](const IoRequest&) { return reads++ == 0 ? EIO : 0; });
  std::atomic<int> good{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([this, &good] { good += Read(5).ok() ? 1 : 0; });
  }
  device_.WaitForHeld(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  device_.Release();
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(good.load(), 2);
}

TEST_F(BlockCacheTest, FindNeverReads) {
  EXPECT_FALSE(cache_->Find(3));
  EXPECT_EQ(device_.request_count(), 0u);
  ASSERT_TRUE(Read(3).ok());
  const BlockRef found = cache_->Find(3);
  ASSERT_TRUE(found);
  EXPECT_EQ(NumberIn(found), 3u);
}

TEST_F(BlockCacheTest, AnUnpinnedBlockMayBeEvictedAPinnedOneStays) {
  StatusOr<BlockRef> pinned = Read(1);
  ASSERT_TRUE(pinned.ok());
  for (uint64_t block = 2; block < kBlocks; ++block) ASSERT_TRUE(Read(block).ok());
  EXPECT_TRUE(cache_->Find(1));
  EXPECT_FALSE(cache_->Find(2));
  EXPECT_EQ(NumberIn(*pinned), 1u);
  pinned->Reset();
  EvictAll(pages_);
  EXPECT_FALSE(cache_->Find(1));
  EXPECT_EQ(pages_.frames_free(), pages_.frames_total());
}

TEST_F(BlockCacheTest, ACloneKeepsTheBlockPinned) {
  BlockRef first = std::move(Read(1)).value();
  BlockRef second = first.Clone();
  first.Reset();
  EvictAll(pages_);
  EXPECT_TRUE(cache_->Find(1));
  second.Reset();
  EvictAll(pages_);
  EXPECT_FALSE(cache_->Find(1));
}

TEST_F(BlockCacheTest, GetZeroedReadsNothingAndIsAllZero) {
  for (PageBuf* page : TakeAllBut(pages_, 0)) {
    FillPage(*page, 0xff);
    pages_.Unpin(*page);
  }
  const BlockRef ref = cache_->GetZeroed(8);
  for (size_t i = 0; i < kPageBytes; ++i) ASSERT_EQ(ref.data()[i], std::byte{0});
  EXPECT_EQ(device_.request_count(), 0u);
  EXPECT_TRUE(cache_->Find(8));
}

TEST_F(BlockCacheTest, GetZeroedReusesAnIdleStaleCopy) {
  std::byte* const stale = std::move(Read(8)).value().data();
  const BlockRef ref = cache_->GetZeroed(8);
  EXPECT_EQ(ref.data(), stale);
  EXPECT_EQ(NumberIn(ref), 0u);
}

TEST_F(BlockCacheTest, GetZeroedLeavesACopyPinnedByOthersUntouched) {
  const BlockRef old = std::move(Read(8)).value();
  BlockRef fresh = cache_->GetZeroed(8);
  EXPECT_EQ(NumberIn(old), 8u);
  EXPECT_EQ(NumberIn(fresh), 0u);
  EXPECT_EQ(cache_->Find(8).data(), fresh.data());
}

TEST_F(BlockCacheTest, GetZeroedDuringAReadAheadWinsOverWhatIsRead) {
  device_.Hold();
  cache_->Readahead(8, 1, &VerifyNumber, nullptr);
  const BlockRef fresh = cache_->GetZeroed(8);
  device_.Release();
  EXPECT_EQ(NumberIn(fresh), 0u);
  EXPECT_EQ(cache_->Find(8).data(), fresh.data());
  EXPECT_EQ(pages_.frames_free(), pages_.frames_total() - 1);
}

TEST_F(BlockCacheTest, AnInvalidatedBlockIsReadAgain) {
  const BlockRef old = std::move(Read(8)).value();
  cache_->Invalidate(8);
  EXPECT_FALSE(cache_->Find(8));
  EXPECT_EQ(NumberIn(old), 8u);
  const BlockRef again = std::move(Read(8)).value();
  EXPECT_NE(again.data(), old.data());
  EXPECT_EQ(device_.request_count(), 2u);
}

TEST_F(BlockCacheTest, InvalidateDuringAReadLeavesTheReaderADeadPageAndWaitersReadAnew) {
  device_.Hold();
  std::thread reader([this] {
    const StatusOr<BlockRef> ref = Read(8);
    ASSERT_TRUE(ref.ok());
    EXPECT_EQ(NumberIn(*ref), 8u);
  });
  device_.WaitForHeld(1);
  std::thread waiter([this] { EXPECT_TRUE(Read(8).ok()); });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  cache_->Invalidate(8);
  device_.WaitForHeld(2);
  device_.Release();
  reader.join();
  waiter.join();
  EXPECT_EQ(pages_.frames_free(), pages_.frames_total() - 1);
  EXPECT_TRUE(cache_->Find(8));
}

TEST_F(BlockCacheTest, ReadaheadTakesOneRequestForAdjacentMissingBlocks) {
  ASSERT_TRUE(Read(105).ok());
  cache_->Readahead(100, 10, &VerifyNumber, nullptr);
  EXPECT_EQ(device_.request_count(), 3u);
  for (uint64_t block = 100; block < 110; ++block) {
    const BlockRef ref = cache_->Find(block);
    ASSERT_TRUE(ref);
    EXPECT_EQ(NumberIn(ref), block);
  }
}

TEST_F(BlockCacheTest, AReaderWaitsForReadaheadInFlight) {
  device_.Hold();
  cache_->Readahead(100, 4, &VerifyNumber, nullptr);
  std::thread reader([this] {
    const StatusOr<BlockRef> ref = Read(102);
    ASSERT_TRUE(ref.ok());
    EXPECT_EQ(NumberIn(*ref), 102u);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  device_.Release();
  reader.join();
  EXPECT_EQ(device_.request_count(), 1u);
}

TEST_F(BlockCacheTest, FailedReadaheadIsSilentAndLaterReadsSucceed) {
  fault_.FailAll(IoOp::kRead, EIO);
  cache_->Readahead(100, 4, &VerifyNumber, nullptr);
  EXPECT_FALSE(cache_->Find(100));
  EXPECT_EQ(pages_.frames_free(), pages_.frames_total());
  fault_.FailAll(IoOp::kRead, 0);
  EXPECT_TRUE(Read(100).ok());
}

TEST_F(BlockCacheTest, ReadaheadPublishesOnlyTheBlocksThatVerify) {
  WriteNumber(102, 1);
  cache_->Readahead(100, 4, &VerifyNumber, nullptr);
  EXPECT_TRUE(cache_->Find(101));
  EXPECT_FALSE(cache_->Find(102));
  EXPECT_TRUE(cache_->Find(103));
  EXPECT_TRUE(IsCorruption(Read(102).status()));
}

TEST_F(BlockCacheTest, ReadaheadStopsAtTheEndOfTheDevice) {
  cache_->Readahead(kBlocks - 2, 10, &VerifyNumber, nullptr);
  cache_->Readahead(kBlocks, 1, &VerifyNumber, nullptr);
  cache_->Readahead(UINT64_MAX, 1, &VerifyNumber, nullptr);
  EXPECT_EQ(device_.request_count(), 1u);
  EXPECT_TRUE(cache_->Find(kBlocks - 1));
}

TEST_F(BlockCacheTest, ReadaheadWithoutMemoryDoesNothing) {
  std::vector<PageBuf*> taken = TakeAllBut(pages_, 2);
  cache_->Readahead(100, 10, &VerifyNumber, nullptr);
  EXPECT_TRUE(cache_->Find(101));
  EXPECT_FALSE(cache_->Find(103));
  EXPECT_EQ(device_.request_bytes(), std::vector<size_t>{2 * kPageBytes});
  UnpinAll(pages_, taken);
}

TEST_F(BlockCacheTest, TheDestructorWaitsForReadahead) {
  device_.Hold();
  cache_->Readahead(100, 4, &VerifyNumber, nullptr);
  std::atomic<bool> destroyed{false};
  std::thread destroyer([this, &destroyed] {
    cache_.reset();
    destroyed = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(destroyed.load());
  device_.Release();
  destroyer.join();
  EXPECT_EQ(pages_.frames_free(), pages_.frames_total());
}

TEST_F(BlockCacheTest, BlocksPinnedAtDestructionStayReadable) {
  BlockRef ref = std::move(Read(4)).value();
  cache_.reset();
  EXPECT_EQ(NumberIn(ref), 4u);
  ref.Reset();
  EXPECT_EQ(pages_.frames_free(), pages_.frames_total());
}

TEST_F(BlockCacheTest, ManyThreadsUnderMemoryPressureAlwaysSeeTheRightBlock) {
  std::atomic<uint64_t> wrong{0};
  fault_.SetDecide([random = std::mt19937_64(3)](const IoRequest&) mutable {
    return random() % 50 == 0 ? EIO : 0;
  });
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([this, t, &wrong] {
      std::mt19937_64 random(t);
      std::vector<BlockRef> pins;
      for (int i = 0; i < 8000; ++i) {
        const uint64_t block = random() % kBlocks;
        switch (random() % 16) {
          case 0:
            cache_->Readahead(block, static_cast<uint32_t>(random() % 40), &VerifyNumber, nullptr);
            break;
          case 1:
            cache_->Invalidate(block);
            break;
          case 2:
            pins.clear();
            break;
          default: {
            StatusOr<BlockRef> ref = Read(block);
            if (!ref.ok()) break;
            if (NumberIn(*ref) != block || ref->block() != block) ++wrong;
            if (pins.size() < 100) pins.push_back(std::move(*ref));
          }
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0u);
  pages_.CheckInvariants();
  cache_.reset();
  EXPECT_EQ(pages_.frames_free(), pages_.frames_total());
}

}  // namespace
}  // namespace pbfs
