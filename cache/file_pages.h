// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/btree_map.h"
#include "cache/page_cache.h"
#include "io/logical_buffer.h"

namespace pbfs {

// How many pages hold which promise.
struct PromiseCounts {
  size_t blocks = 0;
  size_t conversions = 0;
  PromiseCounts& operator+=(const PromiseCounts& other) {
    blocks += other.blocks;
    conversions += other.conversions;
    return *this;
  }
  size_t sum() const { return blocks + conversions; }
  friend bool operator==(const PromiseCounts&, const PromiseCounts&) = default;
};

// The cached pages of one file: dirty data that waits for writeback, and clean data kept for reads.
// Thread-safe (one lock per file); the caller holds the file's range lock, so two calls never write
// the same bytes at once.
//
// Invariants:
// - A page under writeback is not modified: a write to it puts a new frame in its place (copying
//   what the write does not cover); the old frame leaves the mapping and is freed at I/O
//   completion.
// - A promise belongs to the page index: a replacing page inherits it.
// - A page that replaced one under writeback is not collected before that writeback ended, so two
//   writes of one block are never in flight together.
// - error implies dirty; such a page is not collected for writeback again until it is rewritten.
// - Of all files together at most PageCache::error_pages_max() pages are kept with an error, or
//   nothing else would find a frame. The data of further ones is given up, as other filesystems do
//   with all of it: their indices are "lost", an error that goes as the others do.
// - A page is evictable when it is neither dirty, under writeback nor promised anything; only then
//   it is on an eviction queue. Methods that take a frame over also drop the caller's pin on it.
class FilePages : public Mapping {
 public:
  // `pages` is borrowed. `target` identifies the file in the ghost queue (its inode number).
  FilePages(PageCache& pages, uint64_t target);
  ~FilePages() override;  // Drops everything, dirty or not. REQUIRES: nothing under writeback.

  // --- Reading

  // Pins the pages [first, first + count) and appends them to `out`, nullptr where not cached.
  // Records hits.
  void Lookup(uint64_t first, size_t count, std::vector<PageBuf*>& out);
  bool Contains(uint64_t index);
  // True when no page in [first, first + count) is cached: the range may be read from the device.
  bool NoneCached(uint64_t first, size_t count);

  // --- Writing

  // Puts a private frame in as a clean page (contents just read, or zeroes at a hole's edge). If
  // the page exists already, the given frame is freed and the existing one stays. Takes over the
  // pin.
  void InsertClean(uint64_t index, PageBuf& frame);
  // The same, but returns the page that is in the mapping now, pinned for the caller: it stays
  // there until unpinned (a clean unpinned page may be evicted at any moment).
  PageBuf* InsertCleanPinned(uint64_t index, PageBuf& frame);

  // Puts a private, fully filled frame in as a dirty page (the receive path: no copy). Takes over
  // the caller's pin. Replaces any page there.
  void InsertDirty(uint64_t index, PageBuf& frame, PagePromise promise, int64_t now_ns);

  // Overwrites [offset, offset + length) of the page with bytes from `source` at `source_offset`,
  // marks it dirty. A page that is missing is created zero-filled: the caller has first inserted
  // every partially covered page that has data on disk, and holds a pin on it (InsertCleanPinned,
  // Lookup) so that it is still there. Uses `spare` (a private frame, taken over: used or freed)
  // when a new frame is needed.
  void WritePartial(uint64_t index, size_t offset, const LogicalBuffer& source,
                    size_t source_offset, size_t length, PagePromise promise, PageBuf& spare,
                    int64_t now_ns);
  // True when [index] is cached and dirty, or promised something.
  bool IsDirtyOrPromised(uint64_t index);
  // How many of [first, first + count) are promised something already.
  size_t CountPromised(uint64_t first, size_t count);

  // --- Writeback

  struct DirtyPage {
    uint64_t index;
    PageBuf* page;  // Pinned, marked writeback, no longer dirty.
    PagePromise promise;
  };
  // Takes at most `max_pages` dirty pages (ascending, from the lowest; error pages and pages whose
  // former frame is still under writeback are passed over) with index in [first, last], marks them
  // under writeback and appends them to `out`.
  void CollectDirty(uint64_t first, uint64_t last, size_t max_pages, std::vector<DirtyPage>& out);
  // Ends the writeback of one page and its pin: clean on success (`error` 0; kept, evicted first;
  // not before ClearPromises() if that comes later), dirty with an error otherwise.
  // If the page was replaced meanwhile, its frame is just freed; on failure the replacing page is
  // left as it is (the range was rewritten).
  // Returns the promise of a page that was given up: it is the caller's to return.
  PromiseCounts EndWriteback(const DirtyPage& page, int error);
  // The block range now has written blocks on disk: its pages' promises are used. Returns them.
  PromiseCounts ClearPromises(uint64_t first, size_t count);

