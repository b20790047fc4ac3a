// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/awake_processors.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <chrono>
#include <system_error>

#include "base/clock.h"

namespace pbfs::fuse {
namespace {

constexpr int32_t kNoLatency = 0;
constexpr int32_t kAnyLatency = 2'000'000'000;  // The kernel's default: as if nobody asked.

}  // namespace

AwakeProcessors::AwakeProcessors(const char* device) {
  if (sysconf(_SC_NPROCESSORS_ONLN) > kProcessorsMax) return;
  fd_ = open(device, O_WRONLY | O_CLOEXEC);
  if (fd_ < 0) return;
  try {
    thread_ = std::thread(&AwakeProcessors::Main, this);
  } catch (const std::system_error&) {
    close(fd_);
    fd_ = -1;
  }
}

AwakeProcessors::~AwakeProcessors() {
  if (fd_ < 0) return;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
  close(fd_);  // Which takes back what was asked.
}

void AwakeProcessors::Ask(int32_t latency_us) {
  // Refused: slower, no more.
  [[maybe_unused]] const ssize_t written = pwrite(fd_, &latency_us, sizeof(latency_us), 0);
}

void AwakeProcessors::NoteRequest() {
  if (fd_ < 0) return;
  const int64_t now = NowNs();
  const int64_t before = newest_ns_.exchange(now, std::memory_order_relaxed);
  if (awake_.load(std::memory_order_relaxed)) return;
  if (now - before > kCloseNs) {
    close_.store(0, std::memory_order_relaxed);
    return;
  }
  if (close_.fetch_add(1, std::memory_order_relaxed) + 1 < kCloseRequestsMin) return;
  MutexLock lock(mutex_);
  if (stopping_ || awake_.load(std::memory_order_relaxed)) return;
  Ask(kNoLatency);
  awake_.store(true, std::memory_order_relaxed);
  changed_.SignalAll();
}

void AwakeProcessors::Main() {
  pthread_setname_np(pthread_self(), "pbfs-awake");
  MutexLock lock(mutex_);
  while (!stopping_) {
    if (!awake_.load(std::memory_order_relaxed)) {
      changed_.Wait(mutex_);
      continue;
    }
    if (NowNs() - newest_ns_.load(std::memory_order_relaxed) < kQuietNs) {
      changed_.WaitFor(mutex_, std::chrono::nanoseconds(kQuietNs));
      continue;
    }
    Ask(kAnyLatency);
    close_.store(0, std::memory_order_relaxed);
    awake_.store(false, std::memory_order_relaxed);
  }
}

}  // namespace pbfs::fuse
