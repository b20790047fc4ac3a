// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mount.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace pbfs {

// A line of /proc/self/mountinfo.
struct MountEntry {
  int id = 0;        // Its own, also after it was moved.
  dev_t device = 0;  // The filesystem's device number; of a fuseblk mount that of the block device.
  std::string root;  // "/" unless it is a bind mount of a part.
  std::string mountpoint;
  std::string type;
  std::string source;
  // MS_*: of the mount those of access times, MS_NOSUID, MS_NODEV and MS_NOEXEC; of the filesystem,
  // at all its places, MS_RDONLY, MS_SYNCHRONOUS, MS_DIRSYNC and MS_LAZYTIME.
  unsigned long flags = 0;
  // Of a FUSE mount: root mounted it. Its server is not to be trusted otherwise.
  bool is_roots = false;

  bool is_read_only() const { return (flags & MS_RDONLY) != 0; }

  bool is_pbfs() const { return type == "fuse.pbfs" || type == "fuseblk.pbfs"; }
  // Its server is gone: "Transport endpoint is not connected". Asks the server if there is one.
  bool is_dead() const;
};

std::vector<MountEntry> ReadMountTable();
// The topmost mount there.
std::optional<MountEntry> FindMountAt(const std::string& mountpoint);

}  // namespace pbfs
