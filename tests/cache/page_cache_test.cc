// SPDX-License-Identifier: Apache-2.0
#include "cache/page_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <chrono>
#include <fstream>
#include <set>
#include <thread>

#include "base/blocking.h"
#include "base/event.h"
#include "cache/file_pages.h"
#include "tests/cache/test_support.h"

namespace pbfs {
namespace {

constexpr size_t kFrames = PageCache::kFramesMin;

size_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  size_t total_pages = 0;
  size_t resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * 4096;
}

// Runs Allocate() on another thread; ends with the frame.
class Waiter {
 public:
  explicit Waiter(PageCache& pages, size_t count = 1, PageUse use = PageUse::kMetadata)
      : pages_(pages), thread_([this, count, use] {
          pages_.AllocateMany(count, taken_, use);
          done_.Set();
        }) {
    while (pages.stats().allocation_waits == 0) std::this_thread::yield();
  }
  ~Waiter() {
    thread_.join();
    UnpinAll(pages_, taken_);
  }
  bool IsDone() { return done_.IsSet(); }
  void Join() { done_.Wait(); }
  // Within half the time after which a waiter that nobody woke looks again.
  void JoinAtOnce() {
    const auto start = std::chrono::steady_clock::now();
    done_.Wait();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(500));
  }

 private:
  PageCache& pages_;
  std::vector<PageBuf*> taken_;
  Event done_;
  std::thread thread_;
};

class PageCacheTest : public testing::Test {
 protected:
  // A clean page of `file`, evictable.
  void AddClean(FilePages& file, uint64_t index, PageUse use = PageUse::kMetadata) {
    file.InsertClean(index, *pages_.Allocate(use));
  }
  // A read of one page through the cache, as a filesystem does it. True on a hit.
  bool ReadPage(FilePages& file, uint64_t index, PageUse use = PageUse::kMetadata) {
    std::vector<PageBuf*> found;
    file.Lookup(index, 1, found);
    if (found[0] == nullptr) {
      AddClean(file, index, use);
      return false;
    }
    pages_.Unpin(*found[0]);
    return true;
  }

  PageCache pages_{kFrames * kPageBytes};
};

TEST_F(PageCacheTest, FramesAreAlignedAndDistinct) {
  std::vector<PageBuf*> taken;
  pages_.AllocateMany(kFrames, taken);
  std::set<std::byte*> addresses;
  for (PageBuf* page : taken) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(page->data) % kPageBytes, 0u);
    addresses.insert(page->data);
    FillPage(*page, 0xab);
  }
  EXPECT_EQ(addresses.size(), kFrames);
  UnpinAll(pages_, taken);
}

TEST_F(PageCacheTest, BudgetIsNeverExceeded) {
  EXPECT_EQ(pages_.frames_total(), kFrames);
  std::vector<PageBuf*> taken;
  while (PageBuf* page = pages_.TryAllocate()) {
    taken.push_back(page);
    ASSERT_LE(taken.size(), kFrames);
  }
  EXPECT_EQ(taken.size(), kFrames);
  EXPECT_EQ(pages_.frames_free(), 0u);
  UnpinAll(pages_, taken);
  EXPECT_EQ(pages_.frames_free(), kFrames);
}

TEST_F(PageCacheTest, WrittenPagesMakeRoomBeforeNewFramesAreUsed) {
  constexpr size_t kKept = size_t{16} << 20;  // As the class has it.
  PageCache pages(4 * kKept);
  std::set<std::byte*> used;
  FilePages file(pages, 0);
  for (uint64_t index = 0; index < 3 * kKept / kPageBytes; ++index) {
    PageBuf* const page = pages.Allocate(PageUse::kData);
    used.insert(page->data);
    file.InsertDirty(index, *page, PagePromise::kNone, 0);
    std::vector<FilePages::DirtyPage> written;
    file.CollectDirty(0, UINT64_MAX, 1, written);
    for (const FilePages::DirtyPage& dirty : written) file.EndWriteback(dirty, 0);
  }
  EXPECT_LE(used.size(), kKept / kPageBytes + 2);
  EXPECT_GT(used.size(), kKept / kPageBytes / 2);
  pages.CheckInvariants();
}

