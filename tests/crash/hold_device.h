// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "fs/format.h"
#include "io/block_device.h"
#include "tests/crash/random.h"

namespace pbfs {

// Passes requests on, but keeps some in flight for a while: the kinds it is told to hold, until
// they are released, or any at random, out of order. So the windows in which the ordering rules
// matter are open for as long as a test needs them. Thread-safe.
class HoldDevice : public BlockDevice {
 public:
  enum Kind : unsigned {
    kLogWrite = 1,
    kMetadataWrite = 2,  // In place.
    kDataWrite = 4,
    kFlush = 8,
  };

  // `below` is borrowed. Writes between the two blocks are the log's.
  HoldDevice(BlockDevice& below, BlockNumber log_start, BlockNumber log_end);
  ~HoldDevice() override;  // Releases everything.

  // Keeps requests of these kinds (Kind, OR'ed) from reaching the device.
  void Hold(unsigned kinds);
  // Waits until that many requests are held; false after `timeout`.
  bool WaitUntilHeld(size_t count, std::chrono::milliseconds timeout);
  // Holds nothing any more, sends what was held.
  void Release();
  // From now on requests are late at random (0: stop): some reach the device late, of others only
  // the completion is late.
  void DelayAtRandom(uint64_t seed, std::chrono::microseconds most);

  const Geometry& geometry() const override { return below_.geometry(); }
  void Submit(IoRequest& request) override;

 private:
  using Clock = std::chrono::steady_clock;
  struct Late {
    IoRequest* request;
    bool complete;  // It was done, its completion is due. Else it has yet to be submitted.
    int error;
  };
  unsigned KindOf(const IoRequest& request) const;
  static void Completed(IoRequest& request, void* context, int error);
  void Run();
  void RunLate(const Late& late);

  BlockDevice& below_;
  const uint64_t log_start_bytes_;
  const uint64_t log_end_bytes_;

  // std: waits with a deadline.
  std::mutex mutex_;
  std::condition_variable changed_;
  unsigned holding_ = 0;
  std::vector<IoRequest*> held_;
  std::chrono::microseconds delay_max_{0};
  Random random_{0};
  std::multimap<Clock::time_point, Late> late_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace pbfs
