// SPDX-License-Identifier: Apache-2.0
#include "io/recording_device.h"

#include <memory>
#include <utility>

#include "base/check.h"
#include "base/crc32c.h"

namespace pbfs {

// A request under way.
struct RecordingDevice::Tracked {
  RecordingDevice* device;
  uint64_t id;
  uint32_t crc;  // Of what a write writes.
};

namespace {

std::vector<std::byte> DataOf(const IoRequest& request) {
  std::vector<std::byte> data(request.buffer.size_bytes());
  request.buffer.CopyTo(0, data.data(), data.size());
  return data;
}

}  // namespace

void RecordingDevice::Submit(IoRequest& request) {
  if (request.op != IoOp::kRead && (request.op != IoOp::kDiscard || with_discards_)) {
    request.PushCompletion(Completed, new Tracked(Begin(request)));
  }
  below_.Submit(request);
}

RecordingDevice::Tracked RecordingDevice::Begin(const IoRequest& request) {
  MutexLock lock(mutex_);
  Tracked tracked{this, id_next_++, 0};
  if (request.op == IoOp::kFlush) {
    recording_.push_back({.kind = RecordedIo::Kind::kFlushStart, .data = {}, .id = tracked.id});
  } else if (request.op == IoOp::kWrite) {
    recording_.push_back({.kind = RecordedIo::Kind::kWrite,
                          .fua = request.fua,
                          .offset_bytes = request.offset_bytes,
                          .data = DataOf(request),
                          .id = tracked.id});
    tracked.crc = Crc32c(recording_.back().data.data(), recording_.back().data.size());
  } else {
    const std::byte filling = request.op == IoOp::kDiscard ? RecordedIo::kDiscarded : std::byte{0};
    recording_.push_back({.kind = RecordedIo::Kind::kWrite,
                          .offset_bytes = request.offset_bytes,
                          .data = std::vector<std::byte>(request.length_bytes, filling),
                          .id = tracked.id});
  }
  return tracked;
}

void RecordingDevice::Completed(IoRequest& request, void* context, int error) {
  const std::unique_ptr<Tracked> tracked(static_cast<Tracked*>(context));
  if (request.op == IoOp::kWrite) {
    const std::vector<std::byte> data = DataOf(request);
    PBFS_CHECK(Crc32c(data.data(), data.size()) == tracked->crc);
  }
  if (error == 0) {
    const bool flush = request.op == IoOp::kFlush;
    MutexLock lock(tracked->device->mutex_);
    tracked->device->recording_.push_back(
        {.kind = flush ? RecordedIo::Kind::kFlushEnd : RecordedIo::Kind::kWriteEnd,
         .data = {},
         .id = tracked->id});
  }
  request.Complete(error);
}

void RecordingDevice::Mark(uint64_t id) {
  MutexLock lock(mutex_);
  recording_.push_back({.kind = RecordedIo::Kind::kMark, .data = {}, .id = id});
}

std::vector<RecordedIo> RecordingDevice::TakeRecording() {
  MutexLock lock(mutex_);
  return std::exchange(recording_, {});
}

}  // namespace pbfs
