// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/histogram.h"

namespace pbfs::fuse {

// How many requests of each kind were answered, and how long that took from the moment a thread had
// received them until the kernel had taken the answer. Thread-safe.
class OperationStatistics {
 public:
  void Began(uint64_t unique, uint32_t opcode);
  // Of one that is about to be answered; its number may be used anew once it is. 0: not known.
  uint64_t Find(uint64_t unique);
  // It was answered. `begin` is from Find().
  void Ended(uint64_t begin);

  // An object with one member per kind of request that occurred: its latencies in nanoseconds
  // (Histogram::Snapshot::Json).
  std::string Json() const;

 private:
  // Requests under way by their number. Of two that share a place the older one is forgotten; the
  // kernel counts its requests, so they are far from each other.
  static constexpr size_t kPlaces = 8192;
  static constexpr size_t kOpcodes = 64;
  struct Place {
    std::atomic<uint64_t> unique{0};
    // When, in nanoseconds, above its opcode.
    std::atomic<uint64_t> begin_and_opcode{0};
  };

  Place& PlaceOf(uint64_t unique);

  std::array<Place, kPlaces> places_;
  std::array<Histogram, kOpcodes> latencies_ns_;
};

}  // namespace pbfs::fuse
