// SPDX-License-Identifier: Apache-2.0
#include "cache/page_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <new>
#include <type_traits>

#include "base/blocking.h"
#include "base/bulk_memory.h"
#include "base/check.h"
#include "base/clock.h"
#include "cache/free_frames.h"
#include "io/io_ring.h"

namespace pbfs {
namespace {

constexpr size_t kHugepageBytes = size_t{2} << 20;
// Pages that may be spared for their hits, per eviction; the next one goes even if it was hit.
// Rarely reached (each hit pays for one chance), it bounds the time under the queue lock to about
// 50 us.
constexpr int kSecondChancesMax = 1024;
// Pages that the kernel has, too, and that are kept as long as there are frames never used: the
// last ones, which may be written again in parts, and no more, since the kernel clears each frame
// when it is first used (0.7 ms for 1 MiB, more than the copy into it).
constexpr size_t kDropFramesKept = (size_t{16} << 20) / kPageBytes;
// Cleared ahead, which is some milliseconds' work.
constexpr size_t kClearBytesMax = size_t{16} << 20;
// Pages passed over because their mapping's lock is taken, per attempt.
constexpr int kContendedMax = 32;
// Attempts of TryAllocate() that end that way.
constexpr int kContendedAttemptsMax = 16;
constexpr std::chrono::nanoseconds kContendedWait = std::chrono::microseconds(200);
// A waiter that nobody wakes asks for writeback again.
constexpr std::chrono::nanoseconds kPressureInterval = std::chrono::seconds(1);

// A waiting thread that drives a ring looks this often whether anything changed.
constexpr std::chrono::nanoseconds kReapMax = std::chrono::milliseconds(1);

// Waits until `changed` is signalled, `timeout` passes, or spuriously. What is waited for is often
// the end of a writeback, and a thread that still drives a ring after AnnounceBlocking() is the
// only one that can run that ring's completions: it reaps instead of sleeping.
void WaitOrReap(Mutex& mutex, CondVar& changed, std::chrono::nanoseconds timeout)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
  IoRing* const ring = IoRing::Current();
  if (ring == nullptr) {
    changed.WaitFor(mutex, timeout);
    return;
  }
  mutex.Unlock();
  ring->Reap(std::min(timeout, kReapMax).count());
  mutex.Lock();
}

// Values of PageBuf::queue.
enum Queue : uint8_t {
  kNone = 0,  // Private, or in a mapping and not evictable (dirty, being read).
  kDrop,
  kSmall,
  kMain,
  kParkedSmall,  // Off the lists until the last Unpin.
  kParkedMain,
  kFree,
};

bool IsListed(uint8_t queue) { return queue == kDrop || queue == kSmall || queue == kMain; }
bool IsParked(uint8_t queue) { return queue == kParkedSmall || queue == kParkedMain; }

// Zero-filled anonymous memory that becomes resident when touched.
class LazyMemory {
 public:
  LazyMemory(size_t length_bytes, size_t alignment)
      : mapped_bytes_(length_bytes + alignment), length_bytes_(length_bytes) {
    if (!MayHaveBulkMemory()) return;
    mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped_ == MAP_FAILED) {
      mapped_ = nullptr;
      return;
    }
    const auto address = reinterpret_cast<uintptr_t>(mapped_);
    data_ = static_cast<std::byte*>(mapped_) + ((alignment - address % alignment) % alignment);
  }
  ~LazyMemory() {
    if (mapped_ != nullptr) munmap(mapped_, mapped_bytes_);
  }
  LazyMemory(const LazyMemory&) = delete;
  LazyMemory& operator=(const LazyMemory&) = delete;

  std::byte* data() const { return data_; }  // nullptr: there is none.
  size_t size_bytes() const { return length_bytes_; }

 private:
  size_t mapped_bytes_;
  size_t length_bytes_;
  void* mapped_ = nullptr;
  std::byte* data_ = nullptr;
};

