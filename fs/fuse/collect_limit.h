// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

namespace pbfs::fuse {

// How much of programs' writes the kernel may collect before it sends them. What it has collected
// must find space, as write(2) has said so; and it does not know how much there is. So it may have
// the largest power of two that is at most a sixteenth of the free space, so that others who fill
// that rarely overtake it; a part is kept for it alone (SpaceClass::kCollected). Thread-safe.
class CollectLimit {
 public:
  // A quarter of what is kept, as some more comes before the kernel stops the writers. With less
  // than 4 MiB it lets them wait for no reason, with 1 MiB at 60 MB/s (measured); so that is for
  // filesystems where no more is kept.
  explicit CollectLimit(uint64_t filesystem_bytes)
      : min_bytes_(std::clamp(filesystem_bytes / 128, uint64_t{1} << 20, uint64_t{4} << 20)) {}

  // True: the limit has changed. It goes up only by two steps at once, so that it does not go up
  // and down for ever.
  bool Update(uint64_t available_bytes) {
    const uint64_t limit = std::max(min_bytes_, std::bit_floor(available_bytes / 16));
    uint64_t current = limit_bytes_.load(std::memory_order_relaxed);
    while (limit < current || (limit > current && limit / 2 > current)) {
      if (limit_bytes_.compare_exchange_weak(current, limit)) return true;
    }
    return false;
  }
  uint64_t limit_bytes() const { return limit_bytes_.load(std::memory_order_relaxed); }

 private:
  const uint64_t min_bytes_;
  std::atomic<uint64_t> limit_bytes_{0};
};

}  // namespace pbfs::fuse
