// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"
#include "fs/format.h"
#include "io/block_device.h"

namespace pbfs {

inline constexpr uint64_t kLogBytesAutoMin = uint64_t{kLogBlocksMin} * kBlockBytes;
inline constexpr uint64_t kLogBytesAutoMax = 128 << 20;
// A last group that is shorter than this is left out: it would be little more than its own head.
inline constexpr uint32_t kLastAgBlocksMin = 64;

struct MakeOptions {
  uint64_t size_bytes = 0;        // Of the filesystem; 0: the whole device.
  uint64_t log_bytes = 0;         // 0: chosen by size.
  std::string label = {};         // At most kLabelBytes bytes, no control characters.
  std::optional<Uuid> uuid = {};  // Random when absent.
  bool discard = true;            // Tell the device first that nothing on it matters.
  // Owner of the root directory.
  uint32_t root_uid = 0;
  uint32_t root_gid = 0;
};

// Blocks of a filesystem on `size_bytes`: rounded down to blocks, and to the group before when the
// last group would be shorter than kLastAgBlocksMin. The last of them holds a superblock copy.
uint64_t UsableBlocks(uint64_t size_bytes);

// What MakeFilesystem would write: checks everything, touches nothing. Errors (EINVAL, EFBIG) are
// sentences for the user.
StatusOr<Superblock> PlanFilesystem(const Geometry& geometry, const MakeOptions& options);

// Makes an empty filesystem: all that was on the device is lost. Every old superblock is destroyed
// first and the new ones are written last, so a run that was cut off leaves nothing that mounts, or
// the complete new filesystem. The caller has made sure that nobody else uses the device. May
// block.
StatusOr<Superblock> MakeFilesystem(BlockDevice& device, const MakeOptions& options);

}  // namespace pbfs
