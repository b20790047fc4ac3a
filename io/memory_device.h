// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "io/block_device.h"

namespace pbfs {

// A sparse device in memory, for tests. Requests complete inside Submit() (one submitted by
// another's completion: when that has returned), and must be aligned as a real device wants them.
// Thread-safe.
//
// Models a volatile write cache: reads see every write; after PowerCut() only what was flushed (or
// written with FUA) is certain. Of each 4 KiB block with unflushed writes, the flushed contents or
// what one of those writes left survives, or a mixture of them by 512-byte sectors: so writes are
// lost, reordered and torn. Discard reads as zeros, and is lost or kept as a write is.
class MemoryDevice : public BlockDevice {
 public:
  explicit MemoryDevice(uint64_t size_bytes);
  ~MemoryDevice() override;

  const Geometry& geometry() const override { return geometry_; }
  void Submit(IoRequest& request) override;

  // Drops a random part of the unflushed writes, deterministic in `seed`. keep_permille: chance of
  // each unflushed 4 KiB block's writes surviving; of those, some are torn at 512 bytes. What is
  // left counts as flushed.
  void PowerCut(uint64_t seed, unsigned keep_permille);

  // A device with the same contents (all writes, flushed or not, counted as flushed).
  std::unique_ptr<MemoryDevice> Clone() const;

  uint64_t flush_count() const;

 private:
  struct State;
  int ReadIntoPipe(const IoRequest& request);

  Geometry geometry_;
  std::unique_ptr<State> state_;
};

}  // namespace pbfs