TEST_F(PageCacheTest, BudgetIsRoundedDownToFramesAndUpToTheMinimum) {
  EXPECT_EQ(PageCache(kPageBytes).frames_total(), kFrames);
  EXPECT_EQ(PageCache(5000 * kPageBytes + 4095).frames_total(), 5000u);
}

TEST_F(PageCacheTest, OnlyUsedMemoryBecomesResident) {
  const size_t before_bytes = ResidentBytes();
  PageCache big(size_t{8} << 30);
  std::vector<PageBuf*> taken;
  big.AllocateMany(1000, taken);
  for (PageBuf* page : taken) FillPage(*page, 1);
  EXPECT_LT(ResidentBytes(), before_bytes + (size_t{32} << 20));
  UnpinAll(big, taken);
  // Freed frames are used again before untouched ones.
  for (int i = 0; i < 100000; ++i) {
    PageBuf* page = big.Allocate();
    FillPage(*page, 2);
    big.Unpin(*page);
  }
  EXPECT_LT(ResidentBytes(), before_bytes + (size_t{32} << 20));
}

TEST_F(PageCacheTest, MemoryIsClearedAheadOfItsUse) {
  constexpr size_t kMiB = 1 << 20;
  PageCache pages(192 * kMiB);
  std::vector<PageBuf*> used;
  pages.AllocateMany(8 * kMiB / kPageBytes, used);
  std::byte* const arena = used[0]->data;
  const auto is_resident = [arena](size_t at) {
    unsigned char in_memory = 0;
    EXPECT_EQ(mincore(arena + at, kPageBytes, &in_memory), 0);
    return (in_memory & 1) != 0;
  };
  pages.ClearAhead();  // A little-used cache stays small.
  EXPECT_TRUE(is_resident(11 * kMiB));
  EXPECT_FALSE(is_resident(14 * kMiB));
  pages.AllocateMany(52 * kMiB / kPageBytes, used);
  for (const PageBuf* page : used) page->data[0] = std::byte{1};
  EXPECT_FALSE(is_resident(62 * kMiB));
  for (int i = 0; i < 10; ++i) pages.ClearAhead();
  EXPECT_TRUE(is_resident(75 * kMiB));
  EXPECT_FALSE(is_resident(80 * kMiB));
  // What is in use keeps its contents.
  for (const PageBuf* page : used) ASSERT_EQ(page->data[0], std::byte{1});
  pages.AllocateMany(70 * kMiB / kPageBytes, used, PageUse::kMetadata);
  pages.ClearAhead();
  EXPECT_TRUE(is_resident(145 * kMiB));
  EXPECT_FALSE(is_resident(150 * kMiB));
  UnpinAll(pages, used);
}

TEST_F(PageCacheTest, AllocateManyIsAllOrNothing) {
  std::vector<PageBuf*> taken = TakeAllBut(pages_, 10);
  std::vector<PageBuf*> more;
  EXPECT_FALSE(pages_.TryAllocateMany(11, more));
  EXPECT_TRUE(more.empty());
  EXPECT_EQ(pages_.frames_free(), 10u);
  EXPECT_TRUE(pages_.TryAllocateMany(10, more));
  EXPECT_EQ(more.size(), 10u);
  UnpinAll(pages_, taken);
  UnpinAll(pages_, more);
}

TEST_F(PageCacheTest, APageOnceEvictedIsNoLongerInItsFile) {
  FilePages file(pages_, 1);
  for (uint64_t i = 0; i < kFrames + 100; ++i) AddClean(file, i);
  EXPECT_EQ(file.page_count(), kFrames);
  EXPECT_EQ(pages_.stats().evictions, 100u);
  file.CheckInvariants();
  pages_.CheckInvariants();
}

