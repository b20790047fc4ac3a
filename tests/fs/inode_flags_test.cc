// SPDX-License-Identifier: Apache-2.0
// Immutable and append-only inodes, and those of a project.
#include "fs/inode_flags.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "absl/strings/str_join.h"
#include "fs/acl.h"
#include "fs/checker.h"
#include "tests/support/fs_image.h"

#ifndef RENAME_EXCHANGE
#define RENAME_NOREPLACE (1 << 0)
#define RENAME_EXCHANGE (1 << 1)
#endif

namespace pbfs {
namespace {

using ::testing::HasSubstr;

class InodeFlagsTest : public FsFixture {
 protected:
  void SetUp() override {
    MakeAndMount();
    dir_ = *client_->Mkdir(root(), "d");
    file_ = *client_->Create(dir_, "f");
    ASSERT_TRUE(client_->Write(file_, 0, std::string(5000, 'a')).ok());
  }
  void Flag(InodeNumber ino, uint32_t flags) { ASSERT_TRUE(fs_->SetFlags(ino, flags, {}).ok()); }
  int Set(InodeNumber ino, const SetAttributes& request) {
    return ErrnoOf(fs_->SetAttributesOf(ino, request).status());
  }
  int Write(uint64_t offset, std::string_view bytes, bool cached = false) {
    return ErrnoOf(client_->Write(file_, offset, bytes, {.from_page_cache = cached}));
  }
  std::string Problems() {
    const auto report = CheckReplayed(*device_);
    EXPECT_TRUE(report.ok()) << report.status();
    return absl::StrJoin(report->problems, "; ");
  }
  InodeNumber dir_ = 0;
  InodeNumber file_ = 0;
};

TEST_F(InodeFlagsTest, AnImmutableFileStaysAsItIs) {
  Flag(file_, kInodeImmutable);
  const Attributes before = *fs_->GetAttributes(file_);
  EXPECT_EQ(Write(0, "x"), EPERM);
  EXPECT_EQ(Write(5000, "x", /*cached=*/true), EPERM);
  EXPECT_EQ(Set(file_, {.mode = 0600}), EPERM);
  EXPECT_EQ(Set(file_, {.uid = 1}), EPERM);
  EXPECT_EQ(Set(file_, {.gid = 1}), EPERM);
  EXPECT_EQ(Set(file_, {.size_bytes = 0}), EPERM);
  EXPECT_EQ(Set(file_, {.atime = Time{1, 0}}), EPERM);
  EXPECT_EQ(Set(file_, {.atime_now = true}), EPERM);
  EXPECT_EQ(Set(file_, {.mtime_now = true}), EPERM);
  EXPECT_EQ(Set(file_, {.mtime = Time{1, 0}}), EPERM);
  EXPECT_EQ(Set(file_, {.mtime = Time{1, 0}, .ctime = Time{before.ctime.seconds + 1, 0}}), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->SetXattr(file_, "user.a", "b", 0)), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->RemoveXattr(file_, "security.capability")), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->Link(file_, root(), "g").status()), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->Unlink(dir_, "f")), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->Rename(dir_, "f", root(), "g", 0)), EPERM);
  ASSERT_TRUE(client_->Create(root(), "other").ok());
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "other", dir_, "f", 0)), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "other", dir_, "f", RENAME_EXCHANGE)), EPERM);
  EXPECT_EQ(client_->Read(file_, 0, 10'000).value_or(""), std::string(5000, 'a'));
  EXPECT_EQ(fs_->GetAttributes(file_)->mtime, before.mtime);
  // The kernel stores the times of writes that were before.
  const Time earlier = {before.ctime.seconds - 5, 17};
  EXPECT_EQ(Set(file_, {.mtime = earlier, .ctime = earlier}), 0);
  EXPECT_EQ(fs_->GetAttributes(file_)->mtime, earlier);
  Flag(file_, 0);
  EXPECT_EQ(Write(0, "x"), 0);
  EXPECT_TRUE(fs_->Unlink(dir_, "f").ok());
}

TEST_F(InodeFlagsTest, AnAppendOnlyFileOnlyGrows) {
  Flag(file_, kInodeAppendOnly);
  EXPECT_EQ(Write(0, "x"), EPERM);
  EXPECT_EQ(Write(4999, "xy"), EPERM);
  EXPECT_EQ(Write(5000, "bc"), 0);
  // Pages of the kernel's cache have old bytes, too: those stay.
  EXPECT_EQ(Write(4096, std::string(906, 'z') + "def", /*cached=*/true), 0);
  EXPECT_EQ(Write(4096, std::string(906, 'z'), /*cached=*/true), EPERM);
  const std::string expected = std::string(5000, 'a') + "bcdef";
  EXPECT_EQ(client_->Read(file_, 0, 10'000).value_or(""), expected);
  EXPECT_EQ(Set(file_, {.size_bytes = 0}), EPERM);
  EXPECT_EQ(Set(file_, {.size_bytes = 10'000}), EPERM);
  EXPECT_EQ(Set(file_, {.mode = 0600}), EPERM);
  EXPECT_EQ(Set(file_, {.atime = Time{1, 0}}), EPERM);
  EXPECT_EQ(Set(file_, {.mtime = Time{1, 0}}), EPERM);
  EXPECT_EQ(Set(file_, {.atime_now = true, .mtime_now = true}), 0);
  EXPECT_EQ(Set(file_, {.mtime = Time{1, 0}, .ctime = Time{2, 0}}), 0);  // As after writes.
  EXPECT_EQ(ErrnoOf(fs_->SetXattr(file_, "user.a", "b", 0)), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->RemoveXattr(file_, "security.capability")), ENODATA);
  EXPECT_EQ(ErrnoOf(fs_->Link(file_, root(), "g").status()), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->Unlink(dir_, "f")), EPERM);
  ASSERT_TRUE(client_->Sync().ok());
  CutPower(1);
  Mount();
  EXPECT_EQ(fs_->mount_report().watched_inodes, 1u);
  dir_ = *client_->Find(root(), "d");
  file_ = *client_->Find(dir_, "f");
  EXPECT_EQ(client_->Read(file_, 0, 10'000).value_or(""), expected);
}

TEST_F(InodeFlagsTest, GuardedDirectoriesKeepTheirNames) {
  Flag(dir_, kInodeAppendOnly);
  EXPECT_TRUE(client_->Create(dir_, "new").ok());
  EXPECT_TRUE(fs_->Link(file_, dir_, "linked").ok());
  EXPECT_EQ(ErrnoOf(fs_->Unlink(dir_, "new")), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->Rename(dir_, "new", dir_, "newer", 0)), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->Rename(dir_, "new", dir_, "f", 0)), EPERM);
  ASSERT_TRUE(client_->Create(root(), "in").ok());
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "in", dir_, "f", 0)), EPERM);
  EXPECT_TRUE(fs_->Rename(root(), "in", dir_, "in", 0).ok());
  Flag(dir_, kInodeImmutable);
  EXPECT_EQ(ErrnoOf(client_->Create(dir_, "newest").status()), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->CreateTemporary(dir_, {.mode = S_IFREG}).status()), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->Link(file_, dir_, "x").status()), EPERM);
  ASSERT_TRUE(client_->Create(root(), "in2").ok());
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "in2", dir_, "in2", 0)), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->Rmdir(root(), "d")), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->SetXattr(dir_, kAclDefaultXattr, AclBytes({}), 0)), EPERM);
  // Files in it may change.
  EXPECT_EQ(Write(0, "x"), 0);
}

