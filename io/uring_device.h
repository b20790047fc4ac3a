// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/block_device.h"

namespace pbfs {

struct UringDeviceOptions {
  bool read_only = false;
  // O_EXCL open of a block device: EBUSY when the kernel or another opener claims it.
  bool exclusive = false;
  // Bound on pieces in flight on this device; further requests wait in a queue, in order.
  unsigned in_flight_max = 256;
  // Tests: behave as if io_uring (or O_DIRECT) were refused by the host.
  bool force_thread_pool = false;
  bool force_buffered = false;
};

// A raw block device, loop device or image file, O_DIRECT over io_uring. Where io_uring is off
// (EPERM, ENOSYS, sysctl) it falls back to preadv2/pwritev2 on a small thread pool; where the host
// refuses O_DIRECT, to buffered I/O. Both are said once through `warnings()`.
class UringDevice : public BlockDevice {
 public:
  static StatusOr<std::unique_ptr<UringDevice>> Open(const std::string& path,
                                                     const UringDeviceOptions& options);
  // Takes over an open file descriptor.
  static StatusOr<std::unique_ptr<UringDevice>> Adopt(int fd, const std::string& path,
                                                      const UringDeviceOptions& options);

  // Lines for people about fallbacks taken.
  virtual const std::vector<std::string>& warnings() const = 0;
  // The open descriptor; borrowed.
  virtual int fd() const = 0;
};

}  // namespace pbfs
