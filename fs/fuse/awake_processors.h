// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace pbfs::fuse {

// Keeps idle processors from halting while requests follow each other closely.
//
// Where the thread that serves a request runs on its client's processor, the scheduler wakes the
// client on another one, which is idle: in a virtual machine that one has to leave a halt first,
// which takes longer than everything else (a lone client: 65 us a round trip instead of 16). So on
// each processor a thread of the idle class, which any other thread displaces at once, runs a loop
// from the time a few requests came closely until there are no more. (The haltpoll governor of
// Linux does the same for a guest as a whole.)
class AwakeProcessors {
 public:
  // With more, a client may be woken on any of them.
  static constexpr unsigned kProcessorsMax = 8;

  // Processors [0, count).
  explicit AwakeProcessors(unsigned count);
  ~AwakeProcessors();
  AwakeProcessors(const AwakeProcessors&) = delete;
  AwakeProcessors& operator=(const AwakeProcessors&) = delete;

  // A request came. Cheap; any thread.
  void NoteRequest() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Requests that follow within this time are close. A device takes longer: who waits for it each
  // time does not keep processors awake.
  static constexpr int64_t kCloseNs = 100'000;
  static constexpr unsigned kCloseRequestsMin = 8;

  void Main(unsigned processor) ABSL_LOCKS_EXCLUDED(mutex_);
  static bool BecomeIdleThreadOf(unsigned processor);

  std::atomic<int64_t> newest_ns_{0};
  std::atomic<unsigned> close_{0};  // In a row.
  std::atomic<bool> awake_{false};
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace pbfs::fuse
