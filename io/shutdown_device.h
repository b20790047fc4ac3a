// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#include "io/block_device.h"

namespace pbfs {

// Wraps a device and can be shut down: from then on every request fails with EIO without reaching
// the device below. Thread-safe.
class ShutdownDevice : public BlockDevice {
 public:
  // `below` is borrowed.
  explicit ShutdownDevice(BlockDevice& below) : below_(below) {}

  const Geometry& geometry() const override { return below_.geometry(); }
  void Submit(IoRequest& request) override;
  void SubmitBatch(std::span<IoRequest* const> requests) override;
  void WaitUntil(const std::atomic<uint32_t>& done) override { below_.WaitUntil(done); }

  // When it returns nothing is in flight and nothing will be. May block.
  void Shutdown();

 private:
  // Counts `count` requests as in flight; false when the device is shut down.
  bool Enter(int64_t count);
  void Leave(int64_t count);
  static void Completed(IoRequest& request, void* context, int error);

  BlockDevice& below_;
  std::atomic<bool> is_down_{false};
  std::atomic<int64_t> in_flight_{0};
  // Set when the device is shut down and nothing is in flight.
  std::atomic<uint32_t> drained_{0};
};

}  // namespace pbfs
