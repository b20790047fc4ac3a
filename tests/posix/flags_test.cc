// SPDX-License-Identifier: Apache-2.0
// Flags of files and the project they belong to: ioctl_iflags(2), chattr(1), FS_IOC_FSGETXATTR.
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/xattr.h>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

// What a filesystem tells of its own workings is not asked for.
constexpr int kFlags =
    FS_SYNC_FL | FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL | FS_DIRSYNC_FL;

int GetFlags(const char* path) {
  File file(path, O_RDONLY);
  int flags = -1;
  EXPECT_OK(ioctl(file, FS_IOC_GETFLAGS, &flags));
  return flags & kFlags;
}
int SetFlags(const char* path, int flags) {
  File file(path, O_RDONLY);
  int all = 0;
  if (ioctl(file, FS_IOC_GETFLAGS, &all) != 0) return -1;
  all &= ~kFlags;
  all |= flags;
  return ioctl(file, FS_IOC_SETFLAGS, &all);
}
fsxattr GetExtended(const char* path) {
  File file(path, O_RDONLY);
  fsxattr attributes = {};
  EXPECT_OK(ioctl(file, FS_IOC_FSGETXATTR, &attributes));
  return attributes;
}
int SetExtended(const char* path, const fsxattr& attributes) {
  File file(path, O_RDONLY);
  return ioctl(file, FS_IOC_FSSETXATTR, &attributes);
}

class Flags : public PosixTest {
 protected:
  // ext4 has projects where the kernel and its mkfs have quotas.
  static bool HasProjects() {
    fsxattr attributes = GetExtended("f");
    attributes.fsx_projid = 1;
    const bool set = SetExtended("f", attributes) == 0;
    attributes.fsx_projid = 0;
    return (set && SetExtended("f", attributes) == 0) || !IsExt4();
  }
  void SetUp() override {
    PosixTest::SetUp();
    WriteFile("f", "contents");
    ASSERT_OK(chmod("f", 0666));
    ASSERT_OK(mkdir("d", 0777));
    WriteFile("d/f", "x");
  }
  void TearDown() override {
    for (const char* name : {"f", "d", "d/f"}) {
      if (Exists(name)) SetFlags(name, 0);
    }
    PosixTest::TearDown();
  }
};

TEST_F(Flags, AreReadBackAsSet) {
  for (const int flags : {FS_SYNC_FL, FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NODUMP_FL, FS_NOATIME_FL,
                          FS_SYNC_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL, 0}) {
    EXPECT_OK(SetFlags("f", flags)) << flags;
    EXPECT_EQ(GetFlags("f"), flags);
    EXPECT_OK(SetFlags("d", flags)) << flags;
    EXPECT_EQ(GetFlags("d"), flags);
  }
}

TEST_F(Flags, SurviveARemount) {
  SKIP_UNLESS_REMOUNT();
  ASSERT_OK(SetFlags("f", FS_IMMUTABLE_FL | FS_NODUMP_FL));
  ASSERT_OK(SetFlags("d", FS_APPEND_FL | FS_NOATIME_FL));
  Remount();
  EXPECT_EQ(GetFlags("f"), FS_IMMUTABLE_FL | FS_NODUMP_FL);
  EXPECT_EQ(GetFlags("d"), FS_APPEND_FL | FS_NOATIME_FL);
  EXPECT_FAILS(EPERM, unlink("f"));
  EXPECT_FAILS(EPERM, unlink("d/f"));
}

