// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/fuse/protocol.h"
#include "gtest/gtest.h"

namespace pbfs::fuse {

// The other end of a /dev/fuse descriptor: a socket that keeps message boundaries. Single thread.
class FakeKernel {
 public:
  struct Reply {
    uint64_t unique = 0;
    int error = 0;  // 0 or positive.
    std::string body;

    template <typename T>
    T As() const {
      T value = {};
      EXPECT_GE(body.size(), sizeof(T));
      std::memcpy(&value, body.data(), std::min(sizeof(T), body.size()));
      return value;
    }
  };

  FakeKernel() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    fd_ = ends[0];
    server_fd_ = ends[1];
    // A request or reply is one message of at most about 100 KiB here.
    const int size = 1 << 20;
    for (const int fd : ends) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    timeval patience = {.tv_sec = 20, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }
  ~FakeKernel() { HangUp(); }
  FakeKernel(const FakeKernel&) = delete;
  FakeKernel& operator=(const FakeKernel&) = delete;

  // The server's descriptor, to be closed by it.
  int server_fd() const { return server_fd_; }
  void HangUp() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }

  // Whose requests the next ones are.
  void SetUser(uint32_t uid) { uid_ = uid; }
  // Sends a request without waiting; returns its unique number.
  uint64_t Send(uint32_t opcode, uint64_t nodeid, const std::string& body) {
    fuse_in_header header = {};
    header.len = static_cast<uint32_t>(sizeof(header) + body.size());
    header.opcode = opcode;
    header.unique = unique_next_;
    header.nodeid = nodeid;
    header.uid = uid_;
    header.gid = 1001;
    unique_next_ += 2;  // Odd ones are interrupts.
    const std::string message =
        std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + body;
    EXPECT_EQ(send(fd_, message.data(), message.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(message.size()));
    return header.unique;
  }
  Reply Receive() {
    std::vector<char> buffer(1 << 20);
    ssize_t bytes;
    do {
      // io_uring interrupts threads that submitted to it.
      bytes = recv(fd_, buffer.data(), buffer.size(), 0);
    } while (bytes < 0 && errno == EINTR);
    fuse_out_header header = {};
    EXPECT_GE(bytes, static_cast<ssize_t>(sizeof(header))) << strerror(errno);
    if (bytes < static_cast<ssize_t>(sizeof(header))) return {};
    std::memcpy(&header, buffer.data(), sizeof(header));
    EXPECT_EQ(header.len, static_cast<uint32_t>(bytes));
    return {
        header.unique, -header.error,
        std::string(buffer.data() + sizeof(header), static_cast<size_t>(bytes) - sizeof(header))};
  }
  // Passes over notifications that come before the answer.
  Reply Call(uint32_t opcode, uint64_t nodeid, const std::string& body) {
    const uint64_t unique = Send(opcode, nodeid, body);
    Reply reply = Receive();
    while (reply.unique == 0 && !testing::Test::HasFailure()) reply = Receive();
    EXPECT_EQ(reply.unique, unique);
    return reply;
  }
  bool HasReply() const {
    char byte;
    return recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
  }

 private:
  int fd_ = -1;
  int server_fd_ = -1;
  uint64_t unique_next_ = 2;
  uint32_t uid_ = 1000;
};

// The bytes of a protocol struct.
template <typename T>
std::string Bytes(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}
// A name as requests carry it.
inline std::string Name(std::string_view name) { return std::string(name) + '\0'; }

}  // namespace pbfs::fuse
