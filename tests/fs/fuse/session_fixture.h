// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "fs/fuse/session.h"
#include "fs/make_filesystem.h"
#include "io/memory_device.h"
#include "tests/fs/fuse/fake_kernel.h"

namespace pbfs::fuse {

// What this kernel can.
inline constexpr uint32_t kOffered =
    FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_ATOMIC_O_TRUNC | FUSE_EXPORT_SUPPORT |
    FUSE_BIG_WRITES | FUSE_DONT_MASK | FUSE_FLOCK_LOCKS | FUSE_AUTO_INVAL_DATA |
    FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_WRITEBACK_CACHE |
    FUSE_NO_OPEN_SUPPORT | FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV | FUSE_MAX_PAGES |
    FUSE_CACHE_SYMLINKS | FUSE_NO_OPENDIR_SUPPORT | FUSE_HANDLE_KILLPRIV_V2;

// A session on a filesystem in memory, whose kernel the test is.
class SessionFixture : public testing::Test {
 protected:
  SessionFixture() : device_(64 << 20) {
    EXPECT_TRUE(MakeFilesystem(device_, {}).ok());
    MountOptions options;
    options.cache_bytes = 16 << 20;
    options.collects_writes = true;
    auto fs = FileSystem::Mount(device_, options);
    EXPECT_TRUE(fs.ok()) << fs.status();
    fs_ = *std::move(fs);
  }
  ~SessionFixture() override {
    kernel_.HangUp();
    if (session_ == nullptr) return;
    session_->WaitForEnd();
    End();
  }

  fuse_init_out Start(SessionOptions options = {}, uint32_t offered = kOffered) {
    auto session = Session::Create(kernel_.server_fd(), options);
    EXPECT_TRUE(session.ok()) << session.status();
    session_ = *std::move(session);
    fuse_init_in init = {};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = FUSE_KERNEL_MINOR_VERSION;
    init.max_readahead = 128 << 10;
    init.flags = offered;
    const uint64_t unique = kernel_.Send(FUSE_INIT, 0, Bytes(init));
    EXPECT_TRUE(session_->ReceiveInit().ok());
    const Status started = session_->Start(*fs_);
    EXPECT_TRUE(started.ok()) << started;
    const auto reply = kernel_.Receive();
    EXPECT_EQ(reply.unique, unique);
    EXPECT_EQ(reply.error, 0);
    return reply.As<fuse_init_out>();
  }
  void End() {
    EXPECT_TRUE(fs_->Unmount().ok());
    session_->Stop();
    session_.reset();
  }

  // A new file in the root; returns its nodeid.
  uint64_t CreateFile(std::string_view name, uint32_t mode = 0644) {
    fuse_create_in in = {};
    in.mode = S_IFREG | mode;
    const auto reply = kernel_.Call(FUSE_CREATE, kRootNodeId, Bytes(in) + Name(name));
    EXPECT_EQ(reply.error, 0);
    const auto entry = reply.As<fuse_entry_out>();
    EXPECT_EQ(entry.attr.mode, S_IFREG | mode);
    EXPECT_EQ(entry.attr.uid, 1000u);
    EXPECT_EQ(entry.attr.gid, 1001u);
    return entry.nodeid;
  }
  FakeKernel::Reply Write(uint64_t nodeid, uint64_t offset, const std::string& data,
                          uint32_t write_flags = 0, uint32_t flags = 0) {
    fuse_write_in in = {};
    in.offset = offset;
    in.size = static_cast<uint32_t>(data.size());
    in.write_flags = write_flags;
    in.flags = flags;
    return kernel_.Call(FUSE_WRITE, nodeid, Bytes(in) + data);
  }
  std::string Read(uint64_t nodeid, uint64_t offset, uint32_t size) {
    fuse_read_in in = {};
    in.offset = offset;
    in.size = size;
    const auto reply = kernel_.Call(FUSE_READ, nodeid, Bytes(in));
    EXPECT_EQ(reply.error, 0);
    return reply.body;
  }
  fuse_attr_out GetAttributes(uint64_t nodeid) {
    return kernel_.Call(FUSE_GETATTR, nodeid, Bytes(fuse_getattr_in{})).As<fuse_attr_out>();
  }
  int SetXattr(uint64_t nodeid, std::string_view name, const std::string& value) {
    struct {
      uint32_t size;
      uint32_t flags;
    } in = {static_cast<uint32_t>(value.size()), 0};
    return kernel_.Call(FUSE_SETXATTR, nodeid, Bytes(in) + Name(name) + value).error;
  }
  FakeKernel::Reply GetXattr(uint64_t nodeid, std::string_view name, uint32_t size) {
    fuse_getxattr_in in = {};
    in.size = size;
    return kernel_.Call(FUSE_GETXATTR, nodeid, Bytes(in) + Name(name));
  }

  MemoryDevice device_;
  FakeKernel kernel_;
  std::unique_ptr<FileSystem> fs_;
  std::unique_ptr<Session> session_;
};

}  // namespace pbfs::fuse