TEST_F(Flags, AnImmutableFile) {
  ASSERT_OK(SetFlags("f", FS_IMMUTABLE_FL));
  EXPECT_EQ(ReadFile("f"), "contents");
  EXPECT_FAILS(EPERM, TryOpen("f", O_WRONLY));
  EXPECT_FAILS(EPERM, TryOpen("f", O_RDWR | O_APPEND));
  EXPECT_FAILS(EPERM, TryOpen("f", O_RDONLY | O_TRUNC));
  EXPECT_FAILS(EPERM, truncate("f", 0));
  EXPECT_FAILS(EPERM, unlink("f"));
  EXPECT_FAILS(EPERM, rename("f", "g"));
  EXPECT_FAILS(EPERM, rename("d/f", "f"));
  EXPECT_FAILS(EPERM, link("f", "g"));
  EXPECT_FAILS(EPERM, chmod("f", 0600));
  EXPECT_FAILS(EPERM, chown("f", 1, 1));
  const timespec times[2] = {{1, 1}, {1, 1}};
  EXPECT_FAILS(EPERM, utimensat(AT_FDCWD, "f", times, 0));
  EXPECT_FAILS(EPERM, setxattr("f", "user.a", "x", 1, 0));
  // The kernel's FUSE client does not know the flags: only the server refuses, when it is asked.
  if (!IsFuse()) EXPECT_FAILS(EPERM, access("f", W_OK));
  EXPECT_EQ(ReadFile("f"), "contents");
  ASSERT_OK(SetFlags("f", 0));
  EXPECT_OK(TryOpen("f", O_WRONLY | O_TRUNC));
  EXPECT_OK(unlink("f"));
}

TEST_F(Flags, ARefusedChangeOfAnImmutableFileLeavesNoError) {
  File file("f", O_RDWR);
  ASSERT_OK(fsync(file));
  ASSERT_OK(SetFlags("f", FS_IMMUTABLE_FL));
  EXPECT_FAILS(EPERM, fallocate(file, 0, 0, 5));
  EXPECT_FAILS(EPERM, fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 5));
  EXPECT_OK(fsync(file));
  File other("d/f", O_RDWR);
  EXPECT_OK(syncfs(other));
  EXPECT_EQ(ReadFile("f"), "contents");
}

TEST_F(Flags, AnImmutableDirectory) {
  ASSERT_OK(SetFlags("d", FS_IMMUTABLE_FL));
  EXPECT_FAILS(EPERM, TryOpen("d/new", O_CREAT | O_RDWR));
  EXPECT_FAILS(EPERM, mkdir("d/new", 0755));
  EXPECT_FAILS(EPERM, symlink("x", "d/new"));
  EXPECT_FAILS(EPERM, link("f", "d/new"));
  EXPECT_FAILS(EPERM, unlink("d/f"));
  EXPECT_FAILS(EPERM, rename("d/f", "d/g"));
  EXPECT_FAILS(EPERM, rename("f", "d/g"));
  EXPECT_FAILS(EPERM, rmdir("d"));
  EXPECT_FAILS(EPERM, TryOpen("d", O_TMPFILE | O_RDWR));
  // What is in it may change.
  WriteFile("d/f", "changed");
  EXPECT_EQ(ReadFile("d/f"), "changed");
  ASSERT_OK(SetFlags("d", 0));
  EXPECT_OK(unlink("d/f"));
}

