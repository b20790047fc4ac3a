// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "io/block_device.h"

namespace pbfs {

// Copy-on-write view of a device: reads come from `below` unless written here; writes stay in
// memory, in 4 KiB blocks. fsck -n replays a dirty log into one; crash states are built on one.
// Flush and discard do nothing. Thread-safe.
class OverlayDevice : public BlockDevice {
 public:
  // `below` is borrowed and only read.
  explicit OverlayDevice(BlockDevice& below);

  const Geometry& geometry() const override { return geometry_; }
  void Submit(IoRequest& request) override;
  void WaitUntil(const std::atomic<uint32_t>& done) override { below_.WaitUntil(done); }

 private:
  struct Block {
    std::byte bytes[4096] = {};
    // One bit for each 512-byte sector that was written here; the others come from below.
    uint8_t written = 0;
  };
  static void ReadCompleted(IoRequest& request, void* context, int error);
  Block& OpenBlockLocked(uint64_t number, uint8_t sectors) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Write(const IoRequest& request) ABSL_LOCKS_EXCLUDED(mutex_);
  void WriteZeroes(const IoRequest& request) ABSL_LOCKS_EXCLUDED(mutex_);

  BlockDevice& below_;
  Geometry geometry_;
  Mutex mutex_;
  // By block number; nullptr: the whole block reads as zeros.
  absl::flat_hash_map<uint64_t, std::unique_ptr<Block>> blocks_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace pbfs
