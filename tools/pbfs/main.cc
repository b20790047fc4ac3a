// SPDX-License-Identifier: Apache-2.0
// pbfs: mounts a filesystem and serves it. Also mount(8)'s helper, by the name it is called.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "fs/fuse/control.h"
#include "tools/common/terminal.h"
#include "tools/pbfs/command_line.h"
#include "tools/pbfs/daemon.h"
#include "tools/pbfs/kernel_mount.h"
#include "tools/pbfs/logger.h"
#include "tools/pbfs/mount_table.h"
#include "tools/pbfs/process_tuning.h"
#include "tools/pbfs/server.h"

namespace pbfs {
namespace {

StatusOr<std::string> RealPath(const std::string& path) {
  char* const resolved = realpath(path.c_str(), nullptr);
  if (resolved == nullptr) {
    return ErrnoError(errno, absl::StrCat(path, ": ", strerror(errno)));
  }
  std::string result = resolved;
  free(resolved);
  return result;
}

// The same for a place that may itself be a mount without a server.
StatusOr<std::string> RealPathOfMountpoint(const std::string& path) {
  StatusOr<std::string> real = RealPath(path);
  if (real.ok() || ErrnoOf(real.status()) != ENOTCONN) return real;
  const size_t slash = path.find_last_of('/');
  const bool plain = slash == std::string::npos;
  PBFS_ASSIGN_OR_RETURN(const std::string parent,
                        RealPath(plain ? "." : path.substr(0, slash + 1)));
  return absl::StrCat(parent == "/" ? "" : parent, "/", plain ? path : path.substr(slash + 1));
}

// The mountpoint without symbolic links. Mounts of ours that lost their server are taken away
// first.
StatusOr<std::string> PrepareMountpoint(const std::string& path) {
  PBFS_ASSIGN_OR_RETURN(const std::string real, RealPathOfMountpoint(path));
  for (auto entry = FindMountAt(real); entry && entry->is_pbfs() && entry->is_dead();
       entry = FindMountAt(real)) {
    PBFS_RETURN_IF_ERROR(UnmountKernelSide(real, true));
  }
  struct stat status = {};
  if (stat(real.c_str(), &status) != 0) {
    return ErrnoError(errno, absl::StrCat(real, ": ", strerror(errno)));
  }
  if (!S_ISDIR(status.st_mode)) {
    return ErrnoError(ENOTDIR, absl::StrCat(real, ": the mountpoint is not a directory"));
  }
  return real;
}

Status Remount(const CommandLine& command) {
  if (mount(command.device.c_str(), command.mountpoint.c_str(), nullptr,
            command.options.kernel_flags | MS_REMOUNT, nullptr) != 0) {
    return ErrnoError(errno,
                      absl::StrCat("cannot remount ", command.mountpoint, ": ", strerror(errno)));
  }
  // The server would see it by itself, but only we can say whether it could follow.
  const int root = open(command.mountpoint.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const int error = root >= 0 && ioctl(root, fuse::kIoctlRemount) == 0 ? 0 : errno;
  if (root >= 0) close(root);
  if (error == 0) return OkStatus();
  return ErrnoError(
      error, absl::StrCat(command.mountpoint, ": the server cannot follow: ", strerror(error)));
}

void UnmountOnSignal(Server& server) {
  const sigset_t signals = EndingSignals();
  for (;;) {
    int number = 0;
    if (sigwait(&signals, &number) != 0) continue;
    if (server.has_ended()) return;
    server.RequestUnmount();
  }
}

int Fail(Logger& logger, const Status& status, int exit_code) {
  logger.Write(std::string(status.message()));
  return exit_code;
}

// Mounts, tells how it went, serves to the end.
int MountAndServe(const CommandLine& command, const std::string& mountpoint, Daemon& daemon) {
  TuneProcess();
  // Inside mount(8) we speak as it does.
  Logger logger(command.as_helper ? absl::StrCat("mount: ", Printable(mountpoint)) : "pbfs",
                command.device, command.verbose || command.foreground);
  if (!command.options.log_path.empty()) {
    if (const Status status = logger.OpenFile(command.options.log_path); !status.ok()) {
      return Fail(logger, status, kExitSystem);
    }
  }
  // Before any thread exists, so that all inherit it.
  const sigset_t signals = EndingSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  umask(0);
  auto server = Server::Mount(command.device, mountpoint, command.options, logger);
  if (!server.ok()) return Fail(logger, server.status(), kExitMountFailure);
  if (*server == nullptr) return 0;
  if (!command.foreground) logger.GoToBackground();
  std::thread unmounter(UnmountOnSignal, std::ref(**server));
  daemon.Report(0);
  const Status status = (*server)->Run();
  pthread_kill(unmounter.native_handle(), SIGTERM);  // It waits for one.
  unmounter.join();
  return status.ok() ? 0 : kExitSystem;
}

int Main(int argc, char** argv) {
  const auto parsed = ParseCommandLine(argc, argv);
  if (!parsed.ok()) {
    std::fprintf(stderr, "pbfs: %s\n", std::string(parsed.status().message()).c_str());
    return kExitUsage;
  }
  if (!parsed->has_value()) return 0;
  CommandLine command = **parsed;
  Status status;
  if (command.options.remount) {
    status = command.fake ? OkStatus() : Remount(command);
    if (status.ok()) return 0;
  }
  StatusOr<std::string> mountpoint = std::string();
  if (status.ok()) {
    mountpoint = PrepareMountpoint(command.mountpoint);
    status = mountpoint.status();
  }
  if (status.ok()) {
    const auto device = RealPath(command.device);
    status = device.status();
    if (status.ok()) command.device = *device;
  }
  if (!status.ok()) {
    std::fprintf(stderr, "pbfs: %s\n", std::string(status.message()).c_str());
    return kExitMountFailure;
  }
  if (command.fake) return 0;
  Daemon daemon;
  int exit_code = 0;
  if (!command.foreground && !daemon.Split(&exit_code)) return exit_code;
  exit_code = MountAndServe(command, *mountpoint, daemon);
  daemon.Report(exit_code);
  // Not exit(): the thread that waits for signals still uses what destructors would take away.
  std::fflush(nullptr);
  _exit(exit_code);
}

}  // namespace
}  // namespace pbfs

int main(int argc, char** argv) { return pbfs::Main(argc, argv); }
