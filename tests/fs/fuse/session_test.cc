// SPDX-License-Identifier: Apache-2.0
// The bridge against a kernel of our own making, on a filesystem in memory.
#include "fs/fuse/session.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <atomic>
#include <chrono>
#include <map>
#include <optional>
#include <thread>
#include <utility>

#include "fs/acl.h"
#include "tests/fs/fuse/session_fixture.h"

namespace pbfs::fuse {
namespace {

using SessionTest = SessionFixture;

std::string Pattern(size_t size) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7 + i / 251);
  return text;
}

TEST_F(SessionTest, AgreesOnWhatItWantsAndNoMore) {
  const fuse_init_out reply = Start();
  EXPECT_EQ(reply.max_write, kWriteBytesMax);
  EXPECT_EQ(reply.max_pages, kWriteBytesMax / 4096);
  EXPECT_GE(reply.max_background, 1024);
  EXPECT_EQ(reply.max_background, reply.congestion_threshold);
  EXPECT_EQ(reply.time_gran, 1u);
  constexpr uint32_t kWanted = FUSE_ASYNC_READ | FUSE_ASYNC_DIO | FUSE_BIG_WRITES |
                               FUSE_WRITEBACK_CACHE | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                               FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_EXPORT_SUPPORT |
                               FUSE_CACHE_SYMLINKS | FUSE_HANDLE_KILLPRIV_V2;
  // No ACLs: for them DONT_MASK is not enough.
  EXPECT_EQ(reply.flags, kWanted);
}

TEST_F(SessionTest, AsksOnlyForWhatTheKernelOffers) {
  const fuse_init_out reply = Start({}, FUSE_BIG_WRITES | FUSE_MAX_PAGES);
  EXPECT_EQ(reply.flags, uint32_t{FUSE_BIG_WRITES | FUSE_MAX_PAGES});
}

TEST_F(SessionTest, NowritebackLeavesTheKernelsWriteCacheOut) {
  EXPECT_EQ(Start({.writeback_cache = false}).flags & FUSE_WRITEBACK_CACHE, 0u);
}

TEST_F(SessionTest, RefusesAFirstRequestThatIsNotInit) {
  auto session = Session::Create(kernel_.server_fd(), {});
  ASSERT_TRUE(session.ok());
  kernel_.Send(FUSE_GETATTR, kRootNodeId, Bytes(fuse_getattr_in{}));
  EXPECT_EQ(ErrnoOf((*session)->ReceiveInit()), EPROTO);
}

TEST_F(SessionTest, TheRootIsNodeOne) {
  Start();
  const fuse_attr_out out = GetAttributes(kRootNodeId);
  EXPECT_EQ(out.attr.ino, fs_->root());
  EXPECT_TRUE(S_ISDIR(out.attr.mode));
  EXPECT_EQ(out.attr.blksize, 4096u);
  const auto dot_dot = kernel_.Call(FUSE_LOOKUP, kRootNodeId, Name(".."));
  EXPECT_EQ(dot_dot.As<fuse_entry_out>().nodeid, kRootNodeId);
}

TEST_F(SessionTest, AMissIsANegativeEntryForEver) {
  Start();
  const auto reply = kernel_.Call(FUSE_LOOKUP, kRootNodeId, Name("nothing"));
  EXPECT_EQ(reply.error, 0);
  EXPECT_EQ(reply.As<fuse_entry_out>().nodeid, 0u);
  EXPECT_GT(reply.As<fuse_entry_out>().entry_valid, uint64_t{1} << 40);
}

