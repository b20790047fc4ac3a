// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/status.h"
#include "cache/page_cache.h"
#include "io/block_device.h"

namespace pbfs {

struct CheckOptions {
  // For the metadata cache. The smallest is quick to set up; a large filesystem wants more.
  size_t cache_bytes = PageCache::kFramesMin * kPageBytes;
  // Problems beyond these are counted only.
  size_t problem_lines_max = 1000;
  // How far the check is, for a progress bar: `done` of `total` in this phase. Called often.
  std::function<void(const char* phase, uint64_t done, uint64_t total)> progress = {};
  // Asked often: true ends the check with ECANCELED.
  std::function<bool()> cancelled = {};
};

struct CheckReport {
  // A line for each contradiction: "WHAT NUMBER: FIELD is THIS, THAT was found". No newline.
  std::vector<std::string> problems;
  uint64_t problem_count = 0;  // With those that have no line.
  // Of those, blocks that the device could not read: the rest may only follow from them.
  uint64_t io_error_count = 0;
  // Legal, but worth knowing.
  std::vector<std::string> notes;
  bool clean() const { return problem_count == 0; }

  // Set by CheckReplayed.
  bool log_was_dirty = false;
  uint64_t checkpoints_replayed = 0;

  struct Stats {
    uint64_t files = 0;  // Regular ones.
    uint64_t directories = 0;
    uint64_t symlinks = 0;
    uint64_t others = 0;
    uint64_t orphans = 0;  // On the orphan tree; counted above too.
    uint64_t inode_slots = 0;
    uint64_t groups = 0;
    uint64_t groups_initialized = 0;
    uint64_t blocks = 0;
    uint64_t blocks_used = 0;  // By what was found, log and superblock copies included.
    uint64_t data_blocks = 0;  // Of those, contents of regular files.
    uint64_t extents = 0;
  };
  Stats stats;
};

// Checks a whole filesystem against itself: superblock and copies, log anchors, group table, inode
// trees, every inode and its forks, directories and their connection to the root, links, orphans,
// and every bit of the bitmaps of groups in use. Reads only. The log must be clean, as ReplayLog
// leaves it, else EBUSY; orphans may be there.
//
// A filesystem that is damaged, however badly or maliciously, is no error: the report says so. An
// error is only: what is no pbfs of a version and features this program knows (EINVAL, EOPNOTSUPP),
// an unreadable superblock, a dirty log, ECANCELED.
//
// Memory: options.cache_bytes, 1 bit for each block of groups in use, 16 bytes for each inode, 32
// more for a directory. Single thread.
StatusOr<CheckReport> CheckFilesystem(BlockDevice& device, const CheckOptions& options = {});

// As the next mount would find it: a dirty log is replayed into memory first, nothing is written. A
// damaged log is a problem in the report, one that cannot be read an error.
StatusOr<CheckReport> CheckReplayed(BlockDevice& device, const CheckOptions& options = {});

}  // namespace pbfs
