// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace pbfs {

// Counts values in classes that are at most a quarter of an octave wide, so a percentile is too
// high by less than 25 % (the log-linear classes of HdrHistogram). A value costs three additions to
// memory of the processor it comes from. Thread-safe; a snapshot taken meanwhile may lack some
// parts of the latest values.
class Histogram {
 public:
  static constexpr unsigned kClassesPerOctave = 4;
  // Up to 2^44 (five hours of nanoseconds); larger values count in the last class.
  static constexpr size_t kClassCount = 43 * kClassesPerOctave;

  struct Snapshot {
    uint64_t count = 0;
    uint64_t sum = 0;
    uint64_t max = 0;
    std::array<uint64_t, kClassCount> counts = {};

    uint64_t mean() const { return count == 0 ? 0 : sum / count; }
    // So much of all values is not above it; the end of a class. 0 without values.
    uint64_t Percentile(double percent) const;
    // An object: count, mean, p50, p90, p99, p99.9, max and "classes", a list of [upper end, count]
    // by octaves, so that the text stays short.
    std::string Json() const;
  };

  Histogram();
  ~Histogram();
  Histogram(const Histogram&) = delete;
  Histogram& operator=(const Histogram&) = delete;

  // Left out when memory is short.
  void Add(uint64_t value);
  Snapshot Take() const;

  static size_t ClassOf(uint64_t value);
  // The greatest value of a class.
  static uint64_t UpperEnd(size_t index);

 private:
  struct Stripe {
    std::atomic<uint64_t> sum{0};
    std::atomic<uint64_t> max{0};
    std::array<std::atomic<uint64_t>, kClassCount> counts = {};
  };

  // One for each processor that has added something.
  std::vector<std::atomic<Stripe*>> stripes_;
};

}  // namespace pbfs