TEST_F(PageCacheTest, PinnedPagesAreNotEvicted) {
  FilePages file(pages_, 1);
  std::vector<PageBuf*> pinned;
  for (uint64_t i = 0; i < 100; ++i) {
    PageBuf* page = file.InsertCleanPinned(i, *pages_.Allocate());
    FillPage(*page, static_cast<uint8_t>(i));
    pinned.push_back(page);
  }
  for (uint64_t i = 100; i < 5 * kFrames; ++i) AddClean(file, i);
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_TRUE(file.Contains(i));
    EXPECT_EQ(ByteOf(*pinned[i]), i);
  }
  UnpinAll(pages_, pinned);
  pages_.CheckInvariants();
  EvictAll(pages_);
  EXPECT_EQ(file.page_count(), 0u);
}

TEST_F(PageCacheTest, DirtyPagesAreNotEvictedNorScanned) {
  FilePages file(pages_, 1);
  for (uint64_t i = 0; i < 1000; ++i)
    file.InsertDirty(i, *pages_.Allocate(), PagePromise::kNone, 1);
  EXPECT_EQ(pages_.stats().frames_queued, 0u);
  for (uint64_t i = 1000; i < 5 * kFrames; ++i) AddClean(file, i);
  for (uint64_t i = 0; i < 1000; ++i) EXPECT_TRUE(file.Contains(i));
  EXPECT_EQ(file.dirty_count(), 1000u);
}

TEST_F(PageCacheTest, DirtyDataLeavesFramesToMetadata) {
  FilePages file(pages_, 1);
  uint64_t count = 0;
  while (PageBuf* page = pages_.TryAllocate(PageUse::kData)) {
    file.InsertDirty(count++, *page, PagePromise::kNone, 1);
  }
  EXPECT_EQ(count, pages_.data_frames_max());
  std::vector<PageBuf*> metadata;
  EXPECT_TRUE(pages_.TryAllocateMany(kFrames - count, metadata, PageUse::kMetadata));
  UnpinAll(pages_, metadata);
  pages_.CheckInvariants();
  std::vector<FilePages::DirtyPage> round;
  file.CollectDirty(0, UINT64_MAX, 1, round);
  EXPECT_EQ(pages_.TryAllocate(PageUse::kData), nullptr);
  file.EndWriteback(round[0], false);
  PageBuf* page = pages_.TryAllocate(PageUse::kData);
  ASSERT_NE(page, nullptr);
  pages_.Unpin(*page);
  pages_.CheckInvariants();
}

TEST_F(PageCacheTest, AWaiterForDataIsWokenWhenOtherDataBecomesClean) {
  FilePages file(pages_, 1);
  for (uint64_t i = 0; i < pages_.data_frames_max(); ++i) {
    file.InsertDirty(i, *pages_.Allocate(PageUse::kData), PagePromise::kNone, 1);
  }
  std::vector<FilePages::DirtyPage> round;
  file.CollectDirty(0, UINT64_MAX, 257, round);
  Waiter waiter(pages_, 257, PageUse::kData);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(waiter.IsDone());
  for (const auto& page : round) file.EndWriteback(page, false);
  waiter.JoinAtOnce();
}

TEST_F(PageCacheTest, AScanOfDataDoesNotEvictHotData) {
  constexpr uint64_t kHot = kFrames / 4;
  FilePages hot(pages_, 1);
  FilePages scanned(pages_, 2);
  for (int round = 0; round < 3; ++round) {
    for (uint64_t i = 0; i < kHot; ++i) ReadPage(hot, i, PageUse::kData);
  }
  size_t misses = 0;
  for (uint64_t i = 0; i < 10 * kFrames; ++i) {
    ReadPage(scanned, i, PageUse::kData);
    if (i % 16 == 0 && !ReadPage(hot, (i / 16 * 7919) % kHot, PageUse::kData)) ++misses;
  }
  EXPECT_EQ(misses, 0u);
}

