// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
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
// workers leave these answers to threads that do nothing else. One sends as a rule, while a second
// looks from time to time whether it gets on, and takes its place when it is stuck. Thread-safe.
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
  static constexpr size_t kThreadsMax = 64;
  // Without progress for so long, another thread joins.
  static constexpr std::chrono::milliseconds kStuck{5};

  void Main() ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether a thread that has nothing to do is to send what is queued.
  bool IsNeeded() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sees to it that somebody does, at once or when those that send are stuck.
  void WakeOrStart() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
  size_t sending_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t looking_ ABSL_GUARDED_BY(mutex_) = 0;       // Wait with a time-out.
  int64_t progress_ns_ ABSL_GUARDED_BY(mutex_) = 0;  // When an answer was last taken or sent.
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace pbfs::fuse
