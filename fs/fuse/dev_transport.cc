// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/dev_transport.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include "base/check.h"

namespace pbfs::fuse {
namespace {

constexpr std::chrono::milliseconds kShortOfMemoryPause(1);

class DevChannel : public Channel {
 public:
  explicit DevChannel(int fd) : fd_(fd) {}

  Received TryReceive(Request& request, ReceiveFrames& frames) override {
    const auto segments = frames.Segments(request.head.data(), request.head.size());
    const ssize_t bytes = readv(fd_, segments.data(), static_cast<int>(segments.size()));
    if (bytes < 0) return AfterError(errno);
    if (static_cast<size_t>(bytes) < sizeof(fuse_in_header)) return Received::kClosed;
    Sort(static_cast<size_t>(bytes), request, frames);
    return Received::kRequest;
  }

  bool HasMore() override {
    pollfd question = {fd_, POLLIN, 0};
    return poll(&question, 1, 0) > 0 && (question.revents & POLLIN) != 0;
  }

 private:
  static Received AfterError(int error) {
    switch (error) {
      case ENOENT:  // The request was aborted between the queue and us.
      case EINTR:
      case EAGAIN:  // Nothing there.
        return Received::kNothing;
      case ENOMEM:
      case EFAULT:
        // No memory for the frames (a cgroup's limit): the kernel has answered that one with EIO.
        std::this_thread::sleep_for(kShortOfMemoryPause);
        return Received::kNothing;
      default:
        return Received::kClosed;
    }
  }

  static void Sort(size_t bytes, Request& request, ReceiveFrames& frames) {
    request.size_bytes = bytes;
    const auto& header = *reinterpret_cast<const fuse_in_header*>(request.head.data());
    request.is_write = header.opcode == FUSE_WRITE && bytes >= kHeadBytes;
    if (request.is_write) {
      frames.Take(bytes - kHeadBytes, request.frames);
      return;
    }
    const size_t head_bytes = bytes < kHeadBytes ? bytes : kHeadBytes;
    request.flat.resize(bytes);
    std::memcpy(request.flat.data(), request.head.data(), head_bytes);
    frames.CopyTo(request.flat.data() + head_bytes, bytes - head_bytes);
  }

  const int fd_;
};

}  // namespace

DevTransport::DevTransport(int fd) : fd_(fd) {
  const int flags = fcntl(fd, F_GETFL);
  PBFS_CHECK(flags >= 0);
  PBFS_CHECK(fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0);
}

StatusOr<std::unique_ptr<IoRing>> DevTransport::MakeRing() {
  auto ring = IoRing::Create(kRingEntries);
  return ring.ok() ? std::move(ring) : IoRing::CreateWithoutTransfers();
}

StatusOr<std::unique_ptr<Channel>> DevTransport::OpenChannel(IoRing& ring) {
  // Nothing to do when it becomes readable but to end RunOnce: the loop then receives.
  ring.WatchReadable(fd_, [] {});
  return std::make_unique<DevChannel>(fd_);
}

int DevTransport::Send(const iovec* segments, int count, Delivery) {
  for (;;) {
    if (writev(fd_, segments, count) >= 0) return 0;
    if (errno != EINTR) return errno;
  }
}

int DevTransport::SendPipe(int read_end, size_t size_bytes) {
  for (;;) {
    if (splice(read_end, nullptr, fd_, nullptr, size_bytes, SPLICE_F_MOVE) >= 0) return 0;
    if (errno != EINTR) return errno;
  }
}

}  // namespace pbfs::fuse
