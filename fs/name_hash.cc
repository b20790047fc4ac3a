// SPDX-License-Identifier: Apache-2.0
#include "fs/name_hash.h"

#include <bit>
#include <cstddef>
#include <cstring>

namespace pbfs {
namespace {

struct SipState {
  uint64_t v0, v1, v2, v3;

  void Round() {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  }
  void Absorb(uint64_t word) {
    v3 ^= word;
    Round();
    Round();
    v0 ^= word;
  }
};

}  // namespace

uint64_t SipHash24(const uint64_t key[2], std::string_view text) {
  SipState state = {
      key[0] ^ 0x736f6d6570736575,
      key[1] ^ 0x646f72616e646f6d,
      key[0] ^ 0x6c7967656e657261,
      key[1] ^ 0x7465646279746573,
  };
  size_t offset = 0;
  for (; offset + 8 <= text.size(); offset += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + offset, 8);
    state.Absorb(word);
  }
  uint64_t last = 0;
  if (offset < text.size()) std::memcpy(&last, text.data() + offset, text.size() - offset);
  state.Absorb(last | uint64_t{text.size()} << 56);
  state.v2 ^= 0xff;
  for (int i = 0; i < 4; ++i) state.Round();
  return state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
}

uint64_t NameHash::Hash(std::string_view name) const {
  const uint64_t hash = SipHash24(key_, name) & ((uint64_t{1} << kNameHashBits) - 1);
  return hash == 0 ? 1 : hash;
}

}  // namespace pbfs
