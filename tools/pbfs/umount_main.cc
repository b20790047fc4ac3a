// SPDX-License-Identifier: Apache-2.0
// umount.fuse.pbfs, umount.fuseblk.pbfs: umount(8)'s helper. Of a plain fuse mount umount(2)
// returns while the server is still committing; this waits for it.
#include <fcntl.h>
#include <getopt.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <thread>

#include "tools/pbfs/kernel_mount.h"
#include "tools/pbfs/mount_table.h"

namespace pbfs {
namespace {

constexpr int kExitUsage = 1;
constexpr int kExitFailure = 32;
constexpr auto kStep = std::chrono::milliseconds(10);

struct Arguments {
  std::string mountpoint;
  bool lazy = false;
  bool force = false;
  bool read_only_if_busy = false;
};

std::optional<Arguments> Parse(int argc, char** argv) {
  Arguments arguments;
  int letter;
  while ((letter = getopt(argc, argv, "flnrvit:N:")) != -1) {
    if (letter == '?') return std::nullopt;
    arguments.lazy |= letter == 'l';
    arguments.force |= letter == 'f';
    arguments.read_only_if_busy |= letter == 'r';
  }
  if (optind + 1 != argc) return std::nullopt;
  arguments.mountpoint = argv[optind];
  return arguments;
}

// Not realpath() on the mountpoint itself, whose server may be gone.
std::string WithoutLinks(const std::string& path) {
  std::string trimmed = path;
  while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
  if (FindMountAt(trimmed)) return trimmed;
  char* const resolved = realpath(trimmed.c_str(), nullptr);
  std::string result = resolved != nullptr ? resolved : trimmed;
  free(resolved);
  return result;
}

int Unmount(const Arguments& arguments, const std::string& mountpoint) {
  if (geteuid() != 0) return UnmountKernelSide(mountpoint, arguments.lazy).ok() ? 0 : EPERM;
  const int flags =
      UMOUNT_NOFOLLOW | (arguments.lazy ? MNT_DETACH : 0) | (arguments.force ? MNT_FORCE : 0);
  if (umount2(mountpoint.c_str(), flags) == 0) return 0;
  const int error = errno;
  if (error == EBUSY && arguments.read_only_if_busy &&
      mount(nullptr, mountpoint.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0) {
    return 0;
  }
  return error;
}

bool IsMounted(const MountEntry& wanted) {
  const auto table = ReadMountTable();
  return std::any_of(table.begin(), table.end(), [&](const MountEntry& entry) {
    return entry.is_pbfs() && entry.source == wanted.source;
  });
}

// The server holds the lock of its image until everything is committed.
void WaitForServer(const MountEntry& entry) {
  const int fd = open(entry.source.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return;
  // Mounted: in another place too, or by somebody else already.
  while (!IsMounted(entry) && flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    std::this_thread::sleep_for(kStep);
  }
  close(fd);
}

int Main(int argc, char** argv) {
  const auto arguments = Parse(argc, argv);
  if (!arguments) {
    std::fprintf(stderr, "Usage: %s [-flnrv] MOUNTPOINT\n", argv[0]);
    return kExitUsage;
  }
  const std::string mountpoint = WithoutLinks(arguments->mountpoint);
  const auto entry = FindMountAt(mountpoint);
  if (!entry || !entry->is_pbfs()) {
    std::fprintf(stderr, "%s: %s: no pbfs is mounted there\n", argv[0], mountpoint.c_str());
    return kExitFailure;
  }
  if (const int error = Unmount(*arguments, mountpoint); error != 0) {
    std::fprintf(stderr, "%s: %s: %s\n", argv[0], mountpoint.c_str(), strerror(error));
    return kExitFailure;
  }
  if (!arguments->lazy) WaitForServer(*entry);
  return 0;
}

}  // namespace
}  // namespace pbfs

int main(int argc, char** argv) { return pbfs::Main(argc, argv); }
