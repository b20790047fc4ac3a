// SPDX-License-Identifier: Apache-2.0
#include "io/memory_device.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "base/check.h"
#include "base/random.h"
#include "io/buffer_cursor.h"
#include "io/completion_scope.h"
#include "io/pipe.h"

namespace pbfs {
namespace {

constexpr uint64_t kBlockBytes = 4096;
constexpr uint64_t kSectorBytes = 512;
constexpr uint64_t kSectorsPerBlock = kBlockBytes / kSectorBytes;
// Unflushed images kept for one block; beyond it the oldest is forgotten, which only takes one
// possible outcome away from power cuts.
constexpr size_t kUnflushedImagesMax = 8;
// Of the blocks that survive a power cut unflushed, one in so many is torn.
constexpr uint64_t kTornOneIn = 4;

using Image = std::array<std::byte, kBlockBytes>;
// An image does not change once it is made, so clones, and the versions of a block, share it:
// crash tests clone a device for each cut. nullptr: all zeros.
using ImagePointer = std::shared_ptr<const Image>;

struct Block {
  ImagePointer durable;
  // What each write since the last flush left, oldest first.
  std::vector<ImagePointer> unflushed;

  const ImagePointer& current() const { return unflushed.empty() ? durable : unflushed.back(); }
};

// A copy of `from` that may still be changed.
std::shared_ptr<Image> MutableCopy(const ImagePointer& from) {
  auto image = std::make_shared_for_overwrite<Image>();
  if (from != nullptr) {
    *image = *from;
  } else {
    image->fill(std::byte{0});
  }
  return image;
}

// What is left of a block that had unflushed writes.
ImagePointer AfterPowerCut(const Block& block, Random& random, unsigned keep_permille) {
  if (random.Below(1000) >= keep_permille) return block.durable;
  const size_t count = block.unflushed.size();
  if (random.Below(kTornOneIn) != 0) return block.unflushed[random.Below(count)];
  std::shared_ptr<Image> torn = MutableCopy(block.durable);
  for (uint64_t sector = 0; sector < kSectorsPerBlock; ++sector) {
    const uint64_t version = random.Below(count + 1);
    if (version == count) continue;
    std::byte* const to = torn->data() + sector * kSectorBytes;
    if (const ImagePointer& image = block.unflushed[version]; image != nullptr) {
      std::memcpy(to, image->data() + sector * kSectorBytes, kSectorBytes);
    } else {
      std::memset(to, 0, kSectorBytes);
    }
  }
  return torn;
}

}  // namespace

// Invariants: unflushed_blocks holds the numbers of exactly the blocks with unflushed images.
struct MemoryDevice::State {
  void Read(uint64_t offset_bytes, const LogicalBuffer& buffer) ABSL_LOCKS_EXCLUDED(mutex);
  void Write(const IoRequest& request) ABSL_LOCKS_EXCLUDED(mutex);
  void Zero(uint64_t offset_bytes, uint64_t length_bytes) ABSL_LOCKS_EXCLUDED(mutex);
  void Flush() ABSL_LOCKS_EXCLUDED(mutex);

