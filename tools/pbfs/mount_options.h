// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "fs/filesystem.h"
#include "fs/fuse/session.h"

namespace pbfs {

enum class MountType { kAuto, kFuse, kFuseblk };

// What -o says.
struct PbfsOptions {
  MountOptions filesystem;
  bool commit_interval_given = false;
  fuse::SessionOptions session;
  unsigned workers = 0;  // 0: as many as the machine suggests.
  MountType type = MountType::kAuto;
  unsigned long kernel_flags = 0;  // MS_*.
  bool allow_other = false;
  bool remount = false;
  bool read_only_asked = false;  // By ro; norecovery only implies it.
  std::string log_path;
  // The mount flags as words, for fusermount3.
  std::vector<std::string> kernel_words;
};

// What the MS_* flags of a mount say of access times.
AccessTimePolicy AccessTimesOf(unsigned long flags);

// Adds a list "a,b=c,d" as it stands behind -o; a comma inside double quotes belongs to a value.
// EINVAL names the option that is unknown or has a bad value; with `sloppy`, unknown ones are
// passed over (mount -s).
Status ParseMountOptions(std::string_view list, bool sloppy, PbfsOptions& options);

}  // namespace pbfs
