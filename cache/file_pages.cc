// SPDX-License-Identifier: Apache-2.0
#include "cache/file_pages.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace pbfs {

FilePages::FilePages(PageCache& pages, uint64_t target) : pages_(pages), target_(target) {}

FilePages::~FilePages() {
  MutexLock lock(mutex_);
  PBFS_CHECK(writeback_count_ == 0);
  DropLocked(0, UINT64_MAX);
}

uint64_t FilePages::GhostKey(uint64_t index) const {
  return (target_ + 1) * 0xbf58476d1ce4e5b9ULL + index * 0x94d049bb133111ebULL;
}

// --- Reading

void FilePages::Lookup(uint64_t first, size_t count, std::vector<PageBuf*>& out) {
  const size_t base = out.size();
  out.resize(base + count, nullptr);
  MutexLock lock(mutex_);
  for (auto it = map_.lower_bound(first); it != map_.end() && it->first - first < count; ++it) {
    PageBuf* page = it->second;
    PageCache::Pin(*page);
    PageCache::RecordHit(*page);
    out[base + (it->first - first)] = page;
  }
}

bool FilePages::Contains(uint64_t index) {
  MutexLock lock(mutex_);
  return map_.contains(index);
}

bool FilePages::NoneCached(uint64_t first, size_t count) {
  MutexLock lock(mutex_);
  const auto it = map_.lower_bound(first);
  return it == map_.end() || it->first - first >= count;
}

// --- Writing

PageBuf* FilePages::FindLocked(uint64_t index) {
  const auto it = map_.find(index);
  return it == map_.end() ? nullptr : it->second;
}

void FilePages::EnterLocked(uint64_t index, PageBuf& frame) {
  PageCache::Attach(frame, *this, index);
  const bool inserted = map_.emplace(index, &frame).second;
  PBFS_CHECK(inserted);
}

void FilePages::ReplaceLocked(PageBuf& old, PageBuf& frame) {
  PageCache::Attach(frame, *this, old.index);
  map_[old.index] = &frame;
  frame.promise = std::exchange(old.promise, PagePromise::kNone);
  frame.behind = old.behind || old.writeback;
  frame.dirty = old.dirty;
  frame.error = old.error;
  frame.dirty_since_ns = old.dirty_since_ns;
  if (old.dirty && !old.error) pending_[old.index] = &frame;
  // `writeback` stays with the frame in flight.
  old.behind = old.dirty = old.error = false;
  old.mapping.store(nullptr, std::memory_order_release);
  pages_.Release(old);
}

PageBuf& FilePages::WritableLocked(PageBuf& page, PageBuf& spare) {
  if (page.writeback) {
    std::memcpy(spare.data, page.data, kPageBytes);
    ReplaceLocked(page, spare);
    return spare;
  }
  if (!page.dirty) pages_.Dequeue(page);
  return page;
}

void FilePages::ErrorsChangedLocked(int delta) {
  error_count_ = static_cast<size_t>(static_cast<int64_t>(error_count_) + delta);
  pages_.error_pages.fetch_add(delta, std::memory_order_relaxed);
}

void FilePages::MarkDirtyLocked(PageBuf& page, PagePromise promise, int64_t now_ns) {
  PBFS_CHECK(!page.writeback);
  if (promise != PagePromise::kNone && page.promise == PagePromise::kNone) {
    page.promise = promise;
    ++promised_count_;
  }
  if (page.dirty && !page.error) return;
  if (page.error) {
    page.error = false;
    ErrorsChangedLocked(-1);
  } else {
    page.dirty = true;
    ++dirty_count_;
    pages_.dirty_pages.fetch_add(1, std::memory_order_relaxed);
  }
  page.dirty_since_ns = now_ns;
  AddPendingLocked(page);
}

void FilePages::AddPendingLocked(PageBuf& page) {
  PBFS_CHECK(page.dirty && !page.error);
  const bool inserted = pending_.emplace(page.index, &page).second;
  PBFS_CHECK(inserted);
  oldest_dirty_ns_ = std::min(oldest_dirty_ns_, page.dirty_since_ns);
}

void FilePages::PendingRemovedLocked() {
  oldest_is_stale_ = !pending_.empty();
  if (pending_.empty()) oldest_dirty_ns_ = INT64_MAX;
}