// Doubly linked through PageBuf; pages enter at the newest end, eviction looks at the oldest.
class PageList {
 public:
  bool empty() const { return count_ == 0; }
  size_t count() const { return count_; }
  PageBuf* oldest() const { return oldest_; }

  void PushNewest(PageBuf& page) {
    page.queue_prev = newest_;
    page.queue_next = nullptr;
    (newest_ != nullptr ? newest_->queue_next : oldest_) = &page;
    newest_ = &page;
    ++count_;
  }
  void Remove(PageBuf& page) {
    PBFS_CHECK(count_ > 0);
    (page.queue_prev != nullptr ? page.queue_prev->queue_next : oldest_) = page.queue_next;
    (page.queue_next != nullptr ? page.queue_next->queue_prev : newest_) = page.queue_prev;
    page.queue_prev = nullptr;
    page.queue_next = nullptr;
    --count_;
  }

 private:
  PageBuf* oldest_ = nullptr;
  PageBuf* newest_ = nullptr;
  size_t count_ = 0;
};

// Which pages were evicted from the small queue lately: the last `window` insertions, as 32-bit
// fingerprints in buckets of four. Forgetting one or taking one key for another only costs a wrong
// guess, so this replaces a hash map and a list at an eighth of the memory.
class GhostTable {
 public:
  explicit GhostTable(size_t window)
      : window_(static_cast<uint32_t>(std::min<size_t>(window, UINT32_MAX / 2))),
        bucket_count_(std::bit_ceil(std::max<size_t>(window / kWays, 1))),
        memory_(bucket_count_ * sizeof(Bucket), alignof(Bucket)),
        buckets_(reinterpret_cast<Bucket*>(memory_.data())),
        clock_(window_ + 1) {}

  bool has_memory() const { return buckets_ != nullptr; }

  void Insert(uint32_t key) {
    Bucket& bucket = BucketOf(key);
    Entry* oldest = &bucket.entries[0];
    for (Entry& entry : bucket.entries) {
      if (entry.key == key && IsRecent(entry)) {
        oldest = &entry;
        break;
      }
      if (clock_ - entry.inserted > clock_ - oldest->inserted) oldest = &entry;
    }
    *oldest = {key, ++clock_};
  }
  // True when the key is there; it is taken out.
  bool Take(uint32_t key) {
    for (Entry& entry : BucketOf(key).entries) {
      if (entry.key != key || !IsRecent(entry)) continue;
      entry = {0, clock_ - window_ - 1};
      return true;
    }
    return false;
  }

 private:
  static constexpr size_t kWays = 4;
  struct Entry {
    uint32_t key;
    uint32_t inserted;
  };
  struct Bucket {
    Entry entries[kWays];
  };
  static_assert(std::is_trivially_default_constructible_v<Bucket>);

  bool IsRecent(const Entry& entry) const { return clock_ - entry.inserted < window_; }
  Bucket& BucketOf(uint32_t key) { return buckets_[key % bucket_count_]; }

  const uint32_t window_;
  const size_t bucket_count_;
  LazyMemory memory_;
  Bucket* const buckets_;
  // Insertions so far; starts where the zero-filled entries are out of the window.
  uint32_t clock_;
};

uint32_t FoldKey(uint64_t key) {
  key ^= key >> 33;
  key *= 0xff51afd7ed558ccdULL;
  return static_cast<uint32_t>(key >> 32);
}

}  // namespace

struct PageCache::Impl {
  explicit Impl(size_t frames)
      : arena(frames * kPageBytes, kHugepageBytes),
        pages_memory(frames * sizeof(PageBuf), alignof(PageBuf)),
        pages(reinterpret_cast<PageBuf*>(pages_memory.data())),
        ghost(frames),
        free(frames) {
    // Frames are first used in address order, so a hugepage holds no frame that stays unused for
    // long. Advice only: without it the arena works on small pages.
    (void)madvise(arena.data(), arena.size_bytes(), MADV_HUGEPAGE);
  }