TEST_F(InodeFlagsTest, OnlyKnownFlagsOfFilesAndDirectories) {
  EXPECT_EQ(ErrnoOf(fs_->SetFlags(file_, 0x4, {})), EOPNOTSUPP);
  const auto fifo = client_->Create(root(), "p", S_IFIFO | 0600);
  EXPECT_EQ(ErrnoOf(fs_->SetFlags(*fifo, kInodeNoDump, {})), EOPNOTSUPP);
  Flag(file_, kInodeNoDump | kInodeProjectInherit);
  EXPECT_EQ(fs_->GetAttributes(file_)->flags, kInodeNoDump);
  Flag(file_, kInodeNoDump | kInodeImmutable);
  EXPECT_EQ(ErrnoOf(fs_->SetFlags(file_, kInodeImmutable, {})), EPERM);
  EXPECT_EQ(ErrnoOf(fs_->SetFlags(file_, kInodeImmutable | kInodeNoDump, 5)), EPERM);
  EXPECT_TRUE(fs_->SetFlags(file_, kInodeNoAtime, 5).ok());
  EXPECT_EQ(fs_->GetAttributes(file_)->project, 5u);
}

TEST_F(InodeFlagsTest, AProjectIsInherited) {
  ASSERT_TRUE(fs_->SetFlags(dir_, kInodeProjectInherit | kInodeNoDump, 42).ok());
  const auto file = fs_->Create(dir_, "new", {.mode = S_IFREG | 0600});
  EXPECT_EQ(file->project, 42u);
  EXPECT_EQ(file->flags, kInodeNoDump);
  const auto below = fs_->Create(dir_, "sub", {.mode = S_IFDIR | 0700});
  EXPECT_EQ(below->project, 42u);
  EXPECT_EQ(below->flags, kInodeProjectInherit | kInodeNoDump);
  const auto fifo = fs_->Create(dir_, "p", {.mode = S_IFIFO | 0600});
  EXPECT_EQ(fifo->project, 42u);
  EXPECT_EQ(fifo->flags, 0u);
  ASSERT_TRUE(client_->Create(root(), "out").ok());
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "out", dir_, "in", 0)), EXDEV);
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "out", dir_, "new", RENAME_EXCHANGE)), EXDEV);
  EXPECT_EQ(ErrnoOf(fs_->Link(file_, dir_, "in").status()), EXDEV);
  EXPECT_TRUE(fs_->Rename(dir_, "new", below->ino, "new", 0).ok());
  EXPECT_TRUE(fs_->Rename(below->ino, "new", root(), "new", 0).ok());
  Unmount();
  EXPECT_EQ(Problems(), "");
}

