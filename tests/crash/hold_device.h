// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "base/random.h"
#include "base/thread.h"
#include "fs/format.h"
#include "io/block_device.h"

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
  void DelayAtRandom(uint64_t seed, std::chrono::microseconds most) ABSL_LOCKS_EXCLUDED(mutex_);

  const Geometry& geometry() const override { return below_.geometry(); }
  void Submit(IoRequest& request) override;

 private:
  struct Late {
    IoRequest* request;
    bool complete;  // It was done, its completion is due. Else it has yet to be submitted.
    int error;
  };
  unsigned KindOf(const IoRequest& request) const;
  static void Completed(IoRequest& request, void* context, int error);
  void Run();
  // Waits for the next late request to be due. nullopt: none is left, and it stops.
  std::optional<Late> TakeDue() ABSL_LOCKS_EXCLUDED(mutex_);
  int64_t DelayLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  BlockDevice& below_;
  const uint64_t log_start_bytes_;
  const uint64_t log_end_bytes_;

  Mutex mutex_;
  CondVar changed_;
  unsigned holding_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<IoRequest*> held_ ABSL_GUARDED_BY(mutex_);
  int64_t delay_max_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  Random random_ ABSL_GUARDED_BY(mutex_){0};
  std::multimap<int64_t, Late> late_ ABSL_GUARDED_BY(mutex_);  // By when they are due.
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace pbfs