void FilePages::InsertClean(uint64_t index, PageBuf& frame) {
  pages_.Unpin(*InsertCleanPinned(index, frame));
}

PageBuf* FilePages::InsertCleanPinned(uint64_t index, PageBuf& frame) {
  MutexLock lock(mutex_);
  if (PageBuf* page = FindLocked(index)) {
    PageCache::Pin(*page);
    pages_.Unpin(frame);
    return page;
  }
  EnterLocked(index, frame);
  pages_.Enqueue(frame, GhostKey(index), false);
  return &frame;
}

void FilePages::InsertDirty(uint64_t index, PageBuf& frame, PagePromise promise, int64_t now_ns) {
  MutexLock lock(mutex_);
  if (PageBuf* old = FindLocked(index)) {
    ReplaceLocked(*old, frame);
  } else {
    EnterLocked(index, frame);
  }
  MarkDirtyLocked(frame, promise, now_ns);
  RemoveLostLocked(index, index);
  pages_.Unpin(frame);
}

void FilePages::WritePartial(uint64_t index, size_t offset, const LogicalBuffer& source,
                             size_t source_offset, size_t length, PagePromise promise,
                             PageBuf& spare, int64_t now_ns) {
  PBFS_CHECK(offset <= kPageBytes && length <= kPageBytes - offset);
  MutexLock lock(mutex_);
  PageBuf* page = FindLocked(index);
  if (page == nullptr) {
    std::memset(spare.data, 0, offset);
    std::memset(spare.data + offset + length, 0, kPageBytes - offset - length);
    EnterLocked(index, spare);
    page = &spare;
  } else {
    page = &WritableLocked(*page, spare);
  }
  source.CopyTo(source_offset, page->data + offset, length);
  MarkDirtyLocked(*page, promise, now_ns);
  if (length == kPageBytes) RemoveLostLocked(index, index);
  // Frees it unless it has become the page.
  pages_.Unpin(spare);
}

bool FilePages::IsDirtyOrPromised(uint64_t index) {
  MutexLock lock(mutex_);
  const PageBuf* page = FindLocked(index);
  return page != nullptr && (page->dirty || page->promise != PagePromise::kNone);
}

size_t FilePages::CountPromised(uint64_t first, size_t count) {
  MutexLock lock(mutex_);
  if (promised_count_ == 0) return 0;
  size_t found = 0;
  for (auto it = map_.lower_bound(first); it != map_.end() && it->first - first < count; ++it) {
    if (it->second->promise != PagePromise::kNone) ++found;
  }
  return found;
}

// --- Writeback

void FilePages::CollectDirty(uint64_t first, uint64_t last, size_t max_pages,
                             std::vector<DirtyPage>& out) {
  MutexLock lock(mutex_);
  size_t taken = 0;
  auto it = pending_.lower_bound(first);
  while (it != pending_.end() && it->first <= last && taken < max_pages) {
    PageBuf& page = *it->second;
    if (page.behind) {
      ++it;
      continue;
    }
    PageCache::Pin(page);
    page.dirty = false;
    page.writeback = true;
    out.push_back({.index = it->first, .page = &page, .promise = page.promise});
    it = pending_.erase(it);
    ++taken;
  }
  if (taken == 0) return;
  // pages_.dirty_pages counts them until EndWriteback().
  dirty_count_ -= taken;
  writeback_count_ += taken;
  PendingRemovedLocked();
}

PromiseCounts FilePages::EndWriteback(const DirtyPage& written, int error) {
  PageBuf& page = *written.page;
  MutexLock lock(mutex_);
  PBFS_CHECK(page.writeback);
  page.writeback = false;
  --writeback_count_;
  const bool replaced = page.mapping.load(std::memory_order_relaxed) == nullptr;
  if (replaced) {
    PageBuf* successor = FindLocked(written.index);
    PBFS_CHECK(successor != nullptr && successor->behind);
    successor->behind = false;
  }
  if (error != 0 && !replaced) {
    write_error_ = error;
    const PromiseCounts given_up = KeepOrGiveUpLocked(page);
    pages_.Unpin(page);
    return given_up;
  }
  pages_.dirty_pages.fetch_sub(1, std::memory_order_relaxed);
  pages_.Unpin(page);
  if (!replaced && page.promise == PagePromise::kNone) {
    pages_.Enqueue(page, GhostKey(page.index), true);
  }
  return {};
}

