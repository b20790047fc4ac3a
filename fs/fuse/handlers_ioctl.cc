// SPDX-License-Identifier: Apache-2.0
// Ioctls: those of Linux filesystems that make sense here, XFS's by which a filesystem is shut down
// as if its device had gone, and our own.
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "fs/fuse/control.h"
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

void HandleGoingDown(fuse_req_t request, void* argument) {
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

// An ioctl whose argument is a T that the kernel has copied, for root only. False: answered.
template <typename T>
bool TakeArgument(fuse_req_t request, const void* in, size_t in_size, T& value) {
  if (fuse_req_ctx(request)->uid != 0) {
    ReplyStatus(request, ErrnoError(EPERM, "only root may"));
    return false;
  }
  if (in_size < sizeof(T)) {
    ReplyStatus(request, ErrnoError(EINVAL, "the argument is too short"));
    return false;
  }
  std::memcpy(&value, in, sizeof(T));
  return true;
}

void ReplyIoctl(fuse_req_t request, const Status& status) {
  if (!status.ok()) return ReplyStatus(request, status);
  fuse_reply_ioctl(request, 0, nullptr, 0);
}

void HandleRemount(fuse_req_t request) {
  Session& session = SessionOf(request);
  if (!session.options().remount) return ReplyStatus(request, ErrnoError(ENOTTY, ""));
  session.helper().Queue([&session, request, token = session.NewToken()] {
    ReplyIoctl(request, session.options().remount());
  });
}

void HandleTrim(fuse_req_t request, const void* in, size_t in_size) {
  Session& session = SessionOf(request);
  fstrim_range range = {};
  if (!TakeArgument(request, in, in_size, range)) return;
  session.slow_helper().Queue([&session, request, range, token = session.NewToken()] {
    const auto trimmed = session.fs().Trim(range.start, range.len, range.minlen);
    if (!trimmed.ok()) return ReplyStatus(request, trimmed.status());
    fstrim_range result = range;
    result.len = *trimmed;
    fuse_reply_ioctl(request, 0, &result, sizeof(result));
  });
}

void HandleGetLabel(fuse_req_t request) {
  const std::string label = SessionOf(request).fs().Label();
  char result[FSLABEL_MAX] = {};
  std::memcpy(result, label.data(), std::min(label.size(), sizeof(result) - 1));
  fuse_reply_ioctl(request, 0, result, sizeof(result));
}

void HandleSetLabel(fuse_req_t request, const void* in, size_t in_size) {
  char label[FSLABEL_MAX] = {};
  if (!TakeArgument(request, in, in_size, label)) return;
  ReplyIoctl(request, SessionOf(request).fs().SetLabel({label, strnlen(label, sizeof(label))}));
}

}  // namespace

void HandleIoctl(fuse_req_t request, fuse_ino_t nodeid, unsigned command, void* argument,
                 fuse_file_info*, unsigned, const void* in, size_t in_size, size_t out_size) {
  switch (command) {
    case kGoingDown:
      return HandleGoingDown(request, argument);
    case kIoctlRemount:
      return HandleRemount(request);
    case static_cast<unsigned>(FITRIM):
      return HandleTrim(request, in, in_size);
    case static_cast<unsigned>(FS_IOC_GETFSLABEL):
      return HandleGetLabel(request);
    case static_cast<unsigned>(FS_IOC_SETFSLABEL):
      return HandleSetLabel(request, in, in_size);
    case static_cast<unsigned>(FS_IOC_GETFLAGS):
    case static_cast<unsigned>(FS_IOC_FSGETXATTR):
      return HandleGetFlags(request, nodeid, command, out_size);
    case static_cast<unsigned>(FS_IOC_SETFLAGS):
    case static_cast<unsigned>(FS_IOC_FSSETXATTR):
      return HandleSetFlags(request, nodeid, command, in, in_size);
    default:
      return ReplyStatus(request, ErrnoError(ENOTTY, ""));
  }
}

}  // namespace pbfs::fuse
