// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "io/logical_buffer.h"

namespace pbfs {

enum class IoOp : uint8_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };

// One request to a block device: one device range and one logical buffer.
//
// Completions stack: each layer that passes a request down pushes a frame (function + state); each
// completion pops one and calls it, so a layer sees the request come back exactly as it sent it.
// Fixed depth, no allocation. The submitter owns the request and keeps it (and the memory of
// `buffer`) until its own frame has been called; that call may delete or reuse the request.
//
// A completion function never waits, and may run on any thread, also before Submit() returns. So a
// submitter holds no lock that its completion takes.
class IoRequest {
 public:
  // `error`: 0 or a positive errno. A request either transfers whole or fails.
  using CompletionFunction = void (*)(IoRequest& request, void* context, int error);

  IoRequest() = default;
  IoRequest(const IoRequest&) = delete;
  IoRequest& operator=(const IoRequest&) = delete;

  IoOp op = IoOp::kRead;
  // Write only: the data is on stable media when the request completes (FUA).
  bool fua = false;
  uint64_t offset_bytes = 0;
  // Of discard, write-zeroes, and a read into a pipe; the others take buffer.size_bytes().
  uint64_t length_bytes = 0;
  LogicalBuffer buffer;
  // Read only, of a device whose Geometry::reads_into_pipes: the write end of a pipe that takes the
  // bytes, as pages of the kernel, instead of the buffer. It has room for them. After an error some
  // may be in it.
  int pipe = -1;

  bool has_buffer() const { return (op == IoOp::kRead && pipe < 0) || op == IoOp::kWrite; }
  // How much of the device it is about.
  uint64_t size_bytes() const { return has_buffer() ? buffer.size_bytes() : length_bytes; }

  // For the one layer that watches over late requests (WatchedDevice), while it has the request.
  struct Watch {
    IoRequest* older = nullptr;
    IoRequest* newer = nullptr;
    int64_t started_ns = 0;
    bool said = false;
  };
  Watch watch;

  void PushCompletion(CompletionFunction function, void* context) {
    PBFS_CHECK(depth_ < kStackDepthMax);
    stack_[depth_++] = {function, context};
  }
  // Pops the top frame and calls it. The request may be gone afterwards.
  void Complete(int error) {
    PBFS_CHECK(depth_ > 0);
    const Frame frame = stack_[--depth_];
    frame.function(*this, frame.context, error);
  }

 private:
  static constexpr size_t kStackDepthMax = 8;
  struct Frame {
    CompletionFunction function;
    void* context;
  };
  std::array<Frame, kStackDepthMax> stack_;
  size_t depth_ = 0;
};

}  // namespace pbfs
