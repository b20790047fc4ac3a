// SPDX-License-Identifier: Apache-2.0
// Locks, condition variables and threads with the interfaces of the standard ones. Used by a task
// of a Scheduler they are the scheduler's; by any other thread, the system's. An object is used by
// one kind or the other at a time.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "base/simulation/scheduler.h"

namespace pbfs::simulation {

// Also shared, so that one class serves as std::mutex and as std::shared_mutex.
class Mutex {
 public:
  void lock();
  bool try_lock();
  void unlock();
  void lock_shared();
  bool try_lock_shared();
  void unlock_shared();

 private:
  friend class Condition;
  void UnlockAsTask(Scheduler& scheduler);

  std::shared_mutex native_;
  const Task* owner_ = nullptr;
  uint32_t readers_ = 0;
};

class Condition {
 public:
  void wait(std::unique_lock<Mutex>& lock);
  std::cv_status wait_for(std::unique_lock<Mutex>& lock, std::chrono::nanoseconds timeout);
  void notify_one();
  void notify_all();

 private:
  std::condition_variable_any native_;
};

class Thread {
 public:
  Thread() = default;
  explicit Thread(std::function<void()> body);
  Thread(Thread&& other) noexcept = default;
  Thread& operator=(Thread&& other) noexcept;
  ~Thread();
  bool joinable() const { return native_.joinable() || task_ != nullptr; }
  void join();

 private:
  std::thread native_;
  TaskHandle task_;
};

}  // namespace pbfs::simulation
