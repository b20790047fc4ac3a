// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "base/status.h"
#include "cache/page_cache.h"
#include "io/block_device.h"

namespace pbfs {

class BlockCache;

// A pin on one cached metadata block; unpins when destroyed. Move-only. The holder may read the
// contents under the lock that protects that block's structure (see ARCHITECTURE.md).
class BlockRef {
 public:
  BlockRef() = default;
  BlockRef(PageCache& pages, PageBuf& page) : pages_(&pages), page_(&page) {}  // Adopts one pin.
  BlockRef(BlockRef&& other) noexcept : pages_(other.pages_), page_(other.page_) {
    other.page_ = nullptr;
  }
  BlockRef& operator=(BlockRef&& other) noexcept {
    if (this != &other) {
      Reset();
      pages_ = other.pages_;
      page_ = other.page_;
      other.page_ = nullptr;
    }
    return *this;
  }
  ~BlockRef() { Reset(); }
  void Reset() {
    if (page_ != nullptr) pages_->Unpin(*page_);
    page_ = nullptr;
  }

  explicit operator bool() const { return page_ != nullptr; }
  std::byte* data() const { return page_->data; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(page_->data);
  }
  uint64_t block() const { return page_->index; }
  PageBuf& page() const { return *page_; }
  BlockRef Clone() const {
    PageCache::Pin(*page_);
    return BlockRef(*pages_, *page_);
  }

 private:
  PageCache* pages_ = nullptr;
  PageBuf* page_ = nullptr;
};

// Metadata blocks of the device, by block number. Knows nothing of dirtiness: the log pins a block
// from its first change until the block is written back. Thread-safe; lookups take one of 16 locks.
//
// Invariants: a page being read is pinned by its reader and on no eviction queue; once read, it is
// on one. A reader whose block is forgotten meanwhile still gets its contents, as a dead page.
class BlockCache : public Mapping {
 public:
  // Stateless check of a block that was just read; a non-OK status is returned to the reader and
  // the block is not cached. Runs without locks; for readahead on the device's completing thread.
  using Verifier = Status (*)(const std::byte* data, uint64_t block, const void* context);

  // Both borrowed.
  BlockCache(PageCache& pages, BlockDevice& device);
  ~BlockCache() override;  // Waits for readahead in flight.

  // The block, from cache or device. May block. EIO with the block number in the message when the
  // device fails. Two readers of one missing block share one read.
  StatusOr<BlockRef> Read(uint64_t block, Verifier verify, const void* context);
  // The block if it is cached and read; empty otherwise. Never blocks on I/O.
  BlockRef Find(uint64_t block);
  // A block whose old contents do not matter (newly allocated): zero-filled, no read. If a stale
  // copy is cached (clean), it is zeroed and reused, or forgotten when pinned. May block.
  BlockRef GetZeroed(uint64_t block);
  // Starts reading blocks [first, first + count) that are missing, as one request where adjacent;
  // does not wait and reports nothing: a later Read() sees or repeats errors. Does less when memory
  // is short or much is in flight. `context` lives until the cache is destroyed.
  void Readahead(uint64_t first, uint32_t count, Verifier verify, const void* context);
  // Forgets the block (it was freed). It may still be pinned; the pins then hold a dead page.
  void Invalidate(uint64_t block);

  bool TryEvict(PageBuf& page) override;

  struct Stats {
    uint64_t hits = 0;
    uint64_t misses = 0;
  };
  Stats stats() const;

 private:
  static constexpr size_t kShards = 16;
  // Per call; per request; and requests in flight above which a call does nothing.
  static constexpr uint32_t kReadaheadBlocksMax = 1024;
  static constexpr uint32_t kReadaheadRunBlocksMax = 256;
  static constexpr uint32_t kReadaheadRunsMax = 64;
  // One thread waiting for the read of a block by another; linked while it waits.
  struct ReadWaiter {
    uint64_t block;
    std::atomic<uint32_t> done{0};
    ReadWaiter* next = nullptr;
  };
  struct Shard {
    Mutex mutex;
    ReadWaiter* waiters ABSL_GUARDED_BY(mutex) = nullptr;
    absl::flat_hash_map<uint64_t, PageBuf*> pages ABSL_GUARDED_BY(mutex);
    uint64_t hits ABSL_GUARDED_BY(mutex) = 0;
    uint64_t misses ABSL_GUARDED_BY(mutex) = 0;
  };
  struct ReadaheadRun;

  Shard& ShardOf(uint64_t block) { return shards_[(block ^ (block >> 4)) % kShards]; }
  // The page pinned, when it is cached; waits while it is being read.
  PageBuf* FindOrWait(Shard& shard, uint64_t block) ABSL_LOCKS_EXCLUDED(shard.mutex);
  // Enters a private page as being read; false when the block is there already.
  bool InsertReading(Shard& shard, uint64_t block, PageBuf& page) ABSL_LOCKS_EXCLUDED(shard.mutex);
  // Ends the read of an entered page (unless it was forgotten meanwhile). The pin stays.
  void EndRead(PageBuf& page, bool ok);
  static void WakeReadersLocked(Shard& shard, uint64_t block)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mutex);
  void ForgetLocked(Shard& shard, PageBuf& page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mutex);
  Status ReadFromDevice(PageBuf& page, Verifier verify, const void* context);
  bool IsCached(uint64_t block);
  bool ReadaheadIsFull() ABSL_LOCKS_EXCLUDED(readahead_mutex_);
  // An empty run that starts at `first`, counted as in flight.
  ReadaheadRun* BeginReadahead(uint64_t first, Verifier verify, const void* context)
      ABSL_LOCKS_EXCLUDED(readahead_mutex_);
  void EndReadahead() ABSL_LOCKS_EXCLUDED(readahead_mutex_);
  static void ReadaheadCompleted(IoRequest& request, void* context, int error);

  PageCache& pages_;
  BlockDevice& device_;
  mutable std::array<Shard, kShards> shards_;

  Mutex readahead_mutex_;
  uint32_t readahead_in_flight_ ABSL_GUARDED_BY(readahead_mutex_) = 0;
  // The destructor waits: drained_ is to be set when the last one ends.
  bool draining_ ABSL_GUARDED_BY(readahead_mutex_) = false;
  std::atomic<uint32_t> drained_{0};
};

}  // namespace pbfs
