// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "base/status.h"
#include "fs/make_filesystem.h"

namespace pbfs {

// The command line of mkfs.pbfs.
struct MkfsOptions {
  std::string device;
  bool force = false;
  bool quiet = false;
  bool dry_run = false;
  MakeOptions make;
};

// Parses it. nullopt: --help or --version was asked for and has been printed. EINVAL: a sentence
// for the user.
StatusOr<std::optional<MkfsOptions>> ParseMkfsOptions(int argc, char** argv);

}  // namespace pbfs
