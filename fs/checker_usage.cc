// SPDX-License-Identifier: Apache-2.0
#include "fs/checker_usage.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace pbfs {
namespace {

constexpr uint32_t kWordsPerBitmapBlock = kBitsPerBitmapBlock / 64;

// Calls visit(word index, mask) for each word that the bits [start, start + length) touch.
template <typename Visit>
void ForEachWord(uint32_t start, uint32_t length, Visit visit) {
  while (length > 0) {
    const uint32_t bit = start % 64;
    const uint32_t count = std::min(length, 64 - bit);
    visit(start / 64, (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1) << bit);
    start += count;
    length -= count;
  }
}

// Calls visit(first bit, length) for each run of ones in a word.
template <typename Visit>
void ForEachRun(uint64_t word, Visit visit) {
  while (word != 0) {
    const auto first = static_cast<uint32_t>(std::countr_zero(word));
    const auto length = static_cast<uint32_t>(std::countr_one(word >> first));
    visit(first, length);
    if (first + length == 64) return;
    word &= ~uint64_t{0} << (first + length);
  }
}

}  // namespace

std::string BlockOwner::ToString() const {
  switch (kind) {
    case Kind::kFixed:
      return "the filesystem's fixed structures";
    case Kind::kInodeTree:
      return absl::StrCat("the inode tree of group ", id);
    case Kind::kInodeChunk:
      return absl::StrCat("inodes of group ", id);
    case Kind::kOrphanTree:
      return "the orphan tree";
    case Kind::kFileData:
      return absl::StrCat("data of inode ", id);
    case Kind::kDataTree:
      return absl::StrCat("the data tree of inode ", id);
    case Kind::kAttributeTree:
      return absl::StrCat("the attribute tree of inode ", id);
  }
  return "?";
}

BlockUsage::BlockUsage(const Superblock& superblock, ProblemList& problems)
    : superblock_(superblock), problems_(problems), groups_(superblock.ag_count) {}

void BlockUsage::UseFixed(BlockNumber block, uint64_t length) {
  Use({BlockOwner::Kind::kFixed}, block, length);
}

void BlockUsage::AddGroup(uint32_t ag, bool initialized) {
  const uint32_t length = AgLength(ag, superblock_.total_blocks);
  const uint32_t bitmaps = AgBitmapBlocks(ag, superblock_.total_blocks);
  if (!initialized) {
    used_blocks_ += kAgBitmapOffset + bitmaps + (ag + 1 == superblock_.ag_count ? 1 : 0);
    return;
  }
  const uint32_t words = bitmaps * kWordsPerBitmapBlock;
  groups_[ag] = std::make_unique<uint64_t[]>(words);
  // Bits past the group's end count as set.
  ForEachWord(length, words * 64 - length,
              [&](uint32_t word, uint64_t mask) { groups_[ag][word] |= mask; });
  UseFixedOf(ag);
}

void BlockUsage::UseFixedOf(uint32_t ag) {
  const uint64_t total = superblock_.total_blocks;
  UseFixed(AgStart(ag), kAgBitmapOffset + AgBitmapBlocks(ag, total));
  if (ag + 1 == superblock_.ag_count) UseFixed(total - 1, 1);
  if (ag != 0) return;
  UseFixed(superblock_.state_block, 1);
  UseFixed(superblock_.ag_table_start, superblock_.ag_table_blocks);
  UseFixed(superblock_.log_start, superblock_.log_blocks);
}

void BlockUsage::Use(const BlockOwner& owner, BlockNumber block, uint64_t length) {
  if (searching_) {
    NoteOwner(twice_, owner, block, length);
    NoteOwner(unmarked_, owner, block, length);
    return;
  }
  PBFS_CHECK(block < superblock_.total_blocks && length <= superblock_.total_blocks - block);
  while (length > 0) {
    const uint32_t ag = AgOf(block);
    const auto start = static_cast<uint32_t>(block - AgStart(ag));
    const auto count = static_cast<uint32_t>(std::min<uint64_t>(length, kAgBlocks - start));
    UseInGroup(owner, ag, start, count);
    block += count;
    length -= count;
  }
}