  PageList& ListOf(uint8_t queue) {
    PBFS_CHECK(IsListed(queue));
    return queue == kDrop ? drop : queue == kSmall ? small : main;
  }
  void Push(PageBuf& page, Queue queue) {
    if (page.queue == kNone && page.counted_as_data) --data_busy;
    page.queue = queue;
    ListOf(queue).PushNewest(page);
  }
  // The list whose oldest page is to go next; nullptr when all are empty.
  PageList* VictimList() {
    if (!drop.empty()) return &drop;
    if (small.empty() && main.empty()) return nullptr;
    const bool small_is_full = small.count() * 10 >= small.count() + main.count();
    return main.empty() || (small_is_full && !small.empty()) ? &small : &main;
  }
  // Takes a pinned page off its list, leaving its last Unpin() to bring it back.
  bool ParkIfPinned(PageBuf& page) {
    uint32_t pins = page.pins.load(std::memory_order_acquire);
    do {
      if ((pins & PageBuf::kPinMask) == 0) return false;
    } while (
        !page.pins.compare_exchange_weak(pins, pins | PageBuf::kParked, std::memory_order_acq_rel));
    ListOf(page.queue).Remove(page);
    page.queue = page.queue == kMain ? kParkedMain : kParkedSmall;
    ++parked_count;
    return true;
  }
  // A page with hits since it was last looked at moves to the newest end of the main queue.
  bool SpareIfHit(PageBuf& page) {
    const uint8_t hits = page.hits.load(std::memory_order_relaxed);
    const bool in_main = page.queue == kMain;
    if (hits < (in_main ? 1 : 2)) return false;
    page.hits.store(in_main ? static_cast<uint8_t>(hits - 1) : 0, std::memory_order_relaxed);
    ListOf(page.queue).Remove(page);
    Push(page, kMain);
    return true;
  }

  LazyMemory arena;
  LazyMemory pages_memory;
  PageBuf* const pages;
  GhostTable ghost;

  // PageBufs [0, pages_made) exist; the frames beyond were never used.
  size_t pages_made = 0;
  // By ClearAhead(), from the start of the arena.
  size_t cleared_bytes = 0;
  FreeFrames free;            // Of those.
  std::vector<size_t> taken;  // Keeps its capacity.
  PageList drop;
  PageList small;
  PageList main;
  size_t parked_count = 0;
  // Frames allocated as PageUse::kData that are on no list: private, dirty or under writeback. A
  // parked page waits for its reader only.
  size_t data_busy = 0;
  bool data_limited = true;

  CondVar changed;
  size_t waiters = 0;
  uint64_t evictions = 0;
  uint64_t allocation_waits = 0;
  void (*pressure_handler)(void*) = nullptr;
  void* pressure_context = nullptr;
};

PageCache::PageCache(size_t budget_bytes)
    : frames_total_(std::max(budget_bytes / kPageBytes, kFramesMin)),
      impl_(std::make_unique<Impl>(frames_total_)) {}

bool PageCache::has_memory() const {
  return impl_->arena.data() != nullptr && impl_->pages != nullptr && impl_->ghost.has_memory();
}

PageCache::~PageCache() { PBFS_DCHECK(frames_free() == frames_total_); }

PageBuf* PageCache::Allocate(PageUse use) {
  PageBuf* page = nullptr;
  Take({&page, 1}, use);
  return page;
}

PageBuf* PageCache::TryAllocate(PageUse use) {
  PageBuf* page = nullptr;
  return TryTake({&page, 1}, use) ? page : nullptr;
}

void PageCache::AllocateMany(size_t count, std::vector<PageBuf*>& out, PageUse use) {
  out.resize(out.size() + count);
  Take(std::span(out).last(count), use);
}

bool PageCache::TryAllocateMany(size_t count, std::vector<PageBuf*>& out, PageUse use) {
  out.resize(out.size() + count);
  if (TryTake(std::span(out).last(count), use)) return true;
  out.resize(out.size() - count);
  return false;
}

