// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "io/block_device.h"
#include "io/uring_device.h"

namespace pbfs {

// An open block device or image file, and what the kernel says of it. Owns the descriptor.
struct DeviceFile {
  DeviceFile() = default;
  ~DeviceFile();
  DeviceFile(DeviceFile&& other) noexcept;
  DeviceFile& operator=(DeviceFile&&) = delete;

  int fd = -1;
  bool is_block_device = false;
  bool direct = true;
  Geometry geometry;
  // A line for the user when the host refused O_DIRECT.
  std::vector<std::string> warnings;
};

StatusOr<DeviceFile> OpenDeviceFile(const std::string& path, const UringDeviceOptions& options);
// Takes over `fd`, also when it fails.
StatusOr<DeviceFile> AdoptDeviceFile(int fd, const std::string& path,
                                     const UringDeviceOptions& options);

}  // namespace pbfs