TEST_F(SessionTest, ReadsBackWhatWasWritten) {
  Start();
  const uint64_t file = CreateFile("file");
  const std::string data = Pattern(50'000);
  const auto reply = Write(file, 8192, data);
  EXPECT_EQ(reply.error, 0);
  EXPECT_EQ(reply.As<fuse_write_out>().size, data.size());
  EXPECT_EQ(Read(file, 8192, 60'000), data);
  EXPECT_EQ(Read(file, 0, 8192), std::string(8192, '\0'));
  EXPECT_EQ(Read(file, 1 << 20, 4096), "");
  // Not on a page boundary, and shorter than a page.
  EXPECT_EQ(Write(file, 10'001, "inside").error, 0);
  EXPECT_EQ(Read(file, 10'000, 8), data.substr(1808, 1) + "inside" + data.substr(1815, 1));
}

TEST_F(SessionTest, ReceiveFramesLastForManyWrites) {
  Start();
  const uint64_t file = CreateFile("file");
  const std::string data = Pattern(64 << 10);
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_EQ(Write(file, i * data.size(), data, FUSE_WRITE_CACHE).error, 0) << i;
  }
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_EQ(Read(file, i * data.size(), 64 << 10), data) << i;
  }
}

TEST_F(SessionTest, TheKernelCollectsNoMoreWhenTheFilesystemIsFull) {
  std::atomic<uint64_t> limit = 0;
  Start({.limit_collected = [&](uint64_t bytes) { limit = bytes; }});
  const uint64_t other = CreateFile("other");
  const uint64_t file = CreateFile("file");
  const std::string data = Pattern(64 << 10);
  uint64_t filled = 0;
  while (Write(other, filled, data).error == 0) filled += data.size();
  while (Write(other, filled, data.substr(0, 4096)).error == 0) filled += 4096;
  const auto wait_until = [](const auto& holds) {
    for (int i = 0; i < 10'000 && !holds(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return holds();
  };
  EXPECT_TRUE(wait_until([&] { return limit == uint64_t{1} << 20; }));

  fuse_getattr_in in = {};
  in.getattr_flags = FUSE_GETATTR_FH;
  EXPECT_EQ(kernel_.Call(FUSE_GETATTR, file, Bytes(in)).error, 0);
  // There is room for what it has collected, but it is to ask before it collects more of this file.
  EXPECT_EQ(Write(file, 0, data, FUSE_WRITE_CACHE).error, 0);
  EXPECT_EQ(kernel_.Call(FUSE_GETATTR, file, Bytes(in)).error, ENOSPC);
  EXPECT_EQ(GetAttributes(file).attr.size, data.size());
  // A file that takes no space is no concern.
  EXPECT_EQ(Write(other, 0, data, FUSE_WRITE_CACHE).error, 0);
  EXPECT_EQ(kernel_.Call(FUSE_GETATTR, other, Bytes(in)).error, 0);

  ASSERT_EQ(kernel_.Call(FUSE_UNLINK, kRootNodeId, Name("other")).error, 0);
  fuse_forget_in forget = {1};
  kernel_.Send(FUSE_FORGET, other, Bytes(forget));
  EXPECT_TRUE(wait_until([&] { return kernel_.Call(FUSE_GETATTR, file, Bytes(in)).error == 0; }));
}

TEST_F(SessionTest, AWriteKillsSetuidAndItsAttributesExpire) {
  Start();
  const uint64_t file = CreateFile("file");
  fuse_setattr_in in = {};
  in.valid = FATTR_MODE;
  in.mode = S_IFREG | 06755;
  const auto changed = kernel_.Call(FUSE_SETATTR, file, Bytes(in)).As<fuse_attr_out>();
  EXPECT_EQ(changed.attr.mode & 07777, 06755u);
  EXPECT_EQ(changed.attr_valid, 0u);
  EXPECT_EQ(Write(file, 0, "x").error, 0);
  EXPECT_EQ(GetAttributes(file).attr.mode & 07777, 06755u);
  EXPECT_EQ(Write(file, 0, "x", FUSE_WRITE_KILL_SUIDGID).error, 0);
  EXPECT_EQ(GetAttributes(file).attr.mode & 07777, 0755u);
  EXPECT_GT(GetAttributes(file).attr_valid, 0u);
}

TEST_F(SessionTest, TruncateAndChownKillSetuid) {
  Start();
  for (const uint32_t valid : {uint32_t{FATTR_SIZE | FATTR_KILL_SUIDGID}, uint32_t{FATTR_UID}}) {
    const uint64_t file = CreateFile("file" + std::to_string(valid));
    fuse_setattr_in in = {};
    in.valid = FATTR_MODE;
    in.mode = S_IFREG | 06755;
    kernel_.Call(FUSE_SETATTR, file, Bytes(in));
    in = {};
    in.valid = valid;
    in.uid = 2000;
    const auto changed = kernel_.Call(FUSE_SETATTR, file, Bytes(in)).As<fuse_attr_out>();
    EXPECT_EQ(changed.attr.mode & 07777, 0755u) << valid;
  }
}

TEST_F(SessionTest, SetsTimesAsAsked) {
  Start();
  const uint64_t file = CreateFile("file");
  fuse_setattr_in in = {};
  in.valid = FATTR_ATIME | FATTR_MTIME | FATTR_CTIME;
  in.atime = 11;
  in.atimensec = 12;
  in.mtime = static_cast<uint64_t>(-13);
  in.mtimensec = 14;
  in.ctime = 15;
  in.ctimensec = 16;
  const auto attr = kernel_.Call(FUSE_SETATTR, file, Bytes(in)).As<fuse_attr_out>().attr;
  EXPECT_EQ(attr.atime, 11u);
  EXPECT_EQ(attr.atimensec, 12u);
  EXPECT_EQ(attr.mtime, static_cast<uint64_t>(-13));
  EXPECT_EQ(attr.mtimensec, 14u);
  EXPECT_EQ(attr.ctime, 15u);
  EXPECT_EQ(attr.ctimensec, 16u);
  in.valid = FATTR_ATIME | FATTR_ATIME_NOW;
  EXPECT_GT(kernel_.Call(FUSE_SETATTR, file, Bytes(in)).As<fuse_attr_out>().attr.atime, 1u << 30);
}

TEST_F(SessionTest, XattrNamesAreWhole) {
  Start();
  const uint64_t file = CreateFile("file");
  EXPECT_EQ(SetXattr(file, "user.a", "1"), 0);
  EXPECT_EQ(SetXattr(file, "user.longer.name", Pattern(3000)), 0);
  EXPECT_EQ(GetXattr(file, "user.longer.name", 0).As<fuse_getxattr_out>().size, 3000u);
  EXPECT_EQ(GetXattr(file, "user.longer.name", 2999).error, ERANGE);
  EXPECT_EQ(GetXattr(file, "user.longer.name", 4096).body, Pattern(3000));
  EXPECT_EQ(GetXattr(file, "user.none", 10).error, ENODATA);
  EXPECT_EQ(SetXattr(file, "system.posix_acl_access", "x"), EOPNOTSUPP);  // Not agreed on.
  fuse_getxattr_in in = {};
  in.size = 4096;
  const std::string list = kernel_.Call(FUSE_LISTXATTR, file, Bytes(in)).body;
  EXPECT_EQ(list.size(), Name("user.a").size() + Name("user.longer.name").size());
  EXPECT_EQ(kernel_.Call(FUSE_REMOVEXATTR, file, Name("user.a")).error, 0);
  EXPECT_EQ(kernel_.Call(FUSE_REMOVEXATTR, file, Name("user.a")).error, ENODATA);
}

TEST_F(SessionTest, RootAndTheServersUserMayControlIt) {
  Start();
  const uint64_t file = CreateFile("file");
  for (const uint32_t uid : {0u, geteuid()}) {
    kernel_.SetUser(uid);
    EXPECT_EQ(GetXattr(kRootNodeId, "pbfs.stats", 65536).body.substr(0, 17), "{\"operations_ns\":");
    EXPECT_EQ(SetXattr(kRootNodeId, "pbfs.sync", ""), 0);
    EXPECT_EQ(SetXattr(file, "pbfs.sync", ""), EOPNOTSUPP);
    EXPECT_EQ(GetXattr(file, "pbfs.stats", 65536).error, EOPNOTSUPP);
  }
  kernel_.SetUser(geteuid() + 1);
  EXPECT_EQ(GetXattr(kRootNodeId, "pbfs.stats", 65536).error, EPERM);
  EXPECT_EQ(SetXattr(kRootNodeId, "pbfs.sync", ""), EPERM);
}

TEST_F(SessionTest, ReaddirplusRefersOnlyToWhatItSends) {
  Start();
  constexpr int kFiles = 40;
  for (int i = 0; i < kFiles; ++i) CreateFile("name" + std::to_string(i));
  std::map<std::string, uint64_t> seen;
  uint64_t cookie = 0;
  for (;;) {
    fuse_read_in in = {};
    in.offset = cookie;
    in.size = 1000;
    const auto reply = kernel_.Call(FUSE_READDIRPLUS, kRootNodeId, Bytes(in));
    ASSERT_EQ(reply.error, 0);
    ASSERT_LE(reply.body.size(), 1000u);
    if (reply.body.empty()) break;
    for (size_t at = 0; at < reply.body.size();) {
      fuse_direntplus entry = {};
      std::memcpy(&entry, reply.body.data() + at, FUSE_NAME_OFFSET_DIRENTPLUS);
      const char* name = reply.body.data() + at + FUSE_NAME_OFFSET_DIRENTPLUS;
      EXPECT_TRUE(
          seen.emplace(std::string(name, entry.dirent.namelen), entry.entry_out.nodeid).second);
      EXPECT_NE(entry.dirent.ino, 0u);
      cookie = entry.dirent.off;
      at += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + entry.dirent.namelen);
    }
  }
  EXPECT_EQ(seen.size(), kFiles + 2u);
  EXPECT_EQ(seen["."], 0u);
  EXPECT_EQ(seen[".."], 0u);
  // Each has two references now, by CREATE and READDIRPLUS: one batch gives them all back.
  std::string batch;
  for (const auto& [name, nodeid] : seen) {
    if (nodeid != 0) batch += Bytes(fuse_forget_one{.nodeid = nodeid, .nlookup = 2});
  }
  kernel_.Send(FUSE_BATCH_FORGET, 0,
               Bytes(fuse_batch_forget_in{.count = kFiles, .dummy = 0}) + batch);
  EXPECT_EQ(GetAttributes(kRootNodeId).attr.nlink, 2u);
}

TEST_F(SessionTest, OpensAreLeftOutUnlessWanted) {
  Start();
  const uint64_t file = CreateFile("file");
  int served = 0;
  while (served < 1000 && kernel_.Call(FUSE_OPEN, file, Bytes(fuse_open_in{})).error == 0) ++served;
  EXPECT_EQ(served, 256);
  EXPECT_EQ(kernel_.Call(FUSE_OPEN, file, Bytes(fuse_open_in{})).error, ENOSYS);
  EXPECT_EQ(kernel_.Call(FUSE_OPENDIR, kRootNodeId, Bytes(fuse_open_in{})).error, ENOSYS);
  EXPECT_EQ(kernel_.Call(FUSE_FLUSH, file, Bytes(fuse_flush_in{})).error, ENOSYS);
  EXPECT_EQ(kernel_.Call(FUSE_ACCESS, file, Bytes(fuse_access_in{})).error, ENOSYS);
  EXPECT_EQ(kernel_.Call(FUSE_RELEASE, file, Bytes(fuse_release_in{})).error, 0);
}

TEST_F(SessionTest, OpensAreServedIfWanted) {
  Start({.serve_open = true});
  const uint64_t file = CreateFile("file");
  const auto reply = kernel_.Call(FUSE_OPEN, file, Bytes(fuse_open_in{}));
  EXPECT_EQ(reply.error, 0);
  EXPECT_NE(reply.As<fuse_open_out>().open_flags & FOPEN_PARALLEL_DIRECT_WRITES, 0u);
  EXPECT_EQ(kernel_.Call(FUSE_OPENDIR, kRootNodeId, Bytes(fuse_open_in{})).error, 0);
}

TEST_F(SessionTest, SyncsAreNeverRefused) {
  Start();
  const uint64_t file = CreateFile("file");
  EXPECT_EQ(kernel_.Call(FUSE_FSYNC, file, Bytes(fuse_fsync_in{})).error, 0);
  EXPECT_EQ(kernel_.Call(FUSE_FSYNCDIR, kRootNodeId, Bytes(fuse_fsync_in{})).error, 0);
  EXPECT_EQ(kernel_.Call(FUSE_SYNCFS, kRootNodeId, std::string(8, '\0')).error, 0);
}

TEST_F(SessionTest, ASynchronousWriteIsDurableWhenAnswered) {
  Start();
  const uint64_t file = CreateFile("file");
  const uint64_t before = device_.flush_count();
  EXPECT_EQ(Write(file, 0, Pattern(4096)).error, 0);
  EXPECT_EQ(Write(file, 4096, Pattern(4096), FUSE_WRITE_CACHE, O_DSYNC).error, 0);
  EXPECT_EQ(device_.flush_count(), before);
  EXPECT_EQ(Write(file, 8192, Pattern(4096), 0, O_DSYNC).error, 0);
  EXPECT_GT(device_.flush_count(), before);
}

TEST_F(SessionTest, NamesAreDurableWithDirsync) {
  Start({.sync_names = true});
  const uint64_t before = device_.flush_count();
  CreateFile("file");
  const uint64_t created = device_.flush_count();
  EXPECT_GT(created, before);
  EXPECT_EQ(kernel_.Call(FUSE_UNLINK, kRootNodeId, Name("file")).error, 0);
  EXPECT_GT(device_.flush_count(), created);
}

TEST_F(SessionTest, WhatItDoesNotKnowIsENOSYS) {
  Start();
  for (const uint32_t opcode : {uint32_t{200}, uint32_t{201}}) {
    EXPECT_EQ(kernel_.Call(opcode, kRootNodeId, std::string(64, '\0')).error, ENOSYS) << opcode;
  }
  EXPECT_EQ(kernel_.Call(FUSE_IOCTL, kRootNodeId, Bytes(fuse_ioctl_in{})).error, ENOTTY);
  EXPECT_EQ(kernel_.Call(FUSE_INTERRUPT, 0, Bytes(fuse_interrupt_in{})).error, ENOSYS);
}

TEST_F(SessionTest, RangesAreAllocatedCopiedAndFound) {
  Start();
  const uint64_t a = CreateFile("a", 06755);
  const uint64_t b = CreateFile("b");
  fuse_fallocate_in range = {};
  range.length = 20'000;
  EXPECT_EQ(kernel_.Call(FUSE_FALLOCATE, a, Bytes(range)).error, 0);
  EXPECT_EQ(GetAttributes(a).attr.size, 20'000u);
  EXPECT_EQ(GetAttributes(a).attr.blocks, 40u);
  EXPECT_EQ(GetAttributes(a).attr.mode & 07777, 0755u);  // Its user is not root.
  EXPECT_EQ(Write(a, 4096, Pattern(4096)).error, 0);
  fuse_copy_file_range_in copy = {};
  copy.nodeid_out = b;
  copy.len = 20'000;
  EXPECT_EQ(kernel_.Call(FUSE_COPY_FILE_RANGE, a, Bytes(copy)).As<fuse_write_out>().size, 20'000u);
  EXPECT_EQ(Read(b, 0, 30'000), Read(a, 0, 30'000));
  EXPECT_EQ(GetAttributes(b).attr.blocks, 8u);
  copy.flags = 1;
  EXPECT_EQ(kernel_.Call(FUSE_COPY_FILE_RANGE, a, Bytes(copy)).error, EINVAL);
  const auto block_of = [&](uint64_t index, uint32_t block_bytes) {
    fuse_bmap_in in = {};
    in.block = index;
    in.blocksize = block_bytes;
    kernel_.Send(FUSE_BMAP, b, Bytes(in));
    auto reply = kernel_.Receive();
    if (reply.unique == 0) reply = kernel_.Receive();  // That we are to send our dirty pages.
    return reply.As<fuse_bmap_out>().block;
  };
  EXPECT_EQ(block_of(0, 4096), 0u);
  EXPECT_NE(block_of(1, 4096), 0u);
  EXPECT_EQ(block_of(9, 512), block_of(1, 4096) * 8 + 1);
}

TEST_F(SessionTest, RenameKnowsItsFlags) {
  Start();
  CreateFile("a");
  CreateFile("b");
  const auto rename = [&](uint32_t flags) {
    fuse_rename2_in in = {};
    in.newdir = kRootNodeId;
    in.flags = flags;
    return kernel_.Call(FUSE_RENAME2, kRootNodeId, Bytes(in) + Name("a") + Name("b")).error;
  };
  EXPECT_EQ(rename(RENAME_NOREPLACE), EEXIST);
  EXPECT_EQ(rename(RENAME_NOREPLACE | RENAME_WHITEOUT), EEXIST);
  EXPECT_EQ(rename(RENAME_EXCHANGE | RENAME_WHITEOUT), EINVAL);
  EXPECT_EQ(rename(RENAME_NOREPLACE | RENAME_EXCHANGE), EINVAL);
  EXPECT_EQ(rename(8), EINVAL);
  EXPECT_EQ(rename(RENAME_EXCHANGE), 0);
  EXPECT_EQ(rename(0), 0);
  EXPECT_EQ(rename(0), ENOENT);
  CreateFile("a");
  EXPECT_EQ(rename(RENAME_WHITEOUT), 0);
  const auto left = kernel_.Call(FUSE_LOOKUP, kRootNodeId, Name("a")).As<fuse_entry_out>().attr;
  EXPECT_EQ(left.mode, uint32_t{S_IFCHR});
  EXPECT_EQ(left.rdev, 0u);
  EXPECT_EQ(left.uid, 1000u);
  EXPECT_EQ(left.gid, 1001u);
}

FakeKernel::Reply Ioctl(FakeKernel& kernel, uint64_t nodeid, unsigned long command,
                        const std::string& in, uint32_t out_size) {
  fuse_ioctl_in head = {};
  head.cmd = static_cast<uint32_t>(command);
  head.in_size = static_cast<uint32_t>(in.size());
  head.out_size = out_size;
  return kernel.Call(FUSE_IOCTL, nodeid, Bytes(head) + in);
}

// The notifications that come before the answer to a change of flags.
int SetFlagsOf(FakeKernel& kernel, uint64_t nodeid, unsigned long command, const std::string& in) {
  fuse_ioctl_in head = {};
  head.cmd = static_cast<uint32_t>(command);
  head.in_size = static_cast<uint32_t>(in.size());
  const uint64_t unique = kernel.Send(FUSE_IOCTL, nodeid, Bytes(head) + in);
  for (;;) {
    const auto reply = kernel.Receive();
    if (reply.unique == unique) return reply.error;
    EXPECT_EQ(reply.unique, 0u);
    EXPECT_EQ(-reply.error, int{FUSE_NOTIFY_INVAL_INODE});
  }
}

TEST_F(SessionTest, InodeFlagsComeAndGoByIoctl) {
  Start({}, kOffered | FUSE_HAS_IOCTL_DIR);
  const uint64_t file = CreateFile("file");
  EXPECT_EQ(Ioctl(kernel_, file, FS_IOC_GETFLAGS, "", 4).body.substr(16), Bytes(uint32_t{0}));
  // An owner may not set what guards.
  EXPECT_EQ(SetFlagsOf(kernel_, file, FS_IOC_SETFLAGS, Bytes(uint32_t{FS_NODUMP_FL})), 0);
  EXPECT_EQ(SetFlagsOf(kernel_, file, FS_IOC_SETFLAGS, Bytes(uint32_t{FS_APPEND_FL})), EPERM);
  kernel_.SetUser(2000);
  EXPECT_EQ(SetFlagsOf(kernel_, file, FS_IOC_SETFLAGS, Bytes(uint32_t{0})), EPERM);
  kernel_.SetUser(0);
  EXPECT_EQ(SetFlagsOf(kernel_, file, FS_IOC_SETFLAGS, Bytes(uint32_t{FS_NOCOW_FL})), EOPNOTSUPP);
  EXPECT_EQ(SetFlagsOf(kernel_, file, FS_IOC_SETFLAGS, "x"), EINVAL);
  EXPECT_EQ(SetFlagsOf(kernel_, file, FS_IOC_SETFLAGS, Bytes(uint32_t{FS_IMMUTABLE_FL})), 0);
  EXPECT_EQ(Write(file, 0, "x").error, EPERM);
  auto extended = Ioctl(kernel_, file, FS_IOC_FSGETXATTR, "", sizeof(fsxattr)).body.substr(16);
  ASSERT_EQ(extended.size(), sizeof(fsxattr));
  fsxattr shown;
  std::memcpy(&shown, extended.data(), sizeof(shown));
  EXPECT_EQ(shown.fsx_xflags, uint32_t{FS_XFLAG_IMMUTABLE});
  EXPECT_EQ(kernel_.Call(kOpStatx, file, Bytes(StatxIn{})).As<StatxOut>().body.attributes,
            uint64_t{STATX_ATTR_IMMUTABLE});
  shown.fsx_xflags = FS_XFLAG_NODUMP | FS_XFLAG_NOATIME | FS_XFLAG_HASATTR;
  shown.fsx_projid = 77;
  EXPECT_EQ(SetFlagsOf(kernel_, file, FS_IOC_FSSETXATTR, Bytes(shown)), 0);
  EXPECT_EQ(fs_->GetAttributes(file)->flags, kInodeNoDump | kInodeNoAtime);
  EXPECT_EQ(fs_->GetAttributes(file)->project, 77u);
  shown.fsx_xflags = FS_XFLAG_EXTSIZE;
  EXPECT_EQ(SetFlagsOf(kernel_, file, FS_IOC_FSSETXATTR, Bytes(shown)), EOPNOTSUPP);
  EXPECT_EQ(Ioctl(kernel_, file, FS_IOC_GETFLAGS, "", 8).error, EINVAL);
  EXPECT_EQ(Ioctl(kernel_, file, FS_IOC_GETVERSION, "", 4).error, ENOTTY);
}

TEST_F(SessionTest, ChangesOfASyncInodeAreDurableWhenAnswered) {
  Start();
  const uint64_t file = CreateFile("file");
  const uint64_t directory =
      kernel_.Call(FUSE_MKDIR, kRootNodeId, Bytes(fuse_mkdir_in{0755, 0}) + Name("d"))
          .As<fuse_entry_out>()
          .nodeid;
  uint64_t flushes = 0;
  const auto flushed = [&] {
    const uint64_t before = std::exchange(flushes, device_.flush_count());
    return flushes > before;
  };
  const auto set_flags = [&](uint64_t nodeid, uint32_t flags) {
    return SetFlagsOf(kernel_, nodeid, FS_IOC_SETFLAGS, Bytes(flags));
  };
  fuse_setattr_in mode = {};
  mode.valid = FATTR_MODE;
  mode.mode = S_IFREG | 0600;
  flushed();
  EXPECT_EQ(Write(file, 0, Pattern(4096)).error, 0);
  EXPECT_EQ(kernel_.Call(FUSE_SETATTR, file, Bytes(mode)).error, 0);
  EXPECT_FALSE(flushed());

  EXPECT_EQ(set_flags(file, FS_SYNC_FL), 0);
  EXPECT_TRUE(flushed());
  EXPECT_EQ(Write(file, 0, Pattern(4096), FUSE_WRITE_CACHE).error, 0);  // A mapped one.
  EXPECT_FALSE(flushed());
  EXPECT_EQ(Write(file, 0, Pattern(4096)).error, 0);
  EXPECT_TRUE(flushed());
  EXPECT_EQ(kernel_.Call(FUSE_SETATTR, file, Bytes(mode)).error, 0);
  EXPECT_TRUE(flushed());
  fuse_fallocate_in range = {};
  range.length = 20'000;
  EXPECT_EQ(kernel_.Call(FUSE_FALLOCATE, file, Bytes(range)).error, 0);
  EXPECT_TRUE(flushed());
  const auto opened = kernel_.Call(FUSE_OPEN, file, Bytes(fuse_open_in{}));
  EXPECT_NE(opened.As<fuse_open_out>().open_flags & FOPEN_DIRECT_IO, 0u);

  CreateFile("other");
  EXPECT_FALSE(flushed());
  EXPECT_EQ(set_flags(directory, FS_DIRSYNC_FL), 0);
  flushed();
  EXPECT_EQ(kernel_.Call(FUSE_MKDIR, directory, Bytes(fuse_mkdir_in{0755, 0}) + Name("e")).error,
            0);
  EXPECT_TRUE(flushed());
  EXPECT_EQ(
      kernel_
          .Call(FUSE_RENAME, directory, Bytes(fuse_rename_in{kRootNodeId}) + Name("e") + Name("f"))
          .error,
      0);
  EXPECT_TRUE(flushed());
}

TEST_F(SessionTest, TheSyncFlagIsRefusedWhenTheKernelLeavesOutOpens) {
  Start();
  const uint64_t file = CreateFile("file");
  while (kernel_.Call(FUSE_OPEN, file, Bytes(fuse_open_in{})).error != ENOSYS) {
  }
  const uint32_t sync = FS_SYNC_FL, no_dump = FS_NODUMP_FL;
  EXPECT_EQ(SetFlagsOf(kernel_, file, FS_IOC_SETFLAGS, Bytes(sync)), EOPNOTSUPP);
  EXPECT_EQ(SetFlagsOf(kernel_, file, FS_IOC_SETFLAGS, Bytes(no_dump)), 0);
}

TEST_F(SessionTest, OpensAreServedWhereSomethingIsGuarded) {
  const auto made = fs_->Create(fs_->root(), "file", {.mode = S_IFREG | 0644});
  ASSERT_TRUE(fs_->SetFlags(made->ino, kInodeAppendOnly, {}).ok());
  ASSERT_TRUE(fs_->Unmount().ok());
  MountOptions options;
  options.cache_bytes = 16 << 20;
  fs_ = *FileSystem::Mount(device_, options);
  EXPECT_EQ(fs_->mount_report().watched_inodes, 1u);
  Start();
  const uint64_t file =
      kernel_.Call(FUSE_LOOKUP, kRootNodeId, Name("file")).As<fuse_entry_out>().nodeid;
  const auto open = [&](uint32_t flags) {
    fuse_open_in in = {};
    in.flags = flags;
    return kernel_.Call(FUSE_OPEN, file, Bytes(in)).error;
  };
  EXPECT_EQ(open(O_RDONLY), 0);
  EXPECT_EQ(open(O_WRONLY), EPERM);
  EXPECT_EQ(open(O_RDWR | O_APPEND), 0);
  EXPECT_EQ(open(O_WRONLY | O_APPEND | O_TRUNC), EPERM);
  EXPECT_EQ(kernel_.Call(FUSE_OPENDIR, kRootNodeId, Bytes(fuse_open_in{})).error, 0);
  ASSERT_TRUE(fs_->SetFlags(file, kInodeImmutable, {}).ok());
  EXPECT_EQ(open(O_RDONLY), 0);
  EXPECT_EQ(open(O_WRONLY | O_APPEND), EPERM);
  ASSERT_TRUE(fs_->SetFlags(file, 0, {}).ok());
  EXPECT_EQ(open(O_RDWR), 0);
}

constexpr uint32_t kAclFlags = FUSE_POSIX_ACL | FUSE_DONT_MASK;

TEST_F(SessionTest, AclsAreAgreedOnWithTheUmask) {
  EXPECT_EQ(Start({}, kOffered | FUSE_POSIX_ACL).flags & kAclFlags, kAclFlags);
}

TEST_F(SessionTest, NoaclLeavesThemToNobody) {
  EXPECT_EQ(Start({.acls = false}, kOffered | kAclFlags).flags & kAclFlags, 0u);
  const uint64_t file = CreateFile("file");
  const std::string list = AclBytes({{AclTag::kOwner, 7}});
  EXPECT_EQ(SetXattr(file, std::string(kAclAccessXattr), list), EOPNOTSUPP);
  EXPECT_EQ(GetXattr(file, kAclAccessXattr, 0).error, EOPNOTSUPP);
  EXPECT_EQ(kernel_.Call(FUSE_REMOVEXATTR, file, Name(kAclAccessXattr)).error, EOPNOTSUPP);
}

TEST_F(SessionTest, TheLongSetxattrTakesTheSetgidBit) {
  const uint32_t flags = Start({}, kOffered | FUSE_POSIX_ACL | FUSE_SETXATTR_EXT).flags;
  EXPECT_NE(flags & FUSE_SETXATTR_EXT, 0u);
  const uint64_t file = CreateFile("file");
  fuse_setattr_in mode = {};
  mode.valid = FATTR_MODE;
  mode.mode = S_IFREG | 02750;
  kernel_.Call(FUSE_SETATTR, file, Bytes(mode));
  const std::string value = AclBytes({{AclTag::kOwner, 6},
                                      {AclTag::kUser, 5, 1234},
                                      {AclTag::kOwningGroup, 1},
                                      {AclTag::kMask, 3},
                                      {AclTag::kOther, 4}});
  fuse_setxattr_in in = {};
  in.size = static_cast<uint32_t>(value.size());
  const auto set = [&] {
    return kernel_.Call(FUSE_SETXATTR, file, Bytes(in) + Name(kAclAccessXattr) + value).error;
  };
  EXPECT_EQ(set(), 0);
  EXPECT_EQ(GetAttributes(file).attr.mode, S_IFREG | 02634u);
  in.setxattr_flags = FUSE_SETXATTR_ACL_KILL_SGID;
  EXPECT_EQ(set(), 0);
  EXPECT_EQ(GetAttributes(file).attr.mode, S_IFREG | 0634u);
  EXPECT_EQ(GetXattr(file, kAclAccessXattr, 4096).body, value);
  fuse_getxattr_in list = {};
  list.size = 4096;
  EXPECT_EQ(kernel_.Call(FUSE_LISTXATTR, file, Bytes(list)).body, Name(kAclAccessXattr));
  in.size = 5;
  EXPECT_EQ(set(), EINVAL);
  EXPECT_EQ(kernel_.Call(FUSE_SETXATTR, file, Bytes(in).substr(0, 8)).error, EINVAL);
}

TEST_F(SessionTest, TheUmaskIsOursUnlessADefaultAclIsThere) {
  Start({}, kOffered | FUSE_POSIX_ACL);
  const auto create = [&](uint32_t opcode, std::string_view name) {
    fuse_create_in in = {};
    in.mode = S_IFREG | 0666;
    in.umask = 027;
    return kernel_.Call(opcode, kRootNodeId, Bytes(in) + Name(name)).As<fuse_entry_out>();
  };
  EXPECT_EQ(create(FUSE_CREATE, "a").attr.mode, S_IFREG | 0640u);
  EXPECT_EQ(create(FUSE_TMPFILE, "/").attr.mode, S_IFREG | 0640u);
  fuse_mkdir_in directory = {.mode = 0777, .umask = 022};
  EXPECT_EQ(kernel_.Call(FUSE_MKDIR, kRootNodeId, Bytes(directory) + Name("d"))
                .As<fuse_entry_out>()
                .attr.mode,
            S_IFDIR | 0755u);
  fuse_mknod_in fifo = {};
  fifo.mode = S_IFIFO | 0666;
  fifo.umask = 077;
  EXPECT_EQ(
      kernel_.Call(FUSE_MKNOD, kRootNodeId, Bytes(fifo) + Name("p")).As<fuse_entry_out>().attr.mode,
      S_IFIFO | 0600u);
  const std::string value = AclBytes({{AclTag::kOwner, 7},
                                      {AclTag::kUser, 7, 1234},
                                      {AclTag::kOwningGroup, 5},
                                      {AclTag::kMask, 7},
                                      {AclTag::kOther, 5}});
  EXPECT_EQ(SetXattr(kRootNodeId, kAclDefaultXattr, value), 0);
  const auto inherits = create(FUSE_CREATE, "b");
  EXPECT_EQ(inherits.attr.mode, S_IFREG | 0664u);
  EXPECT_EQ(GetXattr(inherits.nodeid, kAclAccessXattr, 0).As<fuse_getxattr_out>().size,
            value.size());
  EXPECT_EQ(create(FUSE_TMPFILE, "/").attr.mode, S_IFREG | 0664u);
}

TEST_F(SessionTest, StatxKnowsTheTimeOfBirth) {
  Start();
  const uint64_t file = CreateFile("file", 0640);
  EXPECT_EQ(Write(file, 0, Pattern(5000)).error, 0);
  const auto attributes = fs_->GetAttributes(file);
  ASSERT_TRUE(attributes.ok());
  const auto out = kernel_.Call(kOpStatx, file, Bytes(StatxIn{})).As<StatxOut>();
  EXPECT_EQ(out.body.mask, STATX_BASIC_STATS | STATX_BTIME);
  EXPECT_EQ(out.body.btime.seconds, attributes->btime.seconds);
  EXPECT_EQ(out.body.btime.nanoseconds, attributes->btime.nanoseconds);
  EXPECT_EQ(out.body.mtime.seconds, attributes->mtime.seconds);
  EXPECT_EQ(out.body.ino, attributes->ino);
  EXPECT_EQ(out.body.mode, S_IFREG | 0640);
  EXPECT_EQ(out.body.size_bytes, 5000u);
  EXPECT_EQ(out.body.blocks_512, 16u);
  EXPECT_EQ(out.body.nlink, 1u);
  EXPECT_EQ(out.body.uid, 1000u);
  EXPECT_EQ(out.body.block_bytes, 4096u);
  EXPECT_EQ(out.body.attributes_mask,
            uint64_t{STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_NODUMP});
  EXPECT_GT(out.attr_valid, uint64_t{1} << 40);
  EXPECT_EQ(kernel_.Call(kOpStatx, file, "short").error, EINVAL);
  EXPECT_NE(kernel_.Call(kOpStatx, file + 8 * 1000, Bytes(StatxIn{})).error, 0);

  fuse_mknod_in device = {};
  device.mode = S_IFBLK | 0600;
  device.rdev = static_cast<uint32_t>(makedev(0x123, 0x45678));
  const auto node = kernel_.Call(FUSE_MKNOD, kRootNodeId, Bytes(device) + Name("device"))
                        .As<fuse_entry_out>()
                        .nodeid;
  const auto shown = kernel_.Call(kOpStatx, node, Bytes(StatxIn{})).As<StatxOut>();
  EXPECT_EQ(shown.body.rdev_major, 0x123u);
  EXPECT_EQ(shown.body.rdev_minor, 0x45678u);
}

TEST_F(SessionTest, ATmpfileHasNoNameUntilItIsLinked) {
  Start();
  fuse_create_in in = {};
  in.mode = S_IFREG | 0600;
  const auto reply = kernel_.Call(FUSE_TMPFILE, kRootNodeId, Bytes(in) + Name("/"));
  ASSERT_EQ(reply.error, 0);
  ASSERT_EQ(reply.body.size(), sizeof(fuse_entry_out) + sizeof(fuse_open_out));
  const auto entry = reply.As<fuse_entry_out>();
  EXPECT_EQ(entry.attr.mode, S_IFREG | 0600u);
  EXPECT_EQ(entry.attr.nlink, 0u);
  EXPECT_EQ(entry.attr.uid, 1000u);
  EXPECT_EQ(entry.attr.gid, 1001u);
  EXPECT_EQ(entry.attr.ino, entry.nodeid);
  EXPECT_EQ(entry.attr.mtime, entry.attr.ctime);
  EXPECT_GT(entry.attr_valid, uint64_t{1} << 40);
  const std::string data = Pattern(10'000);
  EXPECT_EQ(Write(entry.nodeid, 0, data).error, 0);
  EXPECT_EQ(kernel_.Call(FUSE_FSYNC, entry.nodeid, Bytes(fuse_fsync_in{})).error, 0);
  fuse_link_in link = {.oldnodeid = entry.nodeid};
  const auto linked = kernel_.Call(FUSE_LINK, kRootNodeId, Bytes(link) + Name("named"));
  EXPECT_EQ(linked.error, 0);
  EXPECT_EQ(linked.As<fuse_entry_out>().attr.nlink, 1u);
  EXPECT_EQ(Read(entry.nodeid, 0, 20'000), data);

  EXPECT_EQ(kernel_.Call(FUSE_TMPFILE, kRootNodeId, "short").error, EINVAL);
  EXPECT_EQ(kernel_.Call(FUSE_TMPFILE, entry.nodeid, Bytes(in) + Name("/")).error, ENOTDIR);
}

// The fake kernel is of Linux 6.1 (kernel_behaviour.h). It then takes all of the file for data.
TEST_F(SessionTest, AnOldKernelIsToSeekByItself) {
  Start();
  const uint64_t nodeid = CreateFile("file");
  fuse_lseek_in in = {};
  in.whence = SEEK_DATA;
  EXPECT_EQ(kernel_.Call(FUSE_LSEEK, nodeid, Bytes(in)).error, ENOSYS);
}

TEST_F(SessionTest, DestroyIsAnsweredWhenTheOwnerSaysSo) {
  Start();
  CreateFile("file");
  const uint64_t unique = kernel_.Send(FUSE_DESTROY, 0, "");
  session_->WaitForEnd();
  EXPECT_FALSE(kernel_.HasReply());
  EXPECT_TRUE(fs_->Unmount().ok());
  session_->Stop();
  EXPECT_FALSE(kernel_.HasReply());
  session_->AnswerDestroy();
  const auto reply = kernel_.Receive();
  EXPECT_EQ(reply.unique, unique);
  EXPECT_EQ(reply.error, 0);
  session_.reset();
}

TEST_F(SessionTest, ManyRequestsAtOnceAreAllAnswered) {
  SessionOptions options;
  options.workers.loops = 3;
  Start(options);
  const uint64_t file = CreateFile("file");
  std::map<uint64_t, bool> open;
  for (int i = 0; i < 500; ++i) {
    open[i % 5 == 0 ? kernel_.Send(FUSE_FSYNC, file, Bytes(fuse_fsync_in{}))
                    : kernel_.Send(FUSE_LOOKUP, kRootNodeId, Name("file"))] = true;
    // The socket holds a few hundred replies.
    while (open.size() > 50) open.erase(kernel_.Receive().unique);
  }
  while (!open.empty()) {
    const auto reply = kernel_.Receive();
    ASSERT_EQ(open.erase(reply.unique), 1u);
    EXPECT_EQ(reply.error, 0);
  }
}

}  // namespace
}  // namespace pbfs::fuse
