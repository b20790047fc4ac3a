// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "io/block_device.h"

namespace pbfs {

// Collects block writes of any files (or metadata) and issues them sorted by device block, adjacent
// ones merged into the longest scatter-gather requests the device takes. A merged request that
// fails is tried once more block by block, so that a bad block fails alone. One use: Add()...,
// Start().
//
// Thread-compatible until Start(); completion runs on the device's completing thread.
class WriteBatch {
 public:
  // Called once when all writes ended, on the device's completing thread or within Start(), as the
  // last touch of the batch (may delete it). `failed` of each piece is final by then.
  using Done = std::function<void(WriteBatch& batch)>;

  // Bounds of one request: the caller's bytes, and the kernel's iovec count.
  static constexpr size_t kSegmentsMax = 1024;

  // `device` is borrowed. REQUIRES: request_bytes_max >= 4096.
  WriteBatch(BlockDevice& device, size_t request_bytes_max);
  ~WriteBatch();  // REQUIRES: never started, or done.
  WriteBatch(const WriteBatch&) = delete;
  WriteBatch& operator=(const WriteBatch&) = delete;

  // Writes 4 KiB at device block `block` from `data` (kept alive by the caller until done).
  // `cookie` is the caller's; pieces keep the order of Add().
  struct Piece {
    uint64_t block;
    std::byte* data;
    uint64_t cookie;
    int error = 0;  // 0 or a positive errno.
  };
  void Add(uint64_t block, std::byte* data, uint64_t cookie);
  bool empty() const { return pieces_.empty(); }
  size_t size_blocks() const { return pieces_.size(); }

  // Submits. A block that was added twice is written once, the other pieces fail with EUCLEAN: on a
  // damaged filesystem two files may claim it, and such writes would be unordered. With nothing to
  // write, `done` runs at once on this thread.
  void Start(Done done);

  // After completion: per-piece results, in order of Add().
  const std::vector<Piece>& pieces() const { return pieces_; }
  bool any_failed() const;
  // Without retries.
  size_t request_count() const;

 private:
  // A run of adjacent blocks: the pieces order_[first, first + count).
  struct Request {
    WriteBatch* batch;
    size_t first;
    size_t count;
    IoRequest io;
    std::vector<std::unique_ptr<Request>> retries;  // After a failure: one for each block.
  };
  static void Completed(IoRequest& io, void* context, int error);
  std::unique_ptr<Request> MakeRequest(size_t first);
  void OrderPieces();
  void MakeRequests();
  void RetryEach(Request& request);
  void EndOne();

  BlockDevice& device_;
  const size_t request_bytes_max_;
  std::vector<Piece> pieces_;
  std::vector<size_t> order_;  // Indices of pieces_, by block.
  std::vector<std::unique_ptr<Request>> requests_;
  // Requests not yet ended, retries included, and one for Start() itself.
  std::atomic<size_t> pending_{0};
  Done done_;
};

}  // namespace pbfs