TEST_F(InodeFlagsTest, TheCountFollows) {
  const auto count = [this] {
    Unmount();
    EXPECT_EQ(Problems(), "");
    Mount();
    dir_ = *client_->Find(root(), "d");
    file_ = *client_->Find(dir_, "f");
    return fs_->mount_report().watched_inodes;
  };
  EXPECT_EQ(count(), 0u);
  Flag(file_, kInodeImmutable);
  Flag(dir_, kInodeAppendOnly | kInodeNoDump);
  Flag(file_, kInodeAppendOnly);
  EXPECT_EQ(count(), 2u);
  Flag(dir_, kInodeNoDump);
  EXPECT_EQ(count(), 1u);
  // A file without a name takes its part with it.
  const auto temporary = fs_->CreateTemporary(dir_, {.mode = S_IFREG | 0600});
  Flag(temporary->ino, kInodeImmutable);
  ASSERT_TRUE(client_->Sync().ok());
  CutPower(3);
  EXPECT_EQ(Problems(), "");
  Mount();
  Unmount();
  EXPECT_EQ(Problems(), "");
  Mount();
  EXPECT_EQ(fs_->mount_report().watched_inodes, 1u);
}

TEST_F(InodeFlagsTest, InheritedSyncFlagsAreCounted) {
  Flag(dir_, kInodeSync | kInodeDirSync);
  const auto file = client_->Create(dir_, "new", S_IFREG | 0644);
  const auto sub = client_->Create(dir_, "sub", S_IFDIR | 0755);
  ASSERT_TRUE(file.ok() && sub.ok());
  EXPECT_EQ(fs_->GetAttributes(*file)->flags, kInodeSync);
  EXPECT_EQ(fs_->GetAttributes(*sub)->flags, kInodeSync | kInodeDirSync);
  const auto count = [this] {
    Unmount();
    EXPECT_EQ(Problems(), "");
    Mount();
    dir_ = *client_->Find(root(), "d");
    return fs_->mount_report().watched_inodes;
  };
  EXPECT_EQ(count(), 3u);
  EXPECT_TRUE(fs_->Unlink(dir_, "new").ok());
  EXPECT_TRUE(fs_->Rmdir(dir_, "sub").ok());
  EXPECT_EQ(count(), 1u);
}

TEST_F(InodeFlagsTest, AWrongCountAndUnknownFlagsAreFound) {
  Flag(file_, kInodeImmutable);
  Unmount();
  const auto damaged = device_->Clone();
  {
    ImageEditor editor(*device_);
    editor.EditAs<StateBlock>(editor.superblock().state_block,
                              [](StateBlock& state) { state.watched_inodes = 7; });
  }
  EXPECT_THAT(Problems(), HasSubstr("watched_inodes is 7, there are 1"));
  ImageEditor editor(*damaged);
  editor.EditInode(file_, [](DiskInode& inode) { inode.flags |= 4; });
  const auto report = CheckReplayed(*damaged);
  EXPECT_THAT(absl::StrJoin(report->problems, "; "), HasSubstr("flags is 20"));
}

}  // namespace
}  // namespace pbfs
