// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace pbfs {

struct KernelMountRequest {
  std::string device;
  std::string mountpoint;
  // fuseblk: the kernel claims the block device, and umount(2) waits for the server.
  bool fuseblk = false;
  bool allow_other = false;
  size_t read_bytes_max = 0;  // Of one READ.
  unsigned long flags = 0;    // MS_*.
  // The same flags as words, for fusermount3.
  std::vector<std::string> words;
};

// Makes the kernel's side of a mount: mount(2) as root, fusermount3 otherwise. Returns the FUSE
// descriptor; nothing answers there yet, so nobody must look at the mountpoint from this thread.
StatusOr<int> MountKernelSide(const KernelMountRequest& request);

// Ends a mount. EBUSY unless `lazy`.
Status UnmountKernelSide(const std::string& mountpoint, bool lazy);

}  // namespace pbfs
