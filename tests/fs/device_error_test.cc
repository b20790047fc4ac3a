// SPDX-License-Identifier: Apache-2.0
// What a failing device does to a mounted filesystem (ARCHITECTURE.md, section 14).
#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/falloc.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/bulk_memory.h"
#include "base/clock.h"
#include "fs/checker.h"
#include "io/fault_device.h"
#include "tests/support/fault_fixture.h"
#include "tests/support/fs_image.h"

namespace pbfs {
namespace {

using testing::HasSubstr;

class DeviceErrorTest : public FaultFixture {
 protected:
  InodeNumber Make(std::string_view name, std::string_view bytes) {
    const auto made = client_->Create(fs_->root(), name);
    EXPECT_TRUE(made.ok()) << made.status();
    EXPECT_TRUE(client_->Write(*made, 0, bytes).ok());
    return *made;
  }
  InodeNumber Find(std::string_view name) { return *client_->Find(fs_->root(), name); }
  static std::string Bytes(size_t count, char first = 'a') {
    std::string bytes(count, '\0');
    for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>(first + i / kPageBytes % 20);
    return bytes;
  }
  // Fails writes that contain a page beginning like this.
  void FailWritesOf(char value, int error) {
    device_.SetDecide([value, error](const IoRequest& request) {
      if (request.op != IoOp::kWrite) return 0;
      for (size_t at = 0; at < request.buffer.size_bytes(); at += kPageBytes) {
        char start[8];
        request.buffer.CopyTo(at, start, sizeof(start));
        if (std::count(start, start + 8, value) == 8) return error;
      }
      return 0;
    });
  }
  void FailReads() { device_.FailAll(IoOp::kRead, EIO); }
};

TEST_F(DeviceErrorTest, ABadBlockFailsItsPageAndNoOther) {
  FailWritesOf('f', EIO);
  const InodeNumber victim = Make("victim", Bytes(10 * kPageBytes));
  const InodeNumber other = Make("other", Bytes(3 * kPageBytes, 'A'));
  EXPECT_EQ(ErrnoOf(client_->Sync()), EIO);
  EXPECT_THAT(Log(), HasSubstr("memory: block "));
  EXPECT_THAT(Log(), HasSubstr(absl::StrCat("data of inode ", victim, ": write failed: Input")));
  EXPECT_TRUE(client_->Fsync(other).ok());
  EXPECT_EQ(ErrnoOf(client_->Fsync(victim)), EIO);
  device_.SetDecide(nullptr);
  EXPECT_EQ(ErrnoOf(client_->Fsync(victim)), EIO);
  // The rest is written, also what comes later.
  EXPECT_TRUE(client_->Write(victim, 0, std::string(10, 'x')).ok());
  EXPECT_EQ(ErrnoOf(client_->Fsync(victim)), EIO);
  EXPECT_EQ(*client_->Read(victim, 5 * kPageBytes, 1), "f");
  EXPECT_FALSE(fs_->read_only());
  EXPECT_TRUE(client_->Fsync(other).ok());  // Flushes the device.

  CutPowerAndMount();
  std::string expected = Bytes(10 * kPageBytes);
  std::memset(expected.data(), 'x', 10);
  std::memset(expected.data() + 5 * kPageBytes, 0, kPageBytes);  // Never got a block.
  EXPECT_EQ(*client_->Read(Find("victim"), 0, expected.size()), expected);
  EXPECT_EQ(*client_->Read(Find("other"), 0, 3 * kPageBytes), Bytes(3 * kPageBytes, 'A'));
  ExpectClean();
}

TEST_F(DeviceErrorTest, AnErrorEndsWhenItsDataIsRewrittenTruncatedOrRemoved) {
  for (const char* way : {"rewritten", "rewritten in part", "truncated", "removed"}) {
    FailWritesOf('f', EIO);
    const InodeNumber ino = Make(way, Bytes(10 * kPageBytes));
    ASSERT_EQ(ErrnoOf(client_->Fsync(ino)), EIO);
    device_.SetDecide(nullptr);
    ASSERT_EQ(ErrnoOf(client_->Fsync(ino)), EIO);
    if (std::string_view(way) == "removed") {
      ASSERT_TRUE(fs_->Unlink(fs_->root(), way).ok());
      fs_->Forget(ino, 1);
      // The thread that frees it may take a moment.
      for (int i = 0; i < 1000 && !client_->Sync().ok(); ++i)
        SleepFor(std::chrono::milliseconds(5));
      EXPECT_TRUE(client_->Sync().ok());
      continue;
    }
    if (std::string_view(way) == "truncated") {
      ASSERT_TRUE(client_->Truncate(ino, 5 * kPageBytes).ok());
    } else {
      const size_t count = std::string_view(way) == "rewritten" ? kPageBytes : 10;
      ASSERT_TRUE(client_->Write(ino, 5 * kPageBytes + 7, std::string(count, 'z')).ok());
    }
    EXPECT_TRUE(client_->Fsync(ino).ok()) << way;
  }
  CutPowerAndMount();
  EXPECT_EQ(*client_->Read(Find("rewritten in part"), 5 * kPageBytes, 20), "fffffffzzzzzzzzzzfff");
  ExpectClean();
}

TEST_F(DeviceErrorTest, AFullHostFileGivesEnospcAndKeepsGivingIt) {
  FailWritesOf('c', ENOSPC);
  const InodeNumber ino = Make("a", Bytes(5 * kPageBytes));
  EXPECT_EQ(ErrnoOf(client_->Fsync(ino)), ENOSPC);
  EXPECT_EQ(ErrnoOf(client_->Fsync(ino)), ENOSPC);
  EXPECT_FALSE(fs_->read_only());
}

// The block of the old end holds garbage behind it until the page with the zeroes is written.
TEST_F(DeviceErrorTest, ASizeDoesNotRiseOverAnOldTailThatCouldNotBeZeroed) {
  const InodeNumber ino = Make("a", std::string(kPageBytes, 'f'));
  ASSERT_TRUE(client_->Sync().ok());
  ASSERT_TRUE(client_->Truncate(ino, 100).ok());
  ASSERT_TRUE(client_->Sync().ok());
  FailWritesOf('f', EIO);
  ASSERT_TRUE(client_->Write(ino, 3 * kPageBytes, Bytes(2 * kPageBytes)).ok());
  EXPECT_EQ(ErrnoOf(client_->Fsync(ino)), EIO);
  ASSERT_TRUE(client_->Write(ino, 6 * kPageBytes, Bytes(2 * kPageBytes)).ok());
  EXPECT_EQ(ErrnoOf(client_->Fsync(ino)), EIO);
  ASSERT_TRUE(client_->Fsync(fs_->root()).ok());
  CutPowerAndMount();
  EXPECT_EQ(fs_->GetAttributes(Find("a"))->size_bytes, 100u);
  ASSERT_TRUE(client_->Truncate(Find("a"), 10 * kPageBytes).ok());
  EXPECT_EQ(*client_->Read(Find("a"), 0, 10 * kPageBytes),
            std::string(100, 'f') + std::string(10 * kPageBytes - 100, '\0'));
  ExpectClean();
}

TEST_F(DeviceErrorTest, UnmountTriesOnceMoreAndSaysWhatIsLost) {
  FailWritesOf('b', EIO);
  const InodeNumber ino = Make("a", Bytes(3 * kPageBytes));
  EXPECT_EQ(ErrnoOf(client_->Fsync(ino)), EIO);
  device_.SetDecide(nullptr);
  EXPECT_TRUE(fs_->Unmount().ok());
  fs_.reset();
  Mount();
  EXPECT_EQ(*client_->Read(Find("a"), 0, 3 * kPageBytes), Bytes(3 * kPageBytes));

  FailWritesOf('c', EIO);
  Make("b", Bytes(3 * kPageBytes));
  const Status status = fs_->Unmount();
  EXPECT_EQ(ErrnoOf(status), EIO);
  EXPECT_THAT(std::string(status.message()), HasSubstr("memory: block"));
  fs_.reset();
  device_.SetDecide(nullptr);
  Mount();
  EXPECT_FALSE(fs_->mount_report().replayed);  // All else was written, so the log is clean.
  EXPECT_EQ(*client_->Read(Find("b"), 0, 2 * kPageBytes), Bytes(2 * kPageBytes));
  ExpectClean();
}

TEST_F(DeviceErrorTest, ALogThatCannotBeWrittenMakesItReadOnlyAndSaysWhere) {
  const InodeNumber ino = Make("a", "hello");
  ASSERT_TRUE(client_->Sync().ok());
  ASSERT_TRUE(client_->Create(fs_->root(), "later").ok());
  device_.SetDecide([](const IoRequest& request) { return request.fua ? EIO : 0; });
  EXPECT_EQ(ErrnoOf(client_->Fsync(fs_->root())), EIO);
  device_.SetDecide(nullptr);
  EXPECT_THAT(Log(), testing::ContainsRegex(
                         "memory: block [0-9]+: checkpoint [0-9]+: write failed: Input/output "
                         "error; the filesystem is read-only now"));
  EXPECT_TRUE(fs_->read_only());
  EXPECT_EQ(ErrnoOf(client_->Create(fs_->root(), "b").status()), EROFS);
  EXPECT_EQ(ErrnoOf(client_->Write(ino, 0, "x")), EROFS);
  EXPECT_EQ(ErrnoOf(client_->Truncate(ino, 1)), EROFS);
  EXPECT_EQ(ErrnoOf(client_->Truncate(ino, 100)), EROFS);
  EXPECT_EQ(ErrnoOf(client_->Fsync(ino)), EIO);
  EXPECT_EQ(*client_->Read(ino, 0, 10), "hello");
  EXPECT_EQ(ErrnoOf(fs_->Unmount()), EIO);
  CutPowerAndMount();
  EXPECT_EQ(*client_->Read(Find("a"), 0, 10), "hello");
  EXPECT_EQ(Find("later"), 0u);
  ExpectClean();
}

TEST_F(DeviceErrorTest, MetadataThatCannotBeWrittenInPlaceMakesItReadOnlyAndSaysWhich) {
  Make("a", "hello");
  device_.SetDecide([](const IoRequest& request) {
    uint32_t magic = 0;
    if (request.op != IoOp::kWrite || request.fua) return 0;
    for (size_t at = 0; at < request.buffer.size_bytes(); at += kPageBytes) {
      request.buffer.CopyTo(at, &magic, sizeof(magic));
      if (magic == kMagicInodes) return EIO;
    }
    return 0;
  });
  EXPECT_EQ(ErrnoOf(fs_->Unmount()), EIO);
  EXPECT_THAT(Log(), testing::ContainsRegex("memory: block [0-9]+: inodes: write failed: "
                                            "Input/output error; the filesystem is read-only now"));
  CutPowerAndMount();
  EXPECT_TRUE(fs_->mount_report().replayed);
  EXPECT_EQ(*client_->Read(Find("a"), 0, 10), "hello");
  ExpectClean();
}

TEST_F(DeviceErrorTest, AFlushThatFailsIsSaid) {
  Make("a", "hello");
  device_.FailAll(IoOp::kFlush, EIO);
  EXPECT_EQ(ErrnoOf(client_->Sync()), EIO);
  EXPECT_THAT(Log(), testing::ContainsRegex("memory: flush .*failed: Input/output error; the "
                                            "filesystem is read-only now"));
}

TEST_F(DeviceErrorTest, ATruncationThatFailsLeavesTheFileAsItWas) {
  const InodeNumber ino = *client_->Create(fs_->root(), "a");
  // Every other page: an extent each, so that its map is a tree.
  for (uint64_t i = 0; i < 400; i += 2) {
    ASSERT_TRUE(client_->Write(ino, i * kPageBytes, Bytes(10)).ok());
  }
  ASSERT_TRUE(fs_->Unmount().ok());
  fs_.reset();
  Mount();
  const InodeNumber again = Find("a");
  ASSERT_EQ(again, ino);
  const uint64_t size = fs_->GetAttributes(ino)->size_bytes;
  FailReads();
  EXPECT_EQ(ErrnoOf(client_->Truncate(ino, 50)), EIO);
  device_.FailAll(IoOp::kRead, 0);
  EXPECT_EQ(fs_->GetAttributes(ino)->size_bytes, size);
  EXPECT_EQ(*client_->Read(ino, 398 * kPageBytes, 10), Bytes(10));
  EXPECT_THAT(Log(), HasSubstr("read failed: Input/output error"));
  EXPECT_TRUE(client_->Truncate(ino, 50).ok());
  ExpectClean();
}

// Error pages are kept, but not so many that nothing else finds a frame.
TEST_F(DeviceErrorTest, DataThatCannotBeWrittenDoesNotTakeAllMemory) {
  fs_.reset();
  Mount(PageCache::kFramesMin * kPageBytes);
  const InodeNumber reader = Make("reader", Bytes(200 * kPageBytes));
  ASSERT_TRUE(client_->Sync().ok());
  FailWritesOf('f', EIO);
  const InodeNumber writer = *client_->Create(fs_->root(), "writer");
  const std::string chunk(256 * kPageBytes, 'f');
  const uint64_t count = 4 * PageCache::kFramesMin / 256;
  for (uint64_t i = 0; i < count; ++i) {
    ASSERT_TRUE(client_->Write(writer, i * chunk.size(), chunk).ok());
    ASSERT_EQ(*client_->Read(reader, 0, 200 * kPageBytes), Bytes(200 * kPageBytes));
  }
  EXPECT_EQ(ErrnoOf(client_->Fsync(writer)), EIO);
  EXPECT_EQ(*client_->Read(reader, 0, 200 * kPageBytes), Bytes(200 * kPageBytes));
  device_.SetDecide(nullptr);
  EXPECT_EQ(ErrnoOf(client_->Fsync(writer)), EIO);
  for (uint64_t i = 0; i < count; ++i) {
    ASSERT_TRUE(client_->Write(writer, i * chunk.size(), chunk).ok());
  }
  EXPECT_TRUE(client_->Fsync(writer).ok());
  EXPECT_EQ(fs_->page_cache().error_pages.load(), 0);
  ExpectClean();
}

// Who needs a request that never ends waits; the others go on.
TEST_F(DeviceErrorTest, AWriteThatNeverEndsHoldsUpNobodyElse) {
  const InodeNumber stuck = Make("stuck", std::string(100, 'f'));
  const InodeNumber other = Make("other", Bytes(100));
  device_.AddRule({.op = IoOp::kWrite,
                   .action = FaultDevice::Action::kHold,
                   .matches = [](const IoRequest& request) {
                     char start[8];
                     request.buffer.CopyTo(0, start, sizeof(start));
                     return std::count(start, start + 8, 'f') == 8;
                   }});
  Event done;
  Status status = ErrnoError(EIO, "not yet");
  fs_->Fsync(stuck, false, [&](const Status& result) {
    status = result;
    done.Set();
  });
  ASSERT_EQ(device_.held_count(), 1u);
  EXPECT_TRUE(client_->Fsync(other).ok());
  EXPECT_TRUE(client_->Create(fs_->root(), "new").ok());
  EXPECT_TRUE(client_->Write(stuck, 0, "more").ok());
  EXPECT_EQ(client_->Read(stuck, 0, 6).value(), "moreff");
  EXPECT_TRUE(fs_->Unlink(fs_->root(), "new").ok());
  EXPECT_TRUE(client_->Truncate(other, 50).ok());
  EXPECT_TRUE(client_->Fsync(fs_->root()).ok());
  EXPECT_FALSE(done.IsSet());
  device_.Release();
  done.Wait();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(client_->Fsync(stuck).ok());
  CutPowerAndMount();
  EXPECT_EQ(*client_->Read(Find("stuck"), 0, 6), "moreff");
  ExpectClean();
}

TEST_F(DeviceErrorTest, ACheckpointThatNeverEndsHoldsUpOnlyWhoWaitsForIt) {
  const InodeNumber file = Make("file", Bytes(100));
  device_.AddRule({.op = IoOp::kWrite,
                   .action = FaultDevice::Action::kHold,
                   .matches = [](const IoRequest& request) { return request.fua; }});
  Event done;
  Status status = ErrnoError(EIO, "not yet");
  fs_->Fsync(file, false, [&](const Status& result) {
    status = result;
    done.Set();
  });
  while (device_.held_count() == 0) std::this_thread::yield();
  EXPECT_TRUE(client_->Create(fs_->root(), "new").ok());
  EXPECT_TRUE(client_->Write(file, 0, "more").ok());
  EXPECT_EQ(client_->Read(file, 0, 4).value(), "more");
  EXPECT_FALSE(done.IsSet());
  device_.Release();
  done.Wait();
  EXPECT_TRUE(status.ok()) << status;
  ExpectClean();
}

// Memory by the block: the arena, buffers, frames.
std::atomic<uint64_t> g_bulk_requests{0};
std::atomic<uint64_t> g_bulk_refused{0};
class DeviceErrorMemoryTest : public DeviceErrorTest {
 protected:
  static void Refuse(uint64_t nth) {
    g_bulk_requests = 0;
    g_bulk_refused = nth;
    SetBulkMemoryGate([] { return ++g_bulk_requests != g_bulk_refused; });
  }
  ~DeviceErrorMemoryTest() override { SetBulkMemoryGate(nullptr); }
  void Work() {
    const auto made = client_->Create(fs_->root(), "a");
    if (made.ok()) {
      client_->Write(*made, 0, Bytes(20 * kPageBytes)).IgnoreError();
      client_->Fsync(*made).IgnoreError();
    }
    client_->Create(fs_->root(), "b").IgnoreError();
    client_->Sync().IgnoreError();
  }
};

TEST_F(DeviceErrorMemoryTest, RefusedMemoryEndsAMountCleanlyAndIsWaitedForLater) {
  fs_.reset();
  Refuse(0);
  Mount();
  const uint64_t in_mount = g_bulk_requests;
  Work();
  ASSERT_TRUE(fs_->Unmount().ok());
  fs_.reset();
  const uint64_t all = g_bulk_requests;
  ASSERT_GT(in_mount, 5u);
  ASSERT_GT(all, in_mount);
  size_t refused_mounts = 0;
  for (uint64_t n = 1; n <= all; n += n <= in_mount ? 1 : 7) {
    Refuse(n);
    MountOptions options;
    options.cache_bytes = 16 << 20;
    auto mounted = FileSystem::Mount(device_, options);
    if (!mounted.ok()) {
      EXPECT_EQ(ErrnoOf(mounted.status()), ENOMEM) << n << ": " << mounted.status();
      ++refused_mounts;
    } else {
      fs_ = *std::move(mounted);
      client_ = std::make_unique<FsClient>(*fs_);
      Work();
      fs_->Unmount().IgnoreError();
      fs_.reset();
    }
    SetBulkMemoryGate(nullptr);
    Mount();
    ExpectClean();
  }
  EXPECT_GT(refused_mounts, 4u);
}

// Damage that no single block shows: two blocks of a file in one place.
TEST_F(DeviceErrorTest, ABlockThatAFileHasTwiceIsAnErrorWhenItIsWritten) {
  const InodeNumber ino = Make("a", Bytes(kPageBytes));
  ASSERT_TRUE(client_->Write(ino, 2 * kPageBytes, Bytes(kPageBytes)).ok());
  ASSERT_TRUE(fs_->Unmount().ok());
  fs_.reset();
  ImageEditor(memory_).EditInode(ino, [](DiskInode& inode) {
    ASSERT_EQ(inode.data_bytes, 2 * sizeof(InlineExtent));
    auto* extents = reinterpret_cast<InlineExtent*>(inode.inline_area);
    extents[1].value.block = extents[0].value.block;
  });
  Mount();
  ASSERT_EQ(Find("a"), ino);
  ASSERT_TRUE(client_->Write(ino, 0, Bytes(3 * kPageBytes, 'x')).ok());
  EXPECT_EQ(ErrnoOf(client_->Fsync(ino)), EIO);
  EXPECT_THAT(Log(), HasSubstr("Structure needs cleaning"));
}

TEST_F(DeviceErrorTest, AFailedPageLeavesItsBlockUnwritten) {
  FailWritesOf('f', EIO);
  const InodeNumber ino = Make("a", "");
  ASSERT_TRUE(client_->Fallocate(ino, 0, 0, 10 * kPageBytes).ok());
  ASSERT_TRUE(client_->Write(ino, 0, Bytes(8 * kPageBytes)).ok());
  EXPECT_EQ(ErrnoOf(client_->Fsync(ino)), EIO);
  EXPECT_EQ(*client_->Read(ino, 5 * kPageBytes, 1), "f");
  EXPECT_EQ(fs_->GetAttributes(ino)->blocks_512, 80u);
  EXPECT_TRUE(client_->Fsync(fs_->root()).ok());
  CutPowerAndMount();
  std::string expected = Bytes(10 * kPageBytes);
  std::memset(expected.data() + 5 * kPageBytes, 0, kPageBytes);
  std::memset(expected.data() + 8 * kPageBytes, 0, 2 * kPageBytes);
  EXPECT_EQ(*client_->Read(Find("a"), 0, expected.size()), expected);
  EXPECT_EQ(fs_->GetAttributes(Find("a"))->blocks_512, 80u);
  ExpectClean();
}

TEST_F(DeviceErrorTest, PunchingWhatCouldNotBeWrittenEndsTheError) {
  for (const int mode : {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE}) {
    FailWritesOf('f', EIO);
    const InodeNumber ino = Make(std::to_string(mode), Bytes(10 * kPageBytes));
    EXPECT_EQ(ErrnoOf(client_->Fsync(ino)), EIO);
    device_.SetDecide(nullptr);
    ASSERT_TRUE(client_->Fallocate(ino, mode, 5 * kPageBytes, kPageBytes).ok());
    EXPECT_TRUE(client_->Fsync(ino).ok());
    std::string expected = Bytes(10 * kPageBytes);
    std::memset(expected.data() + 5 * kPageBytes, 0, kPageBytes);
    EXPECT_EQ(*client_->Read(ino, 0, expected.size()), expected);
  }
  ExpectClean();
}

TEST_F(DeviceErrorTest, AnUnreadableSuperblockIsAnIoError) {
  fs_.reset();
  FailReads();
  const auto probe = FileSystem::Probe(device_);
  EXPECT_EQ(ErrnoOf(probe.status()), EIO);
  EXPECT_THAT(std::string(probe.status().message()), HasSubstr("superblock"));
}

TEST_F(DeviceErrorTest, TheCheckerTellsWhatCannotBeReadFromWhatIsWrong) {
  Make("a", Bytes(3 * kPageBytes));
  ASSERT_TRUE(fs_->Unmount().ok());
  const Superblock superblock = fs_->superblock();
  fs_.reset();
  device_.SetDecide([&](const IoRequest& request) {
    return request.op == IoOp::kRead && request.offset_bytes == superblock.state_block * kBlockBytes
               ? EIO
               : 0;
  });
  const auto report = CheckFilesystem(device_);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GE(report->io_error_count, 1u);
  EXPECT_THAT(absl::StrJoin(report->problems, "\n"),
              HasSubstr(absl::StrCat("block ", superblock.state_block, ": read failed")));
}

TEST_F(DeviceErrorTest, ARemountThatFailsIsNotForgotten) {
  const InodeNumber file = Make("file", "");
  ASSERT_TRUE(client_->Sync().ok());
  ASSERT_TRUE(client_->Write(file, 0, Bytes(9000)).ok());
  uint64_t writes = 0;
  // The data is written, the log is not.
  device_.SetDecide([&writes](const IoRequest& request) {
    return request.op == IoOp::kWrite && ++writes > 1 ? EIO : 0;
  });
  EXPECT_FALSE(fs_->Remount(/*read_only=*/true).ok());
  EXPECT_THAT(Log(), HasSubstr("read-only now"));
  device_.SetDecide(nullptr);
  EXPECT_FALSE(fs_->Remount(/*read_only=*/true).ok());
  EXPECT_FALSE(client_->Fsync(file).ok());
  EXPECT_FALSE(client_->Sync().ok());
  EXPECT_FALSE(fs_->Unmount().ok());
}

}  // namespace
}  // namespace pbfs