bool PageCache::TryTake(std::span<PageBuf*> out, PageUse use) {
  PBFS_CHECK(out.size() <= frames_total_);
  if (!MayHaveBulkMemory()) return false;
  for (int attempt = 0; attempt < kContendedAttemptsMax; ++attempt) {
    {
      MutexLock lock(mutex_);
      const Outcome outcome = TakeLocked(out, use);
      if (outcome != Outcome::kContended) return outcome == Outcome::kTaken;
    }
    YieldThread();
  }
  return false;
}

void PageCache::Take(std::span<PageBuf*> out, PageUse use) {
  if (TryTake(out, use)) return;
  AnnounceBlocking();
  void (*handler)(void*) = nullptr;
  void* context = nullptr;
  {
    MutexLock lock(mutex_);
    ++impl_->allocation_waits;
    handler = impl_->pressure_handler;
    context = impl_->pressure_context;
  }
  for (;;) {
    if (handler != nullptr) handler(context);
    MutexLock lock(mutex_);
    const Outcome outcome = TakeLocked(out, use);
    if (outcome == Outcome::kTaken) return;
    // Whatever makes a page evictable or free takes mutex_ and sees the waiter; only pages passed
    // over for a taken lock come without notice.
    ++impl_->waiters;
    WaitOrReap(mutex_, impl_->changed,
               outcome == Outcome::kContended ? kContendedWait : kPressureInterval);
    --impl_->waiters;
  }
}

PageCache::Outcome PageCache::TakeLocked(std::span<PageBuf*> out, PageUse use) {
  const bool data = use == PageUse::kData;
  PBFS_CHECK(!data || out.size() <= data_frames_max());
  if (data && impl_->data_limited && impl_->data_busy + out.size() > data_frames_max())
    return Outcome::kNothing;
  while (FreeCountLocked() < out.size()) {
    const Outcome outcome = EvictOneLocked();
    if (outcome != Outcome::kTaken) return outcome;
  }
  bool reuse = true;
  // A frame that was never used costs its clearing by the kernel.
  while (impl_->free.count() < out.size() && reuse && impl_->drop.count() > kDropFramesKept) {
    reuse = EvictOneLocked() == Outcome::kTaken;
  }
  while (impl_->free.count() < out.size()) MakePageLocked();
  impl_->taken.resize(out.size());
  impl_->free.Take(impl_->taken);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = &impl_->pages[impl_->taken[i]];
    PrepareLocked(*out[i]);
    out[i]->counted_as_data = data;
  }
  if (data) impl_->data_busy += out.size();
  return Outcome::kTaken;
}

PageCache::Outcome PageCache::EvictOneLocked() {
  int chances = 0;
  int contended = 0;
  while (PageList* list = impl_->VictimList()) {
    PageBuf& page = *list->oldest();
    if (impl_->ParkIfPinned(page)) continue;
    if (chances < kSecondChancesMax && impl_->SpareIfHit(page)) {
      ++chances;
      continue;
    }
    Mapping* const mapping = page.mapping.load(std::memory_order_acquire);
    if (mapping == nullptr || !mapping->TryEvict(page)) {
      // Somebody holds the mapping's lock, or has just pinned or given up the page under it.
      list->Remove(page);
      list->PushNewest(page);
      if (++contended == kContendedMax) return Outcome::kContended;
      continue;
    }
    PBFS_CHECK(page.mapping.load(std::memory_order_relaxed) == nullptr);
    list->Remove(page);
    if (page.queue == kSmall) impl_->ghost.Insert(page.ghost_key);
    ++impl_->evictions;
    PushFreeLocked(page);
    return Outcome::kTaken;
  }
  return contended > 0 ? Outcome::kContended : Outcome::kNothing;
}

size_t PageCache::FreeCountLocked() const {
  return impl_->free.count() + (frames_total_ - impl_->pages_made);
}

