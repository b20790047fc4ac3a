// SPDX-License-Identifier: Apache-2.0
// Writers, readers, writeback on threads of its own and metadata, all in one cache that is too
// small for them.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <thread>

#include "base/event.h"
#include "cache/block_cache.h"
#include "cache/file_pages.h"
#include "cache/write_batch.h"
#include "io/memory_device.h"
#include "tests/cache/test_support.h"

namespace pbfs {
namespace {

constexpr size_t kFiles = 3;
constexpr uint64_t kFilePagesMax = 2000;
constexpr uint64_t kMetadataFirst = kFiles * kFilePagesMax;
constexpr uint64_t kMetadataBlocks = 2000;

// A page holds 512 times one number: (version << 32 | file << 16 | index). Torn pages, pages of
// other places and versions that go back are found by looking at it.
class Stress {
 public:
  Stress() {
    for (uint64_t f = 0; f < kFiles; ++f) {
      files_[f] = std::make_unique<File>(pages_, f);
      for (uint64_t index = 0; index < kFilePagesMax; ++index) {
        WriteDevice(f * kFilePagesMax + index, NumberOf(f, index, 0));
      }
    }
    for (uint64_t i = 0; i < kMetadataBlocks; ++i) WriteDevice(kMetadataFirst + i, i);
    pages_.SetPressureHandler([](void* context) { static_cast<Stress*>(context)->kick_ = true; },
                              this);
  }

  void Run() {
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 3; ++t) threads.emplace_back([this, t] { DataWorker(t); });
    threads.emplace_back([this] { MetadataWorker(); });
    std::thread flusher([this] { Flusher(); });
    for (std::thread& thread : threads) thread.join();
    stop_ = true;
    flusher.join();
  }

  void CheckAllOnDevice() {
    for (uint64_t f = 0; f < kFiles; ++f) {
      EXPECT_EQ(files_[f]->pages.dirty_count(), 0u);
      files_[f]->pages.CheckInvariants();
      for (uint64_t index = 0; index < kFilePagesMax; ++index) {
        std::array<uint64_t, 512> words;
        ASSERT_EQ(
            ReadSync(device_, (f * kFilePagesMax + index) * kPageBytes, words.data(), kPageBytes),
            0);
        ASSERT_EQ(words[0], NumberOf(f, index, files_[f]->versions[index])) << f << " " << index;
      }
      files_[f].reset();
    }
    pages_.CheckInvariants();
    EXPECT_EQ(pages_.dirty_pages.load(), 0);
  }

 private:
  struct File {
    File(PageCache& cache, uint64_t target) : pages(cache, target) {}
    FilePages pages;
    // The range lock of a filesystem, one for the whole file.
    std::shared_mutex range;
    std::array<uint32_t, kFilePagesMax> versions{};
  };

  static uint64_t NumberOf(uint64_t file, uint64_t index, uint32_t version) {
    return uint64_t{version} << 32 | file << 16 | index;
  }
  void WriteDevice(uint64_t block, uint64_t number) {
    std::array<uint64_t, 512> words;
    words.fill(number);
    PBFS_CHECK(WriteSync(device_, block * kPageBytes, words.data(), kPageBytes) == 0);
  }
  static bool Holds(const PageBuf& page, uint64_t number) {
    std::array<uint64_t, 512> words;
    std::memcpy(words.data(), page.data, kPageBytes);
    for (const uint64_t word : words) {
      if (word != number) return false;
    }
    return true;
  }

