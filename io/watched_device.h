// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/histogram.h"
#include "base/mutex.h"
#include "io/block_device.h"

namespace pbfs {

// Wraps a device, measures its requests, and says which it does not complete: one line for each
// that takes longer than `limit`, one more when it ends after all. Nothing is done to the request:
// who needs it waits, as with any filesystem. Costs a short lock at submission and at completion; a
// thread looks at what is under way once per interval. Thread-safe.
class WatchedDevice : public BlockDevice {
 public:
  static constexpr std::chrono::seconds kLimit{30};
  struct Options {
    std::chrono::nanoseconds limit = kLimit;
    std::chrono::nanoseconds interval = std::chrono::seconds(5);
    std::function<void(const std::string& line)> log;
  };

  // `below` is borrowed.
  WatchedDevice(BlockDevice& below, Options options);
  // REQUIRES: every request has completed.
  ~WatchedDevice() override;

  const Geometry& geometry() const override { return below_.geometry(); }
  void Submit(IoRequest& request) override;
  void SubmitBatch(std::span<IoRequest* const> requests) override;
  void WaitUntil(const std::atomic<uint32_t>& done) override { below_.WaitUntil(done); }

  // What was asked for so far: an object with one member for each kind of request that occurred,
  // of latencies and sizes (Histogram::Snapshot::Json), and bytes and requests that are under way.
  std::string StatsJson() const;

 private:
  // Of one kind of request.
  struct Measured {
    Histogram latency_ns;
    Histogram size_bytes;
  };
  static constexpr size_t kOps = 5;

  // Requests under way, oldest first, so that a look ends at the first that is young enough.
  struct Shard {
    Mutex mutex;
    IoRequest* oldest ABSL_GUARDED_BY(mutex) = nullptr;
    IoRequest* newest ABSL_GUARDED_BY(mutex) = nullptr;
  };
  static constexpr size_t kShardCount = 8;

  Shard& ShardOf(const IoRequest& request);
  void Link(IoRequest& request);
  // How long it took.
  int64_t Unlink(IoRequest& request, bool* was_said);
  static void Completed(IoRequest& request, void* context, int error);
  std::string Describe(const IoRequest& request, int64_t taken_ns) const;
  void Look(int64_t now_ns);
  void Run();

  BlockDevice& below_;
  const Options options_;
  std::array<Shard, kShardCount> shards_;
  std::array<Measured, kOps> measured_;
  std::atomic<uint64_t> requests_in_flight_{0};
  std::atomic<uint64_t> bytes_in_flight_{0};
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace pbfs
