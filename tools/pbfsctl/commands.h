// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace pbfs {

// The subcommands of pbfsctl. They print to standard output; an error is a sentence for the user.

// Of a mounted filesystem: its server's counters. Of a device or image: superblock and space.
Status ShowStats(const std::string& path, bool json);

// Has the server of the filesystem mounted at `mountpoint` make everything durable that reached it.
Status SyncMount(const std::string& mountpoint);

// Shuts the filesystem mounted at `mountpoint` down: from now on its server gives EIO for
// everything and leaves the device alone. `mode_name`: "default", "logflush" or "nologflush".
Status ShutDownMount(const std::string& mountpoint, const std::string& mode_name);

// Has the server tell its device of all free space (root only); prints how much.
Status TrimMount(const std::string& mountpoint, bool json);

// Prints the label, or changes it (root only).
Status LabelMount(const std::string& mountpoint, const std::optional<std::string>& label,
                  bool json);

// Prints structures on a device. `what`: nothing (the superblocks), "superblock", "state", "log",
// {"ag", N}, {"inode", N} or {N}, a block.
Status DumpDevice(const std::string& path, const std::vector<std::string>& what, bool json);

}  // namespace pbfs
