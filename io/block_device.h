// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>

#include "io/io_request.h"

namespace pbfs {

struct Geometry {
  uint64_t size_bytes = 0;
  uint32_t logical_block_bytes = 512;
  // Longest single read or write; longer requests are split by the device itself.
  uint32_t max_transfer_bytes = 1 << 20;
  uint32_t dma_alignment_bytes = 512;
  // The device may lose completed writes at a power cut until a flush.
  bool volatile_cache = true;
  bool read_only = false;
  bool can_discard = false;
  bool reads_into_pipes = false;
  // What messages call it: the path for files and devices.
  std::string name;
};

// A device of blocks. Thread-safe.
class BlockDevice {
 public:
  virtual ~BlockDevice() = default;

  virtual const Geometry& geometry() const = 0;

  // Starts the request; its completion stack is run when it ends (see IoRequest). Requests in
  // flight are unordered among each other; a flush covers the writes completed before it was
  // submitted.
  virtual void Submit(IoRequest& request) = 0;
  // Starts all of them with as few system calls as the device can.
  virtual void SubmitBatch(std::span<IoRequest* const> requests) {
    for (IoRequest* request : requests) Submit(*request);
  }
  // Blocks until `done` is nonzero, which a completion of a request of this device sets with
  // SetDone(). A thread that owns a ring reaps it while it waits; with a BlockingObserver it first
  // reaps about 200 us, then announces the wait, after which the ring may be another thread's. Not
  // from inside a completion. The caller may destroy `done` on return. Most callers want RunSync().
  virtual void WaitUntil(const std::atomic<uint32_t>& done);

  // Sets `done` to 1 with release order and wakes its waiters, wherever they wait. The store is the
  // last touch of `done`. A plain store would not wake them.
  static void SetDone(std::atomic<uint32_t>& done);
};

// Runs one request to its end. Returns 0 or a positive errno. May block.
int RunSync(BlockDevice& device, IoRequest& request);
// Runs all; returns the first error. May block.
int RunSync(BlockDevice& device, std::span<IoRequest* const> requests);

// Convenience for plain memory, copied through an aligned buffer where the device needs one. Offset
// and length are multiples of the logical block.
int ReadSync(BlockDevice& device, uint64_t offset_bytes, void* memory, size_t length_bytes);
int WriteSync(BlockDevice& device, uint64_t offset_bytes, const void* memory, size_t length_bytes,
              bool fua = false);
int DiscardSync(BlockDevice& device, uint64_t offset_bytes, uint64_t length_bytes);
int FlushSync(BlockDevice& device);

}  // namespace pbfs
