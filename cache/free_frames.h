// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace pbfs {

// Which frames of the arena are free, a bit each.
//
// Who takes many gets neighbours where there are some: to the kernel and the device a run of frames
// is one segment, and a list of single ones costs more than the copy of their bytes. So those who
// take few are given what is left of groups that others have broken up, and whole groups are kept
// for those who take many; always the lowest, which keeps the memory in use close together. As the
// Linux buddy allocator does with pages, for one size of group. Thread-compatible.
class FreeFrames {
 public:
  // Of so many frames at most; none is free.
  explicit FreeFrames(size_t frames_max);

  size_t count() const { return count_; }
  bool Has(size_t frame) const { return (words_[frame / kGroup] >> frame % kGroup & 1) != 0; }
  // REQUIRES: it is not free.
  void Put(size_t frame);
  // In ascending order within each group. REQUIRES: count() >= out.size().
  void Take(std::span<size_t> out);

 private:
  static constexpr size_t kGroup = 64;
  static constexpr uint64_t kWhole = ~uint64_t{0};

  // A set of groups, of which the lowest is to be found.
  class GroupSet {
   public:
    explicit GroupSet(size_t groups) : words_((groups + 63) / 64) {}
    bool empty() const { return count_ == 0; }
    void Set(size_t group, bool member);
    // REQUIRES: !empty().
    size_t Lowest();

   private:
    std::vector<uint64_t> words_;
    size_t count_ = 0;
    size_t first_ = 0;  // No word before it has a member.
  };

  // Changes the bits of a group; keeps the sets right.
  void Store(size_t group, uint64_t word);

  std::vector<uint64_t> words_;
  // Groups of which all frames are free; of which some are.
  GroupSet whole_;
  GroupSet broken_;
  size_t count_ = 0;
};

}  // namespace pbfs