  void DataWorker(unsigned seed) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < 6000; ++i) {
      const uint64_t f = random() % kFiles;
      const uint64_t index = random() % kFilePagesMax;
      if (random() % 2 == 0) {
        ReadPage(f, index);
      } else {
        WritePage(f, index, random() % 2 == 0);
      }
    }
  }
  void ReadPage(uint64_t f, uint64_t index) {
    File& file = *files_[f];
    std::shared_lock lock(file.range);
    std::vector<PageBuf*> found;
    file.pages.Lookup(index, 1, found);
    PageBuf* page = found[0];
    if (page == nullptr) {
      page = pages_.Allocate();
      PBFS_CHECK(
          ReadSync(device_, (f * kFilePagesMax + index) * kPageBytes, page->data, kPageBytes) == 0);
      page = file.pages.InsertCleanPinned(index, *page);
    }
    ASSERT_TRUE(Holds(*page, NumberOf(f, index, file.versions[index])));
    pages_.Unpin(*page);
  }
  void WritePage(uint64_t f, uint64_t index, bool whole) {
    File& file = *files_[f];
    // Dirty data is bounded by throttling writers, without locks held.
    while (pages_.dirty_pages.load() > 600) std::this_thread::yield();
    PageBuf* frame = pages_.Allocate();
    std::unique_lock lock(file.range);
    std::array<uint64_t, 512> words;
    words.fill(NumberOf(f, index, ++file.versions[index]));
    if (whole) {
      std::memcpy(frame->data, words.data(), kPageBytes);
      file.pages.InsertDirty(index, *frame, PagePromise::kNone, 1);
      return;
    }
    file.pages.WritePartial(index, 0, LogicalBuffer(words.data(), kPageBytes), 0, kPageBytes,
                            PagePromise::kNone, *frame, 1);
  }

  void Flusher() {
    std::mt19937_64 random(99);
    // Some rounds fail, on the first tries.
    for (;;) {
      const bool last_round = stop_.load();
      kick_ = false;
      WriteBatch batch(device_, 64 * kPageBytes);
      std::array<std::vector<FilePages::DirtyPage>, kFiles> rounds;
      for (uint64_t f = 0; f < kFiles; ++f) {
        if (last_round) files_[f]->pages.RetryErrors();
        files_[f]->pages.CollectDirty(0, UINT64_MAX, last_round ? SIZE_MAX : 200, rounds[f]);
        for (const auto& page : rounds[f]) {
          batch.Add(f * kFilePagesMax + page.index, page.page->data, 0);
        }
      }
      Event done;
      batch.Start([&done](WriteBatch&) { done.Set(); });
      done.Wait();
      for (uint64_t f = 0; f < kFiles; ++f) {
        for (const auto& page : rounds[f]) {
          files_[f]->pages.EndWriteback(page, !last_round && random() % 64 == 0);
        }
        if (random() % 8 == 0) files_[f]->pages.RetryErrors();
      }
      if (last_round) return;
      if (!kick_) std::this_thread::yield();
    }
  }

  void MetadataWorker() {
    BlockCache cache(pages_, device_);
    std::mt19937_64 random(7);
    std::vector<BlockRef> pinned;
    for (int i = 0; i < 10000; ++i) {
      const uint64_t block = kMetadataFirst + random() % kMetadataBlocks;
      if (random() % 10 == 0) cache.Readahead(block, 16, nullptr, nullptr);
      StatusOr<BlockRef> ref = cache.Read(block, nullptr, nullptr);
      ASSERT_TRUE(ref.ok());
      // Readahead may run past the metadata into nothing, but not into other numbers.
      ASSERT_TRUE(Holds(ref->page(), block - kMetadataFirst));
      pinned.push_back(std::move(*ref));
      if (pinned.size() > 500) pinned.clear();
    }
  }

  MemoryDevice device_{(kMetadataFirst + kMetadataBlocks) * kPageBytes};
  PageCache pages_{PageCache::kFramesMin * kPageBytes};
  std::array<std::unique_ptr<File>, kFiles> files_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> kick_{false};
};

TEST(CacheStressTest, DataAndMetadataStayRightUnderMemoryPressure) {
  Stress stress;
  stress.Run();
  if (!testing::Test::HasFatalFailure()) stress.CheckAllOnDevice();
}

}  // namespace
}  // namespace pbfs
