// SPDX-License-Identifier: Apache-2.0
// Files without a name, and renames that leave something behind.
#include <sys/stat.h>

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/checker.h"
#include "tests/support/fs_fixture.h"
#include "tests/support/fs_image.h"

#ifndef RENAME_WHITEOUT
#define RENAME_WHITEOUT (1 << 2)
#endif

namespace pbfs {
namespace {

class NamesTest : public FsFixture {
 protected:
  InodeNumber MakeTemporary(InodeNumber dir) {
    NewInode request;
    request.mode = S_IFREG | 0640;
    request.uid = 7;
    request.gid = 8;
    const auto made = fs_->CreateTemporary(dir, request);
    EXPECT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(made->nlink, 0u);
    return made->ino;
  }
  void ExpectClean() {
    const auto report = CheckReplayed(*device_);
    ASSERT_TRUE(report.ok()) << report.status();
    for (const auto& problem : report->problems) ADD_FAILURE() << problem;
  }
  uint64_t FreeBlocks() { return fs_->StatFs()->blocks_free; }
};

TEST_F(NamesTest, ATemporaryFileIsGoneAfterACrash) {
  MakeAndMount();
  const InodeNumber ino = MakeTemporary(root());
  ASSERT_TRUE(client_->Write(ino, 0, std::string(50'000, 'x')).ok());
  ASSERT_TRUE(client_->Fsync(ino).ok());
  EXPECT_EQ(client_->Read(ino, 49'999, 10).value_or(""), "x");
  CutPower(1);
  Mount();
  EXPECT_EQ(fs_->mount_report().orphans, 1u);
  EXPECT_EQ(ErrnoOf(fs_->GetAttributes(ino).status()), ESTALE);
  Unmount();
  ExpectClean();
}

TEST_F(NamesTest, ATemporaryFileGoesWithItsLastReference) {
  MakeAndMount();
  const uint64_t before = FreeBlocks();
  const InodeNumber ino = MakeTemporary(root());
  ASSERT_TRUE(client_->Write(ino, 0, std::string(500'000, 'x')).ok());
  ASSERT_TRUE(client_->Sync().ok());
  EXPECT_LT(FreeBlocks(), before);
  fs_->Forget(ino, 1);
  Unmount();
  ExpectClean();
  Mount();
  EXPECT_EQ(fs_->mount_report().orphans, 0u);
  // A chunk of inodes and its tree stay.
  EXPECT_GE(FreeBlocks() + 16, before);
}

TEST_F(NamesTest, ALinkedTemporaryFileStays) {
  MakeAndMount();
  auto dir = client_->Mkdir(root(), "d");
  const InodeNumber ino = MakeTemporary(*dir);
  ASSERT_TRUE(client_->Write(ino, 0, "contents").ok());
  const auto linked = fs_->Link(ino, *dir, "f");
  ASSERT_TRUE(linked.ok()) << linked.status();
  EXPECT_EQ(linked->nlink, 1u);
  EXPECT_EQ(linked->uid, 7u);
  fs_->Forget(ino, 2);
  ASSERT_TRUE(client_->Sync().ok());
  CutPower(2);
  Mount();
  EXPECT_EQ(fs_->mount_report().orphans, 0u);
  dir = client_->Find(root(), "d");
  const auto found = client_->Find(*dir, "f");
  ASSERT_EQ(found.value_or(0), ino);
  EXPECT_EQ(client_->Read(ino, 0, 100).value_or(""), "contents");
  Unmount();
  ExpectClean();
}

TEST_F(NamesTest, ARemovedFileGetsNoNewName) {
  MakeAndMount();
  const InodeNumber ino = MakeTemporary(root());
  ASSERT_TRUE(fs_->Link(ino, root(), "f").ok());
  ASSERT_TRUE(fs_->Unlink(root(), "f").ok());
  EXPECT_EQ(ErrnoOf(fs_->Link(ino, root(), "g").status()), ENOENT);
  const auto other = client_->Create(root(), "h");
  ASSERT_TRUE(fs_->Unlink(root(), "h").ok());
  EXPECT_EQ(ErrnoOf(fs_->Link(*other, root(), "g").status()), ENOENT);
  fs_->Forget(ino, 2);
  Unmount();
  ExpectClean();
}

TEST_F(NamesTest, ATemporaryFileTakesASetgidDirectorysGroup) {
  MakeAndMount();
  NewInode request;
  request.mode = S_IFDIR | S_ISGID | 0755;
  request.gid = 77;
  const auto dir = fs_->Create(root(), "d", request);
  EXPECT_EQ(fs_->GetAttributes(MakeTemporary(dir->ino))->gid, 77u);
  ASSERT_TRUE(fs_->Rmdir(root(), "d").ok());
  EXPECT_EQ(ErrnoOf(fs_->CreateTemporary(dir->ino, {.mode = S_IFREG}).status()), ENOENT);
  EXPECT_EQ(ErrnoOf(fs_->CreateTemporary(root(), {.mode = S_IFIFO}).status()), EINVAL);
}

TEST_F(NamesTest, NothingIsMadeOnAReadOnlyMount) {
  MakeAndMount();
  ASSERT_TRUE(client_->Create(root(), "f").ok());
  Unmount();
  MountOptions options = SmallCache();
  options.read_only = true;
  Mount(options);
  EXPECT_EQ(ErrnoOf(fs_->CreateTemporary(root(), {.mode = S_IFREG}).status()), EROFS);
  const auto found = client_->Find(root(), "f");
  EXPECT_EQ(ErrnoOf(fs_->Link(*found, root(), "g").status()), EROFS);
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "f", root(), "g", RENAME_WHITEOUT)), EROFS);
}

TEST_F(NamesTest, ARenameLeavesAWhiteout) {
  MakeAndMount();
  const auto dir = client_->Mkdir(root(), "d");
  const auto file = client_->Create(root(), "f");
  const auto target = client_->Create(*dir, "g");
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "f", *dir, "g", RENAME_WHITEOUT | RENAME_NOREPLACE)),
            EEXIST);
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "f", *dir, "g", RENAME_WHITEOUT | RENAME_EXCHANGE)),
            EINVAL);
  ASSERT_TRUE(fs_->Rename(root(), "f", *dir, "g", RENAME_WHITEOUT, {.uid = 3, .gid = 4}).ok());
  EXPECT_EQ(client_->Find(*dir, "g").value_or(0), *file);
  EXPECT_EQ(fs_->GetAttributes(*target)->nlink, 0u);
  const auto left = fs_->Lookup(root(), "f");
  ASSERT_TRUE(left.ok() && left->has_value());
  EXPECT_EQ((*left)->mode, uint32_t{S_IFCHR});
  EXPECT_EQ((*left)->rdev, 0u);
  EXPECT_EQ((*left)->nlink, 1u);
  EXPECT_EQ((*left)->uid, 3u);
  EXPECT_EQ((*left)->gid, 4u);
  // A directory, and within one directory.
  ASSERT_TRUE(fs_->Rename(root(), "d", root(), "e", RENAME_WHITEOUT).ok());
  EXPECT_EQ(client_->Find(root(), "e").value_or(0), *dir);
  EXPECT_EQ(fs_->GetAttributes(root())->nlink, 3u);
  ASSERT_TRUE(client_->Sync().ok());
  CutPower(3);
  ExpectClean();
  Mount();
  EXPECT_EQ(client_->Find(root(), "e").value_or(0), *dir);
  Unmount();
  ExpectClean();
}

TEST_F(NamesTest, TwoNamesOfOneFileStayAndLeaveNoWhiteout) {
  MakeAndMount();
  const auto file = client_->Create(root(), "f");
  ASSERT_TRUE(fs_->Link(*file, root(), "g").ok());
  ASSERT_TRUE(fs_->Rename(root(), "f", root(), "g", RENAME_WHITEOUT).ok());
  EXPECT_EQ(client_->Find(root(), "f").value_or(0), *file);
  EXPECT_EQ(fs_->GetAttributes(*file)->nlink, 2u);
}

// What open_by_handle_at(2) asks for, with a handle from before.
TEST_F(NamesTest, AHandleOfWhatIsGoneFindsNothing) {
  MakeAndMount();
  constexpr int kFiles = 2000;
  std::vector<InodeNumber> files;
  for (int i = 0; i < kFiles; ++i) {
    files.push_back(*client_->Create(root(), absl::StrCat("f", i)));
  }
  // Its blocks are written in place.
  Unmount();
  Mount();
  for (const InodeNumber ino : files) EXPECT_EQ((*fs_->Lookup(ino, "."))->ino, ino);
  for (int i = 0; i < kFiles; ++i) {
    fs_->Forget(files[i], 1);
    if (i != 7) ASSERT_TRUE(fs_->Unlink(root(), absl::StrCat("f", i)).ok());
  }
  ASSERT_TRUE(fs_->Remount(/*read_only=*/true).ok());
  const auto expect_gone = [&] {
    for (int i = 0; i < kFiles; ++i) {
      const auto found = fs_->Lookup(files[i], ".");
      ASSERT_TRUE(found.ok()) << found.status();
      EXPECT_EQ(found->has_value(), i == 7) << i;
    }
    EXPECT_FALSE((*fs_->Lookup(uint64_t{1} << 60, ".")).has_value());
    EXPECT_FALSE((*fs_->Lookup(0, ".")).has_value());
  };
  expect_gone();
  ASSERT_TRUE(fs_->Remount(/*read_only=*/false).ok());
  expect_gone();
}

// A handle that is asked for while its number is given to a new file.
TEST_F(NamesTest, AHandleDoesNotGetInTheWayOfANewInode) {
  for (int round = 0; round < 20; ++round) {
    MakeAndMount();
    std::vector<InodeNumber> files;
    for (int i = 0; i < 20; ++i) {
      files.push_back(*client_->Create(root(), absl::StrCat("f", i)));
    }
    for (int i = 0; i < 20; ++i) {
      fs_->Forget(files[i], 1);
      if (i % 2 == 0) ASSERT_TRUE(fs_->Unlink(root(), absl::StrCat("f", i)).ok());
    }
    Unmount();
    Mount();
    std::thread asks([&] {
      for (const InodeNumber ino : files) {
        const auto found = fs_->Lookup(ino, ".");
        if (found.ok() && *found) fs_->Forget(ino, 1);
      }
    });
    for (int i = 0; i < 10; ++i) {
      const auto made = client_->Create(root(), absl::StrCat("new", i));
      ASSERT_TRUE(made.ok()) << made.status();
      EXPECT_TRUE(client_->Write(*made, 0, "new").ok());
      EXPECT_EQ(*client_->Read(*made, 0, 10), "new");
    }
    asks.join();
    Unmount();
    ExpectClean();
  }
}

TEST_F(NamesTest, ACycleOfParentsIsDamage) {
  MakeAndMount();
  const InodeNumber a = *client_->Mkdir(root(), "a");
  const InodeNumber b = *client_->Mkdir(root(), "b");
  ASSERT_TRUE(client_->Mkdir(root(), "x").ok());
  Unmount();
  {
    ImageEditor editor(*device_);
    editor.EditInode(a, [b](DiskInode& inode) { inode.parent = b; });
    editor.EditInode(b, [a](DiskInode& inode) { inode.parent = a; });
  }
  Mount();
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "x", a, "y", 0, {})), EUCLEAN);
}

}  // namespace
}  // namespace pbfs
