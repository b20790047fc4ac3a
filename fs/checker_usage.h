// SPDX-License-Identifier: Apache-2.0
// Parts of the checker (fs/checker.h): what it found, and who uses which block.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/checker.h"
#include "fs/format.h"

namespace pbfs {

// Collects problem lines. Muted while the checker walks a second time.
class ProblemList {
 public:
  ProblemList(CheckReport& report, size_t lines_max) : report_(report), lines_max_(lines_max) {}

  template <typename... Parts>
  void Add(const Parts&... parts) {
    if (muted_) return;
    ++report_.problem_count;
    if (report_.problems.size() < lines_max_) report_.problems.push_back(absl::StrCat(parts...));
  }
  // A verifier's words, or what could not be read.
  void Add(const Status& status) {
    NoteError(status);
    Add(std::string(status.message()));
  }
  void AddIn(const std::string& where, const Status& status) {
    NoteError(status);
    Add(where, ": ", std::string(status.message()));
  }
  void Mute() { muted_ = true; }
  void Unmute() { muted_ = false; }

 private:
  void NoteError(const Status& status) {
    if (!muted_ && ErrnoOf(status) == EIO) ++report_.io_error_count;
  }

  CheckReport& report_;
  const size_t lines_max_;
  bool muted_ = false;
};

// Whom a block belongs to.
struct BlockOwner {
  enum class Kind : uint8_t {
    kFixed,  // Superblocks, bitmaps, group table, state block, log.
    kInodeTree,
    kInodeChunk,
    kOrphanTree,
    kFileData,
    kDataTree,
    kAttributeTree,
  };
  Kind kind;
  uint64_t id = 0;  // Inode or group number.

  std::string ToString() const;
  friend bool operator==(const BlockOwner&, const BlockOwner&) = default;
};

// Which blocks are in use by what was found, one bit each in groups that have bitmaps.
// Contradictions are kept as runs; a second walk over all users then names them (BeginOwnerSearch).
class BlockUsage {
 public:
  // Both borrowed.
  BlockUsage(const Superblock& superblock, ProblemList& problems);

  // Each group once, before anything else. In use from the start: its fixed blocks.
  void AddGroup(uint32_t ag, bool initialized);

  // `owner` has these blocks. REQUIRES: they lie within the device.
  void Use(const BlockOwner& owner, BlockNumber block, uint64_t length);

  // Compares with one bitmap block; returns the number of free blocks that it shows.
  uint32_t CompareBitmap(uint32_t ag, uint32_t index, const BitmapBlock& bitmap);

  // There are runs whose owners are wanted. From then on Use() only looks for those.
  bool WantsOwners() const { return !twice_.empty() || !unmarked_.empty(); }
  void BeginOwnerSearch();
  // Adds the problems that waited for names.
  void ReportConflicts();

  uint64_t used_blocks() const { return used_blocks_; }

 private:
  struct Run {
    BlockNumber block;
    uint64_t length;
    std::vector<BlockOwner> owners = {};
  };
  static constexpr size_t kRunsMax = 10'000;
  static constexpr size_t kOwnersMax = 4;

  void UseInGroup(const BlockOwner& owner, uint32_t ag, uint32_t start, uint32_t length);
  void UseFixed(BlockNumber block, uint64_t length);
  void UseFixedOf(uint32_t ag);
  static void AddRun(std::vector<Run>& runs, BlockNumber block, uint64_t length);
  static void SortAndMerge(std::vector<Run>& runs);
  static void NoteOwner(std::vector<Run>& runs, const BlockOwner& owner, BlockNumber block,
                        uint64_t length);
  static std::string Describe(const Run& run);
  static std::string OwnersOf(const Run& run);

  const Superblock& superblock_;
  ProblemList& problems_;
  // Empty for groups without bitmaps.
  std::vector<std::unique_ptr<uint64_t[]>> groups_;
  uint64_t used_blocks_ = 0;
  bool searching_ = false;
  std::vector<Run> twice_;     // Used by several.
  std::vector<Run> unmarked_;  // Used, but free in the bitmap.
};

}  // namespace pbfs