  void AddImageLocked(uint64_t number, ImagePointer image) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void WriteThroughLocked(uint64_t number, uint64_t within_bytes, const std::byte* data,
                          uint64_t length_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void ZeroBlockLocked(uint64_t number, uint64_t from_bytes, uint64_t to_bytes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  mutable Mutex mutex;
  absl::flat_hash_map<uint64_t, Block> blocks ABSL_GUARDED_BY(mutex);
  absl::flat_hash_set<uint64_t> unflushed_blocks ABSL_GUARDED_BY(mutex);
  uint64_t flush_count ABSL_GUARDED_BY(mutex) = 0;
};

void MemoryDevice::State::Read(uint64_t offset_bytes, const LogicalBuffer& buffer) {
  MutexLock lock(mutex);
  BufferCursor cursor(buffer);
  const uint64_t end_bytes = offset_bytes + buffer.size_bytes();
  while (offset_bytes < end_bytes) {
    const uint64_t within_bytes = offset_bytes % kBlockBytes;
    const uint64_t length_bytes = std::min(end_bytes - offset_bytes, kBlockBytes - within_bytes);
    const auto found = blocks.find(offset_bytes / kBlockBytes);
    if (found == blocks.end() || found->second.current() == nullptr) {
      cursor.Zero(length_bytes);
    } else {
      cursor.CopyIn(found->second.current()->data() + within_bytes, length_bytes);
    }
    offset_bytes += length_bytes;
  }
}

void MemoryDevice::State::Write(const IoRequest& request) {
  MutexLock lock(mutex);
  BufferCursor cursor(request.buffer);
  uint64_t offset_bytes = request.offset_bytes;
  const uint64_t end_bytes = offset_bytes + request.buffer.size_bytes();
  while (offset_bytes < end_bytes) {
    const uint64_t number = offset_bytes / kBlockBytes;
    const uint64_t within_bytes = offset_bytes % kBlockBytes;
    const uint64_t length_bytes = std::min(end_bytes - offset_bytes, kBlockBytes - within_bytes);
    if (request.fua) {
      Image data;
      cursor.CopyOut(data.data(), length_bytes);
      WriteThroughLocked(number, within_bytes, data.data(), length_bytes);
    } else {
      std::shared_ptr<Image> image = length_bytes == kBlockBytes
                                         ? std::make_shared_for_overwrite<Image>()
                                         : MutableCopy(blocks[number].current());
      cursor.CopyOut(image->data() + within_bytes, length_bytes);
      AddImageLocked(number, std::move(image));
    }
    offset_bytes += length_bytes;
  }
}

void MemoryDevice::State::AddImageLocked(uint64_t number, ImagePointer image) {
  std::vector<ImagePointer>& unflushed = blocks[number].unflushed;
  if (unflushed.size() == kUnflushedImagesMax) unflushed.erase(unflushed.begin());
  unflushed.push_back(std::move(image));
  unflushed_blocks.insert(number);
}

// The range is durable whichever earlier image a power cut picks for the rest of the block.
void MemoryDevice::State::WriteThroughLocked(uint64_t number, uint64_t within_bytes,
                                             const std::byte* data, uint64_t length_bytes) {
  Block& block = blocks[number];
  const auto patch = [&](ImagePointer& image) {
    std::shared_ptr<Image> patched = MutableCopy(image);
    std::memcpy(patched->data() + within_bytes, data, length_bytes);
    image = std::move(patched);
  };
  patch(block.durable);
  if (length_bytes == kBlockBytes) {
    block.unflushed.clear();
    unflushed_blocks.erase(number);
  }
  for (ImagePointer& image : block.unflushed) patch(image);
}

// Zeros the part [from, to) of a block. Blocks that are not there are zeros already.
void MemoryDevice::State::ZeroBlockLocked(uint64_t number, uint64_t from_bytes, uint64_t to_bytes) {
  const auto found = blocks.find(number);
  if (found == blocks.end() || found->second.current() == nullptr) return;
  if (to_bytes - from_bytes == kBlockBytes) return AddImageLocked(number, nullptr);
  std::shared_ptr<Image> image = MutableCopy(found->second.current());
  std::memset(image->data() + from_bytes, 0, to_bytes - from_bytes);
  AddImageLocked(number, std::move(image));
}

void MemoryDevice::State::Zero(uint64_t offset_bytes, uint64_t length_bytes) {
  if (length_bytes == 0) return;
  MutexLock lock(mutex);
  const uint64_t end_bytes = offset_bytes + length_bytes;
  const uint64_t first = offset_bytes / kBlockBytes;
  const uint64_t last = (end_bytes - 1) / kBlockBytes;
  const auto zero = [&](uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const uint64_t block_bytes = number * kBlockBytes;
    ZeroBlockLocked(number, std::max(offset_bytes, block_bytes) - block_bytes,
                    std::min(end_bytes, block_bytes + kBlockBytes) - block_bytes);
  };
  if (last - first < blocks.size()) {
    for (uint64_t number = first; number <= last; ++number) zero(number);
    return;
  }
  // mkfs discards whole devices: of a huge range only the blocks that exist are visited.
  for (const auto& [number, block] : blocks) {
    if (number >= first && number <= last) zero(number);
  }
}

void MemoryDevice::State::Flush() {
  MutexLock lock(mutex);
  for (const uint64_t number : unflushed_blocks) {
    Block& block = blocks[number];
    block.durable = block.unflushed.back();
    block.unflushed.clear();
  }
  unflushed_blocks.clear();
  ++flush_count;
}

MemoryDevice::MemoryDevice(uint64_t size_bytes) : state_(std::make_unique<State>()) {
  PBFS_CHECK(size_bytes % kSectorBytes == 0);
  geometry_.size_bytes = size_bytes;
  geometry_.can_discard = true;
  geometry_.reads_into_pipes = true;
  geometry_.name = "memory";
}

MemoryDevice::~MemoryDevice() = default;

void MemoryDevice::Submit(IoRequest& request) {
  if (request.op == IoOp::kFlush) {
    state_->Flush();
    return CompleteInline(request, 0);
  }
  const uint64_t length_bytes = request.size_bytes();
  // What a real device would refuse.
  PBFS_CHECK(request.offset_bytes % geometry_.logical_block_bytes == 0);
  PBFS_CHECK(length_bytes % geometry_.logical_block_bytes == 0);
  PBFS_CHECK(!request.has_buffer() || request.buffer.IsAligned(geometry_.dma_alignment_bytes));
  if (length_bytes > geometry_.size_bytes ||
      request.offset_bytes > geometry_.size_bytes - length_bytes) {
    return CompleteInline(request, EIO);
  }
  switch (request.op) {
    case IoOp::kRead:
      if (request.pipe >= 0) return CompleteInline(request, ReadIntoPipe(request));
      state_->Read(request.offset_bytes, request.buffer);
      break;
    case IoOp::kWrite:
      state_->Write(request);
      break;
    case IoOp::kDiscard:
    case IoOp::kWriteZeroes:
      state_->Zero(request.offset_bytes, length_bytes);
      break;
    case IoOp::kFlush:
      break;
  }
  CompleteInline(request, 0);
}

int MemoryDevice::ReadIntoPipe(const IoRequest& request) {
  std::vector<std::byte> data(request.length_bytes);
  LogicalBuffer buffer;
  buffer.Append(data.data(), data.size());
  state_->Read(request.offset_bytes, buffer);
  return WriteToPipe(request.pipe, data.data(), data.size());
}

void MemoryDevice::PowerCut(uint64_t seed, unsigned keep_permille) {
  MutexLock lock(state_->mutex);
  for (const uint64_t number : state_->unflushed_blocks) {
    // A stream of its own for each block: the outcome does not depend on the hash map's order.
    Random random(Random(seed).Next() ^ number);
    Block& block = state_->blocks[number];
    block.durable = AfterPowerCut(block, random, keep_permille);
    block.unflushed.clear();
  }
  state_->unflushed_blocks.clear();
}

std::unique_ptr<MemoryDevice> MemoryDevice::Clone() const {
  auto clone = std::make_unique<MemoryDevice>(geometry_.size_bytes);
  clone->geometry_ = geometry_;
  MutexLock lock(state_->mutex);
  MutexLock clone_lock(clone->state_->mutex);
  for (const auto& [number, block] : state_->blocks) {
    if (block.current() != nullptr) clone->state_->blocks[number].durable = block.current();
  }
  return clone;
}

uint64_t MemoryDevice::flush_count() const {
  MutexLock lock(state_->mutex);
  return state_->flush_count;
}

}  // namespace pbfs
