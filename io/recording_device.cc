// SPDX-License-Identifier: Apache-2.0
#include "io/recording_device.h"

#include <algorithm>
#include <utility>

namespace pbfs {

// A flush under way.
struct RecordingDevice::Tracked {
  RecordingDevice* device;
  uint64_t id;
};

void RecordingDevice::Submit(IoRequest& request) {
  if (request.op == IoOp::kFlush) {
    uint64_t id = 0;
    {
      MutexLock lock(mutex_);
      id = flush_id_next_++;
      recording_.push_back({.kind = RecordedIo::Kind::kFlushStart, .data = {}, .id = id});
    }
    request.PushCompletion(FlushCompleted, new Tracked{this, id});
  } else {
    request.PushCompletion(Completed, this);
  }
  below_.Submit(request);
}

void RecordingDevice::Completed(IoRequest& request, void* context, int error) {
  auto* self = static_cast<RecordingDevice*>(context);
  if (error == 0 && request.op == IoOp::kWrite) {
    RecordedIo entry{.kind = RecordedIo::Kind::kWrite,
                     .fua = request.fua,
                     .offset_bytes = request.offset_bytes,
                     .data = std::vector<std::byte>(request.buffer.size_bytes())};
    request.buffer.CopyTo(0, entry.data.data(), entry.data.size());
    MutexLock lock(self->mutex_);
    self->recording_.push_back(std::move(entry));
  } else if (error == 0 && request.op == IoOp::kWriteZeroes) {
    MutexLock lock(self->mutex_);
    for (uint64_t done = 0; done < request.length_bytes; done += kZeroEntryBytesMax) {
      const size_t bytes = std::min(request.length_bytes - done, kZeroEntryBytesMax);
      self->recording_.push_back({.kind = RecordedIo::Kind::kWrite,
                                  .offset_bytes = request.offset_bytes + done,
                                  .data = std::vector<std::byte>(bytes)});
    }
  }
  request.Complete(error);
}

void RecordingDevice::FlushCompleted(IoRequest& request, void* context, int error) {
  const std::unique_ptr<Tracked> tracked(static_cast<Tracked*>(context));
  if (error == 0) {
    MutexLock lock(tracked->device->mutex_);
    tracked->device->recording_.push_back(
        {.kind = RecordedIo::Kind::kFlushEnd, .data = {}, .id = tracked->id});
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
