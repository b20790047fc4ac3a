// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "io/block_device.h"

namespace pbfs {

// A sparse device in memory, for tests. Requests complete inside Submit(). Thread-safe.
//
// Models a volatile write cache: contents() is what reads see; after PowerCut() only what was
// flushed (or written with FUA) is certain; each unflushed 512-byte sector is kept or lost as
// `keep_sector(seed)` says, so writes are lost, reordered and torn.
class MemoryDevice : public BlockDevice {
 public:
  explicit MemoryDevice(uint64_t size_bytes);
  ~MemoryDevice() override;

  const Geometry& geometry() const override { return geometry_; }
  void Submit(IoRequest& request) override;

  // Drops a random part of the unflushed sectors, deterministic in `seed`. keep_permille: chance of
  // each unflushed 4 KiB block's write surviving; of those, some are torn at 512 bytes.
  void PowerCut(uint64_t seed, unsigned keep_permille);

  // A device with the same contents (all writes, flushed or not, counted as flushed).
  std::unique_ptr<MemoryDevice> Clone() const;

  uint64_t flush_count() const;

 private:
  struct State;
  Geometry geometry_;
  std::unique_ptr<State> state_;
};

}  // namespace pbfs
