// SPDX-License-Identifier: Apache-2.0
#include "cache/free_frames.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace pbfs {

void FreeFrames::GroupSet::Set(size_t group, bool member) {
  uint64_t& word = words_[group / 64];
  const uint64_t bit = uint64_t{1} << group % 64;
  if (((word & bit) != 0) == member) return;
  word ^= bit;
  if (member) {
    ++count_;
    first_ = std::min(first_, group / 64);
  } else {
    --count_;
  }
}

size_t FreeFrames::GroupSet::Lowest() {
  while (words_[first_] == 0) ++first_;
  return first_ * 64 + static_cast<size_t>(std::countr_zero(words_[first_]));
}

FreeFrames::FreeFrames(size_t frames_max)
    : words_((frames_max + kGroup - 1) / kGroup), whole_(words_.size()), broken_(words_.size()) {}

void FreeFrames::Store(size_t group, uint64_t word) {
  words_[group] = word;
  whole_.Set(group, word == kWhole);
  broken_.Set(group, word != 0 && word != kWhole);
}

void FreeFrames::Put(size_t frame) {
  PBFS_CHECK(!Has(frame));
  Store(frame / kGroup, words_[frame / kGroup] | uint64_t{1} << frame % kGroup);
  ++count_;
}

void FreeFrames::Take(std::span<size_t> out) {
  PBFS_CHECK(out.size() <= count_);
  count_ -= out.size();
  for (size_t done = 0; done < out.size();) {
    const bool many = out.size() - done >= kGroup;
    const size_t group =
        !whole_.empty() && (many || broken_.empty()) ? whole_.Lowest() : broken_.Lowest();
    uint64_t word = words_[group];
    while (word != 0 && done < out.size()) {
      out[done++] = group * kGroup + static_cast<size_t>(std::countr_zero(word));
      word &= word - 1;
    }
    Store(group, word);
  }
}

}  // namespace pbfs
