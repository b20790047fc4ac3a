// SPDX-License-Identifier: Apache-2.0
// FileSystem::Remount: what a read-only filesystem leaves on the device, and that it works again.
#include "fs/checker.h"
#include "fs/summary.h"
#include "tests/support/fs_fixture.h"

namespace pbfs {
namespace {

class RemountTest : public FsFixture {
 protected:
  bool LogIsClean() { return ReadSummary(*device_, fs_->superblock())->log_clean; }
};

TEST_F(RemountTest, ReadOnlyWritesEverythingBackAndMarksTheLogClean) {
  MakeAndMount();
  const InodeNumber file = *client_->Create(root(), "file");
  ASSERT_TRUE(client_->Write(file, 0, "not synced").ok());
  EXPECT_FALSE(LogIsClean());
  ASSERT_TRUE(fs_->Remount(/*read_only=*/true).ok());
  EXPECT_TRUE(fs_->read_only());
  EXPECT_TRUE(LogIsClean());
  EXPECT_EQ(*client_->Read(file, 0, 100), "not synced");
  EXPECT_EQ(ErrnoOf(client_->Create(root(), "other").status()), EROFS);
  EXPECT_EQ(ErrnoOf(client_->Write(file, 0, "x")), EROFS);
  EXPECT_TRUE(client_->Sync().ok());
  EXPECT_TRUE(client_->Fsync(file).ok());
  CutPower(1);
  Mount();
  EXPECT_FALSE(fs_->mount_report().replayed);
  EXPECT_EQ(*client_->Read(*client_->Find(root(), "file"), 0, 100), "not synced");
}

TEST_F(RemountTest, BackAndForthWithChangesInBetween) {
  MakeAndMount();
  for (int round = 0; round < 10; ++round) {
    const std::string name = "file" + std::to_string(round);
    const InodeNumber file = *client_->Create(root(), name);
    ASSERT_TRUE(client_->Write(file, 0, std::string(10'000, 'a')).ok());
    if (round % 2 == 0) ASSERT_TRUE(client_->Fsync(file).ok());
    ASSERT_TRUE(fs_->Remount(true).ok());
    ASSERT_TRUE(fs_->Remount(true).ok());
    ASSERT_TRUE(fs_->Remount(false).ok());
  }
  const InodeNumber last = *client_->Create(root(), "last");
  ASSERT_TRUE(client_->Fsync(last).ok());
  CutPower(7);
  Mount();
  EXPECT_TRUE(fs_->mount_report().replayed);
  EXPECT_EQ(client_->List(root())->size(), 11u);
  Unmount();
  EXPECT_TRUE(CheckFilesystem(*device_, {})->problems.empty());
}

TEST_F(RemountTest, WhatIsOpenWithoutANameStays) {
  MakeAndMount();
  const InodeNumber open = *client_->Create(root(), "open");
  const InodeNumber closed = *client_->Create(root(), "closed");
  const uint64_t before = fs_->StatFs()->blocks_free;
  ASSERT_TRUE(client_->Write(open, 0, std::string(100'000, 'o')).ok());
  ASSERT_TRUE(client_->Write(closed, 0, std::string(100'000, 'c')).ok());
  ASSERT_TRUE(fs_->Unlink(root(), "open").ok());
  ASSERT_TRUE(fs_->Unlink(root(), "closed").ok());
  ASSERT_TRUE(fs_->Remount(/*read_only=*/true).ok());
  fs_->Forget(closed, 1);
  ASSERT_TRUE(fs_->Remount(/*read_only=*/false).ok());
  EXPECT_EQ(*client_->Read(open, 0, 200'000), std::string(100'000, 'o'));
  EXPECT_TRUE(client_->Write(open, 0, "still").ok());
  EXPECT_TRUE(client_->Fsync(open).ok());
  EXPECT_EQ(ErrnoOf(fs_->GetAttributes(closed).status()), ESTALE);
  fs_->Forget(open, 1);
  ASSERT_TRUE(fs_->Remount(/*read_only=*/true).ok());
  EXPECT_GE(fs_->StatFs()->blocks_free, before);
  Unmount();
  EXPECT_TRUE(CheckFilesystem(*device_, {})->problems.empty());
}

TEST_F(RemountTest, WhatWasMountedReadOnlyCanBecomeWritable) {
  MakeAndMount();
  const InodeNumber orphan = *client_->Create(root(), "orphan");
  ASSERT_TRUE(client_->Write(orphan, 0, std::string(100'000, 'o')).ok());
  ASSERT_TRUE(client_->Fsync(orphan).ok());
  ASSERT_TRUE(fs_->Unlink(root(), "orphan").ok());
  ASSERT_TRUE(client_->Sync().ok());
  Kill();
  MountOptions options = SmallCache();
  options.read_only = true;
  Mount(options);
  EXPECT_EQ(ErrnoOf(client_->Create(root(), "a").status()), EROFS);
  ASSERT_TRUE(fs_->Remount(false).ok());
  EXPECT_TRUE(client_->Create(root(), "a").ok());
  Unmount();
  const auto report = CheckFilesystem(*device_, {});
  EXPECT_TRUE(report->problems.empty());
  EXPECT_EQ(report->stats.orphans, 0u);
}

TEST_F(RemountTest, AChangeThatTheKernelLetThroughMakesItWritable) {
  MakeAndMount();
  Unmount();
  MountOptions options = SmallCache();
  options.read_only = true;
  options.becomes_writable = true;
  Mount(options);
  EXPECT_TRUE(fs_->read_only());
  EXPECT_TRUE(client_->Create(root(), "a").ok());
  EXPECT_FALSE(fs_->read_only());
}

TEST_F(RemountTest, WithoutRecoveryItStaysReadOnly) {
  MakeAndMount();
  Kill();
  MountOptions options = SmallCache();
  options.no_recovery = true;
  options.becomes_writable = true;
  Mount(options);
  EXPECT_EQ(ErrnoOf(fs_->Remount(false)), EROFS);
  EXPECT_EQ(ErrnoOf(client_->Create(root(), "a").status()), EROFS);
}

}  // namespace
}  // namespace pbfs