TEST_F(PageCacheTest, ColdMetadataGivesWayToData) {
  FilePages metadata(pages_, 1);
  FilePages data(pages_, 2);
  for (uint64_t i = 0; i < 2 * kFrames; ++i) ReadPage(metadata, i);
  constexpr uint64_t kSet = kFrames / 2;
  for (int round = 0; round < 4; ++round) {
    for (uint64_t i = 0; i < kSet; ++i) ReadPage(data, i, PageUse::kData);
  }
  EXPECT_GT(data.page_count(), kSet * 9 / 10);
}

TEST_F(PageCacheTest, APinnedPageIsSetAsideOnceAndComesBackWhenUnpinned) {
  FilePages file(pages_, 1);
  std::vector<PageBuf*> pinned;
  for (uint64_t i = 0; i < kFrames; ++i) {
    pinned.push_back(file.InsertCleanPinned(i, *pages_.Allocate()));
  }
  EXPECT_EQ(pages_.stats().frames_queued, kFrames);
  EXPECT_EQ(pages_.TryAllocate(), nullptr);
  EXPECT_EQ(pages_.stats().frames_parked, kFrames);
  EXPECT_EQ(pages_.stats().frames_queued, 0u);
  pages_.CheckInvariants();
  pages_.Unpin(*pinned[7]);
  EXPECT_EQ(pages_.stats().frames_queued, 1u);
  PageBuf* page = pages_.TryAllocate();
  ASSERT_NE(page, nullptr);
  EXPECT_FALSE(file.Contains(7));
  EXPECT_EQ(page, pinned[7]);
  pinned[7] = page;
  UnpinAll(pages_, pinned);
  EXPECT_EQ(pages_.stats().frames_parked, 0u);
  pages_.CheckInvariants();
}

TEST_F(PageCacheTest, AParkedPageThatIsDroppedIsFreedAtItsLastUnpin) {
  FilePages file(pages_, 1);
  PageBuf* page = file.InsertCleanPinned(3, *pages_.Allocate());
  std::vector<PageBuf*> rest = TakeAllBut(pages_, 0);
  EXPECT_EQ(pages_.TryAllocate(), nullptr);
  ASSERT_EQ(pages_.stats().frames_parked, 1u);
  EXPECT_EQ(file.Drop(0, 10).sum(), 0u);
  EXPECT_EQ(pages_.stats().frames_parked, 0u);
  EXPECT_EQ(pages_.frames_free(), 0u);
  pages_.Unpin(*page);
  EXPECT_EQ(pages_.frames_free(), 1u);
  UnpinAll(pages_, rest);
}

TEST_F(PageCacheTest, AScanOfTenTimesTheCacheDoesNotEvictAHotSet) {
  constexpr uint64_t kHot = kFrames / 2;
  FilePages hot(pages_, 1);
  FilePages scanned(pages_, 2);
  for (int round = 0; round < 3; ++round) {
    for (uint64_t i = 0; i < kHot; ++i) ReadPage(hot, i);
  }
  size_t misses = 0;
  for (uint64_t i = 0; i < 10 * kFrames; ++i) {
    ReadPage(scanned, i);
    if (!ReadPage(hot, (i * 7919) % kHot)) ++misses;
  }
  EXPECT_EQ(misses, 0u);
  EXPECT_EQ(hot.page_count(), kHot);
}

TEST_F(PageCacheTest, APageReadAgainSoonAfterItsEvictionSurvivesAScan) {
  FilePages file(pages_, 1);
  FilePages scanned(pages_, 2);
  for (uint64_t i = 0; i < 64; ++i) ReadPage(file, i);
  for (uint64_t i = 0; i < kFrames; ++i) ReadPage(scanned, i);
  ASSERT_EQ(file.page_count(), 0u);
  for (uint64_t i = 0; i < 64; ++i) EXPECT_FALSE(ReadPage(file, i));
  for (uint64_t i = kFrames; i < 10 * kFrames; ++i) ReadPage(scanned, i);
  EXPECT_EQ(file.page_count(), 64u);
}

