// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/blocking.h"
#include "base/mutex.h"

namespace pbfs {

// Shared and exclusive locks on byte ranges of one file, held across I/O and released by whichever
// thread completes it. Reads take their range shared, writes exclusive, truncation everything
// exclusive. Few ranges are held at a time: a list. Thread-safe.
class RangeLock {
 public:
  enum class Mode : uint8_t { kShared, kExclusive };
  struct Held {
    uint64_t start;
    uint64_t end;  // Exclusive; UINT64_MAX: to the end.
    Mode mode;
  };

  void Lock(uint64_t start, uint64_t end, Mode mode) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    while (ConflictsLocked(start, end, mode)) {
      AnnounceBlocking();
      ++waiters_;
      released_.Wait(mutex_);
      --waiters_;
    }
    held_.push_back({start, end, mode});
  }

  // Without waiting; false: it is not to be had now.
  bool TryLock(uint64_t start, uint64_t end, Mode mode) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    if (ConflictsLocked(start, end, mode)) return false;
    held_.push_back({start, end, mode});
    return true;
  }

  void Unlock(uint64_t start, uint64_t end, Mode mode) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    for (Held& held : held_) {
      if (held.start == start && held.end == end && held.mode == mode) {
        held = held_.back();
        held_.pop_back();
        break;
      }
    }
    if (waiters_ > 0) released_.SignalAll();
  }

 private:
  bool ConflictsLocked(uint64_t start, uint64_t end, Mode mode) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const Held& held : held_) {
      if (held.start < end && start < held.end &&
          (mode == Mode::kExclusive || held.mode == Mode::kExclusive)) {
        return true;
      }
    }
    return false;
  }

  Mutex mutex_;
  CondVar released_;
  std::vector<Held> held_ ABSL_GUARDED_BY(mutex_);
  uint32_t waiters_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace pbfs
