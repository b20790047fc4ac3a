// SPDX-License-Identifier: Apache-2.0
// What the tests of io/ share.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "io/block_device.h"
#include "io/io_request.h"

namespace pbfs {

// Memory a direct transfer may use.
class AlignedMemory {
 public:
  explicit AlignedMemory(size_t size_bytes)
      : size_bytes_(size_bytes),
        bytes_(static_cast<std::byte*>(std::aligned_alloc(4096, (size_bytes + 4095) & ~4095ul)),
               std::free) {
    std::memset(bytes_.get(), 0, size_bytes);
  }
  std::byte* data() const { return bytes_.get(); }
  size_t size() const { return size_bytes_; }
  // Every 8-byte word differs, for each seed in another way.
  void FillPattern(uint64_t seed) {
    for (size_t i = 0; i + 8 <= size_bytes_; i += 8) {
      const uint64_t value = (seed + 1) * 0x9e3779b97f4a7c15 + i;
      std::memcpy(data() + i, &value, 8);
    }
  }
  void Fill(int value) { std::memset(data(), value, size_bytes_); }
  bool operator==(const AlignedMemory& other) const {
    return size_bytes_ == other.size_bytes_ && std::memcmp(data(), other.data(), size_bytes_) == 0;
  }

 private:
  size_t size_bytes_;
  std::unique_ptr<std::byte, void (*)(void*)> bytes_;
};

inline bool AllBytesAre(const std::byte* bytes, size_t length_bytes, int value) {
  for (size_t i = 0; i < length_bytes; ++i) {
    if (bytes[i] != static_cast<std::byte>(value)) return false;
  }
  return true;
}

// A file that goes away with the object, or with the process (death tests abort).
class TempFile {
 public:
  explicit TempFile(uint64_t size_bytes) {
    char name[] = "/tmp/pbfs-io-test-XXXXXX";
    fd_ = mkstemp(name);
    EXPECT_GE(fd_, 0);
    EXPECT_EQ(unlink(name), 0);
    path_ = "/proc/self/fd/" + std::to_string(fd_);
    Truncate(size_bytes);
  }
  ~TempFile() { close(fd_); }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;

  const std::string& path() const { return path_; }
  void Truncate(uint64_t size_bytes) {
    EXPECT_EQ(ftruncate(fd_, static_cast<off_t>(size_bytes)), 0);
  }

 private:
  int fd_ = -1;
  std::string path_;
};

// A request that tells when it ended.
struct TrackedRequest {
  IoRequest request;
  std::atomic<uint32_t> done{0};
  std::atomic<int> error{-1};

  TrackedRequest& Arm() {
    done.store(0);
    error.store(-1);
    request.PushCompletion(
        [](IoRequest&, void* context, int error) {
          auto* self = static_cast<TrackedRequest*>(context);
          self->error.store(error);
          BlockDevice::SetDone(self->done);
        },
        this);
    return *this;
  }
  TrackedRequest& Set(IoOp op, uint64_t offset_bytes, void* memory, size_t length_bytes) {
    request.op = op;
    request.offset_bytes = offset_bytes;
    request.buffer.Clear();
    request.buffer.Append(memory, length_bytes);
    return Arm();
  }
};

inline int RunRange(BlockDevice& device, IoOp op, uint64_t offset_bytes, uint64_t length_bytes) {
  IoRequest request;
  request.op = op;
  request.offset_bytes = offset_bytes;
  request.length_bytes = length_bytes;
  return RunSync(device, request);
}

}  // namespace pbfs