TEST_F(PageCacheTest, ColdPagesOfTheMainQueueAreEvictedWhenAnotherSetBecomesHot) {
  FilePages old_set(pages_, 1);
  FilePages new_set(pages_, 2);
  constexpr uint64_t kSet = kFrames * 3 / 4;
  for (int round = 0; round < 4; ++round) {
    for (uint64_t i = 0; i < kSet; ++i) ReadPage(old_set, i);
  }
  for (int round = 0; round < 12; ++round) {
    for (uint64_t i = 0; i < kSet; ++i) ReadPage(new_set, i);
  }
  size_t misses = 0;
  for (uint64_t i = 0; i < kSet; ++i) misses += ReadPage(new_set, i) ? 0 : 1;
  EXPECT_LT(misses, kSet / 20);
}

TEST_F(PageCacheTest, WrittenPagesAreEvictedBeforeReadOnes) {
  FilePages read(pages_, 1);
  FilePages written(pages_, 2);
  for (uint64_t i = 0; i < 1000; ++i) AddClean(read, i);
  for (uint64_t i = 0; i < 1000; ++i)
    written.InsertDirty(i, *pages_.Allocate(), PagePromise::kNone, 1);
  std::vector<FilePages::DirtyPage> round;
  written.CollectDirty(0, UINT64_MAX, 1000, round);
  for (const auto& page : round) written.EndWriteback(page, false);
  std::vector<PageBuf*> taken = TakeAllBut(pages_, 0);
  pages_.AllocateMany(1000, taken);
  EXPECT_EQ(written.page_count(), 0u);
  EXPECT_EQ(read.page_count(), 1000u);
  UnpinAll(pages_, taken);
}

TEST_F(PageCacheTest, FreeingAPrivatePageWakesAWaiter) {
  std::vector<PageBuf*> taken = TakeAllBut(pages_, 0);
  Waiter waiter(pages_);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(waiter.IsDone());
  pages_.Unpin(*taken.back());
  taken.pop_back();
  waiter.JoinAtOnce();
  UnpinAll(pages_, taken);
}

TEST_F(PageCacheTest, UnpinningTheOnlyEvictablePageWakesAWaiter) {
  FilePages file(pages_, 1);
  PageBuf* page = file.InsertCleanPinned(5, *pages_.Allocate());
  std::vector<PageBuf*> taken = TakeAllBut(pages_, 0);
  Waiter waiter(pages_);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(waiter.IsDone());
  pages_.Unpin(*page);
  waiter.JoinAtOnce();
  EXPECT_FALSE(file.Contains(5));
  UnpinAll(pages_, taken);
}

TEST_F(PageCacheTest, TheEndOfAWritebackWakesAWaiter) {
  FilePages file(pages_, 1);
  file.InsertDirty(5, *pages_.Allocate(), PagePromise::kNone, 1);
  std::vector<PageBuf*> taken = TakeAllBut(pages_, 0);
  Waiter waiter(pages_);
  std::vector<FilePages::DirtyPage> round;
  file.CollectDirty(0, UINT64_MAX, 10, round);
  ASSERT_EQ(round.size(), 1u);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(waiter.IsDone());
  file.EndWriteback(round[0], false);
  waiter.JoinAtOnce();
  EXPECT_FALSE(file.Contains(5));
  UnpinAll(pages_, taken);
}

TEST_F(PageCacheTest, DroppingDirtyPagesWakesAWaiterForMany) {
  FilePages file(pages_, 1);
  for (uint64_t i = 0; i < 257; ++i) file.InsertDirty(i, *pages_.Allocate(), PagePromise::kNone, 1);
  std::vector<PageBuf*> taken = TakeAllBut(pages_, 0);
  Waiter waiter(pages_, 257);
  file.Drop(0, 255);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_FALSE(waiter.IsDone());
  file.Drop(256, 256);
  waiter.JoinAtOnce();
  UnpinAll(pages_, taken);
}

