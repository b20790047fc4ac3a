// SPDX-License-Identifier: Apache-2.0
// statx(2): the time of birth, and what stat(2) also has.
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

struct statx Statx(const std::string& path, unsigned mask = STATX_BASIC_STATS | STATX_BTIME) {
  struct statx result = {};
  EXPECT_OK(statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, mask, &result));
  return result;
}
int64_t Btime(const std::string& path) {
  const struct statx result = Statx(path);
  EXPECT_NE(result.stx_mask & STATX_BTIME, 0u) << path;
  return result.stx_btime.tv_sec * 1'000'000'000 + result.stx_btime.tv_nsec;
}

class StatxTest : public PosixTest {};

TEST_F(StatxTest, BirthIsWhenTheFileWasMade) {
  WriteFile("f", "");
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(symlink("x", "l"));
  ASSERT_OK(mkfifo("p", 0644));
  for (const char* name : {"f", "d", "l", "p"}) {
    const int64_t birth = Btime(name);
    EXPECT_LE(birth, Ctime(name)) << name;
    EXPECT_GT(birth, Ctime(name) - 10'000'000'000) << name;
  }
}

TEST_F(StatxTest, BirthNeverChanges) {
  WriteFile("f", "");
  ASSERT_OK(mkdir("d", 0755));
  const int64_t birth = Btime("f"), directory = Btime("d");
  Tick();
  WriteFile("f", Pattern(10'000));
  EXPECT_OK(chmod("f", 0600));
  EXPECT_OK(link("f", "d/g"));
  EXPECT_OK(rename("f", "h"));
  const timespec times[2] = {{1, 1}, {2, 2}};
  EXPECT_OK(utimensat(AT_FDCWD, "h", times, 0));
  EXPECT_EQ(Btime("h"), birth);
  EXPECT_EQ(Btime("d/g"), birth);
  EXPECT_EQ(Btime("d"), directory);
  EXPECT_GT(Ctime("h"), birth);
  WriteFile("f", "another file is born later");
  EXPECT_GT(Btime("f"), birth);
  if (!CanRemount()) return;
  Remount();
  EXPECT_EQ(Btime("h"), birth);
  EXPECT_EQ(Btime("d"), directory);
}

TEST_F(StatxTest, AgreesWithStat) {
  WriteFile("f", Pattern(10'000));
  ASSERT_OK(chown("f", 11, 12));
  ASSERT_OK(link("f", "g"));
  const struct statx x = Statx("f");
  const struct stat s = Stat("f");
  EXPECT_EQ(x.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
  EXPECT_EQ(x.stx_ino, s.st_ino);
  EXPECT_EQ(x.stx_nlink, s.st_nlink);
  EXPECT_EQ(x.stx_mode, s.st_mode);
  EXPECT_EQ(x.stx_uid, 11u);
  EXPECT_EQ(x.stx_gid, 12u);
  EXPECT_EQ(x.stx_size, 10'000u);
  EXPECT_EQ(x.stx_blocks, static_cast<uint64_t>(s.st_blocks));
  EXPECT_EQ(makedev(x.stx_dev_major, x.stx_dev_minor), s.st_dev);
  EXPECT_EQ(x.stx_mtime.tv_nsec, static_cast<uint32_t>(s.st_mtim.tv_nsec));
}

TEST_F(StatxTest, BirthOfAFileThatIsOpenWithoutAName) {
  File file("f");
  ASSERT_OK(unlink("f"));
  struct statx result = {};
  EXPECT_OK(statx(file, "", AT_EMPTY_PATH, STATX_BTIME, &result));
  EXPECT_NE(result.stx_mask & STATX_BTIME, 0u);
  EXPECT_NE(result.stx_btime.tv_sec, 0);
}

TEST_F(StatxTest, BlocksFollowTheContents) {
  File file("f");
  EXPECT_EQ(Blocks(file), 0);
  WriteRange(file, 0, Pattern(1 << 20));
  EXPECT_OK(fsync(file));
  EXPECT_GE(Blocks(file), 2048);
  EXPECT_LE(Blocks(file), 2048 + 256);
  EXPECT_OK(ftruncate(file, 1 << 19));
  EXPECT_LE(Blocks(file), 1024 + 256);
  EXPECT_OK(ftruncate(file, 0));
  EXPECT_EQ(Blocks(file), 0);
  // A hole has none.
  EXPECT_OK(ftruncate(file, 1 << 30));
  EXPECT_EQ(Blocks(file), 0);
  EXPECT_EQ(Stat(file).st_size, 1 << 30);
}

TEST_F(StatxTest, FlagsAreAttributes) {
  if (IsFuse()) GTEST_SKIP() << "the kernel's FUSE client has no statx attributes";
  File file("f");
  int flags = FS_NODUMP_FL | FS_IMMUTABLE_FL;
  ASSERT_OK(ioctl(file, FS_IOC_SETFLAGS, &flags));
  const struct statx x = Statx("f");
  EXPECT_NE(x.stx_attributes_mask & STATX_ATTR_IMMUTABLE, 0u);
  EXPECT_EQ(x.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_NODUMP),
            uint64_t{STATX_ATTR_IMMUTABLE | STATX_ATTR_NODUMP});
  flags = 0;
  ASSERT_OK(ioctl(file, FS_IOC_SETFLAGS, &flags));
}

}  // namespace
}  // namespace pbfs::posix
