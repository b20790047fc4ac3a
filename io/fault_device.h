// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "base/mutex.h"
#include "io/block_device.h"

namespace pbfs {

// Wraps a device and fails chosen requests. `decide` is called once per request, under a lock, in
// submission order; a nonzero result is the errno the request completes with, without reaching the
// device below. Pushes a completion frame, so `on_complete` sees every result, and may replace it
// (a write that reached the device and is reported as failed). Both run under a lock and must not
// submit requests. Thread-safe.
class FaultDevice : public BlockDevice {
 public:
  using Decide = std::function<int(const IoRequest& request)>;

  // Called with the result of every request, also of those `decide` failed; returns the one to
  // pass.
  using OnComplete = std::function<int(const IoRequest& request, int error)>;

  // `below` is borrowed.
  explicit FaultDevice(BlockDevice& below) : below_(below) {}

  const Geometry& geometry() const override { return below_.geometry(); }
  void Submit(IoRequest& request) override;
  void WaitUntil(const std::atomic<uint32_t>& done) override { below_.WaitUntil(done); }

  // Replaces the rule; an empty function fails nothing.
  void SetDecide(Decide decide);
  void SetOnComplete(OnComplete on_complete);
  // Fails every request of `op` from now on with `error` (0: stop failing them).
  void FailAll(IoOp op, int error);
  uint64_t failed_count() const;

 private:
  static void Completed(IoRequest& request, void* context, int error);

  BlockDevice& below_;
  mutable Mutex mutex_;
  std::array<int, 5> op_errors_ ABSL_GUARDED_BY(mutex_) = {};  // By IoOp.
  OnComplete on_complete_ ABSL_GUARDED_BY(mutex_);
  Decide decide_ ABSL_GUARDED_BY(mutex_);
  uint64_t failed_count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace pbfs
