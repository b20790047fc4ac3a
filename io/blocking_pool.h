// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <thread>
#include <vector>

#include "base/mutex.h"

namespace pbfs {

// A few threads for system calls that block: transfers where io_uring is off, and ioctls. Jobs are
// intrusive, run in order of arrival, and count as completions (see InCompletion): they may submit
// but not wait for other requests. Thread-safe.
class BlockingPool {
 public:
  struct Job {
    void (*run)(Job& job) = nullptr;
    Job* next = nullptr;
  };

  // Threads start with the first job.
  explicit BlockingPool(unsigned thread_count) : thread_count_(thread_count) {}
  // Runs what is queued to its end.
  ~BlockingPool();
  BlockingPool(const BlockingPool&) = delete;
  BlockingPool& operator=(const BlockingPool&) = delete;

  // The job is the caller's, and not touched any more once it runs.
  void Run(Job& job) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Loop() ABSL_LOCKS_EXCLUDED(mutex_);

  const unsigned thread_count_;

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Job* head_ ABSL_GUARDED_BY(mutex_) = nullptr;
  Job* tail_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

// A thread that takes no signals: those belong to the program's own threads.
std::thread StartThreadWithoutSignals(void (*run)(void* context), void* context);

}  // namespace pbfs
