// SPDX-License-Identifier: Apache-2.0
#include "tools/fsck/fsck_options.h"

#include <getopt.h>

#include <cstdio>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace pbfs {
namespace {

constexpr char kHelp[] =
    "Checks a pbfs filesystem.\n"
    "Usage: fsck.pbfs [-n | -p | -a | -y] [-f] [-v] [-C[FD]] DEVICE\n"
    "\n"
    "  -n       Read only: replay a dirty log in memory, check everything, write nothing\n"
    "  -p, -a   At boot: finish what a crash left; check if there was something\n"
    "  -y       Finish what a crash left, check everything (as without option)\n"
    "  -f       Check everything, whatever state the filesystem is in\n"
    "  -v       Say more about what was found\n"
    "  -C[FD]   Show progress (to a program on descriptor FD)\n"
    "  -M       Do nothing if the filesystem is mounted\n"
    "  -V       Print the version\n"
    "  -h       Print this\n";

constexpr option kLongOptions[] = {
    {"help", no_argument, nullptr, 'h'},
    {"version", no_argument, nullptr, 'V'},
    {nullptr, 0, nullptr, 0},
};

Status UsageError(const std::string& message) {
  return ErrnoError(EINVAL, absl::StrCat(message, "\nTry: fsck.pbfs --help"));
}

Status SetMode(FsckOptions& options, FsckOptions::Mode mode) {
  if (options.mode != FsckOptions::Mode::kDefault && options.mode != mode) {
    return UsageError("only one of -n, -p, -a and -y can be given");
  }
  options.mode = mode;
  return OkStatus();
}

// Option letters with an effect on `options`; EINVAL for others.
Status Apply(FsckOptions& options, int letter, const char* argument, bool& yes) {
  switch (letter) {
    case 'n':
      return SetMode(options, FsckOptions::Mode::kReadOnly);
    case 'p':
    case 'a':
      return SetMode(options, FsckOptions::Mode::kPreen);
    case 'y':
      yes = true;
      return OkStatus();
    case 'f':
      options.force = true;
      return OkStatus();
    case 'v':
      options.verbose = true;
      return OkStatus();
    case 'M':
      options.skip_mounted = true;
      return OkStatus();
    case 'T':  // fsck(8): no title. We have none.
    case 'r':  // Ask before repairs. There are none.
      return OkStatus();
    case 'C': {
      int fd = 0;
      if (argument != nullptr && !absl::SimpleAtoi(argument, &fd)) {
        return UsageError(absl::StrCat("-C", argument, ": not a file descriptor"));
      }
      options.progress_fd = fd;
      return OkStatus();
    }
    default:
      return UsageError("unknown option");
  }
}

}  // namespace

StatusOr<std::optional<FsckOptions>> ParseFsckOptions(int argc, char** argv) {
  FsckOptions options;
  bool yes = false;
  opterr = 0;
  for (;;) {
    const int letter = getopt_long(argc, argv, "npayfvMTrC::Vh", kLongOptions, nullptr);
    if (letter == -1) break;
    if (letter == 'h') std::fputs(kHelp, stdout);
    if (letter == 'V') std::puts("fsck.pbfs " PBFS_VERSION);
    if (letter == 'h' || letter == 'V') return std::optional<FsckOptions>();
    if (letter == '?') return UsageError(absl::StrCat("unknown option: ", argv[optind - 1]));
    PBFS_RETURN_IF_ERROR(Apply(options, letter, optarg, yes));
  }
  if (yes && options.mode != FsckOptions::Mode::kDefault) {
    return UsageError("only one of -n, -p, -a and -y can be given");
  }
  if (argc - optind != 1) {
    return UsageError(argc == optind ? "which device?" : "one device at a time");
  }
  options.device = argv[optind];
  return std::make_optional(std::move(options));
}

}  // namespace pbfs
