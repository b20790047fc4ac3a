// SPDX-License-Identifier: Apache-2.0
#include "io/logical_buffer.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "io/buffer_cursor.h"

namespace pbfs {

void LogicalBuffer::Append(void* memory, size_t length_bytes) {
  if (length_bytes == 0) return;
  PBFS_CHECK(memory != nullptr);
  size_bytes_ += length_bytes;
  if (!segments_.empty()) {
    iovec& last = segments_.back();
    if (static_cast<std::byte*>(last.iov_base) + last.iov_len == memory) {
      last.iov_len += length_bytes;
      return;
    }
  }
  segments_.push_back({memory, length_bytes});
}

void LogicalBuffer::Append(const LogicalBuffer& other) {
  if (&other == this) {
    const LogicalBuffer copy = other;
    Append(copy);
    return;
  }
  segments_.reserve(segments_.size() + other.segments_.size());
  for (const iovec& segment : other.segments_) Append(segment.iov_base, segment.iov_len);
}

void LogicalBuffer::Clear() {
  segments_.clear();
  size_bytes_ = 0;
}

LogicalBuffer LogicalBuffer::Carve(size_t offset_bytes, size_t length_bytes) const {
  PBFS_CHECK(offset_bytes <= size_bytes_);
  PBFS_CHECK(length_bytes <= size_bytes_ - offset_bytes);
  LogicalBuffer carved;
  BufferCursor cursor(*this);
  cursor.Skip(offset_bytes);
  cursor.ForEach(length_bytes, [&carved](std::byte* memory, size_t piece_bytes) {
    carved.Append(memory, piece_bytes);
  });
  return carved;
}

bool LogicalBuffer::IsAligned(size_t alignment) const {
  PBFS_DCHECK(alignment != 0 && (alignment & (alignment - 1)) == 0);
  const size_t mask = alignment - 1;
  return std::all_of(segments_.begin(), segments_.end(), [mask](const iovec& segment) {
    return ((reinterpret_cast<uintptr_t>(segment.iov_base) | segment.iov_len) & mask) == 0;
  });
}

void LogicalBuffer::CopyTo(size_t offset_bytes, void* destination, size_t length_bytes) const {
  BufferCursor cursor(*this);
  cursor.Skip(offset_bytes);
  cursor.CopyOut(destination, length_bytes);
}

void LogicalBuffer::CopyFrom(size_t offset_bytes, const void* source, size_t length_bytes) const {
  BufferCursor cursor(*this);
  cursor.Skip(offset_bytes);
  cursor.CopyIn(source, length_bytes);
}

void LogicalBuffer::FillZero(size_t offset_bytes, size_t length_bytes) const {
  BufferCursor cursor(*this);
  cursor.Skip(offset_bytes);
  cursor.Zero(length_bytes);
}

}  // namespace pbfs
