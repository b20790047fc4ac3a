// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include "base/status.h"

namespace pbfs {

// A pipe as a place for pages: what a device reads into it can go on to another descriptor without
// being copied (splice(2)). Neither end blocks. Thread-compatible.
class Pipe {
 public:
  // With room for that many pages; for more than 256 the caller must be allowed to exceed
  // /proc/sys/fs/pipe-max-size.
  static StatusOr<std::unique_ptr<Pipe>> Create(size_t pages);
  ~Pipe();
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  int read_end() const { return ends_[0]; }
  int write_end() const { return ends_[1]; }

 private:
  Pipe() = default;

  int ends_[2] = {-1, -1};
};

// Copies memory into a pipe that has room for it: 0 or a positive errno.
int WriteToPipe(int write_end, const void* memory, size_t length_bytes);

}  // namespace pbfs
