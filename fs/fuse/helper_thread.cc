// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/helper_thread.h"

#include <pthread.h>

#include <utility>

#include "base/clock.h"

namespace pbfs::fuse {

HelperThread::HelperThread() : thread_(&HelperThread::Main, this) {}

HelperThread::~HelperThread() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.Signal();
  }
  thread_.join();
}

void HelperThread::Queue(std::function<void()> job) {
  MutexLock lock(mutex_);
  jobs_.push_back(std::move(job));
  changed_.Signal();
}

void HelperThread::QueueAfter(std::chrono::milliseconds delay, std::function<void()> job) {
  MutexLock lock(mutex_);
  later_.emplace(NowNs() + std::chrono::nanoseconds(delay).count(), std::move(job));
  changed_.Signal();
}

void HelperThread::Main() {
  pthread_setname_np(pthread_self(), "pbfs-helper");
  for (;;) {
    std::function<void()> job;
    {
      MutexLock lock(mutex_);
      while (jobs_.empty() && !stopping_) {
        if (later_.empty()) {
          changed_.Wait(mutex_);
          continue;
        }
        const int64_t left_ns = later_.begin()->first - NowNs();
        if (left_ns > 0) {
          changed_.WaitFor(mutex_, std::chrono::milliseconds(left_ns / 1'000'000 + 1));
          continue;
        }
        jobs_.push_back(std::move(later_.extract(later_.begin()).mapped()));
      }
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

}  // namespace pbfs::fuse
