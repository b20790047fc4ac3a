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
    const bool none_runs = threads_.size() == idle_;
    if (!none_runs && NowNs() - last_taken_ns_ < kStuckNs) return;
    if (idle_ > 0) {
      --idle_;
      ++woken_;
      changed_.Signal();
      return;
    }
    if (StartThread() || !threads_.empty()) return;
    send = std::move(queue_.back());
    queue_.pop_back();
  }
  send();
}

bool ReplyThreads::StartThread() {
  if (threads_.size() == kThreadsMax) return false;
  try {
    threads_.emplace_back(&ReplyThreads::Main, this);
  } catch (const std::system_error&) {
    return false;
  }
  last_taken_ns_ = NowNs();
  return true;
}

void ReplyThreads::Main() {
  pthread_setname_np(pthread_self(), "pbfs-reply");
  for (;;) {
    std::function<void()> send;
    {
      MutexLock lock(mutex_);
      while (queue_.empty()) {
        if (stopping_) return;
        ++idle_;
        while (woken_ == 0 && !stopping_) changed_.Wait(mutex_);
        if (woken_ > 0) {
          --woken_;
        } else {
          --idle_;
        }
      }
      send = std::move(queue_.front());
      queue_.pop_front();
      last_taken_ns_ = NowNs();
    }
    send();
  }
}

}  // namespace pbfs::fuse