PromiseCounts FilePages::TakePromiseLocked(PageBuf& page) {
  const PagePromise promise = std::exchange(page.promise, PagePromise::kNone);
  if (promise == PagePromise::kNone) return {};
  --promised_count_;
  return promise == PagePromise::kBlock ? PromiseCounts{.blocks = 1}
                                        : PromiseCounts{.conversions = 1};
}

PromiseCounts FilePages::KeepOrGiveUpLocked(PageBuf& page) {
  const bool room = pages_.error_pages.load(std::memory_order_relaxed) <
                    static_cast<int64_t>(pages_.error_pages_max());
  // Besides the round's, a pin: a writer has looked at the page and is about to change part of it.
  if (room || page.pin_count() > 1) {
    page.dirty = page.error = true;
    ++dirty_count_;
    ErrorsChangedLocked(1);
    return {};
  }
  AddLostLocked(page.index);
  const PromiseCounts promised = TakePromiseLocked(page);
  map_.erase(page.index);
  page.mapping.store(nullptr, std::memory_order_release);
  pages_.Release(page);
  pages_.dirty_pages.fetch_sub(1, std::memory_order_relaxed);
  return promised;
}

bool FilePages::IsLostLocked(uint64_t index) const {
  const auto behind = lost_.upper_bound(index);
  return behind != lost_.begin() && std::prev(behind)->second >= index;
}

void FilePages::AddLostLocked(uint64_t index) {
  if (IsLostLocked(index)) return;
  const auto behind = lost_.upper_bound(index);
  uint64_t last = index;
  if (behind != lost_.end() && behind->first == index + 1) {
    last = behind->second;
    lost_.erase(behind);
  }
  const auto next = lost_.upper_bound(index);
  if (next != lost_.begin() && std::prev(next)->second + 1 == index) {
    std::prev(next)->second = last;
  } else {
    lost_.emplace(index, last);
  }
}

void FilePages::RemoveLostLocked(uint64_t first, uint64_t last) {
  if (lost_.empty()) return;
  auto it = lost_.upper_bound(first);
  if (it != lost_.begin() && std::prev(it)->second >= first) --it;
  while (it != lost_.end() && it->first <= last) {
    const auto [start, end] = *it;
    lost_.erase(it);
    if (start < first) lost_.emplace(start, first - 1);
    if (end > last) lost_.emplace(last + 1, end);
    it = lost_.upper_bound(end);
  }
}

PromiseCounts FilePages::ClearPromises(uint64_t first, size_t count) {
  MutexLock lock(mutex_);
  PromiseCounts cleared;
  if (promised_count_ == 0) return cleared;
  for (auto it = map_.lower_bound(first); it != map_.end() && it->first - first < count; ++it) {
    PageBuf& page = *it->second;
    if (page.promise == PagePromise::kNone) continue;
    cleared += TakePromiseLocked(page);
    if (!page.dirty && !page.writeback) pages_.Enqueue(page, GhostKey(page.index), true);
  }
  return cleared;
}

// --- Truncate, punch, error state

PromiseCounts FilePages::Drop(uint64_t first, uint64_t last) {
  MutexLock lock(mutex_);
  RemoveLostLocked(first, last);
  return DropLocked(first, last);
}

PromiseCounts FilePages::DropLocked(uint64_t first, uint64_t last) {
  const auto begin = map_.lower_bound(first);
  const auto end = map_.upper_bound(last);
  PromiseCounts promised;
  size_t dirty = 0;
  for (auto it = begin; it != end; ++it) {
    PageBuf& page = *it->second;
    PBFS_CHECK(!page.writeback && !page.behind);
    promised += TakePromiseLocked(page);
    dirty += page.dirty ? 1 : 0;
    if (page.error) ErrorsChangedLocked(-1);
    page.dirty = page.error = false;
    page.mapping.store(nullptr, std::memory_order_release);
    pages_.Release(page);
  }
  map_.erase(begin, end);
  dirty_count_ -= dirty;
  pages_.dirty_pages.fetch_sub(static_cast<int64_t>(dirty), std::memory_order_relaxed);
  pending_.erase(pending_.lower_bound(first), pending_.upper_bound(last));
  PendingRemovedLocked();
  return promised;
}

