// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "base/status.h"

namespace pbfs {

// The flock(2) on a device or image that every pbfs tool takes; held from before the mount until
// everything is committed.
class DeviceLock {
 public:
  DeviceLock() = default;
  DeviceLock(DeviceLock&& other) noexcept;
  DeviceLock& operator=(DeviceLock&& other) noexcept;
  ~DeviceLock() { Release(); }

  // Waits for another holder (a server that is still committing after its unmount), but not longer
  // than half a minute; then EBUSY names it. Gives up early, with ECANCELED, when `give_up` says
  // so. EROFS, EACCES: cannot be opened for writing; try `read_only`.
  static StatusOr<DeviceLock> Take(const std::string& path, bool read_only,
                                   const std::function<bool()>& give_up);
  // Has the kernel keep every other filesystem, mirror or exclusive opener off the block device.
  // EBUSY: one has it already.
  Status Claim();
  void Disclaim();
  void Release();

  bool is_block_device() const { return is_block_device_; }
  dev_t device_number() const { return device_number_; }
  int fd() const { return fd_; }

 private:
  std::string path_;
  int fd_ = -1;
  int claim_fd_ = -1;
  bool is_block_device_ = false;
  dev_t device_number_ = 0;  // Of the block device itself.
};

}  // namespace pbfs
