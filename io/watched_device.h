// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "io/block_device.h"

namespace pbfs {

// Wraps a device and says which requests it does not complete: one line for each that takes longer
// than `limit`, one more when it ends after all. Nothing is done to the request: who needs it
// waits, as with any filesystem. Costs a short lock at submission and at completion; a thread looks
// at what is under way once per interval. Thread-safe.
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

 private:
  // Requests under way, oldest first, so that a look ends at the first that is young enough.
  struct Shard {
    Mutex mutex;
    IoRequest* oldest ABSL_GUARDED_BY(mutex) = nullptr;
    IoRequest* newest ABSL_GUARDED_BY(mutex) = nullptr;
  };
  static constexpr size_t kShardCount = 8;

  Shard& ShardOf(const IoRequest& request);
  void Link(IoRequest& request);
  void Unlink(IoRequest& request, bool* was_said, int64_t* taken_ns);
  static void Completed(IoRequest& request, void* context, int error);
  std::string Describe(const IoRequest& request, int64_t taken_ns) const;
  void Look(int64_t now_ns);
  void Run();

  BlockDevice& below_;
  const Options options_;
  std::array<Shard, kShardCount> shards_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace pbfs