  // --- Truncate, punch, error state

  // Drops the pages [first, last], dirty or not (their errors with them); returns what they were
  // promised. REQUIRES: none of them under writeback, nor the frame it replaced (the caller waited
  // for the round).
  PromiseCounts Drop(uint64_t first, uint64_t last);
  // Drops a page that is neither dirty nor promised anything, if it is there. That data of it was
  // given up is not forgotten. REQUIRES: as above.
  void DropCached(uint64_t index);
  // Zeroes bytes [offset, offset + length) of a cached page, marking it dirty; false when it is not
  // cached. Takes `spare` over as WritePartial() does. A cached page has its block or its promise.
  bool ZeroPart(uint64_t index, size_t offset, size_t length, PageBuf& spare, int64_t now_ns);
  bool ZeroTail(uint64_t index, size_t offset, PageBuf& spare, int64_t now_ns) {
    return ZeroPart(index, offset, kPageBytes - offset, spare, now_ns);
  }

  // 0, or the errno of the last failed writeback while any page is in error or lost.
  int WriteError();
  bool HasErrors() { return WriteError() != 0; }
  // 0, or WriteError() if this page is in error or lost.
  int WriteErrorAt(uint64_t index);
  // Makes error pages collectable once more (unmount's last try).
  void RetryErrors();
  // Dirty pages, with or without error; those without.
  size_t dirty_count();
  size_t pending_count();
  // Frames under writeback, also those that were replaced meanwhile.
  size_t writeback_count();
  size_t page_count();
  // When the oldest dirty page without error became dirty (steady clock, ns); INT64_MAX when there
  // is none.
  int64_t oldest_dirty_ns();
  // First index >= from whose page is promised something: it has data that the map does not show.
  // UINT64_MAX when there is none.
  uint64_t NextPromised(uint64_t from);

  bool TryEvict(PageBuf& page) override;

  // Walks all pages; aborts on an inconsistency. For tests and debug builds.
  void CheckInvariants();

 private:
  PageBuf* FindLocked(uint64_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Puts a private frame where no page is.
  void EnterLocked(uint64_t index, PageBuf& frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Puts a private frame in the place of `old`, whose state it inherits, and releases `old`.
  void ReplaceLocked(PageBuf& old, PageBuf& frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A page of the mapping whose contents may be changed: `page` itself, or while that is under
  // writeback `spare` in its place, with a copy of its contents.
  PageBuf& WritableLocked(PageBuf& page, PageBuf& spare) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The page is off the eviction queues already.
  void ErrorsChangedLocked(int delta) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkDirtyLocked(PageBuf& page, PagePromise promise, int64_t now_ns)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddPendingLocked(PageBuf& page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PendingRemovedLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the page's promise away and counts it.
  PromiseCounts TakePromiseLocked(PageBuf& page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  PromiseCounts DropLocked(uint64_t first, uint64_t last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `page` was under writeback, which failed.
  PromiseCounts KeepOrGiveUpLocked(PageBuf& page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsLostLocked(uint64_t index) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddLostLocked(uint64_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveLostLocked(uint64_t first, uint64_t last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t GhostKey(uint64_t index) const;

  PageCache& pages_;
  const uint64_t target_;
  Mutex mutex_;
  absl::btree_map<uint64_t, PageBuf*> map_ ABSL_GUARDED_BY(mutex_);
  // The pages of map_ that are dirty and without error: what CollectDirty() looks through.
  absl::btree_map<uint64_t, PageBuf*> pending_ ABSL_GUARDED_BY(mutex_);
  size_t dirty_count_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t writeback_count_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t error_count_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t promised_count_ ABSL_GUARDED_BY(mutex_) = 0;
  // Ranges of lost pages, first -> last.
  absl::btree_map<uint64_t, uint64_t> lost_ ABSL_GUARDED_BY(mutex_);
  int write_error_ ABSL_GUARDED_BY(mutex_) = 0;
  // The least dirty_since_ns in pending_; or less, when oldest_is_stale_ (pages left since).
  int64_t oldest_dirty_ns_ ABSL_GUARDED_BY(mutex_) = INT64_MAX;
  bool oldest_is_stale_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace pbfs
