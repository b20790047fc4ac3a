// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/hold_device.h"

#include <cstring>

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
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
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
  std::lock_guard lock(mutex_);
  holding_ = kinds;
}

bool HoldDevice::WaitUntilHeld(size_t count, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [&] { return held_.size() >= count; });
}

void HoldDevice::Release() {
  std::vector<IoRequest*> held;
  {
    std::lock_guard lock(mutex_);
    holding_ = 0;
    held.swap(held_);
  }
  for (IoRequest* request : held) below_.Submit(*request);
}

void HoldDevice::DelayAtRandom(uint64_t seed, std::chrono::microseconds most) {
  std::lock_guard lock(mutex_);
  random_ = Random(seed);
  delay_max_ = most;
}

void HoldDevice::Submit(IoRequest& request) {
  bool completes_late = false;
  {
    std::lock_guard lock(mutex_);
    if ((KindOf(request) & holding_) != 0) {
      held_.push_back(&request);
      changed_.notify_all();
      return;
    }
    if (delay_max_.count() > 0 && random_.OneIn(kLateOneIn)) {
      completes_late = random_.OneIn(2);
      if (!completes_late) {
        const auto delay =
            std::chrono::microseconds(random_.Below(static_cast<uint64_t>(delay_max_.count())));
        late_.emplace(Clock::now() + delay, Late{&request, false, 0});
        changed_.notify_all();
        return;
      }
    }
  }
  if (completes_late) request.PushCompletion(Completed, this);
  below_.Submit(request);
}

void HoldDevice::Completed(IoRequest& request, void* context, int error) {
  auto* self = static_cast<HoldDevice*>(context);
  std::lock_guard lock(self->mutex_);
  const auto most = std::max<int64_t>(self->delay_max_.count(), 1);
  const auto delay = std::chrono::microseconds(self->random_.Below(static_cast<uint64_t>(most)));
  self->late_.emplace(Clock::now() + delay, Late{&request, true, error});
  self->changed_.notify_all();
}

void HoldDevice::RunLate(const Late& late) {
  if (late.complete) {
    late.request->Complete(late.error);
  } else {
    below_.Submit(*late.request);
  }
}

void HoldDevice::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (late_.empty()) {
      if (stopping_) return;
      changed_.wait(lock);
      continue;
    }
    const auto first = late_.begin();
    if (first->first > Clock::now()) {
      // A copy: the entry may go while this waits.
      const Clock::time_point due = first->first;
      changed_.wait_until(lock, due);
      continue;
    }
    const Late late = first->second;
    late_.erase(first);
    lock.unlock();
    RunLate(late);
    lock.lock();
  }
}

}  // namespace pbfs