void PageCache::ClearAhead() {
  std::byte* start = nullptr;
  size_t length_bytes = 0;
  {
    MutexLock lock(mutex_);
    const size_t used_bytes = impl_->pages_made * kPageBytes;
    size_t& cleared = impl_->cleared_bytes;
    cleared = std::max(cleared, used_bytes / kHugepageBytes * kHugepageBytes);
    const size_t end = std::min(frames_total_ * kPageBytes,
                                used_bytes + std::min(used_bytes / 2, kClearBytesMax)) /
                       kHugepageBytes * kHugepageBytes;
    if (end <= cleared) return;
    start = impl_->arena.data() + cleared;
    length_bytes = end - cleared;
    cleared = end;
  }
  // Advice only: kernels before 5.14 do not know it.
  (void)madvise(start, length_bytes, MADV_POPULATE_WRITE);
}

// One more that is free.
void PageCache::MakePageLocked() {
  PBFS_CHECK(impl_->pages_made < frames_total_);
  PageBuf& page = *new (&impl_->pages[impl_->pages_made]) PageBuf;
  page.data = impl_->arena.data() + impl_->pages_made * kPageBytes;
  page.queue = kFree;
  impl_->free.Put(impl_->pages_made++);
}

// One that was free and has an owner now.
void PageCache::PrepareLocked(PageBuf& page) {
  PBFS_CHECK(page.queue == kFree);
  page.queue = kNone;
  page.hits.store(0, std::memory_order_relaxed);
  page.dirty = page.error = page.behind = page.reading = false;
  page.promise = PagePromise::kNone;
  page.pins.store(1, std::memory_order_relaxed);
}

void PageCache::PushFreeLocked(PageBuf& page) {
  PBFS_CHECK(!page.writeback);
  PBFS_CHECK(page.log_item == nullptr);
  if (page.queue == kNone && page.counted_as_data) --impl_->data_busy;
  page.pins.store(0, std::memory_order_relaxed);
  page.queue = kFree;
  page.queue_prev = nullptr;
  page.queue_next = nullptr;
  impl_->free.Put(static_cast<size_t>(&page - impl_->pages));
}

void PageCache::WakeLocked() {
  if (impl_->waiters > 0) impl_->changed.SignalAll();
}

void PageCache::LastUnpin(PageBuf& page) {
  // Without kMapped nobody else knows the page. With it the page may by now be gone, free or
  // anybody's; its PageBuf stays, and says under the lock whether it is (still, or again) parked
  // without pins, when bringing it back is right whoever parked it.
  MutexLock lock(mutex_);
  if (page.mapping.load(std::memory_order_relaxed) == nullptr && page.queue == kNone &&
      page.pins.load(std::memory_order_acquire) == 0) {
    PushFreeLocked(page);
    WakeLocked();
    return;
  }
  if (!IsParked(page.queue) || page.pin_count() != 0) return;
  const Queue queue = page.queue == kParkedMain ? kMain : kSmall;
  LeaveQueueLocked(page);
  impl_->Push(page, queue);
  WakeLocked();
}

void PageCache::LeaveQueueLocked(PageBuf& page) {
  if (page.queue != kNone && page.counted_as_data) ++impl_->data_busy;
  if (IsParked(page.queue)) {
    page.pins.fetch_and(~PageBuf::kParked, std::memory_order_acq_rel);
    --impl_->parked_count;
  } else if (IsListed(page.queue)) {
    impl_->ListOf(page.queue).Remove(page);
  }
  page.queue = kNone;
}

void PageCache::Attach(PageBuf& page, Mapping& mapping, uint64_t index) {
  PBFS_CHECK(page.mapping.load(std::memory_order_relaxed) == nullptr);
  page.index = index;
  page.mapping.store(&mapping, std::memory_order_release);
  const uint32_t before = page.pins.fetch_or(PageBuf::kMapped, std::memory_order_acq_rel);
  PBFS_CHECK((before & PageBuf::kPinMask) != 0 && (before & PageBuf::kMapped) == 0);
}

