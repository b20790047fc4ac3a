// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"

namespace pbfs {

inline constexpr size_t kPageBytes = 4096;

class Mapping;

// What was promised for a page of a file until a transaction used it: space for its block and the
// growth of the extent tree (it lies in a hole), or only for the latter (it lies over an unwritten
// extent, which is to become a written one).
enum class PagePromise : uint8_t { kNone, kBlock, kConversion };

// One page of a target and the frame that holds it (the XFS pagebuf, at page granularity; longer
// ranges are described by a LogicalBuffer over the frames of several PageBufs).
//
// There is exactly one PageBuf per frame of the arena, made with it, so page state needs no
// allocation. A page is free, private (allocated, in no mapping), or belongs to one Mapping, whose
// lock guards every field below that is not atomic.
struct PageBuf {
  std::byte* data = nullptr;  // 4 KiB, 4 KiB-aligned; constant.

  // Users of the frame's contents (pin_count()), and two flags that must change atomically with
  // them: kMapped while the page belongs to a mapping, kParked while eviction left it aside because
  // it was pinned. A pinned page is never evicted. The last Unpin of a page that is in no mapping
  // frees it. Changed by PageCache only.
  static constexpr uint32_t kMapped = 1u << 31;
  static constexpr uint32_t kParked = 1u << 30;
  static constexpr uint32_t kPinMask = kParked - 1;
  std::atomic<uint32_t> pins{0};
  uint32_t pin_count() const { return pins.load(std::memory_order_acquire) & kPinMask; }
  // Hits since insertion, saturating at 3 (S3-FIFO's frequency).
  std::atomic<uint8_t> hits{0};
  // Which queue holds it (PageCache's private enum); guarded by PageCache's queue lock, as are the
  // links and the key below.
  uint8_t queue = 0;

  std::atomic<Mapping*> mapping{nullptr};
  uint64_t index = 0;  // Page index within the mapping's target.

  // Data pages (FilePages).
  bool dirty = false;
  bool counted_as_data = false;  // PageUse::kData; guarded by the queue lock.
  bool writeback = false;        // A device write of this frame is in flight: contents are frozen.
  bool error = false;            // Its last writeback failed; stays dirty in memory.
  PagePromise promise = PagePromise::kNone;
  // It replaced a frame whose device write has not ended: its own must not start before.
  bool behind = false;

  // Metadata pages (BlockCache).
  bool reading = false;  // Its contents are being read from the device, or turned out bad.

  // Eviction queues.
  uint32_t ghost_key = 0;
  PageBuf* queue_prev = nullptr;
  PageBuf* queue_next = nullptr;

  int64_t dirty_since_ns = 0;  // Data pages: when it became dirty.
  void* log_item = nullptr;    // Metadata pages: owned by fs/log; guarded by its lock.
};
// PageBufs are budgeted beside the frames: 3 % at most.
static_assert(sizeof(PageBuf) <= 128);

// What a frame is allocated for.
enum class PageUse : uint8_t { kData, kMetadata };

// What pages belong to: the block cache (metadata) or one file's pages.
class Mapping {
 public:
  virtual ~Mapping() = default;
  // Asked by eviction, with the queue lock held: forget this page if it is clean, idle and has no
  // pins. Must not wait (uses TryLock); false keeps the page. On true the page no longer belongs to
  // the mapping.
  virtual bool TryEvict(PageBuf& page) = 0;
};

// All page frames of a mounted filesystem: one arena of fixed budget, and the eviction policy
// (S3-FIFO: small FIFO, main FIFO with second chances, ghost FIFO of recent evictions; scan
// resistant, and a hit takes no lock; before them a FIFO of pages to drop first). Thread-safe.
//
// Lock order: a mapping's lock, then the queue lock, so mappings call everything but Allocate*()
// under their own lock. Eviction holds the queue lock and only tries the mapping's.
//
// Invariants:
// - A page is on a queue only while its mapping could let it go (clean, idle), so eviction does not
//   walk over dirty data: a mapping calls Dequeue() when it dirties a page, Enqueue() when clean.
// - A pinned page that eviction meets is parked: off the lists until its last Unpin(). So each pin
//   is met at most once, and an empty list means that nothing is evictable.
class PageCache {
 public:
  // Budget in bytes, rounded down to frames; at least kFramesMin frames. The arena is anonymous
  // memory, hugepage-backed where the kernel agrees, allocated lazily by the kernel: frames are
  // first used in address order, so resident is what was ever used at once (rounded up to a
  // hugepage). A page to drop first makes room before a frame is used for the first time, unless
  // there are only few of them.
  static constexpr size_t kFramesMin = 2048;
  explicit PageCache(size_t budget_bytes);
  // REQUIRES: all mappings are gone and no page is pinned.
  ~PageCache();
  // False: the system refused the arena; nothing else may be called.
  bool has_memory() const ABSL_NO_THREAD_SAFETY_ANALYSIS;
  PageCache(const PageCache&) = delete;
  PageCache& operator=(const PageCache&) = delete;

