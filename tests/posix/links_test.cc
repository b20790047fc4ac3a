// SPDX-License-Identifier: Apache-2.0
// Hard links, link counts and symbolic links: link(2), symlink(2), readlink(2).
#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class Links : public PosixTest {};

TEST_F(Links, NamesOfOneFile) {
  WriteFile("a", "contents");
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(link("a", "d/b"));
  EXPECT_EQ(Stat("a").st_nlink, 2u);
  EXPECT_EQ(Stat("a").st_ino, Stat("d/b").st_ino);
  WriteFile("d/b", "changed by the other name");
  EXPECT_EQ(ReadFile("a"), "changed by the other name");
  EXPECT_OK(chmod("a", 0600));
  EXPECT_EQ(Mode("d/b"), 0600u);
  EXPECT_OK(unlink("a"));
  EXPECT_EQ(Stat("d/b").st_nlink, 1u);
  EXPECT_EQ(ReadFile("d/b"), "changed by the other name");
}

TEST_F(Links, ManyNames) {
  WriteFile("a", "x");
  for (int i = 0; i < 1000; ++i) ASSERT_OK(link("a", ("l" + std::to_string(i)).c_str()));
  EXPECT_EQ(Stat("l500").st_nlink, 1001u);
  for (int i = 0; i < 1000; ++i) ASSERT_OK(unlink(("l" + std::to_string(i)).c_str()));
  EXPECT_EQ(Stat("a").st_nlink, 1u);
}

TEST_F(Links, WhatCannotBeLinked) {
  ASSERT_OK(mkdir("d", 0755));
  WriteFile("a", "x");
  EXPECT_FAILS(EPERM, link("d", "e"));
  EXPECT_FAILS(ENOENT, link("none", "e"));
  EXPECT_FAILS(ENOENT, link("a", "none/e"));
  EXPECT_FAILS(ENOTDIR, link("a", "a/e"));
  EXPECT_FAILS(EXDEV, link("/proc/self/status", "e"));
  EXPECT_EQ(Stat("a").st_nlink, 1u);
}

TEST_F(Links, AHardLinkToASymbolicLink) {
  WriteFile("a", "x");
  ASSERT_OK(symlink("a", "s"));
  ASSERT_OK(link("s", "t"));
  EXPECT_TRUE(S_ISLNK(Stat("t").st_mode));
  EXPECT_EQ(Stat("s").st_nlink, 2u);
  EXPECT_OK(linkat(AT_FDCWD, "s", AT_FDCWD, "u", AT_SYMLINK_FOLLOW));
  EXPECT_EQ(Stat("u").st_ino, Stat("a").st_ino);
}

TEST_F(Links, DirectoriesCountTheirSubdirectories) {
  ASSERT_OK(mkdir("d", 0755));
  EXPECT_EQ(Stat("d").st_nlink, 2u);
  ASSERT_OK(mkdir("d/1", 0755));
  ASSERT_OK(mkdir("d/2", 0755));
  WriteFile("d/file", "x");
  ASSERT_OK(symlink("1", "d/link"));
  EXPECT_EQ(Stat("d").st_nlink, 4u);
  ASSERT_OK(rmdir("d/1"));
  EXPECT_EQ(Stat("d").st_nlink, 3u);
  ASSERT_OK(mkdir("e", 0755));
  ASSERT_OK(rename("d/2", "e/2"));
  EXPECT_EQ(Stat("d").st_nlink, 2u);
  EXPECT_EQ(Stat("e").st_nlink, 3u);
}

TEST_F(Links, TargetsOfAllLengths) {
  // symlink(2): a filesystem may have a limit below PATH_MAX; that of XFS is 1023.
  const size_t longest = IsXfs() ? 1023 : 4095;
  for (size_t length : {size_t{1}, size_t{59}, size_t{60}, size_t{500}, size_t{1023}, longest}) {
    const std::string target(length, 't'), name = "l" + std::to_string(length);
    if (Exists(name)) continue;
    ASSERT_OK(symlink(target.c_str(), name.c_str())) << length;
    EXPECT_EQ(Stat(name).st_size, static_cast<off_t>(length));
    std::string read(5000, '?');
    const ssize_t got = readlink(name.c_str(), read.data(), read.size());
    ASSERT_EQ(got, static_cast<ssize_t>(length));
    EXPECT_TRUE(Same(read.substr(0, length), target));
  }
  EXPECT_FAILS(ENAMETOOLONG, symlink(std::string(longest + 1, 't').c_str(), "longer"));
  EXPECT_FAILS(ENOENT, symlink("", "empty"));
}

TEST_F(Links, SymbolicLinksSurviveARemount) {
  SKIP_UNLESS_REMOUNT();
  const std::string target(1000, 't');
  ASSERT_OK(symlink("short", "s"));
  ASSERT_OK(symlink(target.c_str(), "l"));
  Remount();
  char read[1001] = {};
  EXPECT_EQ(readlink("s", read, sizeof read), 5);
  EXPECT_EQ(readlink("l", read, sizeof read), 1000);
  EXPECT_STREQ(read, target.c_str());
}

TEST_F(Links, ReadlinkCutsOff) {
  ASSERT_OK(symlink("target", "l"));
  char read[7] = "......";
  EXPECT_EQ(readlink("l", read, 3), 3);
  EXPECT_STREQ(read, "tar...");
  WriteFile("f", "x");
  EXPECT_FAILS(EINVAL, readlink("f", read, 3));
}

TEST_F(Links, ModesOfSymbolicLinks) {
  ASSERT_OK(symlink("target", "l"));
  EXPECT_EQ(Mode("l"), 0777u);
  EXPECT_OK(lchown("l", kUser, kGroup));
  EXPECT_EQ(Stat("l").st_uid, kUser);
  // Followed elsewhere: there is nothing.
  EXPECT_FAILS(ENOENT, chown("l", kUser, kGroup));
}

}  // namespace
}  // namespace pbfs::posix
