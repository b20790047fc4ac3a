// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <thread>

#include "base/mutex.h"

namespace pbfs::fuse {

// Answers what needs the kernel's dirty pages first. It asks for SEEK_DATA and SEEK_HOLE without
// writing them, so data just written would be taken for a hole; and a shutdown may have to include
// them. So it is made to send those pages, and the answer comes after that. The kernel waits for
// our replies to those WRITEs meanwhile, so this must not happen on a worker that drives a loop.
// Thread-safe.
class HelperThread {
 public:
  // `job` runs on the helper's thread, in order.
  HelperThread();
  // Runs what is queued first.
  ~HelperThread();
  void Queue(std::function<void()> job) ABSL_LOCKS_EXCLUDED(mutex_);
  // Runs it after a while; not at all if this object goes first.
  void QueueAfter(std::chrono::milliseconds delay, std::function<void()> job)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Main();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mutex_);
  std::multimap<int64_t, std::function<void()>> later_ ABSL_GUARDED_BY(mutex_);  // By NowNs().
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace pbfs::fuse