void BlockUsage::UseInGroup(const BlockOwner& owner, uint32_t ag, uint32_t start, uint32_t length) {
  if (groups_[ag] == nullptr) {
    problems_.Add("group ", ag, ": is not initialized, but block ", AgStart(ag) + start, "+",
                  length, " belongs to ", owner.ToString());
    return;
  }
  uint64_t* const words = groups_[ag].get();
  ForEachWord(start, length, [&](uint32_t word, uint64_t mask) {
    ForEachRun(words[word] & mask, [&](uint32_t first, uint32_t count) {
      AddRun(twice_, AgStart(ag) + word * 64 + first, count);
    });
    used_blocks_ += static_cast<uint64_t>(std::popcount(mask & ~words[word]));
    words[word] |= mask;
  });
}

uint32_t BlockUsage::CompareBitmap(uint32_t ag, uint32_t index, const BitmapBlock& bitmap) {
  const uint64_t* const found = groups_[ag].get() + size_t{index} * kWordsPerBitmapBlock;
  const BlockNumber first_block = AgStart(ag) + uint64_t{index} * kBitsPerBitmapBlock;
  uint32_t free_blocks = 0;
  std::vector<Run> leaked;
  for (uint32_t word = 0; word < kWordsPerBitmapBlock; ++word) {
    const uint64_t marked = bitmap.words[word];
    free_blocks += static_cast<uint32_t>(std::popcount(~marked));
    if (marked == found[word]) continue;
    const BlockNumber base = first_block + word * 64;
    ForEachRun(found[word] & ~marked,
               [&](uint32_t first, uint32_t count) { AddRun(unmarked_, base + first, count); });
    ForEachRun(marked & ~found[word],
               [&](uint32_t first, uint32_t count) { AddRun(leaked, base + first, count); });
  }
  for (const Run& run : leaked) {
    problems_.Add(Describe(run), ": marked in use, but nothing uses it (leaked)");
  }
  return free_blocks;
}

// Joined with the run before where both are adjacent.
void BlockUsage::AddRun(std::vector<Run>& runs, BlockNumber block, uint64_t length) {
  if (!runs.empty() && runs.back().block + runs.back().length == block) {
    runs.back().length += length;
  } else if (runs.size() < kRunsMax) {
    runs.push_back({block, length});
  }
}

void BlockUsage::SortAndMerge(std::vector<Run>& runs) {
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.block < b.block; });
  std::vector<Run> merged;
  for (const Run& run : runs) {
    if (!merged.empty() && run.block < merged.back().block + merged.back().length) {
      const uint64_t end =
          std::max(merged.back().block + merged.back().length, run.block + run.length);
      merged.back().length = end - merged.back().block;
    } else {
      merged.push_back(run);
    }
  }
  runs = std::move(merged);
}

void BlockUsage::BeginOwnerSearch() {
  searching_ = true;
  SortAndMerge(twice_);
  SortAndMerge(unmarked_);
  for (uint32_t ag = 0; ag < superblock_.ag_count; ++ag) {
    if (groups_[ag] != nullptr) UseFixedOf(ag);
  }
}

void BlockUsage::NoteOwner(std::vector<Run>& runs, const BlockOwner& owner, BlockNumber block,
                           uint64_t length) {
  auto run = std::upper_bound(runs.begin(), runs.end(), block,
                              [](BlockNumber wanted, const Run& candidate) {
                                return wanted < candidate.block + candidate.length;
                              });
  for (; run != runs.end() && run->block < block + length; ++run) {
    // The fixed structures are noted piece by piece; a file may well have a block twice.
    const bool repeated = owner.kind == BlockOwner::Kind::kFixed && !run->owners.empty() &&
                          run->owners.back() == owner;
    if (!repeated && run->owners.size() < kOwnersMax) run->owners.push_back(owner);
  }
}

std::string BlockUsage::Describe(const Run& run) {
  if (run.length == 1) return absl::StrCat("block ", run.block);
  return absl::StrCat("blocks ", run.block, "-", run.block + run.length - 1);
}

std::string BlockUsage::OwnersOf(const Run& run) {
  std::string text;
  for (const BlockOwner& owner : run.owners) {
    absl::StrAppend(&text, text.empty() ? "" : " and by ", owner.ToString());
  }
  return text;
}

void BlockUsage::ReportConflicts() {
  for (const Run& run : twice_) {
    problems_.Add(Describe(run), ": used twice: by ", OwnersOf(run));
  }
  for (const Run& run : unmarked_) {
    problems_.Add(Describe(run), ": marked free, but used by ", OwnersOf(run),
                  " (double use possible)");
  }
}

}  // namespace pbfs
