// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "base/bulk_memory.h"
#include "base/check.h"
#include "base/status.h"
#include "fs/format.h"

namespace pbfs {

// Zeroed memory aligned for O_DIRECT. Owns it. Move-only.
class AlignedBuffer {
 public:
  // ENOMEM: there is none. `size_bytes` is a multiple of the block size.
  static StatusOr<AlignedBuffer> Create(size_t size_bytes) {
    PBFS_CHECK(size_bytes % kBlockBytes == 0);
    void* const memory = AllocateBulk(kBlockBytes, size_bytes);
    if (memory == nullptr) return ErrnoError(ENOMEM, "no memory for a transfer buffer");
    std::memset(memory, 0, size_bytes);
    return AlignedBuffer(size_bytes, static_cast<std::byte*>(memory));
  }
  static StatusOr<std::unique_ptr<AlignedBuffer>> CreateUnique(size_t size_bytes) {
    PBFS_ASSIGN_OR_RETURN(AlignedBuffer buffer, Create(size_bytes));
    return std::make_unique<AlignedBuffer>(std::move(buffer));
  }
  ~AlignedBuffer() { std::free(data_); }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : size_bytes_(other.size_bytes_), data_(std::exchange(other.data_, nullptr)) {}
  AlignedBuffer& operator=(AlignedBuffer&&) = delete;

  std::byte* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  AlignedBuffer(size_t size_bytes, std::byte* data) : size_bytes_(size_bytes), data_(data) {}

  const size_t size_bytes_;
  std::byte* data_;
};

}  // namespace pbfs
