// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/check.h"
#include "io/logical_buffer.h"

namespace pbfs {

// A forward walk over a logical buffer: each step goes on where the last one ended, so a walk in
// small steps costs one pass over the segments. Thread-compatible; the buffer must outlive it.
class BufferCursor {
 public:
  explicit BufferCursor(const LogicalBuffer& buffer) : segments_(buffer.segments()) {}

  // Calls `visit(memory, length)` for each contiguous piece of the next `length_bytes`.
  // REQUIRES (here and below): that many bytes are left.
  template <typename Visit>
  void ForEach(size_t length_bytes, Visit visit) {
    while (length_bytes > 0) {
      PBFS_CHECK(index_ < segments_.size());
      const iovec& segment = segments_[index_];
      const size_t piece_bytes = std::min(length_bytes, segment.iov_len - within_bytes_);
      visit(static_cast<std::byte*>(segment.iov_base) + within_bytes_, piece_bytes);
      length_bytes -= piece_bytes;
      within_bytes_ += piece_bytes;
      if (within_bytes_ == segment.iov_len) {
        ++index_;
        within_bytes_ = 0;
      }
    }
  }

  void Skip(size_t length_bytes) {
    ForEach(length_bytes, [](std::byte*, size_t) {});
  }
  void CopyOut(void* destination, size_t length_bytes) {
    auto* to = static_cast<std::byte*>(destination);
    ForEach(length_bytes, [&to](std::byte* memory, size_t piece_bytes) {
      std::memcpy(to, memory, piece_bytes);
      to += piece_bytes;
    });
  }
  void CopyIn(const void* source, size_t length_bytes) {
    auto* from = static_cast<const std::byte*>(source);
    ForEach(length_bytes, [&from](std::byte* memory, size_t piece_bytes) {
      std::memcpy(memory, from, piece_bytes);
      from += piece_bytes;
    });
  }
  void Zero(size_t length_bytes) {
    ForEach(length_bytes,
            [](std::byte* memory, size_t piece_bytes) { std::memset(memory, 0, piece_bytes); });
  }
  // How far the next `segments_max` segments reach, at most `length_bytes_max`.
  size_t Measure(size_t segments_max, size_t length_bytes_max) const {
    size_t length_bytes = 0;
    size_t within_bytes = within_bytes_;
    const size_t end = std::min(segments_.size(), index_ + segments_max);
    for (size_t index = index_; index < end && length_bytes < length_bytes_max; ++index) {
      length_bytes += segments_[index].iov_len - within_bytes;
      within_bytes = 0;
    }
    return std::min(length_bytes, length_bytes_max);
  }

 private:
  std::span<const iovec> segments_;
  size_t index_ = 0;
  size_t within_bytes_ = 0;
};

}  // namespace pbfs
