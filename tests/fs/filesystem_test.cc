// SPDX-License-Identifier: Apache-2.0
// The narrowest true path, and the everyday operations around it.
#include "fs/filesystem.h"

#include <sys/xattr.h>
#include <unistd.h>

#include <set>

#include "base/clock.h"
#include "tests/support/fs_fixture.h"

namespace pbfs {
namespace {

using FileSystemTest = FsFixture;

// Longer than a tick of the coarse clock that stamps inodes.
void LetTimePass() { SleepFor(std::chrono::milliseconds(30)); }

std::string Pattern(size_t bytes, uint32_t seed) {
  std::string text(bytes, '\0');
  uint32_t state = seed * 2654435761u + 1;
  for (char& c : text) {
    state = state * 1664525u + 1013904223u;
    c = static_cast<char>(state >> 24);
  }
  return text;
}

TEST_F(FileSystemTest, SyncedFileSurvivesAKillAndAPowerCut) {
  MakeAndMount();
  const std::string text = Pattern(100'000, 1);
  auto ino = client_->Create(root(), "kept");
  ASSERT_TRUE(ino.ok()) << ino.status();
  ASSERT_TRUE(client_->Write(*ino, 0, text).ok());
  ASSERT_TRUE(client_->Fsync(*ino).ok());
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    CutPower(seed);
    Mount();
    EXPECT_TRUE(fs_->mount_report().replayed);
    auto found = client_->Find(root(), "kept");
    ASSERT_TRUE(found.ok() && *found != 0) << found.status();
    EXPECT_EQ(client_->Read(*found, 0, 200'000).value_or(""), text);
  }
}

TEST_F(FileSystemTest, CleanUnmountLeavesNothingToReplay) {
  MakeAndMount();
  auto ino = client_->Create(root(), "f");
  ASSERT_TRUE(client_->Write(*ino, 5000, "hello").ok());
  Unmount();
  Mount();
  EXPECT_FALSE(fs_->mount_report().replayed);
  auto found = client_->Find(root(), "f");
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(client_->Read(*found, 0, 10000).value_or(""), std::string(5000, '\0') + "hello");
}

TEST_F(FileSystemTest, WhatTheKernelSendsOfASyncedFileIsWrittenAtOnceFourTimes) {
  MountOptions options = SmallCache();
  options.commit_interval_ns = int64_t{3600} * 1'000'000'000;
  MakeAndMount(64 << 20, options);
  const auto dirty = [&] { return fs_->page_cache().dirty_pages.load(); };
  const InodeNumber file = *client_->Create(root(), "file");
  const WriteFlags collected = {.from_page_cache = true};
  const std::string page(4096, 'a');
  ASSERT_TRUE(client_->Write(file, 0, page, collected).ok());
  EXPECT_EQ(dirty(), 1);  // Nobody has asked for an fsync yet.
  ASSERT_TRUE(client_->Fsync(file).ok());
  EXPECT_EQ(dirty(), 0);
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(client_->Write(file, 0, page, collected).ok());
    for (int wait = 0; wait < 1000 && dirty() > 0; ++wait) SleepFor(std::chrono::milliseconds(5));
    EXPECT_EQ(dirty(), 0) << i;
  }
  ASSERT_TRUE(client_->Write(file, 0, page, collected).ok());
  EXPECT_EQ(dirty(), 1);
  ASSERT_TRUE(client_->Fsync(file).ok());
  CutPower(1);
  Mount();
  EXPECT_EQ(*client_->Read(*client_->Find(root(), "file"), 0, 4096), page);
}

TEST_F(FileSystemTest, NamesComeAndGo) {
  MakeAndMount();
  auto dir = client_->Mkdir(root(), "dir");
  ASSERT_TRUE(dir.ok());
  std::set<std::string> expected;
  for (int i = 0; i < 3000; ++i) {
    const std::string name = "file" + std::to_string(i);
    auto made = client_->Create(*dir, name);
    ASSERT_TRUE(made.ok()) << name << ": " << made.status();
    fs_->Forget(*made, 1);
    expected.insert(name);
  }
  EXPECT_EQ(ErrnoOf(client_->Create(*dir, "file7").status()), EEXIST);
  EXPECT_EQ(ErrnoOf(fs_->Rmdir(root(), "dir")), ENOTEMPTY);
  for (int i = 0; i < 3000; i += 2) {
    const std::string name = "file" + std::to_string(i);
    ASSERT_TRUE(fs_->Unlink(*dir, name).ok());
    expected.erase(name);
  }
  Unmount();
  Mount();
  dir = client_->Find(root(), "dir");
  auto names = client_->List(*dir);
  ASSERT_TRUE(names.ok()) << names.status();
  EXPECT_EQ(std::set<std::string>(names->begin(), names->end()), expected);
  for (const std::string& name : expected) ASSERT_TRUE(fs_->Unlink(*dir, name).ok());
  EXPECT_TRUE(fs_->Rmdir(root(), "dir").ok());
}

TEST_F(FileSystemTest, SpaceComesBackAfterUnlink) {
  MakeAndMount();
  ASSERT_TRUE(client_->Sync().ok());
  const uint64_t before = fs_->StatFs()->blocks_free;
  for (int round = 0; round < 5; ++round) {
    auto ino = client_->Create(root(), "big");
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(client_->Write(*ino, uint64_t(i) << 20, Pattern(1 << 20, 7)).ok()) << i;
    }
    EXPECT_LE(fs_->StatFs()->blocks_free, before - 20 * 256);
    ASSERT_TRUE(fs_->Unlink(root(), "big").ok());
    fs_->Forget(*ino, 1);
  }
  Unmount();
  Mount();
  const uint64_t after = fs_->StatFs()->blocks_free;
  EXPECT_LE(before - after, 8u);
}

TEST_F(FileSystemTest, AFullFilesystemSaysSoAndCanBeEmptied) {
  MakeAndMount(32 << 20);
  std::vector<InodeNumber> inos;
  Status status;
  for (int i = 0; status.ok() && i < 100; ++i) {
    auto ino = client_->Create(root(), "f" + std::to_string(i));
    if (!ino.ok()) {
      status = ino.status();
      break;
    }
    inos.push_back(*ino);
    status = client_->Write(*ino, 0, Pattern(1 << 20, uint32_t(i)));
  }
  EXPECT_EQ(ErrnoOf(status), ENOSPC);
  EXPECT_GT(inos.size(), 15u);
  EXPECT_TRUE(client_->Sync().ok());  // What was accepted has its space.
  EXPECT_EQ(client_->Read(inos[3], 0, 1 << 20).value_or(""), Pattern(1 << 20, 3));
  for (size_t i = 0; i < inos.size(); ++i) {
    ASSERT_TRUE(fs_->Unlink(root(), "f" + std::to_string(i)).ok());
    fs_->Forget(inos[i], 1);
  }
  auto ino = client_->Create(root(), "again");
  ASSERT_TRUE(ino.ok()) << ino.status();
  EXPECT_TRUE(client_->Write(*ino, 0, Pattern(8 << 20, 9)).ok());
}

TEST_F(FileSystemTest, WhatTheKernelCollectedHasRoomWhenOthersFillTheRest) {
  MountOptions options = SmallCache();
  options.collects_writes = true;
  MakeAndMount(64 << 20, options);
  auto ino = client_->Create(root(), "collected");
  ASSERT_TRUE(ino.ok());
  uint64_t filled = 0;
  auto other = client_->Create(root(), "other");
  while (client_->Write(*other, filled, Pattern(64 << 10, 1)).ok()) filled += 64 << 10;
  while (client_->Write(*other, filled, Pattern(4096, 1)).ok()) filled += 4096;
  EXPECT_LE(fs_->AvailableBytes(), 64u << 10);
  EXPECT_EQ(ErrnoOf(fs_->Fallocate(*other, 0, filled, 64 << 10, {})), ENOSPC);

  const WriteFlags collected = {.from_page_cache = true};
  uint64_t kept = 0;
  while (client_->Write(*ino, kept, Pattern(4096, 2), collected).ok()) kept += 4096;
  EXPECT_GE(kept, 64 * 1024 * 1024 / 32 - 64 * 1024);
  EXPECT_LE(kept, 64 * 1024 * 1024 / 32);
  EXPECT_TRUE(client_->Fsync(*ino).ok());

  // What is there already may be written again, and everything can be removed.
  EXPECT_TRUE(client_->Write(*other, 0, Pattern(4096, 3)).ok());
  ASSERT_TRUE(fs_->Unlink(root(), "other").ok());
  fs_->Forget(*other, 1);
  Unmount();
  Mount(options);
  EXPECT_GE(fs_->AvailableBytes(), filled - kept - 64 * 1024);
}

TEST_F(FileSystemTest, TruncateDownAndUpReadsZeroes) {
  MakeAndMount();
  auto ino = client_->Create(root(), "f");
  ASSERT_TRUE(client_->Write(*ino, 0, Pattern(10'000, 3)).ok());
  ASSERT_TRUE(client_->Fsync(*ino).ok());
  ASSERT_TRUE(client_->Truncate(*ino, 5000).ok());
  ASSERT_TRUE(client_->Truncate(*ino, 9000).ok());
  EXPECT_EQ(client_->Read(*ino, 0, 10'000).value_or(""),
            Pattern(10'000, 3).substr(0, 5000) + std::string(4000, '\0'));
  Unmount();
  Mount();
  auto found = client_->Find(root(), "f");
  EXPECT_EQ(client_->Read(*found, 0, 10'000).value_or(""),
            Pattern(10'000, 3).substr(0, 5000) + std::string(4000, '\0'));
}

TEST_F(FileSystemTest, SparseFilesKeepHolesAndSeek) {
  MakeAndMount();
  auto ino = client_->Create(root(), "sparse");
  const uint64_t far = uint64_t{1} << 40;
  ASSERT_TRUE(client_->Write(*ino, far, "end").ok());
  EXPECT_EQ(fs_->Seek(*ino, 0, SEEK_DATA).value_or(0), far);
  EXPECT_EQ(fs_->Seek(*ino, 0, SEEK_HOLE).value_or(1), 0u);
  ASSERT_TRUE(client_->Fsync(*ino).ok());
  EXPECT_EQ(fs_->Seek(*ino, 0, SEEK_DATA).value_or(0), far);
  EXPECT_EQ(client_->Read(*ino, far - 2, 10).value_or(""), std::string(2, '\0') + "end");
  EXPECT_LE(fs_->GetAttributes(*ino)->blocks_512, 16u);
  EXPECT_EQ(ErrnoOf(client_->Write(*ino, kFileBytesMax - 1, "xyz")), EFBIG);
}

TEST_F(FileSystemTest, RenameReplacesExchangesAndRefuses) {
  MakeAndMount();
  auto a = client_->Mkdir(root(), "a");
  auto b = client_->Mkdir(root(), "b");
  auto f = client_->Create(*a, "f");
  auto g = client_->Create(*b, "g");
  EXPECT_EQ(ErrnoOf(fs_->Rename(*a, "f", *b, "g", RENAME_NOREPLACE)), EEXIST);
  ASSERT_TRUE(fs_->Rename(*a, "f", *b, "g", RENAME_EXCHANGE).ok());
  EXPECT_EQ(client_->Find(*a, "f").value_or(0), *g);
  EXPECT_EQ(client_->Find(*b, "g").value_or(0), *f);
  ASSERT_TRUE(fs_->Rename(*a, "f", *b, "g", 0).ok());
  EXPECT_EQ(client_->Find(*b, "g").value_or(0), *g);
  EXPECT_EQ(client_->Find(*a, "f").value_or(1), 0u);
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "a", *a, "x", 0)), EINVAL);
  ASSERT_TRUE(fs_->Rename(root(), "a", *b, "a", 0).ok());
  EXPECT_EQ(fs_->GetAttributes(*b)->nlink, 3u);
  EXPECT_EQ(fs_->GetAttributes(root())->nlink, 3u);
  EXPECT_EQ(client_->Find(*a, "..").value_or(0), *b);
}

TEST_F(FileSystemTest, CapabilitiesGoWithChanges) {
  MakeAndMount();
  const std::string name = "security.capability";
  const InodeNumber file = *client_->Create(root(), "f");
  const auto has = [&] { return fs_->GetXattr(file, name).ok(); };
  const auto set = [&](const SetAttributes& request) {
    EXPECT_TRUE(fs_->SetXattr(file, name, "caps", 0).ok());
    EXPECT_TRUE(fs_->SetXattr(file, "user.other", "stays", 0).ok());
    EXPECT_TRUE(fs_->SetAttributesOf(file, request).ok());
    EXPECT_TRUE(fs_->GetXattr(file, "user.other").ok());
    return has();
  };
  EXPECT_TRUE(set({.mode = 0700}));
  EXPECT_TRUE(set({.atime_now = true}));
  EXPECT_FALSE(set({.uid = 5}));
  EXPECT_FALSE(set({.gid = 5}));
  EXPECT_FALSE(set({.size_bytes = 100}));
  EXPECT_FALSE(set({.kill_suidgid = true}));
  ASSERT_TRUE(fs_->SetXattr(file, name, "caps", 0).ok());
  ASSERT_TRUE(client_->Write(file, 0, "x", {.from_page_cache = true}).ok());
  EXPECT_TRUE(has());
  ASSERT_TRUE(client_->Write(file, 0, "x").ok());
  EXPECT_FALSE(has());
}

TEST_F(FileSystemTest, SetIdBitsGoAsTheyShould) {
  MakeAndMount();
  const InodeNumber file = *client_->Create(root(), "f");
  const auto left = [&](uint32_t mode, const WriteFlags& flags) {
    EXPECT_TRUE(fs_->SetAttributesOf(file, {.mode = mode}).ok());
    EXPECT_TRUE(client_->Write(file, 0, "x", flags).ok());
    const uint32_t written = fs_->GetAttributes(file)->mode & 07777;
    EXPECT_TRUE(fs_->SetAttributesOf(file, {.mode = mode}).ok());
    EXPECT_TRUE(fs_->SetAttributesOf(file, {.size_bytes = 1,
                                            .kill_suidgid = flags.kill_suidgid,
                                            .kill_setgid = flags.kill_setgid})
                    .ok());
    EXPECT_EQ(fs_->GetAttributes(file)->mode & 07777, written);
    return written;
  };
  EXPECT_EQ(left(06777, {}), 06777u);
  EXPECT_EQ(left(06777, {.kill_suidgid = true}), 0777u);
  EXPECT_EQ(left(06767, {.kill_suidgid = true}), 02767u);
  EXPECT_EQ(left(06767, {.kill_suidgid = true, .kill_setgid = true}), 0767u);
}

TEST_F(FileSystemTest, UnlinkedFileLivesUntilForgotten) {
  MakeAndMount();
  auto ino = client_->Create(root(), "f");
  ASSERT_TRUE(client_->Write(*ino, 0, "still here").ok());
  ASSERT_TRUE(fs_->Unlink(root(), "f").ok());
  EXPECT_EQ(client_->Read(*ino, 0, 100).value_or(""), "still here");
  EXPECT_EQ(fs_->GetAttributes(*ino)->nlink, 0u);
  ASSERT_TRUE(client_->Sync().ok());
  Kill();
  Mount();
  EXPECT_EQ(fs_->mount_report().orphans, 1u);
}

TEST_F(FileSystemTest, SymlinksXattrsAndLinks) {
  MakeAndMount();
  const std::string target(3000, 't');
  auto link = client_->Create(root(), "link", S_IFLNK | 0777, target);
  ASSERT_TRUE(link.ok()) << link.status();
  EXPECT_EQ(fs_->ReadLink(*link).value_or(""), target);
  auto ino = client_->Create(root(), "f");
  const std::string value = Pattern(65536, 5);
  ASSERT_TRUE(fs_->SetXattr(*ino, "user.big", value, XATTR_CREATE).ok());
  EXPECT_EQ(ErrnoOf(fs_->SetXattr(*ino, "user.big", "x", XATTR_CREATE)), EEXIST);
  ASSERT_TRUE(fs_->SetXattr(*ino, "user.small", "y", 0).ok());
  EXPECT_EQ(fs_->GetXattr(*ino, "user.big").value_or(""), value);
  ASSERT_TRUE(fs_->Link(*ino, root(), "g").ok());
  EXPECT_EQ(fs_->GetAttributes(*ino)->nlink, 2u);
  ASSERT_TRUE(client_->Fsync(*ino).ok());
  CutPower(4);
  Mount();
  auto found = client_->Find(root(), "g");
  EXPECT_EQ(fs_->GetXattr(*found, "user.big").value_or(""), value);
  ASSERT_TRUE(fs_->RemoveXattr(*found, "user.big").ok());
  EXPECT_EQ(ErrnoOf(fs_->GetXattr(*found, "user.big").status()), ENODATA);
  EXPECT_EQ(fs_->ListXattr(*found)->size(), 1u);
}

TEST_F(FileSystemTest, NamesOf255BytesFitAnd256DoNot) {
  MakeAndMount();
  EXPECT_TRUE(client_->Create(root(), std::string(255, 'n')).ok());
  EXPECT_EQ(ErrnoOf(client_->Create(root(), std::string(256, 'n')).status()), ENAMETOOLONG);
  EXPECT_EQ(ErrnoOf(fs_->Lookup(root(), std::string(256, 'n')).status()), ENAMETOOLONG);
}

TEST_F(FileSystemTest, ManyOverwritesStayWithinTheLog) {
  MakeAndMount();
  auto ino = client_->Create(root(), "f");
  for (int i = 0; i < 3000; ++i) {
    SetAttributes times;
    times.mtime_now = true;
    ASSERT_TRUE(fs_->SetAttributesOf(*ino, times).ok());
    auto made = client_->Create(root(), "t" + std::to_string(i));
    ASSERT_TRUE(made.ok()) << i << made.status();
    if (i % 10 == 0) {
      ASSERT_TRUE(client_->Fsync(*made).ok());
    }
  }
  CutPower(11);
  Mount();
  EXPECT_NE(client_->Find(root(), "t2990").value_or(0), 0u);
}

// The time of a write is stored late. It must not replace a newer one, in memory or on disk.
TEST_F(FileSystemTest, AWriteTimeDoesNotHideWhatCameLater) {
  MakeAndMount();
  auto ino = client_->Create(root(), "f");
  ASSERT_TRUE(client_->Write(*ino, 0, std::string(9000, 'x')).ok());
  const Attributes written = *fs_->GetAttributes(*ino);
  LetTimePass();
  SetAttributes mode;
  mode.mode = 0600;
  ASSERT_TRUE(fs_->SetAttributesOf(*ino, mode).ok());
  const Attributes changed = *fs_->GetAttributes(*ino);
  EXPECT_GT(changed.ctime, written.ctime);
  EXPECT_EQ(changed.mtime, written.mtime);
  ASSERT_TRUE(client_->Truncate(*ino, 5000).ok());
  const Attributes cut = *fs_->GetAttributes(*ino);
  EXPECT_GT(cut.mtime, written.mtime);
  ASSERT_TRUE(client_->Fsync(*ino).ok());
  CutPower(5);
  Mount();
  const Attributes found = *fs_->GetAttributes(*client_->Find(root(), "f"));
  EXPECT_EQ(found.mtime, cut.mtime);
  EXPECT_EQ(found.ctime, cut.ctime);
}

TEST_F(FileSystemTest, AWriteTimeKeepsANewerChangeTime) {
  MakeAndMount();
  auto ino = client_->Create(root(), "f");
  ASSERT_TRUE(client_->Write(*ino, 0, "x").ok());
  LetTimePass();
  ASSERT_TRUE(fs_->SetXattr(*ino, "user.a", "v", 0).ok());
  const Attributes before = *fs_->GetAttributes(*ino);
  EXPECT_LT(before.mtime, before.ctime);
  ASSERT_TRUE(client_->Fsync(*ino).ok());
  const Attributes after = *fs_->GetAttributes(*ino);
  EXPECT_EQ(after.mtime, before.mtime);
  EXPECT_EQ(after.ctime, before.ctime);
}

}  // namespace
}  // namespace pbfs
