// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#include "base/mutex.h"

namespace pbfs::fuse {

// Keeps idle processors from halting while requests follow each other closely.
//
// A request wakes the server and its answer the client, and where each runs on a processor of its
// own, both have just become idle. In a virtual machine to leave a halt takes longer than
// everything else (pipe ping-pong of two threads: 55 us a round trip instead of 7; a lone FUSE
// client 23 instead of 8). The kernel has a request for this, PM QoS: while /dev/cpu_dma_latency
// holds 0, idle processors poll instead (Documentation/power/pm_qos_interface.rst). Needs root;
// without, and with many processors, nothing is done. Thread-safe.
class AwakeProcessors {
 public:
  // It concerns all processors, so that with many it would cost more than it brings.
  static constexpr long kProcessorsMax = 8;

  // `device`: what stands for the kernel's in tests.
  explicit AwakeProcessors(const char* device = "/dev/cpu_dma_latency");
  ~AwakeProcessors();
  AwakeProcessors(const AwakeProcessors&) = delete;
  AwakeProcessors& operator=(const AwakeProcessors&) = delete;

  // A request came. Cheap.
  void NoteRequest() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Requests that follow within this time are close: also those of who waits for the device each
  // time.
  static constexpr int64_t kCloseNs = 1'000'000;
  static constexpr unsigned kCloseRequestsMin = 8;
  // Without a request for so long, processors may halt again.
  static constexpr int64_t kQuietNs = 10'000'000;

  void Main() ABSL_LOCKS_EXCLUDED(mutex_);
  void Ask(int32_t latency_us);

  int fd_ = -1;
  std::atomic<int64_t> newest_ns_{0};
  std::atomic<unsigned> close_{0};  // In a row.
  std::atomic<bool> awake_{false};
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace pbfs::fuse
