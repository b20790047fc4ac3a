// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace pbfs {

// The subcommands of pbfsctl. They print to standard output; an error is a sentence for the user.

// Of a mounted filesystem: its server's counters. Of a device or image: superblock and space.
Status ShowStats(const std::string& path, bool json);

// Has the server of the filesystem mounted at `mountpoint` make everything durable that reached it.
Status SyncMount(const std::string& mountpoint);

// Prints structures on a device. `what`: nothing (the superblocks), "superblock", "state", "log",
// {"ag", N}, {"inode", N} or {N}, a block.
Status DumpDevice(const std::string& path, const std::vector<std::string>& what, bool json);

}  // namespace pbfs
