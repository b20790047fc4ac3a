// SPDX-License-Identifier: Apache-2.0
#include "base/simulation/primitives.h"

#include <utility>

#include "base/check.h"

namespace pbfs::simulation {

void Mutex::lock() {
  Scheduler* const scheduler = Scheduler::Current();
  if (scheduler == nullptr) return native_.lock();
  scheduler->Point();
  while (owner_ != nullptr || readers_ > 0) scheduler->Wait(this, "a lock", INT64_MAX);
  owner_ = Scheduler::Self();
}

bool Mutex::try_lock() {
  Scheduler* const scheduler = Scheduler::Current();
  if (scheduler == nullptr) return native_.try_lock();
  scheduler->Point();
  if (owner_ != nullptr || readers_ > 0) return false;
  owner_ = Scheduler::Self();
  return true;
}

void Mutex::unlock() {
  Scheduler* const scheduler = Scheduler::Current();
  if (scheduler == nullptr) return native_.unlock();
  UnlockAsTask(*scheduler);
  // Not a member is touched any more: who has the lock now may destroy it.
  scheduler->Point();
}

void Mutex::UnlockAsTask(Scheduler& scheduler) {
  PBFS_CHECK(owner_ == Scheduler::Self());
  owner_ = nullptr;
  scheduler.WakeAll(this);
}

void Mutex::lock_shared() {
  Scheduler* const scheduler = Scheduler::Current();
  if (scheduler == nullptr) return native_.lock_shared();
  scheduler->Point();
  while (owner_ != nullptr) scheduler->Wait(this, "a shared lock", INT64_MAX);
  ++readers_;
}

bool Mutex::try_lock_shared() {
  Scheduler* const scheduler = Scheduler::Current();
  if (scheduler == nullptr) return native_.try_lock_shared();
  scheduler->Point();
  if (owner_ != nullptr) return false;
  ++readers_;
  return true;
}

void Mutex::unlock_shared() {
  Scheduler* const scheduler = Scheduler::Current();
  if (scheduler == nullptr) return native_.unlock_shared();
  PBFS_CHECK(readers_ > 0);
  --readers_;
  scheduler->WakeAll(this);
  scheduler->Point();
}

void Condition::wait(std::unique_lock<Mutex>& lock) {
  Scheduler* const scheduler = Scheduler::Current();
  if (scheduler == nullptr) return native_.wait(lock);
  lock.mutex()->UnlockAsTask(*scheduler);
  scheduler->Wait(this, "a condition", INT64_MAX);
  lock.mutex()->lock();
}

std::cv_status Condition::wait_for(std::unique_lock<Mutex>& lock,
                                   std::chrono::nanoseconds timeout) {
  Scheduler* const scheduler = Scheduler::Current();
  if (scheduler == nullptr) return native_.wait_for(lock, timeout);
  const int64_t deadline_ns = scheduler->NowNs() + timeout.count();
  lock.mutex()->UnlockAsTask(*scheduler);
  const bool woken = scheduler->Wait(this, "a condition", deadline_ns);
  lock.mutex()->lock();
  return woken ? std::cv_status::no_timeout : std::cv_status::timeout;
}

void Condition::notify_one() {
  Scheduler* const scheduler = Scheduler::Current();
  if (scheduler == nullptr) return native_.notify_one();
  scheduler->WakeOne(this);
}

void Condition::notify_all() {
  Scheduler* const scheduler = Scheduler::Current();
  if (scheduler == nullptr) return native_.notify_all();
  scheduler->WakeAll(this);
}

Thread::Thread(std::function<void()> body) {
  if (Scheduler* const scheduler = Scheduler::Current()) {
    task_ = scheduler->Start(std::move(body));
  } else {
    native_ = std::thread(std::move(body));
  }
}

Thread& Thread::operator=(Thread&& other) noexcept {
  PBFS_CHECK(!joinable());
  native_ = std::move(other.native_);
  task_ = std::move(other.task_);
  return *this;
}

Thread::~Thread() { PBFS_CHECK(task_ == nullptr); }

void Thread::join() {
  if (task_ == nullptr) return native_.join();
  Scheduler::Current()->Join(*task_);
  task_ = nullptr;
}

}  // namespace pbfs::simulation
