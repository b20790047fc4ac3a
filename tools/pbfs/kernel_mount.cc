// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfs/kernel_mount.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "fs/format.h"
#include "fs/fuse/protocol.h"

namespace pbfs {
namespace {

constexpr char kFusermount[] = "fusermount3";

Status SystemError(int error, const std::string& what) {
  return ErrnoError(error, absl::StrCat(what, ": ", strerror(error)));
}

StatusOr<int> MountAsRoot(const KernelMountRequest& request) {
  const int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    return SystemError(errno,
                       errno == ENOENT ? "/dev/fuse (is the fuse module loaded?)" : "/dev/fuse");
  }
  std::string data =
      absl::StrCat("fd=", fd, ",rootmode=40000,user_id=", getuid(), ",group_id=", getgid(),
                   ",default_permissions,max_read=", request.read_bytes_max);
  if (request.allow_other) data += ",allow_other";
  if (request.fuseblk) data += absl::StrCat(",blksize=", kBlockBytes);
  const char* type = request.fuseblk ? "fuseblk.pbfs" : "fuse.pbfs";
  if (mount(request.device.c_str(), request.mountpoint.c_str(), type, request.flags,
            data.c_str()) != 0) {
    const int error = errno;
    close(fd);
    return SystemError(error, absl::StrCat("cannot mount on ", request.mountpoint));
  }
  return fd;
}

// Runs fusermount3 and waits for it. `environment`: one more variable, or nullptr.
Status RunFusermount(const std::vector<std::string>& arguments, char* variable) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::vector<char*> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
  if (variable != nullptr) environment.push_back(variable);
  environment.push_back(nullptr);
  pid_t pid = 0;
  const int error =
      posix_spawnp(&pid, kFusermount, nullptr, nullptr, argv.data(), environment.data());
  if (error != 0) return SystemError(error, kFusermount);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) return ErrnoError(EPERM, absl::StrCat(kFusermount, " failed"));
  return OkStatus();
}

StatusOr<int> ReceiveDescriptor(int socket) {
  char byte = 0;
  iovec segment = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &segment;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) < 0) return SystemError(errno, kFusermount);
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) {
    return ErrnoError(EPROTO, absl::StrCat(kFusermount, " sent no descriptor"));
  }
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
  return fd;
}

// fusermount3 is setuid root: it checks what a user may do, mounts, and sends the descriptor over
// the socket that _FUSE_COMMFD names.
StatusOr<int> MountAsUser(const KernelMountRequest& request) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    return SystemError(errno, "socketpair");
  }
  const absl::Cleanup close_sockets = [&] {
    close(sockets[0]);
    close(sockets[1]);
  };
  fcntl(sockets[0], F_SETFD, 0);
  const std::string source = absl::StrReplaceAll(request.device, {{"\\", "\\\\"}, {",", "\\,"}});
  std::string options = absl::StrCat(
      "fsname=", source, ",subtype=pbfs,default_permissions,max_read=", request.read_bytes_max);
  if (request.allow_other) options += ",allow_other";
  if (!request.words.empty()) absl::StrAppend(&options, ",", absl::StrJoin(request.words, ","));
  std::string variable = absl::StrCat("_FUSE_COMMFD=", sockets[0]);
  PBFS_RETURN_IF_ERROR(
      RunFusermount({kFusermount, "-o", options, "--", request.mountpoint}, variable.data()));
  return ReceiveDescriptor(sockets[1]);
}

}  // namespace

StatusOr<int> MountKernelSide(const KernelMountRequest& request) {
  return geteuid() == 0 ? MountAsRoot(request) : MountAsUser(request);
}

Status UnmountKernelSide(const std::string& mountpoint, bool lazy) {
  if (geteuid() == 0) {
    if (umount2(mountpoint.c_str(), UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0) {
      return OkStatus();
    }
    return SystemError(errno, absl::StrCat("cannot unmount ", mountpoint));
  }
  std::vector<std::string> arguments = {kFusermount, "-q", "-u"};
  if (lazy) arguments.emplace_back("-z");
  arguments.insert(arguments.end(), {"--", mountpoint});
  return RunFusermount(arguments, nullptr);
}

}  // namespace pbfs
