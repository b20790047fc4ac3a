// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace pbfs::fuse {

// Sends answers that may keep their sender in the kernel.
//
// When a program closes a file while its asynchronous direct I/O is under way, the answer to that
// I/O drops the last reference of the file, and it is the thread that answers who then closes it in
// the kernel: it waits there until the file's dirty pages are written, by us. A worker would wait
// for requests that it has to receive itself, or for a device whose completions it has to reap. So
// workers leave these answers to threads that do nothing else. One does as a rule; another joins
// when that one is stuck. Thread-safe.
class ReplyThreads {
 public:
  ReplyThreads() = default;
  // Sends what is queued first.
  ~ReplyThreads();
  ReplyThreads(const ReplyThreads&) = delete;
  ReplyThreads& operator=(const ReplyThreads&) = delete;

  // In order, but for stuck ones. `send` runs here if no thread can be started at all.
  void Queue(std::function<void()> send) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  static constexpr size_t kThreadsMax = 4;
  // Without progress for so long, another thread joins.
  static constexpr int64_t kStuckNs = 5'000'000;

  void Main() ABSL_LOCKS_EXCLUDED(mutex_);
  bool StartThread() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;   // Wait, and nobody has woken them.
  size_t woken_ ABSL_GUARDED_BY(mutex_) = 0;  // Of those, to come.
  int64_t last_taken_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace pbfs::fuse