void PageCache::Enqueue(PageBuf& page, uint64_t key, bool drop_first) {
  MutexLock lock(mutex_);
  PBFS_CHECK(page.queue == kNone);
  PBFS_CHECK((page.pins.load(std::memory_order_relaxed) & PageBuf::kMapped) != 0);
  page.ghost_key = FoldKey(key);
  const bool known = impl_->ghost.Take(page.ghost_key);
  impl_->Push(page, drop_first ? kDrop : known ? kMain : kSmall);
  WakeLocked();
}

void PageCache::Dequeue(PageBuf& page) {
  MutexLock lock(mutex_);
  LeaveQueueLocked(page);
}

void PageCache::Release(PageBuf& page) {
  PBFS_CHECK(page.mapping.load(std::memory_order_relaxed) == nullptr);
  MutexLock lock(mutex_);
  LeaveQueueLocked(page);
  const uint32_t before = page.pins.fetch_and(~PageBuf::kMapped, std::memory_order_acq_rel);
  PBFS_CHECK((before & PageBuf::kMapped) != 0);
  if ((before & PageBuf::kPinMask) == 0) PushFreeLocked(page);
  WakeLocked();
}

void PageCache::NotifyReclaimable() {
  MutexLock lock(mutex_);
  WakeLocked();
}

void PageCache::LiftDataLimit() {
  MutexLock lock(mutex_);
  impl_->data_limited = false;
  WakeLocked();
}

size_t PageCache::frames_free() const {
  MutexLock lock(mutex_);
  return FreeCountLocked();
}

PageCache::Stats PageCache::stats() const {
  MutexLock lock(mutex_);
  const size_t queued = impl_->drop.count() + impl_->small.count() + impl_->main.count();
  return {.evictions = impl_->evictions,
          .allocation_waits = impl_->allocation_waits,
          .frames_total = frames_total_,
          .frames_free = FreeCountLocked(),
          .frames_queued = queued,
          .frames_parked = impl_->parked_count};
}

void PageCache::SetPressureHandler(void (*handler)(void*), void* context) {
  MutexLock lock(mutex_);
  impl_->pressure_handler = handler;
  impl_->pressure_context = context;
}

void PageCache::CheckInvariants() const {
  MutexLock lock(mutex_);
  for (const uint8_t queue : {kDrop, kSmall, kMain}) {
    size_t count = 0;
    for (PageBuf* page = impl_->ListOf(queue).oldest(); page != nullptr; page = page->queue_next) {
      const uint32_t pins = page->pins.load(std::memory_order_relaxed);
      PBFS_CHECK(page->queue == queue);
      PBFS_CHECK((pins & PageBuf::kMapped) != 0 && (pins & PageBuf::kParked) == 0);
      ++count;
    }
    PBFS_CHECK(count == impl_->ListOf(queue).count());
  }
  size_t free_count = 0;
  size_t parked_count = 0;
  size_t data_busy = 0;
  for (size_t i = 0; i < impl_->pages_made; ++i) {
    const PageBuf& page = impl_->pages[i];
    const bool flagged = (page.pins.load(std::memory_order_relaxed) & PageBuf::kParked) != 0;
    PBFS_CHECK(flagged == IsParked(page.queue));
    const bool is_free = page.queue == kFree;
    PBFS_CHECK(impl_->free.Has(i) == is_free);
    PBFS_CHECK(!is_free || page.pins.load(std::memory_order_relaxed) == 0);
    free_count += is_free ? 1 : 0;
    parked_count += flagged ? 1 : 0;
    data_busy += page.counted_as_data && page.queue == kNone ? 1 : 0;
  }
  PBFS_CHECK(free_count == impl_->free.count());
  PBFS_CHECK(parked_count == impl_->parked_count);
  PBFS_CHECK(data_busy == impl_->data_busy);
}

}  // namespace pbfs
