// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace pbfs {

// SplitMix64: the same numbers from the same seed everywhere, whatever the standard library. For
// tests and for what must be repeatable; RandomBits() is for what must not. Single thread.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t value = (state_ += 0x9e3779b97f4a7c15);
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
  }
  // 0 <= result < bound.
  uint64_t Below(uint64_t bound) { return Next() % bound; }
  bool OneIn(uint64_t count) { return Below(count) == 0; }

 private:
  uint64_t state_;
};

// 64 bits that nobody can foretell, from the system; in a simulation from its seed. Thread-safe.
uint64_t RandomBits();

}  // namespace pbfs
