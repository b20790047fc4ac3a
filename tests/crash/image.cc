// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/image.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "io/completion_scope.h"
#include "io/recording_device.h"

namespace pbfs {
namespace {

alignas(4096) constexpr std::byte kZeros[Image::kBlock] = {};

}  // namespace

Image::Image(uint64_t size_bytes)
    : blocks_(size_bytes / kBlock, kZeros), owned_(size_bytes / kBlock) {
  PBFS_CHECK(size_bytes % kBlock == 0);
}

Image Image::Fork() const {
  Image copy(0);
  copy.blocks_ = blocks_;
  copy.owned_.assign(blocks_.size(), false);
  return copy;
}

std::byte* Image::Own(uint64_t number) {
  if (owned_[number]) return const_cast<std::byte*>(blocks_[number]);
  auto block = std::make_unique_for_overwrite<Block>();
  std::memcpy(block->bytes, blocks_[number], kBlock);
  blocks_[number] = block->bytes;
  owned_[number] = true;
  own_.push_back(std::move(block));
  return own_.back()->bytes;
}

void Image::Read(uint64_t offset_bytes, std::byte* data, uint64_t length_bytes) const {
  while (length_bytes > 0) {
    const uint64_t within = offset_bytes % kBlock;
    const uint64_t bytes = std::min(length_bytes, kBlock - within);
    std::memcpy(data, blocks_[offset_bytes / kBlock] + within, bytes);
    offset_bytes += bytes;
    data += bytes;
    length_bytes -= bytes;
  }
}

void Image::Write(uint64_t offset_bytes, const std::byte* data, uint64_t length_bytes) {
  while (length_bytes > 0) {
    const uint64_t within = offset_bytes % kBlock;
    const uint64_t bytes = std::min(length_bytes, kBlock - within);
    std::memcpy(Own(offset_bytes / kBlock) + within, data, bytes);
    offset_bytes += bytes;
    data += bytes;
    length_bytes -= bytes;
  }
}

ImageDevice::ImageDevice(Image& image) : image_(image) {
  geometry_.size_bytes = image.size_bytes();
  geometry_.name = "image";
  geometry_.can_discard = true;
}

void ImageDevice::Submit(IoRequest& request) {
  int error = 0;
  if (request.op == IoOp::kRead || request.op == IoOp::kWrite) {
    uint64_t at = request.offset_bytes;
    if (at + request.buffer.size_bytes() > geometry_.size_bytes) {
      error = EIO;
    } else {
      MutexLock lock(mutex_);
      for (const iovec& segment : request.buffer.segments()) {
        auto* const memory = static_cast<std::byte*>(segment.iov_base);
        if (request.op == IoOp::kRead) {
          image_.Read(at, memory, segment.iov_len);
        } else {
          image_.Write(at, memory, segment.iov_len);
        }
        at += segment.iov_len;
      }
    }
  } else if (request.op == IoOp::kDiscard) {
    Discard(request.offset_bytes, request.length_bytes);
  }
  CompleteInline(request, error);
}

void ImageDevice::Discard(uint64_t at, uint64_t length_bytes) {
  std::byte garbage[Image::kBlock];
  std::memset(garbage, static_cast<int>(RecordedIo::kDiscarded), sizeof(garbage));
  MutexLock lock(mutex_);
  for (uint64_t done = 0; done < length_bytes; done += sizeof(garbage)) {
    image_.Write(at + done, garbage, std::min<uint64_t>(sizeof(garbage), length_bytes - done));
  }
}

}  // namespace pbfs
