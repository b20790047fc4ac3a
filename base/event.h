// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/blocking.h"
#include "base/mutex.h"

namespace pbfs {

// One-shot event: Set() once, any number of waiters. Thread-safe. Set() is the last touch of the
// setter, so a waiter may destroy the event as soon as Wait() returns.
class Event {
 public:
  void Set() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    set_ = true;
    changed_.SignalAll();
  }
  bool IsSet() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    return set_;
  }
  void Wait() ABSL_LOCKS_EXCLUDED(mutex_) {
    if (IsSet()) return;
    AnnounceBlocking();
    MutexLock lock(mutex_);
    while (!set_) changed_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool set_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace pbfs
