// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "fs/format.h"

namespace pbfs {

// Zeroed memory aligned for O_DIRECT. Owns it.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t size_bytes)
      : size_bytes_(size_bytes),
        data_(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, size_bytes))) {
    PBFS_CHECK(data_ != nullptr && size_bytes % kBlockBytes == 0);
    std::memset(data_, 0, size_bytes);
  }
  ~AlignedBuffer() { std::free(data_); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  std::byte* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  const size_t size_bytes_;
  std::byte* const data_;
};

}  // namespace pbfs
