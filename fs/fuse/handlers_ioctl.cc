// SPDX-License-Identifier: Apache-2.0
// Ioctls. One is known: XFS's, by which a filesystem is shut down as if its device had gone.
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <cerrno>

#include "fs/fuse/handlers.h"

namespace pbfs::fuse {
namespace {

// XFS_IOC_GOINGDOWN. Its argument points to a ShutdownMode.
constexpr unsigned kGoingDown = _IOR('X', 125, uint32_t);

// By its number the ioctl returns a word, so the kernel does not send us the one that it takes: it
// is read where the caller has it, who waits for our answer.
StatusOr<uint32_t> ReadWordOf(fuse_req_t request, void* address) {
  uint32_t word = 0;
  const iovec here = {&word, sizeof(word)};
  const iovec there = {address, sizeof(word)};
  const ssize_t bytes = process_vm_readv(fuse_req_ctx(request)->pid, &here, 1, &there, 1, 0);
  if (bytes == sizeof(word)) return word;
  return ErrnoError(bytes < 0 ? errno : EFAULT, "cannot read the argument");
}

StatusOr<ShutdownMode> ShutdownModeOf(fuse_req_t request, void* argument) {
  if (fuse_req_ctx(request)->uid != 0) return ErrnoError(EPERM, "only root may");
  PBFS_ASSIGN_OR_RETURN(const uint32_t word, ReadWordOf(request, argument));
  const auto mode = static_cast<ShutdownMode>(word);
  switch (mode) {
    case ShutdownMode::kDefault:
    case ShutdownMode::kLogFlush:
    case ShutdownMode::kNoLogFlush:
      return mode;
  }
  return ErrnoError(EINVAL, "unknown mode");
}

}  // namespace

void HandleIoctl(fuse_req_t request, fuse_ino_t, unsigned command, void* argument, fuse_file_info*,
                 unsigned, const void*, size_t, size_t) {
  if (command != kGoingDown) return ReplyStatus(request, ErrnoError(ENOTTY, ""));
  const StatusOr<ShutdownMode> mode = ShutdownModeOf(request, argument);
  if (!mode.ok()) return ReplyStatus(request, mode.status());
  Session& session = SessionOf(request);
  const auto shut_down = [&session, request, mode = *mode](const Status& collected) {
    Status status = session.fs().Shutdown(mode);
    if (status.ok()) status = collected;
    if (!status.ok()) return ReplyStatus(request, status);
    fuse_reply_ioctl(request, 0, nullptr, 0);
  };
  if (*mode != ShutdownMode::kDefault) return shut_down(OkStatus());
  session.helper().Queue([&session, shut_down, token = session.NewToken()] {
    shut_down(session.CollectAllDirtyPages());
  });
}

}  // namespace pbfs::fuse
