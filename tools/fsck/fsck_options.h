// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>

#include "base/status.h"

namespace pbfs {

// Exit codes of fsck(8), to be added up.
inline constexpr int kFsckClean = 0;
inline constexpr int kFsckFixed = 1;
inline constexpr int kFsckErrorsLeft = 4;
inline constexpr int kFsckFailed = 8;
inline constexpr int kFsckUsage = 16;
inline constexpr int kFsckCancelled = 32;

// The command line of fsck.pbfs.
struct FsckOptions {
  std::string device;
  enum class Mode {
    kDefault,   // No option, or -y: replay and check.
    kReadOnly,  // -n
    kPreen,     // -p, -a: as at boot; a filesystem that was unmounted is not read.
  };
  Mode mode = Mode::kDefault;
  bool force = false;         // -f: check it all whatever its state.
  bool verbose = false;       // -v
  bool skip_mounted = false;  // -M: a mounted filesystem is fine as it is.
  // -C: where progress goes. 0: a bar on standard output; else numbers for a program, on this
  // descriptor; nullopt: a bar if standard output is a terminal.
  std::optional<int> progress_fd;
};

// Parses it. nullopt: --help or --version was asked for and has been printed. EINVAL: a sentence
// for the user.
StatusOr<std::optional<FsckOptions>> ParseFsckOptions(int argc, char** argv);

}  // namespace pbfs
