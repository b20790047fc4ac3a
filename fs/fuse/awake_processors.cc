// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/awake_processors.h"

#include <pthread.h>
#include <sched.h>

#include <system_error>

#include "base/clock.h"

namespace pbfs::fuse {
namespace {

// Between two looks at the clock: some microseconds.
constexpr int kPausesPerLook = 128;

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

}  // namespace

AwakeProcessors::AwakeProcessors(unsigned count) {
  if (count > kProcessorsMax) return;
  for (unsigned processor = 0; processor < count; ++processor) {
    try {
      threads_.emplace_back([this, processor] { Main(processor); });
    } catch (const std::system_error&) {
      return;  // Slower, no more.
    }
  }
}

AwakeProcessors::~AwakeProcessors() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    awake_.store(false, std::memory_order_relaxed);
    changed_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

void AwakeProcessors::NoteRequest() {
  const int64_t now = NowNs();
  const int64_t before = newest_ns_.exchange(now, std::memory_order_relaxed);
  if (now - before > kCloseNs) {
    close_.store(0, std::memory_order_relaxed);
    return;
  }
  if (awake_.load(std::memory_order_relaxed)) return;
  if (close_.fetch_add(1, std::memory_order_relaxed) + 1 < kCloseRequestsMin) return;
  MutexLock lock(mutex_);
  if (stopping_) return;
  awake_.store(true, std::memory_order_relaxed);
  changed_.SignalAll();
}

bool AwakeProcessors::BecomeIdleThreadOf(unsigned processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  sched_param parameter = {};
  return pthread_setaffinity_np(pthread_self(), sizeof(set), &set) == 0 &&
         pthread_setschedparam(pthread_self(), SCHED_IDLE, &parameter) == 0;
}

void AwakeProcessors::Main(unsigned processor) {
  pthread_setname_np(pthread_self(), "pbfs-awake");
  if (!BecomeIdleThreadOf(processor)) return;  // It would be in the way.
  for (;;) {
    {
      MutexLock lock(mutex_);
      while (!awake_.load(std::memory_order_relaxed) && !stopping_) changed_.Wait(mutex_);
      if (stopping_) return;
    }
    while (awake_.load(std::memory_order_relaxed) &&
           NowNs() - newest_ns_.load(std::memory_order_relaxed) < kCloseNs) {
      for (int i = 0; i < kPausesPerLook; ++i) Pause();
    }
    awake_.store(false, std::memory_order_relaxed);
  }
}

}  // namespace pbfs::fuse
