// SPDX-License-Identifier: Apache-2.0
#include "cache/block_cache.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "io/io_request.h"

namespace pbfs {
namespace {

// The block number, which no two blocks share, and no target of file data (see FilePages) matches
// but by chance.
uint64_t GhostKey(uint64_t block) { return (block + 1) * 0x9e3779b97f4a7c15ULL; }

}  // namespace

// Adjacent missing blocks, read by one request. Deletes itself at completion.
struct BlockCache::ReadaheadRun {
  BlockCache* cache;
  Verifier verify;
  const void* context;
  IoRequest io;
  std::vector<PageBuf*> pages;
};

BlockCache::BlockCache(PageCache& pages, BlockDevice& device) : pages_(pages), device_(device) {}

BlockCache::~BlockCache() {
  bool idle = false;
  {
    MutexLock lock(readahead_mutex_);
    draining_ = true;
    idle = readahead_in_flight_ == 0;
  }
  if (!idle) device_.WaitUntil(drained_);
  {
    // Whoever set drained_ has left readahead_mutex_.
    MutexLock lock(readahead_mutex_);
    PBFS_CHECK(readahead_in_flight_ == 0);
  }
  for (Shard& shard : shards_) {
    MutexLock lock(shard.mutex);
    for (auto& [block, page] : shard.pages) {
      PBFS_CHECK(!page->reading);
      page->mapping.store(nullptr, std::memory_order_release);
      pages_.Release(*page);
    }
    shard.pages.clear();
  }
}

StatusOr<BlockRef> BlockCache::Read(uint64_t block, Verifier verify, const void* context) {
  Shard& shard = ShardOf(block);
  for (;;) {
    if (PageBuf* cached = FindOrWait(shard, block)) return BlockRef(pages_, *cached);
    PageBuf& page = *pages_.Allocate();
    if (!InsertReading(shard, block, page)) {
      pages_.Unpin(page);
      continue;
    }
    BlockRef reader(pages_, page);
    Status status = ReadFromDevice(page, verify, context);
    EndRead(page, status.ok());
    if (!status.ok()) return status;
    return reader;
  }
}

PageBuf* BlockCache::FindOrWait(Shard& shard, uint64_t block) {
  for (;;) {
    ReadWaiter waiter{.block = block};
    {
      MutexLock lock(shard.mutex);
      const auto it = shard.pages.find(block);
      if (it == shard.pages.end()) return nullptr;
      PageBuf& page = *it->second;
      if (!page.reading) {
        ++shard.hits;
        PageCache::RecordHit(page);
        PageCache::Pin(page);
        return &page;
      }
      waiter.next = shard.waiters;
      shard.waiters = &waiter;
    }
    device_.WaitUntil(waiter.done);
  }
}

void BlockCache::WakeReadersLocked(Shard& shard, uint64_t block) {
  ReadWaiter** link = &shard.waiters;
  while (*link != nullptr) {
    ReadWaiter& waiter = **link;
    if (waiter.block != block) {
      link = &waiter.next;
      continue;
    }
    *link = waiter.next;
    BlockDevice::SetDone(waiter.done);  // The waiter may be gone now.
  }
}

bool BlockCache::InsertReading(Shard& shard, uint64_t block, PageBuf& page) {
  MutexLock lock(shard.mutex);
  if (!shard.pages.try_emplace(block, &page).second) return false;
  PageCache::Attach(page, *this, block);
  page.reading = true;
  ++shard.misses;
  return true;
}

Status BlockCache::ReadFromDevice(PageBuf& page, Verifier verify, const void* context) {
  const uint64_t block = page.index;
  IoRequest request;
  request.op = IoOp::kRead;
  request.offset_bytes = block * kPageBytes;
  request.buffer.Append(page.data, kPageBytes);
  if (const int error = RunSync(device_, request); error != 0) {
    return ErrnoError(EIO, absl::StrCat(device_.geometry().name, ": block ", block,
                                        ": read failed: ", std::strerror(error)));
  }
  return verify == nullptr ? OkStatus() : verify(page.data, block, context);
}

void BlockCache::EndRead(PageBuf& page, bool ok) {
  Shard& shard = ShardOf(page.index);
  MutexLock lock(shard.mutex);
  page.reading = false;
  // Forgotten while it was read: whoever forgot it has woken the waiters.
  if (page.mapping.load(std::memory_order_relaxed) == nullptr) return;
  if (ok) {
    pages_.Enqueue(page, GhostKey(page.index), false);
    WakeReadersLocked(shard, page.index);
  } else {
    ForgetLocked(shard, page);
  }
}

void BlockCache::ForgetLocked(Shard& shard, PageBuf& page) {
  const uint64_t block = page.index;
  const size_t erased = shard.pages.erase(block);
  PBFS_CHECK(erased == 1);
  page.mapping.store(nullptr, std::memory_order_release);
  pages_.Release(page);
  WakeReadersLocked(shard, block);
}

BlockRef BlockCache::Find(uint64_t block) {
  Shard& shard = ShardOf(block);
  MutexLock lock(shard.mutex);
  const auto it = shard.pages.find(block);
  if (it == shard.pages.end() || it->second->reading) return BlockRef();
  PageBuf& page = *it->second;
  ++shard.hits;
  PageCache::RecordHit(page);
  PageCache::Pin(page);
  return BlockRef(pages_, page);
}

BlockRef BlockCache::GetZeroed(uint64_t block) {
  Shard& shard = ShardOf(block);
  {
    MutexLock lock(shard.mutex);
    const auto it = shard.pages.find(block);
    if (it != shard.pages.end()) {
      PageBuf& page = *it->second;
      if (!page.reading && page.pin_count() == 0) {
        // Nobody can pin it without this lock.
        PageCache::Pin(page);
        std::memset(page.data, 0, kPageBytes);
        return BlockRef(pages_, page);
      }
    }
  }
  PageBuf& page = *pages_.Allocate();
  std::memset(page.data, 0, kPageBytes);
  MutexLock lock(shard.mutex);
  const auto it = shard.pages.find(block);
  if (it != shard.pages.end()) ForgetLocked(shard, *it->second);
  shard.pages.emplace(block, &page);
  PageCache::Attach(page, *this, block);
  pages_.Enqueue(page, GhostKey(block), false);
  return BlockRef(pages_, page);
}

void BlockCache::Readahead(uint64_t first, uint32_t count, Verifier verify, const void* context) {
  const uint64_t device_blocks = device_.geometry().size_bytes / kPageBytes;
  if (first >= device_blocks || ReadaheadIsFull()) return;
  const uint64_t end =
      first + std::min<uint64_t>({count, kReadaheadBlocksMax, device_blocks - first});
  std::vector<IoRequest*> requests;
  ReadaheadRun* run = nullptr;  // The one to extend; owned by its completion.
  for (uint64_t block = first; block < end; ++block) {
    if (IsCached(block)) {
      run = nullptr;
      continue;
    }
    PageBuf* page = pages_.TryAllocate();
    if (page == nullptr) break;
    if (!InsertReading(ShardOf(block), block, *page)) {
      pages_.Unpin(*page);
      run = nullptr;
      continue;
    }
    if (run == nullptr || run->pages.size() == kReadaheadRunBlocksMax) {
      run = BeginReadahead(block, verify, context);
      requests.push_back(&run->io);
    }
    run->io.buffer.Append(page->data, kPageBytes);
    run->pages.push_back(page);
  }
  if (!requests.empty()) device_.SubmitBatch(requests);
}

bool BlockCache::IsCached(uint64_t block) {
  Shard& shard = ShardOf(block);
  MutexLock lock(shard.mutex);
  return shard.pages.contains(block);
}

bool BlockCache::ReadaheadIsFull() {
  MutexLock lock(readahead_mutex_);
  return readahead_in_flight_ >= kReadaheadRunsMax;
}

BlockCache::ReadaheadRun* BlockCache::BeginReadahead(uint64_t first, Verifier verify,
                                                     const void* context) {
  auto run = std::make_unique<ReadaheadRun>();
  run->cache = this;
  run->verify = verify;
  run->context = context;
  run->io.op = IoOp::kRead;
  run->io.offset_bytes = first * kPageBytes;
  run->io.PushCompletion(&ReadaheadCompleted, run.get());
  MutexLock lock(readahead_mutex_);
  ++readahead_in_flight_;
  return run.release();
}

void BlockCache::ReadaheadCompleted(IoRequest&, void* context, int error) {
  const std::unique_ptr<ReadaheadRun> run(static_cast<ReadaheadRun*>(context));
  BlockCache& cache = *run->cache;
  for (PageBuf* page : run->pages) {
    const bool ok = error == 0 && (run->verify == nullptr ||
                                   run->verify(page->data, page->index, run->context).ok());
    cache.EndRead(*page, ok);
    cache.pages_.Unpin(*page);
  }
  cache.EndReadahead();
}

void BlockCache::EndReadahead() {
  MutexLock lock(readahead_mutex_);
  PBFS_CHECK(readahead_in_flight_ > 0);
  if (--readahead_in_flight_ == 0 && draining_) BlockDevice::SetDone(drained_);
}

void BlockCache::Invalidate(uint64_t block) {
  Shard& shard = ShardOf(block);
  MutexLock lock(shard.mutex);
  const auto it = shard.pages.find(block);
  if (it != shard.pages.end()) ForgetLocked(shard, *it->second);
}

bool BlockCache::TryEvict(PageBuf& page) {
  // page.index is constant while the page is on a queue, and it cannot leave one meanwhile.
  Shard& shard = ShardOf(page.index);
  if (!shard.mutex.TryLock()) return false;
  const bool evictable = page.mapping.load(std::memory_order_relaxed) == this && !page.reading &&
                         page.pin_count() == 0;
  if (evictable) {
    shard.pages.erase(page.index);
    page.mapping.store(nullptr, std::memory_order_release);
  }
  shard.mutex.Unlock();
  return evictable;
}

BlockCache::Stats BlockCache::stats() const {
  Stats total;
  for (Shard& shard : shards_) {
    MutexLock lock(shard.mutex);
    total.hits += shard.hits;
    total.misses += shard.misses;
  }
  return total;
}

}  // namespace pbfs
