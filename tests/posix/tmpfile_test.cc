// SPDX-License-Identifier: Apache-2.0
// Files without a name: O_TMPFILE of open(2).
#include <algorithm>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class Tmpfile : public PosixTest {
 protected:
  static std::string Procfs(int fd) { return "/proc/self/fd/" + std::to_string(fd); }
  static int Name(int fd, const char* name) {
    return linkat(AT_FDCWD, Procfs(fd).c_str(), AT_FDCWD, name, AT_SYMLINK_FOLLOW);
  }
};

TEST_F(Tmpfile, HasNoName) {
  File file(".", O_TMPFILE | O_RDWR, 0640);
  EXPECT_TRUE(S_ISREG(Stat(file).st_mode));
  EXPECT_EQ(Stat(file).st_mode & 07777, 0640u);
  EXPECT_EQ(Stat(file).st_nlink, 0u);
  EXPECT_EQ(Stat(file).st_size, 0);
  EXPECT_EQ(Names(".").size(), 0u);
  const std::string bytes = Pattern(300'000);
  WriteRange(file, 0, bytes);
  Forget(file);
  EXPECT_TRUE(Same(ReadRange(file, 0, 400'000), bytes));
  EXPECT_OK(ftruncate(file, 100));
  EXPECT_EQ(Stat(file).st_size, 100);
}

TEST_F(Tmpfile, IsGivenAName) {
  const std::string bytes = Pattern(10'000);
  {
    File file(".", O_TMPFILE | O_RDWR);
    WriteRange(file, 0, bytes);
    EXPECT_OK(Name(file, "named"));
    EXPECT_EQ(Stat(file).st_nlink, 1u);
    EXPECT_OK(Name(file, "again"));
    EXPECT_EQ(Stat(file).st_nlink, 2u);
    EXPECT_FAILS(EEXIST, Name(file, "again"));
    EXPECT_EQ(Stat("named").st_ino, Stat(file).st_ino);
  }
  EXPECT_TRUE(Same(ReadFile("named"), bytes));
  EXPECT_OK(unlink("again"));
}

TEST_F(Tmpfile, NamedByItsDescriptor) {
  File file(".", O_TMPFILE | O_WRONLY);
  EXPECT_OK(linkat(file, "", AT_FDCWD, "named", AT_EMPTY_PATH));
  EXPECT_EQ(Names("."), std::vector<std::string>{"named"});
}

TEST_F(Tmpfile, ExclusiveMeansNeverNamed) {
  File file(".", O_TMPFILE | O_RDWR | O_EXCL);
  EXPECT_FAILS(ENOENT, Name(file, "named"));
  EXPECT_EQ(Stat(file).st_nlink, 0u);
}

TEST_F(Tmpfile, WhatItNeeds) {
  WriteFile("f", "x");
  EXPECT_FAILS(EINVAL, TryOpen(".", O_TMPFILE | O_RDONLY));
  EXPECT_FAILS(ENOTDIR, TryOpen("f", O_TMPFILE | O_RDWR));
  EXPECT_FAILS(ENOENT, TryOpen("none", O_TMPFILE | O_RDWR));
  ASSERT_OK(mkdir("d", 0755));
  AsUser([] {
    EXPECT_FAILS(EACCES, TryOpen("d", O_TMPFILE | O_RDWR));
    File file(".", O_TMPFILE | O_RDWR);
    EXPECT_EQ(Stat(file).st_uid, kUser);
    EXPECT_EQ(Stat(file).st_gid, kGroup);
  });
}

TEST_F(Tmpfile, TheMaskAndTheSetgidDirectory) {
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(chown("d", 0, 4711));
  ASSERT_OK(chmod("d", 02777));
  umask(037);
  File file("d", O_TMPFILE | O_RDWR, 0666);
  EXPECT_EQ(Stat(file).st_mode & 07777, 0640u);
  EXPECT_EQ(Stat(file).st_gid, 4711u);
}

TEST_F(Tmpfile, SurvivesARemountOnlyWithAName) {
  SKIP_UNLESS_REMOUNT();
  const std::string bytes = Pattern(100'000);
  {
    File named(".", O_TMPFILE | O_RDWR), lost(".", O_TMPFILE | O_RDWR);
    WriteRange(named, 0, bytes);
    WriteRange(lost, 0, bytes);
    ASSERT_OK(Name(named, "named"));
    EXPECT_OK(fsync(named));
    EXPECT_OK(fsync(lost));
  }
  Remount();
  EXPECT_EQ(Names("."), std::vector<std::string>{"named"});
  EXPECT_EQ(Stat("named").st_nlink, 1u);
  EXPECT_TRUE(Same(ReadFile("named"), bytes));
}

TEST_F(Tmpfile, Many) {
  std::vector<int> files;
  std::set<ino_t> numbers;
  for (int i = 0; i < 200; ++i) {
    files.push_back(open(".", O_TMPFILE | O_RDWR, 0600));
    ASSERT_GE(files.back(), 0);
    WriteRange(files.back(), 0, std::to_string(i));
    numbers.insert(Stat(files.back()).st_ino);
  }
  EXPECT_EQ(numbers.size(), files.size());
  EXPECT_OK(Name(files[77], "named"));
  EXPECT_EQ(ReadRange(files[123], 0, 10), "123");
  for (int fd : files) close(fd);
  EXPECT_EQ(ReadFile("named"), "77");
}

}  // namespace
}  // namespace pbfs::posix
