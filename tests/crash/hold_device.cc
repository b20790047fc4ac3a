// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/hold_device.h"

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "io/completion_scope.h"

namespace pbfs {
namespace {

// One request in so many is late.
constexpr uint64_t kLateOneIn = 3;

}  // namespace

HoldDevice::HoldDevice(BlockDevice& below, BlockNumber log_start, BlockNumber log_end)
    : below_(below),
      log_start_bytes_(log_start * kBlockBytes),
      log_end_bytes_(log_end * kBlockBytes),
      thread_([this] { Run(); }) {}

HoldDevice::~HoldDevice() {
  DelayAtRandom(0, std::chrono::microseconds(0));
  Release();
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  thread_.join();
}

unsigned HoldDevice::KindOf(const IoRequest& request) const {
  if (request.op == IoOp::kFlush) return kFlush;
  if (request.op != IoOp::kWrite) return 0;
  if (request.offset_bytes >= log_start_bytes_ && request.offset_bytes < log_end_bytes_) {
    return kLogWrite;
  }
  uint32_t magic = 0;
  request.buffer.CopyTo(0, &magic, sizeof(magic));
  for (const uint32_t known :
       {kMagicState, kMagicAgTable, kMagicBitmap, kMagicInodes, kMagicTree}) {
    if (magic == known) return kMetadataWrite;
  }
  return kDataWrite;
}

void HoldDevice::Hold(unsigned kinds) {
  MutexLock lock(mutex_);
  holding_ = kinds;
}

bool HoldDevice::WaitUntilHeld(size_t count, std::chrono::milliseconds timeout) {
  const int64_t end = NowNs() + std::chrono::nanoseconds(timeout).count();
  MutexLock lock(mutex_);
  while (held_.size() < count) {
    const int64_t left = end - NowNs();
    if (left <= 0) return false;
    changed_.WaitFor(mutex_, std::chrono::nanoseconds(left));
  }
  return true;
}

void HoldDevice::Release() {
  std::vector<IoRequest*> held;
  {
    MutexLock lock(mutex_);
    holding_ = 0;
    held.swap(held_);
  }
  for (IoRequest* request : held) below_.Submit(*request);
}

void HoldDevice::DelayAtRandom(uint64_t seed, std::chrono::microseconds most) {
  MutexLock lock(mutex_);
  random_ = Random(seed);
  delay_max_ns_ = std::chrono::nanoseconds(most).count();
}

int64_t HoldDevice::DelayLocked() {
  const auto most = static_cast<uint64_t>(std::max<int64_t>(delay_max_ns_, 1));
  return NowNs() + static_cast<int64_t>(random_.Below(most));
}

void HoldDevice::Submit(IoRequest& request) {
  bool completes_late = false;
  {
    MutexLock lock(mutex_);
    if ((KindOf(request) & holding_) != 0) {
      held_.push_back(&request);
      changed_.SignalAll();
      return;
    }
    if (delay_max_ns_ > 0 && random_.OneIn(kLateOneIn)) {
      completes_late = random_.OneIn(2);
      if (!completes_late) {
        late_.emplace(DelayLocked(), Late{&request, false, 0});
        changed_.SignalAll();
        return;
      }
    }
  }
  if (completes_late) request.PushCompletion(Completed, this);
  below_.Submit(request);
}

void HoldDevice::Completed(IoRequest& request, void* context, int error) {
  auto* self = static_cast<HoldDevice*>(context);
  MutexLock lock(self->mutex_);
  self->late_.emplace(self->DelayLocked(), Late{&request, true, error});
  self->changed_.SignalAll();
}

std::optional<HoldDevice::Late> HoldDevice::TakeDue() {
  MutexLock lock(mutex_);
  for (;;) {
    if (!late_.empty()) {
      const auto first = late_.begin();
      const int64_t left = first->first - NowNs();
      if (left <= 0) {
        const Late due = first->second;
        late_.erase(first);
        return due;
      }
      changed_.WaitFor(mutex_, std::chrono::nanoseconds(left));
    } else if (stopping_) {
      return std::nullopt;
    } else {
      changed_.Wait(mutex_);
    }
  }
}

void HoldDevice::Run() {
  while (const std::optional<Late> late = TakeDue()) {
    if (late->complete) {
      CompleteInline(*late->request, late->error);
    } else {
      below_.Submit(*late->request);
    }
  }
}

}  // namespace pbfs
