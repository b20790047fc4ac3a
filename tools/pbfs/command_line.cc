// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfs/command_line.h"

#include <getopt.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace pbfs {
namespace {

constexpr char kUsage[] =
    "Usage: pbfs [-f] [-o OPTION,...] DEVICE MOUNTPOINT\n"
    "Mounts the pbfs filesystem on DEVICE, a block device or an image file; returns when it is\n"
    "mounted.\n"
    "\n"
    "  -f           stay in the foreground\n"
    "  -v           say what was found and done\n"
    "  -o OPTION,...  mount options:\n"
    "      ro, norecovery       read-only; without replaying the log\n"
    "      cache=SIZE           memory for cached data and metadata (256M)\n"
    "      commit=SECONDS       commit at least this often (5; 1 where type is fuse)\n"
    "      discard              tell the device about freed space\n"
    "      noacl                without POSIX access control lists\n"
    "      nowriteback          let write(2) reach the server at once\n"
    "      open                 send every open(2) to the server\n"
    "      sync, dirsync        write changes at once; those of directories\n"
    "      type=fuse|fuseblk    how the kernel sees the mount\n"
    "      transport=auto|dev   how requests travel\n"
    "      splice=auto|always|never   large reads without a copy\n"
    "      workers=N            threads that receive requests\n"
    "      log=FILE             also write messages there\n"
    "      allow_other          let other users in\n"
    "      suid, dev, exec, atime, relatime, ... and their opposites, as mount(8) has them\n"
    "  --help, --version\n";

// mount.fuse.pbfs -> "fuse.pbfs"; nullopt for other programs.
std::optional<std::string> HelperType(const char* program) {
  std::string_view name = program;
  name.remove_prefix(name.rfind('/') + 1);
  if (name.substr(0, 6) != "mount.") return std::nullopt;
  return std::string(name.substr(6));
}

void ApplyType(std::string_view type, PbfsOptions& options) {
  if (options.type != MountType::kAuto) return;
  if (type == "fuse.pbfs") options.type = MountType::kFuse;
  if (type == "fuseblk.pbfs") options.type = MountType::kFuseblk;
}

StatusOr<std::string> AbsolutePath(const std::string& path) {
  if (path.empty() || path.front() == '/') return path;
  char* const directory = getcwd(nullptr, 0);
  if (directory == nullptr) return ErrnoError(errno, "the working directory cannot be found");
  const std::string result = absl::StrCat(directory, "/", path);
  free(directory);
  return result;
}

}  // namespace

StatusOr<std::optional<CommandLine>> ParseCommandLine(int argc, char** argv) {
  const std::optional<std::string> helper = HelperType(argv[0]);
  static const option kLong[] = {{"help", no_argument, nullptr, 'h'},
                                 {"version", no_argument, nullptr, 'V'},
                                 {nullptr, 0, nullptr, 0}};
  CommandLine command;
  command.as_helper = helper.has_value();
  std::string lists;
  std::string type = helper.value_or("");
  bool sloppy = false;
  int letter;
  while ((letter = getopt_long(argc, argv, "fno:rst:vwN:hV", kLong, nullptr)) != -1) {
    switch (letter) {
      case 'f':
        (helper ? command.fake : command.foreground) = true;
        break;
      case 'o':
        absl::StrAppend(&lists, lists.empty() ? "" : ",", optarg);
        break;
      case 'r':
        absl::StrAppend(&lists, lists.empty() ? "" : ",", "ro");
        break;
      case 's':
        sloppy = true;
        break;
      case 't':
        type = optarg;
        break;
      case 'v':
        command.verbose = true;
        break;
      case 'n':
      case 'w':
      case 'N':
        break;
      case 'h':
        std::fputs(kUsage, stdout);
        return std::nullopt;
      case 'V':
        std::printf("pbfs %s\n", PBFS_VERSION);
        return std::nullopt;
      default:
        return ErrnoError(EINVAL, "see pbfs --help");
    }
  }
  PBFS_RETURN_IF_ERROR(ParseMountOptions(lists, sloppy, command.options));
  if (optind + 2 != argc) return ErrnoError(EINVAL, "DEVICE and MOUNTPOINT are wanted, see --help");
  command.device = argv[optind];
  command.mountpoint = argv[optind + 1];
  ApplyType(type, command.options);
  if (geteuid() == 0) command.options.allow_other = true;
  PBFS_ASSIGN_OR_RETURN(command.options.log_path, AbsolutePath(command.options.log_path));
  return command;
}

}  // namespace pbfs
