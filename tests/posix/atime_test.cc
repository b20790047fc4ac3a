// SPDX-License-Identifier: Apache-2.0
// The time of access under each of the mount options of mount(8). relatime is the kernel's default.
#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

constexpr int64_t kDay = 86'400;

class AtimeTest : public PosixTest {
 protected:
  void SetUp() override {
    PosixTest::SetUp();
    WriteFile("f", "contents");
    ASSERT_OK(mkdir("d", 0755));
    WriteFile("d/f", "x");
    ASSERT_OK(symlink("f", "l"));
  }
  static bool Relative() { return !MountedWith("strictatime") && !MountedWith("noatime"); }
  // Sets the time of access to so many seconds before (or, negative, after) now, that of
  // modification to an hour ago.
  static void SetAge(const char* path, int64_t seconds) {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const timespec times[2] = {{now.tv_sec - seconds, 0}, {now.tv_sec - 3600, 0}};
    ASSERT_OK(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW));
    Tick();
  }
  static bool Moves(const char* path, const std::function<void()>& access) {
    const int64_t before = Atime(path), mtime = Mtime(path), ctime = Ctime(path);
    access();
    EXPECT_EQ(Mtime(path), mtime);
    EXPECT_EQ(Ctime(path), ctime);
    return Atime(path) != before;
  }
  // The kernel's FUSE client tells nobody of reads that it answers from its own cache, which are
  // most: there, a read that does not find the pages must count.
  static void Read() {
    if (IsFuse()) Forget(File("f", O_RDONLY));
    EXPECT_EQ(ReadFile("f"), "contents");
  }
  static void List() { EXPECT_EQ(Names("d").size(), 1u); }
  static void Follow() {
    char target[8];
    EXPECT_EQ(readlink("l", target, sizeof target), 1);
  }
};

TEST_F(AtimeTest, RelativeToTheTimeOfModification) {
  if (!Relative()) GTEST_SKIP() << "mounted otherwise";
  SetAge("f", 7200);
  EXPECT_TRUE(Moves("f", Read)) << "older than the modification";
  Tick();
  EXPECT_FALSE(Moves("f", Read)) << "newer than the modification and than the change";
  WriteFile("f", "contents");
  Tick();
  EXPECT_TRUE(Moves("f", Read)) << "modified since";
  Tick();
  EXPECT_FALSE(Moves("f", Read));
  ASSERT_OK(chmod("f", 0600));
  Tick();
  EXPECT_TRUE(Moves("f", Read)) << "changed since";
}

TEST_F(AtimeTest, RelativeOnceADay) {
  if (!Relative()) GTEST_SKIP() << "mounted otherwise";
  Read();
  SetAge("f", -kDay);  // In the future: newer than the change.
  EXPECT_FALSE(Moves("f", Read));
  SetAge("f", kDay + 60);
  EXPECT_TRUE(Moves("f", Read)) << "older than a day";
}

TEST_F(AtimeTest, RelativeForDirectoriesAndLinks) {
  if (!Relative()) GTEST_SKIP() << "mounted otherwise";
  SetAge("d", 7200);
  EXPECT_EQ(Moves("d", List), !MountedWith("nodiratime"));
  SetAge("l", 7200);
  EXPECT_TRUE(Moves("l", Follow));
  Tick();
  EXPECT_FALSE(Moves("d", List));
  EXPECT_FALSE(Moves("l", Follow));
}

TEST_F(AtimeTest, StrictAtEachAccess) {
  if (!MountedWith("strictatime")) GTEST_SKIP() << "mounted otherwise";
  for (int i = 0; i < 3; ++i) {
    Tick();
    EXPECT_TRUE(Moves("f", Read));
    // The same holds for lists and for targets of links, and nothing makes it forget those.
    if (IsFuse() && i > 0) continue;
    EXPECT_EQ(Moves("d", List), !MountedWith("nodiratime"));
    EXPECT_TRUE(Moves("l", Follow));
  }
}

TEST_F(AtimeTest, NeverWithNoatime) {
  if (!MountedWith("noatime")) GTEST_SKIP() << "mounted otherwise";
  SetAge("f", 2 * kDay);
  SetAge("d", 2 * kDay);
  SetAge("l", 2 * kDay);
  EXPECT_FALSE(Moves("f", Read));
  EXPECT_FALSE(Moves("d", List));
  EXPECT_FALSE(Moves("l", Follow));
}

TEST_F(AtimeTest, NotByADescriptorWithNoatime) {
  SetAge("f", 7200);
  EXPECT_FALSE(Moves("f", [] {
    File file("f", O_RDONLY | O_NOATIME);
    EXPECT_EQ(ReadRange(file, 0, 8), "contents");
  }));
  AsUser([] { EXPECT_FAILS(EPERM, TryOpen("f", O_RDONLY | O_NOATIME)); });
}

TEST_F(AtimeTest, NotByLookingOrWriting) {
  SetAge("f", 7200);
  EXPECT_FALSE(Moves("f", [] {
    Stat("f");
    EXPECT_OK(access("f", R_OK));
    EXPECT_OK(TryOpen("f", O_RDWR));
  }));
  const int64_t before = Atime("f");
  WriteFile("f", "contents");
  EXPECT_EQ(Atime("f"), before);
}

TEST_F(AtimeTest, ByADirectRead) {
  if (MountedWith("noatime")) GTEST_SKIP() << "mounted otherwise";
  SetAge("f", 7200);
  EXPECT_TRUE(Moves("f", [] {
    alignas(4096) char block[4096];
    File file("f", O_RDONLY | O_DIRECT);
    EXPECT_EQ(read(file, block, sizeof block), 8);
  }));
}

TEST_F(AtimeTest, SurvivesARemount) {
  SKIP_UNLESS_REMOUNT();
  if (MountedWith("noatime")) GTEST_SKIP() << "mounted otherwise";
  SetAge("f", 7200);
  EXPECT_TRUE(Moves("f", Read));
  const int64_t read = Atime("f");
  Remount();
  // To the second: a filesystem may keep this time less exactly in memory.
  EXPECT_NEAR(static_cast<double>(Atime("f") / 1'000'000), static_cast<double>(read / 1'000'000),
              1000);
}

TEST_F(AtimeTest, LazyTimesSurviveFsyncAndRemount) {
  if (!MountedWith("lazytime")) GTEST_SKIP() << "mounted otherwise";
  SKIP_UNLESS_REMOUNT();
  WriteFile("f", "contents");
  Tick();
  WriteFile("f", "contents");
  const int64_t mtime = Mtime("f");
  {
    File file("f", O_RDWR);
    EXPECT_OK(fsync(file));
  }
  Remount();
  EXPECT_EQ(Mtime("f"), mtime);
}

}  // namespace
}  // namespace pbfs::posix
