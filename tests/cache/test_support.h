// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/mutex.h"
#include "cache/page_cache.h"
#include "io/block_device.h"

namespace pbfs {

inline PagePromise PromiseOf(bool promised) {
  return promised ? PagePromise::kBlock : PagePromise::kNone;
}

// Keeps requests back until told, and counts them. Thread-safe.
class HoldDevice : public BlockDevice {
 public:
  explicit HoldDevice(BlockDevice& below) : below_(below) {}

  const Geometry& geometry() const override { return below_.geometry(); }
  void Submit(IoRequest& request) override {
    {
      MutexLock lock(mutex_);
      ++request_count_;
      request_bytes_.push_back(request.buffer.size_bytes());
      request_segments_.push_back(request.buffer.segments().size());
      if (holding_) {
        held_.push_back(&request);
        changed_.SignalAll();
        return;
      }
    }
    below_.Submit(request);
  }
  void WaitUntil(const std::atomic<uint32_t>& done) override { below_.WaitUntil(done); }

  void Hold() {
    MutexLock lock(mutex_);
    holding_ = true;
  }
  void WaitForHeld(size_t count) {
    MutexLock lock(mutex_);
    while (held_.size() < count) changed_.Wait(mutex_);
  }
  // Lets everything through, what is held and what comes.
  void Release() {
    std::vector<IoRequest*> held;
    {
      MutexLock lock(mutex_);
      holding_ = false;
      held.swap(held_);
    }
    for (IoRequest* request : held) below_.Submit(*request);
  }

  size_t request_count() const {
    MutexLock lock(mutex_);
    return request_count_;
  }
  std::vector<size_t> request_bytes() const {
    MutexLock lock(mutex_);
    return request_bytes_;
  }
  std::vector<size_t> request_segments() const {
    MutexLock lock(mutex_);
    return request_segments_;
  }

 private:
  BlockDevice& below_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool holding_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<IoRequest*> held_ ABSL_GUARDED_BY(mutex_);
  size_t request_count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<size_t> request_bytes_ ABSL_GUARDED_BY(mutex_);
  std::vector<size_t> request_segments_ ABSL_GUARDED_BY(mutex_);
};

inline void FillPage(PageBuf& page, uint8_t value) { std::memset(page.data, value, kPageBytes); }

inline uint8_t ByteOf(const PageBuf& page, size_t offset = 0) {
  return std::to_integer<uint8_t>(page.data[offset]);
}

// Takes every frame that is free or evictable, and frees them all again: what is left in mappings
// cannot be evicted.
inline void EvictAll(PageCache& pages) {
  std::vector<PageBuf*> taken;
  while (PageBuf* page = pages.TryAllocate()) taken.push_back(page);
  for (PageBuf* page : taken) pages.Unpin(*page);
}

// Takes all frames but `left`.
inline std::vector<PageBuf*> TakeAllBut(PageCache& pages, size_t left) {
  std::vector<PageBuf*> taken;
  pages.AllocateMany(pages.frames_free() - left, taken);
  return taken;
}

inline void UnpinAll(PageCache& pages, const std::vector<PageBuf*>& taken) {
  for (PageBuf* page : taken) {
    if (page != nullptr) pages.Unpin(*page);
  }
}

}  // namespace pbfs
