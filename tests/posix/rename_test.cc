// SPDX-License-Identifier: Apache-2.0
// rename(2) and renameat2(2).
#include <linux/fs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class Rename : public PosixTest {
 protected:
  static int Exchange(const char* a, const char* b, unsigned flags = RENAME_EXCHANGE) {
    return renameat2(AT_FDCWD, a, AT_FDCWD, b, flags);
  }
};

TEST_F(Rename, OverAFile) {
  WriteFile("a", "new");
  WriteFile("b", "old");
  File old("b", O_RDONLY);
  const ino_t ino = Stat("a").st_ino;
  EXPECT_OK(rename("a", "b"));
  EXPECT_FALSE(Exists("a"));
  EXPECT_EQ(ReadFile("b"), "new");
  EXPECT_EQ(Stat("b").st_ino, ino);
  EXPECT_EQ(Stat(old).st_nlink, 0u);
  EXPECT_EQ(ReadRange(old, 0, 10), "old");
}

TEST_F(Rename, BetweenNamesOfOneFileDoesNothing) {
  WriteFile("a", "x");
  ASSERT_OK(link("a", "b"));
  EXPECT_OK(rename("a", "b"));
  EXPECT_EQ(Names("."), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(Stat("a").st_nlink, 2u);
  EXPECT_OK(rename("a", "a"));
  EXPECT_TRUE(Exists("a"));
}

TEST_F(Rename, FilesAndDirectories) {
  WriteFile("f", "x");
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(mkdir("full", 0755));
  WriteFile("full/x", "x");
  EXPECT_FAILS(EISDIR, rename("f", "d"));
  EXPECT_FAILS(ENOTDIR, rename("d", "f"));
  // rename(2) names both: XFS says EEXIST.
  EXPECT_FAILS(IsXfs() ? EEXIST : ENOTEMPTY, rename("d", "full"));
  EXPECT_FAILS(ENOENT, rename("none", "f"));
  EXPECT_FAILS(ENOENT, rename("f", "none/x"));
  EXPECT_FAILS(ENOTDIR, rename("f", "f/x"));
  EXPECT_FAILS(ENOTDIR, rename("f", "new/"));
  EXPECT_OK(rename("full", "d"));  // It is empty.
  EXPECT_EQ(Names("d"), std::vector<std::string>{"x"});
  EXPECT_OK(rename("d", "new/"));
  EXPECT_FAILS(EXDEV, rename("f", "/proc/f"));
}

TEST_F(Rename, NotIntoItself) {
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(mkdir("d/e", 0755));
  EXPECT_FAILS(EINVAL, rename("d", "d/x"));
  EXPECT_FAILS(EINVAL, rename("d", "d/e/x"));
  EXPECT_FAILS(ENOTEMPTY, rename("d/e", "d"));
  EXPECT_FAILS(EBUSY, rename("d/.", "x"));
  EXPECT_FAILS(EBUSY, rename("d/..", "x"));
  EXPECT_FAILS(EBUSY, rename("d/e", "d/."));
}

TEST_F(Rename, ADirectoryGetsANewParent) {
  ASSERT_OK(mkdir("a", 0755));
  ASSERT_OK(mkdir("b", 0755));
  ASSERT_OK(mkdir("a/d", 0755));
  WriteFile("a/d/f", "x");
  File inside("a/d", O_RDONLY | O_DIRECTORY);
  EXPECT_OK(rename("a/d", "b/e"));
  EXPECT_EQ(Stat("b/e/..").st_ino, Stat("b").st_ino);
  struct stat parent;
  EXPECT_OK(fstatat(inside, "..", &parent, 0));
  EXPECT_EQ(parent.st_ino, Stat("b").st_ino);
  EXPECT_EQ(ReadFile("b/e/f"), "x");
  EXPECT_EQ(Stat("a").st_nlink, 2u);
  EXPECT_EQ(Stat("b").st_nlink, 3u);
  EXPECT_OK(rmdir("a"));
}

TEST_F(Rename, OverADirectoryThatIsOpen) {
  ASSERT_OK(mkdir("a", 0755));
  ASSERT_OK(mkdir("b", 0755));
  File replaced("b", O_RDONLY | O_DIRECTORY);
  EXPECT_OK(rename("a", "b"));
  EXPECT_EQ(Stat(replaced).st_nlink, 0u);
  EXPECT_FAILS(ENOENT, openat(replaced, "x", O_CREAT | O_RDWR, 0644));
}

TEST_F(Rename, ReplacingIsAtomic) {
  WriteFile("f", "old");
  InChild([] {
    const pid_t writer = fork();
    if (writer == 0) {
      for (int i = 0; i < 200; ++i) {
        if (TryOpen("new", O_CREAT | O_RDWR) != 0 || rename("new", "f") != 0) _exit(1);
      }
      _exit(0);
    }
    // At no time is there no such file.
    for (int i = 0; i < 500; ++i) EXPECT_OK(TryOpen("f", O_RDONLY));
    int status = 0;
    EXPECT_EQ(waitpid(writer, &status, 0), writer);
    EXPECT_EQ(status, 0);
  });
}

TEST_F(Rename, NoReplace) {
  WriteFile("a", "a");
  WriteFile("b", "b");
  EXPECT_FAILS(EEXIST, Exchange("a", "b", RENAME_NOREPLACE));
  EXPECT_EQ(ReadFile("b"), "b");
  EXPECT_OK(Exchange("a", "c", RENAME_NOREPLACE));
  EXPECT_EQ(ReadFile("c"), "a");
  EXPECT_FALSE(Exists("a"));
}

TEST_F(Rename, ExchangeFiles) {
  WriteFile("a", "a");
  WriteFile("b", "b");
  EXPECT_OK(Exchange("a", "b"));
  EXPECT_EQ(ReadFile("a"), "b");
  EXPECT_EQ(ReadFile("b"), "a");
  EXPECT_FAILS(ENOENT, Exchange("a", "none"));
  EXPECT_FAILS(ENOENT, Exchange("none", "a"));
  EXPECT_FAILS(EINVAL, Exchange("a", "b", RENAME_EXCHANGE | RENAME_NOREPLACE));
  EXPECT_FAILS(EINVAL, Exchange("a", "b", 1u << 20));
}

TEST_F(Rename, ExchangeAFileAndADirectory) {
  ASSERT_OK(mkdir("p", 0755));
  ASSERT_OK(mkdir("q", 0755));
  ASSERT_OK(mkdir("p/d", 0755));
  WriteFile("p/d/inside", "x");
  WriteFile("q/f", "file");
  EXPECT_OK(Exchange("p/d", "q/f"));
  EXPECT_EQ(ReadFile("p/d"), "file");
  EXPECT_EQ(ReadFile("q/f/inside"), "x");
  EXPECT_EQ(Stat("p").st_nlink, 2u);
  EXPECT_EQ(Stat("q").st_nlink, 3u);
  EXPECT_EQ(Stat("q/f/..").st_ino, Stat("q").st_ino);
  EXPECT_FAILS(EINVAL, Exchange("q", "q/f"));
  EXPECT_FAILS(EINVAL, Exchange("q/f", "q"));
}

TEST_F(Rename, AWhiteoutIsLeft) {
  WriteFile("a", "a");
  WriteFile("b", "b");
  EXPECT_OK(Exchange("a", "b", RENAME_WHITEOUT));
  EXPECT_EQ(ReadFile("b"), "a");
  EXPECT_TRUE(S_ISCHR(Stat("a").st_mode));
  EXPECT_EQ(Stat("a").st_rdev, makedev(0, 0));
  EXPECT_EQ(Stat("a").st_nlink, 1u);
  EXPECT_FAILS(EINVAL, Exchange("a", "b", RENAME_EXCHANGE | RENAME_WHITEOUT));
  ASSERT_OK(mkdir("d", 0755));
  EXPECT_OK(Exchange("b", "d/b", RENAME_WHITEOUT));
  EXPECT_OK(Exchange("d", "e", RENAME_WHITEOUT));
  EXPECT_TRUE(S_ISCHR(Stat("d").st_mode));
  EXPECT_EQ(ReadFile("e/b"), "a");
  EXPECT_FAILS(EEXIST, Exchange("e/b", "a", RENAME_WHITEOUT | RENAME_NOREPLACE));
}

TEST_F(Rename, WhiteoutsSurviveARemount) {
  SKIP_UNLESS_REMOUNT();
  WriteFile("a", "a");
  ASSERT_OK(Exchange("a", "b", RENAME_WHITEOUT));
  Remount();
  EXPECT_TRUE(S_ISCHR(Stat("a").st_mode));
  EXPECT_EQ(ReadFile("b"), "a");
  EXPECT_OK(unlink("a"));
}

TEST_F(Rename, InALargeDirectory) {
  ASSERT_OK(mkdir("from", 0755));
  ASSERT_OK(mkdir("to", 0755));
  const std::string filler(150, 'x');
  for (int i = 0; i < 500; ++i) {
    ASSERT_OK(TryOpen("from/" + filler + std::to_string(i), O_CREAT | O_RDWR));
  }
  for (int i = 0; i < 500; ++i) {
    const std::string name = filler + std::to_string(i);
    ASSERT_OK(rename(("from/" + name).c_str(), ("to/" + name).c_str()));
  }
  EXPECT_EQ(Names("from").size(), 0u);
  EXPECT_EQ(Names("to").size(), 500u);
  EXPECT_OK(rmdir("from"));
}

}  // namespace
}  // namespace pbfs::posix
