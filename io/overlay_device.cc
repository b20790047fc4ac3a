// SPDX-License-Identifier: Apache-2.0
#include "io/overlay_device.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "io/buffer_cursor.h"
#include "io/completion_scope.h"

namespace pbfs {
namespace {

constexpr uint64_t kBlockBytes = 4096;
constexpr uint64_t kSectorBytes = 512;

// Calls visit(block number, first byte in it, bytes) for each block the range touches, in order.
template <typename Visit>
void ForEachBlock(uint64_t offset_bytes, uint64_t length_bytes, Visit visit) {
  while (length_bytes > 0) {
    const uint64_t within = offset_bytes % kBlockBytes;
    const uint64_t bytes = std::min(length_bytes, kBlockBytes - within);
    visit(offset_bytes / kBlockBytes, within, bytes);
    offset_bytes += bytes;
    length_bytes -= bytes;
  }
}

// One bit for each sector of the range inside a block.
uint8_t SectorMask(uint64_t within_bytes, uint64_t length_bytes) {
  const unsigned count = static_cast<unsigned>(length_bytes / kSectorBytes);
  return static_cast<uint8_t>(((1u << count) - 1) << (within_bytes / kSectorBytes));
}

}  // namespace

OverlayDevice::OverlayDevice(BlockDevice& below) : below_(below), geometry_(below.geometry()) {
  geometry_.read_only = false;
  geometry_.volatile_cache = false;
  geometry_.reads_into_pipes = false;
}

void OverlayDevice::Submit(IoRequest& request) {
  const uint64_t length_bytes = request.size_bytes();
  PBFS_CHECK(request.pipe < 0);
  if (request.op != IoOp::kFlush) {
    PBFS_CHECK(request.offset_bytes % kSectorBytes == 0);
    PBFS_CHECK(length_bytes % kSectorBytes == 0);
    if (length_bytes > geometry_.size_bytes ||
        request.offset_bytes > geometry_.size_bytes - length_bytes) {
      return CompleteInline(request, EIO);
    }
  }
  switch (request.op) {
    case IoOp::kRead:
      request.PushCompletion(ReadCompleted, this);
      return below_.Submit(request);
    case IoOp::kWrite:
      Write(request);
      break;
    case IoOp::kWriteZeroes:
      WriteZeroes(request);
      break;
    case IoOp::kDiscard:  // Leaves the range as it was, as a device may.
    case IoOp::kFlush:
      break;
  }
  CompleteInline(request, 0);
}

// Lays what was written here over what came from below.
void OverlayDevice::ReadCompleted(IoRequest& request, void* context, int error) {
  auto* self = static_cast<OverlayDevice*>(context);
  if (error == 0) {
    MutexLock lock(self->mutex_);
    BufferCursor cursor(request.buffer);
    ForEachBlock(request.offset_bytes, request.buffer.size_bytes(),
                 [&](uint64_t number, uint64_t within, uint64_t bytes) {
                   self->mutex_.AssertHeld();
                   const auto found = self->blocks_.find(number);
                   if (found == self->blocks_.end()) return cursor.Skip(bytes);
                   const Block* block = found->second.get();
                   if (block == nullptr) return cursor.Zero(bytes);
                   for (const uint64_t end = within + bytes; within < end; within += kSectorBytes) {
                     if ((block->written & SectorMask(within, kSectorBytes)) != 0) {
                       cursor.CopyIn(block->bytes + within, kSectorBytes);
                     } else {
                       cursor.Skip(kSectorBytes);
                     }
                   }
                 });
  }
  request.Complete(error);
}

// The block with these sectors about to be written.
OverlayDevice::Block& OverlayDevice::OpenBlockLocked(uint64_t number, uint8_t sectors) {
  const auto [found, added] = blocks_.try_emplace(number);
  if (found->second == nullptr) {
    found->second = std::make_unique<Block>();
    if (!added) found->second->written = 0xff;  // It was all zeros.
  }
  found->second->written |= sectors;
  return *found->second;
}

void OverlayDevice::Write(const IoRequest& request) {
  MutexLock lock(mutex_);
  BufferCursor cursor(request.buffer);
  ForEachBlock(request.offset_bytes, request.buffer.size_bytes(),
               [&](uint64_t number, uint64_t within, uint64_t bytes) {
                 mutex_.AssertHeld();
                 Block& block = OpenBlockLocked(number, SectorMask(within, bytes));
                 cursor.CopyOut(block.bytes + within, bytes);
               });
}

void OverlayDevice::WriteZeroes(const IoRequest& request) {
  MutexLock lock(mutex_);
  ForEachBlock(request.offset_bytes, request.length_bytes,
               [&](uint64_t number, uint64_t within, uint64_t bytes) {
                 mutex_.AssertHeld();
                 if (bytes == kBlockBytes) {
                   blocks_[number] = nullptr;
                   return;
                 }
                 Block& block = OpenBlockLocked(number, SectorMask(within, bytes));
                 std::memset(block.bytes + within, 0, bytes);
               });
}

}  // namespace pbfs
