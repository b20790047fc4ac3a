// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/reply_threads.h"

#include <pthread.h>

#include <system_error>
#include <utility>

#include "base/clock.h"

namespace pbfs::fuse {

ReplyThreads::~ReplyThreads() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.SignalAll();
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

void ReplyThreads::Queue(std::function<void()> send) {
  {
    MutexLock lock(mutex_);
    queue_.push_back(std::move(send));
    WakeOrStart();
    if (!threads_.empty()) return;
    send = std::move(queue_.back());
    queue_.pop_back();
  }
  send();
}

bool ReplyThreads::IsNeeded() const {
  if (queue_.empty()) return false;
  return sending_ == 0 || NowNs() - progress_ns_ > std::chrono::nanoseconds(kStuck).count();
}

void ReplyThreads::WakeOrStart() {
  if (sending_ > 0 && looking_ > 0) return;
  if (threads_.size() > sending_) {
    changed_.Signal();
    return;
  }
  if (stopping_ || threads_.size() == kThreadsMax) return;
  try {
    threads_.emplace_back(&ReplyThreads::Main, this);
  } catch (const std::system_error&) {
    // Those that are there will have to do.
  }
}

void ReplyThreads::Main() {
  pthread_setname_np(pthread_self(), "pbfs-reply");
  for (;;) {
    std::function<void()> send;
    {
      MutexLock lock(mutex_);
      while (!IsNeeded()) {
        if (queue_.empty() && stopping_) return;
        if (queue_.empty()) {
          changed_.Wait(mutex_);
        } else {
          ++looking_;
          changed_.WaitFor(mutex_, kStuck);
          --looking_;
        }
      }
      send = std::move(queue_.front());
      queue_.pop_front();
      ++sending_;
      progress_ns_ = NowNs();
      if (!queue_.empty()) WakeOrStart();
    }
    send();
    send = nullptr;
    MutexLock lock(mutex_);
    --sending_;
    progress_ns_ = NowNs();
  }
}

}  // namespace pbfs::fuse
