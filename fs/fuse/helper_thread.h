// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <thread>

#include "base/mutex.h"

namespace pbfs::fuse {

// Answers SEEK_DATA and SEEK_HOLE. The kernel asks without writing its dirty pages first, so data
// just written would be taken for a hole: it is made to send those pages, and the question is
// answered after that. It waits for our replies to those WRITEs meanwhile, so this must not happen
// on a worker that drives a loop. Thread-safe.
class SeekHelper {
 public:
  // `job` runs on the helper's thread, in order.
  SeekHelper();
  // Runs what is queued first.
  ~SeekHelper();
  void Queue(std::function<void()> job) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Main();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace pbfs::fuse
