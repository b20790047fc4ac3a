// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace pbfs {

// Who uses a block device or image file already: "it is mounted on /mnt", "it is in use as swap",
// "it is a member of dm-0", "it is attached to /dev/loop0". nullopt: nobody we can name. Looks at
// the system's tables only.
std::optional<std::string> FindUser(int fd);

// Which process holds the flock of the open file: "pbfs, process 1234"; "another program" where the
// system does not say.
std::string FlockHolder(int fd);

// A device or image that belongs to one tool until this object is destroyed: opened exclusively
// (O_EXCL for block devices) and locked with flock(2), as every pbfs tool and mount does. Waits for
// a server that is unmounted and about to end.
class DeviceClaim {
 public:
  struct Options {
    bool read_only = false;
  };
  // EBUSY with a sentence that says why it cannot be had; the errno of open(2) or stat(2); ENOTBLK
  // for what is neither a block device nor a regular file.
  static StatusOr<DeviceClaim> Take(const std::string& path, const Options& options);
  DeviceClaim(DeviceClaim&& other) noexcept;
  DeviceClaim& operator=(DeviceClaim&&) = delete;
  ~DeviceClaim();

  int fd() const { return fd_; }
  bool is_block_device() const { return is_block_device_; }
  uint64_t size_bytes() const { return size_bytes_; }

 private:
  DeviceClaim(int fd, bool is_block_device, uint64_t size_bytes)
      : fd_(fd), is_block_device_(is_block_device), size_bytes_(size_bytes) {}

  int fd_;
  bool is_block_device_;
  uint64_t size_bytes_;
};

// What is on the device by its signatures: "an ext4 filesystem labelled 'data'", "a gpt partition
// table". Empty: nothing known.
StatusOr<std::vector<std::string>> FindSignatures(int fd);

// Erases every signature libblkid knows, and makes that durable. REQUIRES: `fd` is writable.
Status EraseSignatures(int fd);

}  // namespace pbfs
