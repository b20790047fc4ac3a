// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "base/status.h"
#include "tools/pbfs/mount_options.h"

namespace pbfs {

// What `pbfs` or a mount(8) helper was asked to do.
struct CommandLine {
  std::string device;
  std::string mountpoint;
  PbfsOptions options;
  bool foreground = false;
  bool verbose = false;    // Say what the mount found and did, even if that is as it should be.
  bool as_helper = false;  // Called by mount(8).
  bool fake = false;       // mount -f: everything but the mount.
};

// Parses the arguments. Called as mount.<type> it is mount(8)'s helper: DEVICE MOUNTPOINT -o ...,
// and -f means fake. nullopt: help or the version was printed. EINVAL: a sentence for the user.
StatusOr<std::optional<CommandLine>> ParseCommandLine(int argc, char** argv);

}  // namespace pbfs
