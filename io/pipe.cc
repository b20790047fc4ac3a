// SPDX-License-Identifier: Apache-2.0
#include "io/pipe.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

namespace pbfs {

StatusOr<std::unique_ptr<Pipe>> Pipe::Create(size_t pages) {
  const auto page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (pages > INT_MAX / page_bytes) return ErrnoError(EINVAL, "no pipe of that size");
  const auto wanted_bytes = static_cast<int>(pages * page_bytes);
  std::unique_ptr<Pipe> pipe(new Pipe);
  if (pipe2(pipe->ends_, O_CLOEXEC | O_NONBLOCK) != 0) {
    pipe->ends_[0] = pipe->ends_[1] = -1;
    return ErrnoError(errno, "no pipe");
  }
  if (fcntl(pipe->write_end(), F_GETPIPE_SZ) < wanted_bytes &&
      fcntl(pipe->write_end(), F_SETPIPE_SZ, wanted_bytes) < wanted_bytes) {
    return ErrnoError(errno, "no pipe of that size");
  }
  return pipe;
}

Pipe::~Pipe() {
  for (const int end : ends_) {
    if (end >= 0) close(end);
  }
}

int WriteToPipe(int write_end, const void* memory, size_t length_bytes) {
  const auto* from = static_cast<const std::byte*>(memory);
  while (length_bytes > 0) {
    const ssize_t written = write(write_end, from, length_bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    from += written;
    length_bytes -= static_cast<size_t>(written);
  }
  return 0;
}

}  // namespace pbfs
