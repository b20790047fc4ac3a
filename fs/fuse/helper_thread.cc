// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/helper_thread.h"

#include <pthread.h>

#include <utility>

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

void HelperThread::Main() {
  pthread_setname_np(pthread_self(), "pbfs-helper");
  for (;;) {
    std::function<void()> job;
    {
      MutexLock lock(mutex_);
      while (jobs_.empty() && !stopping_) changed_.Wait(mutex_);
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

}  // namespace pbfs::fuse