TEST_F(PageCacheTest, AWaiterAsksForWritebackThroughThePressureHandler) {
  FilePages file(pages_, 1);
  file.InsertDirty(5, *pages_.Allocate(), PagePromise::kNone, 1);
  std::vector<PageBuf*> taken = TakeAllBut(pages_, 0);
  pages_.SetPressureHandler(
      [](void* context) {
        auto* dirty_file = static_cast<FilePages*>(context);
        std::vector<FilePages::DirtyPage> round;
        dirty_file->CollectDirty(0, UINT64_MAX, 10, round);
        for (const auto& page : round) dirty_file->EndWriteback(page, false);
      },
      &file);
  EXPECT_EQ(pages_.TryAllocate(), nullptr);
  EXPECT_EQ(file.dirty_count(), 1u);
  pages_.Unpin(*pages_.Allocate());
  EXPECT_EQ(file.dirty_count(), 0u);
  EXPECT_EQ(pages_.stats().allocation_waits, 1u);
  UnpinAll(pages_, taken);
}

TEST_F(PageCacheTest, OnlyAnAllocationThatWaitsAnnouncesIt) {
  struct Observer : BlockingObserver {
    void WillBlock() override {
      ++calls;
      cache->Unpin(*to_free);
    }
    int calls = 0;
    PageCache* cache = nullptr;
    PageBuf* to_free = nullptr;
  } observer;
  std::vector<PageBuf*> taken = TakeAllBut(pages_, 1);
  observer.cache = &pages_;
  observer.to_free = taken.back();
  taken.pop_back();
  t_blocking_observer = &observer;
  taken.push_back(pages_.Allocate());
  EXPECT_EQ(observer.calls, 0);
  taken.push_back(pages_.Allocate());
  EXPECT_EQ(observer.calls, 1);
  t_blocking_observer = nullptr;
  UnpinAll(pages_, taken);
}

// A mapping whose lock the test can hold.
class LockedMapping : public Mapping {
 public:
  bool TryEvict(PageBuf& page) override {
    if (!mutex.TryLock()) return false;
    page.mapping.store(nullptr);
    mutex.Unlock();
    return true;
  }
  Mutex mutex;
};

TEST_F(PageCacheTest, EvictionDoesNotWaitForTheLockOfAMappingButAllocateTriesAgain) {
  LockedMapping mapping;
  PageBuf* page = pages_.Allocate();
  PageCache::Attach(*page, mapping, 0);
  pages_.Enqueue(*page, 0, false);
  pages_.Unpin(*page);
  std::vector<PageBuf*> taken = TakeAllBut(pages_, 0);
  mapping.mutex.Lock();
  EXPECT_EQ(pages_.TryAllocate(), nullptr);
  {
    Waiter waiter(pages_);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_FALSE(waiter.IsDone());
    mapping.mutex.Unlock();  // Nobody is told.
    waiter.Join();
  }
  UnpinAll(pages_, taken);
}

TEST_F(PageCacheTest, ManyWaitersAllGetTheirFramesFromFewThatCirculate) {
  std::vector<PageBuf*> taken = TakeAllBut(pages_, 3);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([this, t] {
      FilePages file(pages_, static_cast<uint64_t>(t));
      for (uint64_t i = 0; i < 500; ++i) {
        PageBuf* page = pages_.Allocate();
        FillPage(*page, static_cast<uint8_t>(t));
        if (i % 3 == 0) {
          file.InsertClean(i, *page);
        } else if (i % 3 == 1) {
          pages_.Unpin(*file.InsertCleanPinned(i, *page));
        } else {
          pages_.Unpin(*page);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pages_.frames_free(), 3u);
  pages_.CheckInvariants();
  UnpinAll(pages_, taken);
}

}  // namespace
}  // namespace pbfs
