// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "io/block_device.h"

namespace pbfs {

// One entry of a recording, in the order that matters to crash states. A write is recorded twice,
// with its data when it is submitted and when it has ended: in between any part of it may be on the
// device. A flush also: it covers the writes that ended before its submission. What failed has no
// end. Write-zeroes is recorded as a write of zeros. A discard may leave anything: it is recorded,
// if that is wanted, as a write of garbage.
struct RecordedIo {
  static constexpr std::byte kDiscarded{0xd5};

  enum class Kind : uint8_t { kWrite, kWriteEnd, kFlushStart, kFlushEnd, kMark };
  Kind kind;
  bool fua = false;
  uint64_t offset_bytes = 0;
  std::vector<std::byte> data;
  // Pairs beginning and end. kMark: the value given to Mark().
  uint64_t id = 0;
};

// Wraps a device and records every write and flush with its data, for building crash images. That
// nobody changes the memory of a write under way is checked. Thread-safe.
class RecordingDevice : public BlockDevice {
 public:
  // `below` is borrowed. `with_discards`: they are recorded, with as many bytes as they discard.
  explicit RecordingDevice(BlockDevice& below, bool with_discards = false)
      : below_(below), with_discards_(with_discards) {}

  const Geometry& geometry() const override { return below_.geometry(); }
  void Submit(IoRequest& request) override;
  void WaitUntil(const std::atomic<uint32_t>& done) override { below_.WaitUntil(done); }

  // Puts a marker into the recording ("everything before this was acknowledged").
  void Mark(uint64_t id);
  std::vector<RecordedIo> TakeRecording();

 private:
  struct Tracked;
  static void Completed(IoRequest& request, void* context, int error);
  Tracked Begin(const IoRequest& request) ABSL_LOCKS_EXCLUDED(mutex_);

  BlockDevice& below_;
  const bool with_discards_;
  Mutex mutex_;
  uint64_t id_next_ ABSL_GUARDED_BY(mutex_) = 1;
  std::vector<RecordedIo> recording_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace pbfs
