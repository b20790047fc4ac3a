// SPDX-License-Identifier: Apache-2.0
#include "io/blocking_pool.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

#include "base/check.h"
#include "io/completion_scope.h"

namespace pbfs {

std::thread StartThreadWithoutSignals(void (*run)(void* context), void* context) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(run, context);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

BlockingPool::~BlockingPool() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    threads.swap(threads_);
  }
  changed_.SignalAll();
  for (std::thread& thread : threads) thread.join();
}

void BlockingPool::Run(Job& job) {
  job.next = nullptr;
  MutexLock lock(mutex_);
  while (threads_.size() < thread_count_ && !stopping_) {
    threads_.push_back(StartThreadWithoutSignals(
        [](void* pool) { static_cast<BlockingPool*>(pool)->Loop(); }, this));
  }
  (head_ == nullptr ? head_ : tail_->next) = &job;
  tail_ = &job;
  // Under the lock: without it the job may have run by now, and the pool be gone.
  changed_.Signal();
}

void BlockingPool::Loop() {
  while (true) {
    Job* job = nullptr;
    {
      MutexLock lock(mutex_);
      while (head_ == nullptr && !stopping_) changed_.Wait(mutex_);
      if (head_ == nullptr) return;
      job = head_;
      head_ = std::exchange(job->next, nullptr);
    }
    CompletionScope scope;
    job->run(*job);
  }
}

}  // namespace pbfs