  // A private page with one pin, contents undefined. Evicts as needed. Allocate() waits
  // (AnnounceBlocking) until a frame is free or evictable; TryAllocate() gives nullptr instead.
  // REQUIRES: no lock of a mapping is held.
  //
  // Data frames that eviction could not have (private, dirty, under writeback) never are more than
  // data_frames_max(); clean data pages are not limited: a transaction that needs a metadata block
  // must not wait for writeback of data, whose end needs a transaction.
  PageBuf* Allocate(PageUse use = PageUse::kMetadata) ABSL_LOCKS_EXCLUDED(mutex_);
  PageBuf* TryAllocate(PageUse use = PageUse::kMetadata) ABSL_LOCKS_EXCLUDED(mutex_);
  // Appends `count` pages to `out`, all or nothing; holds none while it waits.
  // REQUIRES: count <= frames_total().
  bool TryAllocateMany(size_t count, std::vector<PageBuf*>& out, PageUse use = PageUse::kMetadata)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void AllocateMany(size_t count, std::vector<PageBuf*>& out, PageUse use = PageUse::kMetadata)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // REQUIRES: the caller holds a pin already, or the lock of the page's mapping.
  static void Pin(PageBuf& page) { page.pins.fetch_add(1, std::memory_order_relaxed); }
  // The last touch of the page by the caller.
  void Unpin(PageBuf& page) ABSL_LOCKS_EXCLUDED(mutex_) {
    const uint32_t before = page.pins.fetch_sub(1, std::memory_order_acq_rel);
    PBFS_DCHECK((before & PageBuf::kPinMask) != 0);
    // Nothing more to do for a page that others pin, or that stays in its mapping, unparked.
    if ((before & PageBuf::kPinMask) == 1 && before != (PageBuf::kMapped | 1)) LastUnpin(page);
  }

  // For mappings, under their lock.

  // Makes a private page belong to `mapping`; the caller keeps its pin. Not on a queue yet.
  static void Attach(PageBuf& page, Mapping& mapping, uint64_t index);
  // Enters a page of a mapping into the eviction queues; `drop_first` puts it where eviction looks
  // first (clean data the kernel has). `key` identifies (target, index) for the ghost queue.
  // REQUIRES: it is on no queue.
  void Enqueue(PageBuf& page, uint64_t key, bool drop_first) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes a page that stays in its mapping off the queues, if it is on one (it becomes dirty).
  void Dequeue(PageBuf& page) ABSL_LOCKS_EXCLUDED(mutex_);
  // The mapping gave the page up (truncate, invalidate): takes it off the queues. The page is freed
  // when its pins are 0, now or later. page.mapping must already be nullptr.
  void Release(PageBuf& page) ABSL_LOCKS_EXCLUDED(mutex_);
  static void RecordHit(PageBuf& page) {
    const uint8_t hits = page.hits.load(std::memory_order_relaxed);
    if (hits < kHitsMax) {
      page.hits.store(static_cast<uint8_t>(hits + 1), std::memory_order_relaxed);
    }
  }
  // A page became evictable or free elsewhere: wakes Allocate() waiters.
  void NotifyReclaimable() ABSL_LOCKS_EXCLUDED(mutex_);

  // Has the kernel clear memory of frames that nobody has used yet, so that whoever is the first to
  // use one need not wait for that: half as much as was used so far, and 16 MiB at most. To be
  // called now and then, by one thread at a time.
  void ClearAhead() ABSL_LOCKS_EXCLUDED(mutex_);

  size_t frames_total() const { return frames_total_; }
  // Data may have all frames from now on: nothing is written any more, so nothing waits for that.
  void LiftDataLimit() ABSL_LOCKS_EXCLUDED(mutex_);
  size_t data_frames_max() const { return frames_total_ - frames_total_ * 9 / 20; }
  // How many pages of files are kept after their writeback failed.
  size_t error_pages_max() const { return data_frames_max() / 2; }
  size_t frames_free() const ABSL_LOCKS_EXCLUDED(mutex_);
  struct Stats {
    uint64_t evictions = 0;
    uint64_t allocation_waits = 0;
    size_t frames_total = 0;
    size_t frames_free = 0;
    size_t frames_queued = 0;  // On an eviction list; neither private, dirty nor parked.
    size_t frames_parked = 0;
  };
  Stats stats() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Walks everything; aborts when the queues are inconsistent. For tests and debug builds.
  void CheckInvariants() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Data pages of all files whose memory cannot be had without I/O: dirty ones (with or without
  // error) and frames under writeback, replaced or not. For throttling and statistics. Maintained
  // by FilePages.
  std::atomic<int64_t> dirty_pages{0};
  // Of those, the ones whose writeback failed: they wait for their writer, not for the device.
  std::atomic<int64_t> error_pages{0};

  // Pages of files that reads found here, and that they did not. For statistics; counted by whoever
  // reads.
  std::atomic<uint64_t> data_hits{0};
  std::atomic<uint64_t> data_misses{0};

  // Called (without locks, on the thread that waits) when Allocate() finds nothing to evict, so
  // that somebody starts writeback. Set once before use.
  void SetPressureHandler(void (*handler)(void*), void* context);

 private:
  struct Impl;
  enum class Outcome : uint8_t { kTaken, kNothing, kContended };
  static constexpr uint8_t kHitsMax = 3;

  void LastUnpin(PageBuf& page) ABSL_LOCKS_EXCLUDED(mutex_);
  // Fill `out`, all or nothing; Take() waits.
  void Take(std::span<PageBuf*> out, PageUse use) ABSL_LOCKS_EXCLUDED(mutex_);
  bool TryTake(std::span<PageBuf*> out, PageUse use) ABSL_LOCKS_EXCLUDED(mutex_);
  Outcome TakeLocked(std::span<PageBuf*> out, PageUse use) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Outcome EvictOneLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MakePageLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void PrepareLocked(PageBuf& page);
  void PushFreeLocked(PageBuf& page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveQueueLocked(PageBuf& page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t FreeCountLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t frames_total_;
  mutable Mutex mutex_;  // The queue lock. A leaf, except that TryEvict() is called under it.
  std::unique_ptr<Impl> impl_ ABSL_PT_GUARDED_BY(mutex_);
};

}  // namespace pbfs
