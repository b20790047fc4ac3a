// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "io/recording_device.h"
#include "tests/crash/image.h"

namespace pbfs {

// A way the power may have gone: after the first `position` entries of a recording. All writes that
// a flush covered, or that were FUA, are there; of the others, what `choice` says.
struct Cut {
  enum class Choice : uint8_t {
    kKeepAll,  // A prefix of the writes.
    kLoseAll,
    kLoseOne,  // The which-th unflushed one.
    kKeepOne,
    kRandom,    // Each kept, lost or torn at 512 bytes (so also reordered).
    kTearLast,  // The last write was under way: some sectors of it, the other writes whole ...
    kTearLastLoseOthers,  // ... or lost.
  };
  size_t position;
  Choice choice;
  size_t which = 0;
  uint64_t seed = 0;
};

// The crash states of one recording.
class CrashStates {
 public:
  // Borrowed. Between them, `base` is what was on the device before the first entry.
  CrashStates(const Image& base, const std::vector<RecordedIo>& io);

  struct Limits {
    size_t cuts_max = 250;      // Above it, a random part is taken.
    size_t singles_max = 6;     // Single writes lost or kept, for each position.
    size_t randoms = 3;         // Random subsets, for each position.
    size_t first_position = 0;  // Cuts before it are left out.
  };
  // Ascending by position.
  std::vector<Cut> Enumerate(const Limits& limits, Random& random) const;

  // The image a cut leaves. Cuts ascend by position from call to call. The result shares blocks
  // with this object: it must be gone before the next call.
  Image Build(const Cut& cut);
  std::string Describe(const Cut& cut) const;
  // How many marks of either kind are before the cut: the values of the last ones.
  uint64_t LastMark(const Cut& cut, bool odd) const;

  size_t write_count() const { return write_count_; }

 private:
  static constexpr size_t kNever = SIZE_MAX;
  // Indices of writes before `position` that nothing has made durable by then.
  std::vector<size_t> PendingAt(size_t position) const;
  void AddCuts(size_t position, const Limits& limits, Random& random, std::vector<Cut>& cuts) const;
  void Apply(Image& image, size_t entry, const Cut& cut, size_t pending_index,
             size_t pending_count) const;

  const std::vector<RecordedIo>& io_;
  std::vector<size_t> durable_at_;  // By entry: the position from which on a write is durable.
  size_t write_count_ = 0;
  Image durable_;  // base and the first applied_ entries, which are all durable.
  size_t applied_ = 0;
};

}  // namespace pbfs
