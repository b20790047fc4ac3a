// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "fs/space.h"
#include "fs/transaction.h"
#include "io/block_device.h"

namespace pbfs {

// Tells the device which blocks are free: on request (FITRIM), and with `-o discard` whenever some
// become free. A block is out of use while it is being discarded (SpaceManager::Hold), so a discard
// never meets a write; and it is free on disk for good before, so no crash can bring it back.
//
// Errors of discards are passed over: the blocks are free all the same. Thread-safe.
class Discards {
 public:
  // Borrowed.
  Discards(BlockDevice& device, SpaceManager& space) : device_(device), space_(space) {}
  ~Discards();
  void Start();
  // What is queued becomes free without a discard.
  void Stop();

  // Runs that durable transactions freed: discarded on the thread, then free for use.
  void Add(const std::vector<Transaction::Freed>& freed) ABSL_LOCKS_EXCLUDED(mutex_);

  // As FileSystem::Trim(). May block.
  StatusOr<uint64_t> Trim(uint64_t start_bytes, uint64_t length_bytes, uint64_t minimum_bytes);

 private:
  void Loop();
  void Discard(const BlockRun& run);
  StatusOr<uint64_t> TrimGroup(uint32_t ag, BlockNumber start, BlockNumber end, uint32_t minimum);

  BlockDevice& device_;
  SpaceManager& space_;

  Mutex mutex_;
  CondVar wake_;
  std::vector<Transaction::Freed> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace pbfs
