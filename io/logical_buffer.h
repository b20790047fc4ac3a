// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/container/inlined_vector.h"

namespace pbfs {

// One logical buffer: an ordered list of memory segments, whoever owns the memory (the kiobuf idea
// of Linux 2.3). Made from a user range, from cache frames, or from parts of other buffers; carved,
// joined and handed to a device as an iovec list without a copy.
//
// Owns nothing: whoever submits a request keeps the memory alive until its completion.
// Thread-compatible.
class LogicalBuffer {
 public:
  LogicalBuffer() = default;
  LogicalBuffer(void* memory, size_t length_bytes) { Append(memory, length_bytes); }

  // Adds a segment at the end; merged with the last one when adjacent in memory. Length 0: no-op.
  void Append(void* memory, size_t length_bytes);
  // Adds all segments of `other`.
  void Append(const LogicalBuffer& other);
  void Clear();

  // The sub-range [offset, offset + length); shares the memory. REQUIRES: within size_bytes().
  LogicalBuffer Carve(size_t offset_bytes, size_t length_bytes) const;

  size_t size_bytes() const { return size_bytes_; }
  bool empty() const { return size_bytes_ == 0; }
  std::span<const iovec> segments() const { return {segments_.data(), segments_.size()}; }

  // True when every segment starts and ends on a multiple of `alignment` (a power of two).
  bool IsAligned(size_t alignment) const;

  // Copies between the buffer's range starting at offset and plain memory.
  // REQUIRES: offset + length <= size_bytes().
  void CopyTo(size_t offset_bytes, void* destination, size_t length_bytes) const;
  void CopyFrom(size_t offset_bytes, const void* source, size_t length_bytes) const;
  void FillZero(size_t offset_bytes, size_t length_bytes) const;

 private:
  // 4: a header, or a few merged page runs; longer lists (up to 257 receive frames) go to the heap.
  absl::InlinedVector<iovec, 4> segments_;
  size_t size_bytes_ = 0;
};

}  // namespace pbfs
