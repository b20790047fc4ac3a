// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "io/block_device.h"

namespace pbfs {

// The contents of a small device as a table of 4 KiB blocks, so that a copy costs a pointer per
// block and thousands of crash states cost no memory. Single thread.
class Image {
 public:
  static constexpr uint64_t kBlock = 4096;
  static constexpr uint64_t kSector = 512;

  explicit Image(uint64_t size_bytes);  // All zeros.

  // A copy that shares the blocks. The original must outlive it and not change meanwhile.
  Image Fork() const;

  uint64_t size_bytes() const { return blocks_.size() * kBlock; }
  // Offsets and lengths are multiples of 512.
  void Read(uint64_t offset_bytes, std::byte* data, uint64_t length_bytes) const;
  void Write(uint64_t offset_bytes, const std::byte* data, uint64_t length_bytes);

 private:
  struct Block {
    std::byte bytes[kBlock];
  };
  // The block for changing.
  std::byte* Own(uint64_t number);

  std::vector<const std::byte*> blocks_;
  std::vector<bool> owned_;  // blocks_[i] is one of own_.
  std::vector<std::unique_ptr<Block>> own_;
};

// A device on an Image, which is borrowed. Requests complete inside Submit(). What is discarded is
// garbage from then on. Thread-safe.
class ImageDevice : public BlockDevice {
 public:
  explicit ImageDevice(Image& image);
  const Geometry& geometry() const override { return geometry_; }
  void Submit(IoRequest& request) override;

 private:
  void Discard(uint64_t at, uint64_t length_bytes) ABSL_LOCKS_EXCLUDED(mutex_);

  Geometry geometry_;
  Mutex mutex_;
  Image& image_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace pbfs
