// SPDX-License-Identifier: Apache-2.0
#include "fs/discards.h"

#include <algorithm>
#include <optional>

namespace pbfs {
namespace {

// So much is out of use at once while it is trimmed: who needs it, waits.
constexpr uint32_t kTrimRunBlocks = (64 << 20) / kBlockBytes;

// Adjacent runs become one.
std::vector<BlockRun> Merged(std::vector<Transaction::Freed> freed) {
  std::sort(freed.begin(), freed.end(),
            [](const auto& a, const auto& b) { return a.block < b.block; });
  std::vector<BlockRun> runs;
  for (const Transaction::Freed& run : freed) {
    if (!runs.empty() && runs.back().block + runs.back().length == run.block) {
      runs.back().length += run.length;
    } else {
      runs.push_back({run.block, run.length});
    }
  }
  return runs;
}

}  // namespace

Discards::~Discards() { Stop(); }

void Discards::Start() {
  {
    MutexLock lock(mutex_);
    stopping_ = false;
  }
  thread_ = Thread([this] { Loop(); });
}

void Discards::Stop() {
  std::vector<Transaction::Freed> left;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    wake_.SignalAll();
    left.swap(queue_);
  }
  if (thread_.joinable()) thread_.join();
  space_.ReleaseFreed(left);
  // Or whoever finds no free block after the next Start() would wait for these.
  space_.SetReleasing(false);
}

void Discards::Add(const std::vector<Transaction::Freed>& freed) {
  {
    MutexLock lock(mutex_);
    if (!stopping_ && thread_.joinable()) {
      queue_.insert(queue_.end(), freed.begin(), freed.end());
      space_.SetReleasing(true);
      wake_.Signal();
      return;
    }
  }
  space_.ReleaseFreed(freed);
}

void Discards::Discard(const BlockRun& run) {
  (void)DiscardSync(device_, run.block * kBlockBytes, uint64_t{run.length} * kBlockBytes);
}

void Discards::Loop() {
  for (;;) {
    std::vector<Transaction::Freed> freed;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stopping_) wake_.Wait(mutex_);
      if (stopping_) return;
      freed.swap(queue_);
    }
    for (const BlockRun& run : Merged(freed)) Discard(run);
    space_.ReleaseFreed(freed);
    MutexLock lock(mutex_);
    if (queue_.empty()) space_.SetReleasing(false);
  }
}

StatusOr<uint64_t> Discards::TrimGroup(uint32_t ag, BlockNumber start, BlockNumber end,
                                       uint32_t minimum) {
  uint64_t blocks = 0;
  for (;;) {
    std::optional<BlockRun> run;
    PBFS_ASSIGN_OR_RETURN(run, space_.Hold(ag, start, end, minimum, kTrimRunBlocks));
    if (!run) break;
    Discard(*run);
    space_.Unhold(*run);
    blocks += run->length;
    start = run->block + run->length;
  }
  return blocks;
}

StatusOr<uint64_t> Discards::Trim(uint64_t start_bytes, uint64_t length_bytes,
                                  uint64_t minimum_bytes) {
  if (!device_.geometry().can_discard) {
    return ErrnoError(EOPNOTSUPP, "the device cannot discard");
  }
  const uint64_t total = space_.total_blocks();
  const uint64_t start = start_bytes / kBlockBytes + (start_bytes % kBlockBytes != 0 ? 1 : 0);
  if (start >= total || length_bytes < kBlockBytes ||
      minimum_bytes > uint64_t{kAgBlocks} * kBlockBytes) {
    return ErrnoError(EINVAL, "range to trim is out of bounds");
  }
  const uint64_t end = std::min(total, length_bytes > UINT64_MAX - start_bytes
                                           ? total
                                           : (start_bytes + length_bytes) / kBlockBytes);
  const auto minimum =
      static_cast<uint32_t>(std::max<uint64_t>(1, (minimum_bytes + kBlockBytes - 1) / kBlockBytes));
  uint64_t blocks = 0;
  for (uint64_t at = start; at < end;) {
    const uint32_t ag = AgOf(at);
    const uint64_t group_end = std::min(end, AgStart(ag) + kAgBlocks);
    uint64_t trimmed;
    PBFS_ASSIGN_OR_RETURN(trimmed, TrimGroup(ag, at, group_end, minimum));
    blocks += trimmed;
    at = group_end;
  }
  return blocks * kBlockBytes;
}

}  // namespace pbfs
