// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/random.h"
#include "io/recording_device.h"
#include "tests/crash/image.h"

namespace pbfs {

// What became of a write that nothing had made durable.
struct Fate {
  enum class Kind : uint8_t { kKept, kLost, kTorn };
  Kind kind = Kind::kKept;
  // kTorn: which of its 512-byte sectors are there.
  uint64_t seed = 0;
  friend bool operator==(const Fate&, const Fate&) = default;
};

// A way the power may have gone: after the first `position` entries of a recording. Writes that a
// flush covered, or that were FUA and had ended, are there. Of the others, the uncertain ones, each
// has its fate; so they are lost, torn and reordered.
struct Cut {
  size_t position = 0;
  std::vector<Fate> fates;  // Of CrashStates::UncertainAt(position).
};

// The crash states of one recording.
class CrashStates {
 public:
  // Borrowed. `base` is what was on the device before the first entry.
  CrashStates(const Image& base, const std::vector<RecordedIo>& io);

  struct Limits {
    size_t cuts_max = 250;     // Above it, a random part is taken.
    size_t subset_writes = 4;  // Up to so many uncertain writes every subset is lost ...
    size_t singles_max = 6;    // ... above, single ones, and pairs, are lost or kept: so many each.
    size_t randoms = 3;        // Random fates of all, for each position.
    size_t first_position = 0;  // Cuts before it are left out.
  };
  // Ascending by position; no two leave the same writes with the same marks before them. Cuts are
  // made after each submission of a write - all kept, and that one torn - and, in every combination
  // that the limits allow, where a flush ends and at marks.
  std::vector<Cut> Enumerate(const Limits& limits, Random& random) const;

  // The image a cut leaves. Cuts ascend by position from call to call. The result shares blocks
  // with this object: it must be gone before the next call.
  Image Build(const Cut& cut);
  // One line; and all uncertain writes, one line each.
  std::string Describe(const Cut& cut) const;
  std::string ListWrites(const Cut& cut) const;
  // Indices of the writes before `position` that may be lost, ascending.
  std::vector<size_t> UncertainAt(size_t position) const;
  // The marks before it, in order.
  std::vector<uint64_t> MarksBefore(size_t position) const;

 private:
  static constexpr size_t kNever = SIZE_MAX;
  class Collector;
  bool IsBoundary(size_t position) const;
  void AddSubsets(size_t position, size_t count, const Limits& limits, Collector& cuts) const;
  void AddCuts(size_t position, const Limits& limits, Collector& cuts) const;

  const std::vector<RecordedIo>& io_;
  std::vector<size_t> durable_at_;  // By entry: the position from which on a write is durable.
  Image durable_;                   // base and the first applied_ entries, which are all durable.
  size_t applied_ = 0;
};

}  // namespace pbfs