void FilePages::DropCached(uint64_t index) {
  MutexLock lock(mutex_);
  PBFS_CHECK(DropLocked(index, index).sum() == 0);
}

bool FilePages::ZeroPart(uint64_t index, size_t offset, size_t length, PageBuf& spare,
                         int64_t now_ns) {
  PBFS_CHECK(offset <= kPageBytes && length <= kPageBytes - offset);
  MutexLock lock(mutex_);
  PageBuf* page = FindLocked(index);
  if (page != nullptr && length > 0) {
    PageBuf& writable = WritableLocked(*page, spare);
    std::memset(writable.data + offset, 0, length);
    MarkDirtyLocked(writable, PagePromise::kNone, now_ns);
  }
  pages_.Unpin(spare);
  return page != nullptr;
}

int FilePages::WriteError() {
  MutexLock lock(mutex_);
  return error_count_ > 0 || !lost_.empty() ? write_error_ : 0;
}

int FilePages::WriteErrorAt(uint64_t index) {
  MutexLock lock(mutex_);
  const PageBuf* page = FindLocked(index);
  const bool bad = (page != nullptr && page->error) || IsLostLocked(index);
  return bad ? write_error_ : 0;
}

void FilePages::RetryErrors() {
  MutexLock lock(mutex_);
  if (error_count_ == 0) return;
  for (auto& [index, page] : map_) {
    if (!page->error) continue;
    page->error = false;
    ErrorsChangedLocked(-1);
    AddPendingLocked(*page);
  }
}

size_t FilePages::dirty_count() {
  MutexLock lock(mutex_);
  return dirty_count_;
}

size_t FilePages::pending_count() {
  MutexLock lock(mutex_);
  return pending_.size();
}

size_t FilePages::writeback_count() {
  MutexLock lock(mutex_);
  return writeback_count_;
}

size_t FilePages::page_count() {
  MutexLock lock(mutex_);
  return map_.size();
}

int64_t FilePages::oldest_dirty_ns() {
  MutexLock lock(mutex_);
  if (oldest_is_stale_) {
    oldest_dirty_ns_ = INT64_MAX;
    for (const auto& [index, page] : pending_) {
      oldest_dirty_ns_ = std::min(oldest_dirty_ns_, page->dirty_since_ns);
    }
    oldest_is_stale_ = false;
  }
  return oldest_dirty_ns_;
}

uint64_t FilePages::NextPromised(uint64_t from) {
  MutexLock lock(mutex_);
  if (promised_count_ == 0) return UINT64_MAX;
  for (auto it = map_.lower_bound(from); it != map_.end(); ++it) {
    if (it->second->promise != PagePromise::kNone) return it->first;
  }
  return UINT64_MAX;
}

bool FilePages::TryEvict(PageBuf& page) {
  if (!mutex_.TryLock()) return false;
  const bool evictable = page.mapping.load(std::memory_order_relaxed) == this && !page.dirty &&
                         !page.writeback && page.promise == PagePromise::kNone &&
                         page.pin_count() == 0;
  if (evictable) {
    map_.erase(page.index);
    page.mapping.store(nullptr, std::memory_order_release);
  }
  mutex_.Unlock();
  return evictable;
}

void FilePages::CheckInvariants() {
  MutexLock lock(mutex_);
  size_t dirty = 0;
  size_t error = 0;
  size_t promised = 0;
  size_t in_flight = 0;
  for (const auto& [index, page] : map_) {
    PBFS_CHECK(page->mapping.load(std::memory_order_relaxed) == this && page->index == index);
    PBFS_CHECK(!(page->dirty && page->writeback));
    PBFS_CHECK(page->dirty || !page->error);
    PBFS_CHECK(page->dirty || !page->behind);
    PBFS_CHECK(pending_.contains(index) == (page->dirty && !page->error));
    dirty += page->dirty ? 1 : 0;
    error += page->error ? 1 : 0;
    promised += page->promise != PagePromise::kNone ? 1 : 0;
    in_flight += page->writeback || page->behind ? 1 : 0;
  }
  for (const auto& [index, page] : pending_) PBFS_CHECK(FindLocked(index) == page);
  PBFS_CHECK(dirty == dirty_count_);
  PBFS_CHECK(error == error_count_);
  PBFS_CHECK(promised == promised_count_);
  PBFS_CHECK(in_flight == writeback_count_);
}

}  // namespace pbfs
