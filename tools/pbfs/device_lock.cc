// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfs/device_lock.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/common/device_safety.h"

namespace pbfs {
namespace {
constexpr auto kWaitMax = std::chrono::seconds(30);
constexpr auto kWaitStep = std::chrono::milliseconds(20);
}  // namespace

DeviceLock::DeviceLock(DeviceLock&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      claim_fd_(std::exchange(other.claim_fd_, -1)),
      is_block_device_(other.is_block_device_),
      device_number_(other.device_number_) {}

DeviceLock& DeviceLock::operator=(DeviceLock&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(claim_fd_, other.claim_fd_);
  is_block_device_ = other.is_block_device_;
  device_number_ = other.device_number_;
  return *this;
}

Status DeviceLock::Claim() {
  if (claim_fd_ >= 0) return OkStatus();
  claim_fd_ = open(path_.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
  if (claim_fd_ >= 0) return OkStatus();
  if (errno != EBUSY) return ErrnoError(errno, strerror(errno));
  return ErrnoError(EBUSY, FindUser(fd_).value_or("it is in use"));
}

void DeviceLock::Disclaim() {
  if (claim_fd_ >= 0) close(std::exchange(claim_fd_, -1));
}

void DeviceLock::Release() {
  Disclaim();
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

StatusOr<DeviceLock> DeviceLock::Take(const std::string& path, bool read_only,
                                      const std::function<bool()>& give_up) {
  DeviceLock lock;
  lock.path_ = path;
  lock.fd_ =
      open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  struct stat status = {};
  if (lock.fd_ < 0 || fstat(lock.fd_, &status) != 0) {
    return ErrnoError(errno, strerror(errno));
  }
  lock.is_block_device_ = S_ISBLK(status.st_mode);
  lock.device_number_ = status.st_rdev;
  if (!lock.is_block_device_ && !S_ISREG(status.st_mode)) {
    return ErrnoError(ENOTBLK, "it is neither a block device nor an image file");
  }
  // The kernel lets root open a write-protected block device for writing.
  int write_protected = 0;
  if (lock.is_block_device_ && !read_only && ioctl(lock.fd_, BLKROGET, &write_protected) == 0 &&
      write_protected != 0) {
    return ErrnoError(EROFS, strerror(EROFS));
  }
  const auto end = std::chrono::steady_clock::now() + kWaitMax;
  while (flock(lock.fd_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return ErrnoError(errno, strerror(errno));
    if (give_up()) return ErrnoError(ECANCELED, "given up");
    if (std::chrono::steady_clock::now() >= end) {
      return ErrnoError(EBUSY, absl::StrCat("it is in use by ", FlockHolder(lock.fd_)));
    }
    std::this_thread::sleep_for(kWaitStep);
  }
  return lock;
}

}  // namespace pbfs
