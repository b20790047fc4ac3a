// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/status.h"
#include "fs/format.h"
#include "io/block_device.h"

namespace pbfs {

// The valid anchor with the larger generation. Corruption when there is none, or when it is clean,
// the other one is bad, and the ring shows that the other one was the newer.
StatusOr<LogAnchor> ReadLogAnchor(BlockDevice& device, const Superblock& superblock);

struct RecoveryResult {
  bool replayed = false;  // The log was not clean.
  uint64_t checkpoints = 0;
  uint64_t blocks_written = 0;
  uint64_t anchor_generation = 0;  // Of the anchor on disk now.
  uint64_t next_sequence = 1;
};

// Brings the metadata up to the last durable checkpoint. A clean log: reads one block, writes
// nothing. Otherwise: finds the newest whole checkpoint of the anchor's epoch, replays from its
// tail to it (two passes: cancels, then images and ranges in order), flushes, and retires the epoch
// with a new anchor. It can be cut at any write and run again: until the new anchor is durable the
// log is untouched, and every block it writes is rebuilt from a whole image.
//
// A checkpoint that was durable (a later one says so) but cannot be read is corruption: refused,
// and nothing is written.
StatusOr<RecoveryResult> ReplayLog(BlockDevice& device, const Superblock& superblock);

}  // namespace pbfs