TEST_F(Flags, AnAppendOnlyFile) {
  ASSERT_OK(SetFlags("f", FS_APPEND_FL));
  EXPECT_FAILS(EPERM, TryOpen("f", O_WRONLY));
  EXPECT_FAILS(EPERM, TryOpen("f", O_RDWR));
  EXPECT_FAILS(EPERM, TryOpen("f", O_WRONLY | O_APPEND | O_TRUNC));
  EXPECT_FAILS(EPERM, truncate("f", 0));
  EXPECT_FAILS(EPERM, unlink("f"));
  EXPECT_FAILS(EPERM, rename("f", "g"));
  EXPECT_FAILS(EPERM, link("f", "g"));
  {
    File file("f", O_WRONLY | O_APPEND);
    EXPECT_EQ(write(file, " and more", 9), 9);
    EXPECT_FAILS(EPERM, ftruncate(file, 0));
    if (!IsFuse()) EXPECT_FAILS(EPERM, fcntl(file, F_SETFL, 0));  // Only the kernel could know.
    EXPECT_FAILS(EPERM, fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
  }
  EXPECT_EQ(ReadFile("f"), "contents and more");
  EXPECT_OK(utimensat(AT_FDCWD, "f", nullptr, 0));
}

TEST_F(Flags, AnAppendOnlyDirectory) {
  ASSERT_OK(SetFlags("d", FS_APPEND_FL));
  EXPECT_OK(TryOpen("d/new", O_CREAT | O_RDWR));
  EXPECT_OK(mkdir("d/directory", 0755));
  EXPECT_FAILS(EPERM, unlink("d/new"));
  EXPECT_FAILS(EPERM, rmdir("d/directory"));
  EXPECT_FAILS(EPERM, rename("d/new", "d/other"));
}

TEST_F(Flags, NoAccessTime) {
  ASSERT_OK(SetFlags("f", FS_NOATIME_FL));
  const timespec times[2] = {{1, 1}, {2, 2}};
  ASSERT_OK(utimensat(AT_FDCWD, "f", times, 0));
  EXPECT_EQ(ReadFile("f"), "contents");
  EXPECT_EQ(Atime("f"), 1'000'000'001);
}

TEST_F(Flags, WhoMaySetThem) {
  ASSERT_OK(chown("d/f", kUser, kGroup));
  AsUser([] {
    EXPECT_FAILS(EPERM, SetFlags("f", FS_NODUMP_FL));
    EXPECT_OK(SetFlags("d/f", FS_NODUMP_FL));
    // These take CAP_LINUX_IMMUTABLE.
    EXPECT_FAILS(EPERM, SetFlags("d/f", FS_IMMUTABLE_FL));
    EXPECT_FAILS(EPERM, SetFlags("d/f", FS_APPEND_FL));
    EXPECT_EQ(GetFlags("d/f"), FS_NODUMP_FL);
  });
}

TEST_F(Flags, ChangeCtime) {
  for (const char* name : {"f", "d"}) {
    // While it caches writes, the kernel's FUSE client keeps the ctime of regular files itself, and
    // does not count this.
    if (IsFuse() && name[0] == 'f') continue;
    const int64_t ctime = Ctime(name), mtime = Mtime(name);
    Tick();
    ASSERT_OK(SetFlags(name, FS_NODUMP_FL));
    // A FUSE client is told that its attributes are old a little later.
    for (int i = 0; IsFuse() && i < 100 && Ctime(name) == ctime; ++i) usleep(10'000);
    EXPECT_GT(Ctime(name), ctime);
    EXPECT_EQ(Mtime(name), mtime);
  }
}

TEST_F(Flags, SyncIsInherited) {
  ASSERT_OK(SetFlags("d", FS_SYNC_FL));
  WriteFile("d/new", "x");
  ASSERT_OK(mkdir("d/sub", 0755));
  EXPECT_EQ(GetFlags("d/new"), FS_SYNC_FL);
  EXPECT_EQ(GetFlags("d/sub"), FS_SYNC_FL);
  EXPECT_EQ(GetFlags("d/f"), 0);
  EXPECT_OK(unlink("d/new"));
  EXPECT_OK(rmdir("d/sub"));
}

TEST_F(Flags, OnlyDirectoriesAreDirsync) {
  // XFS does not have it.
  if (SetFlags("d", FS_DIRSYNC_FL) != 0) {
    EXPECT_FALSE(IsExt4() || IsFuse());
    return;
  }
  EXPECT_EQ(GetFlags("d"), FS_DIRSYNC_FL);
  EXPECT_OK(SetExtended("d", GetExtended("d"))) << "which has no flag for it";
  EXPECT_EQ(GetFlags("d"), FS_DIRSYNC_FL);
  WriteFile("d/new", "x");
  ASSERT_OK(mkdir("d/sub", 0755));
  EXPECT_EQ(GetFlags("d/new"), 0);
  EXPECT_EQ(GetFlags("d/sub"), FS_DIRSYNC_FL);
  EXPECT_OK(rename("d/new", "d/sub/new"));
  EXPECT_OK(link("d/sub/new", "d/other"));
  EXPECT_OK(unlink("d/sub/new"));
  EXPECT_OK(unlink("d/other"));
  EXPECT_OK(rmdir("d/sub"));
}

TEST_F(Flags, ASyncFileIsUsedAsAnyOther) {
  ASSERT_OK(SetFlags("d", FS_SYNC_FL));
  ASSERT_OK(SetFlags("f", FS_SYNC_FL));
  for (const char* path : {"f", "d/new"}) {
    File file(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    const std::string bytes(10'000, 'a');
    WriteRange(file, 0, bytes);
    EXPECT_EQ(ReadFile(path), bytes);
    {
      Mapping mapped(file, 10'000);
      mapped.Put(0, std::string(5'000, 'b'));
      EXPECT_EQ(ReadFile(path), std::string(5'000, 'b') + std::string(5'000, 'a'));
      WriteRange(file, 7'000, "c");
      EXPECT_EQ(mapped[7'000], 'c');
      EXPECT_OK(mapped.Sync());
    }
    EXPECT_OK(ftruncate(file, 3));
    File appending(path, O_WRONLY | O_APPEND);
    EXPECT_EQ(write(appending, "end", 3), 3);
    EXPECT_EQ(ReadFile(path), "bbbend");
    EXPECT_OK(fallocate(file, 0, 0, 8));
    EXPECT_EQ(Stat(file).st_size, 8);
    EXPECT_OK(fsetxattr(file, "user.a", "x", 1, 0));
    EXPECT_OK(fremovexattr(file, "user.a"));
  }
}

TEST_F(Flags, UnknownOnesAreRefused) {
  int flags = 0;
  File file("f", O_RDONLY);
  ASSERT_OK(ioctl(file, FS_IOC_GETFLAGS, &flags));
  flags |= FS_NOCOW_FL;
  EXPECT_FAILS(EOPNOTSUPP, ioctl(file, FS_IOC_SETFLAGS, &flags));
}

TEST_F(Flags, BothInterfacesAgree) {
  fsxattr attributes = GetExtended("f");
  attributes.fsx_xflags = FS_XFLAG_IMMUTABLE | FS_XFLAG_NODUMP;
  ASSERT_OK(SetExtended("f", attributes));
  EXPECT_EQ(GetFlags("f"), FS_IMMUTABLE_FL | FS_NODUMP_FL);
  ASSERT_OK(SetFlags("f", FS_APPEND_FL | FS_NOATIME_FL));
  EXPECT_EQ(GetExtended("f").fsx_xflags & ~uint32_t{FS_XFLAG_HASATTR},
            uint32_t{FS_XFLAG_APPEND | FS_XFLAG_NOATIME});
}

TEST_F(Flags, Projects) {
  if (!HasProjects()) GTEST_SKIP() << "this ext4 has no projects";
  fsxattr attributes = GetExtended("f");
  EXPECT_EQ(attributes.fsx_projid, 0u);
  attributes.fsx_projid = 4711;
  ASSERT_OK(SetExtended("f", attributes));
  EXPECT_EQ(GetExtended("f").fsx_projid, 4711u);
  if (!CanRemount()) return;
  Remount();
  EXPECT_EQ(GetExtended("f").fsx_projid, 4711u);
}

TEST_F(Flags, ProjectsAreInherited) {
  if (!HasProjects()) GTEST_SKIP() << "this ext4 has no projects";
  fsxattr attributes = GetExtended("d");
  attributes.fsx_projid = 4711;
  attributes.fsx_xflags |= FS_XFLAG_PROJINHERIT;
  ASSERT_OK(SetExtended("d", attributes));
  EXPECT_NE(GetExtended("d").fsx_xflags & FS_XFLAG_PROJINHERIT, 0u);
  WriteFile("d/new", "x");
  ASSERT_OK(mkdir("d/sub", 0755));
  EXPECT_EQ(GetExtended("d/new").fsx_projid, 4711u);
  EXPECT_EQ(GetExtended("d/sub").fsx_projid, 4711u);
  EXPECT_NE(GetExtended("d/sub").fsx_xflags & FS_XFLAG_PROJINHERIT, 0u);
  EXPECT_EQ(GetExtended("d/f").fsx_projid, 0u);
  // What belongs to another project is copied, not moved or linked.
  EXPECT_FAILS(EXDEV, rename("f", "d/moved"));
  EXPECT_FAILS(EXDEV, link("f", "d/linked"));
  attributes.fsx_projid = 0;
  attributes.fsx_xflags = 0;
  EXPECT_OK(SetExtended("d", attributes));
}

}  // namespace
}  // namespace pbfs::posix
