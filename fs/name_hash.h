// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "fs/format.h"

namespace pbfs {

// SipHash-2-4 of `text`, keyed.
uint64_t SipHash24(const uint64_t key[2], std::string_view text);

inline constexpr uint32_t kNameHashBits = 56;
inline constexpr uint32_t kNameCollisionsMax = 1u << kHashCollisionBits;

// The hash of names in directories and extended attributes: SipHash-2-4 with the filesystem's seed,
// so that nobody can make up colliding names. Virtual so that tests can. Thread-safe (immutable).
class NameHash {
 public:
  explicit NameHash(const Superblock& superblock)
      : key_{superblock.hash_seed[0], superblock.hash_seed[1]} {}
  virtual ~NameHash() = default;

  // 1 <= result < 2^kNameHashBits: the low bits of the SipHash, 0 is taken as 1.
  virtual uint64_t Hash(std::string_view name) const;

  // The record keys of names with this hash are FirstKey .. FirstKey + kNameCollisionsMax - 1.
  uint64_t FirstKey(std::string_view name) const { return Hash(name) << kHashCollisionBits; }

 private:
  const uint64_t key_[2];
};

}  // namespace pbfs
