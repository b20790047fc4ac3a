// SPDX-License-Identifier: Apache-2.0
// What concerns the whole filesystem: its label, a read-only mount, a second mount.
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class Label : public PosixTest {
 protected:
  static std::string Get() {
    File directory(".", O_RDONLY);
    char label[FSLABEL_MAX] = {};
    EXPECT_OK(ioctl(directory, FS_IOC_GETFSLABEL, label));
    return label;
  }
  static int Set(const std::string& text) {
    File directory(".", O_RDONLY);
    char label[FSLABEL_MAX] = {};
    text.copy(label, sizeof label);
    return ioctl(directory, FS_IOC_SETFSLABEL, label);
  }
};

TEST_F(Label, IsSetWhileMounted) {
  const std::string before = Get();
  ASSERT_OK(Set("one label"));
  EXPECT_EQ(Get(), "one label");
  ASSERT_OK(Set("another"));
  EXPECT_EQ(Get(), "another");
  if (CanRemount()) Remount();
  EXPECT_EQ(Get(), "another");
  AsUser([] {
    EXPECT_EQ(Get(), "another");
    EXPECT_FAILS(EPERM, Set("forbidden"));
  });
  EXPECT_FAILS(EINVAL, Set(std::string(FSLABEL_MAX, 'x')));
  EXPECT_EQ(Get(), "another");
  ASSERT_OK(Set(""));
  EXPECT_EQ(Get(), "");
  ASSERT_OK(Set(before));
}

// Works in the root of the filesystem: there are "file", "directory" and "link", made before.
class ReadOnly : public testing::Test {
 protected:
  void SetUp() override {
    if (!MountedWith("ro")) GTEST_SKIP() << "mounted otherwise";
    ASSERT_OK(chdir(options().directory.c_str()));
  }
  void TearDown() override { ASSERT_OK(chdir("/")); }
};

TEST_F(ReadOnly, NothingChanges) {
  EXPECT_FAILS(EROFS, TryOpen("new", O_CREAT | O_RDWR));
  EXPECT_FAILS(EROFS, TryOpen("file", O_WRONLY));
  EXPECT_FAILS(EROFS, TryOpen("file", O_RDONLY | O_TRUNC));
  EXPECT_FAILS(EROFS, TryOpen(".", O_TMPFILE | O_RDWR));
  EXPECT_FAILS(EROFS, mkdir("new", 0755));
  EXPECT_FAILS(EROFS, symlink("x", "new"));
  EXPECT_FAILS(EROFS, mkfifo("new", 0644));
  EXPECT_FAILS(EROFS, link("file", "new"));
  EXPECT_FAILS(EROFS, rename("file", "new"));
  EXPECT_FAILS(EROFS, unlink("file"));
  EXPECT_FAILS(EROFS, rmdir("directory"));
  EXPECT_FAILS(EROFS, chmod("file", 0600));
  EXPECT_FAILS(EROFS, chown("file", 1, 1));
  EXPECT_FAILS(EROFS, truncate("file", 0));
  EXPECT_FAILS(EROFS, utimensat(AT_FDCWD, "file", nullptr, 0));
  EXPECT_FAILS(EROFS, setxattr("file", "user.a", "x", 1, 0));
  EXPECT_FAILS(EROFS, access("file", W_OK));
  EXPECT_FAILS(EEXIST, mkdir("directory", 0755));
  EXPECT_FAILS(EEXIST, TryOpen("file", O_CREAT | O_EXCL | O_RDWR));
  int flags = 0;
  File file("file", O_RDONLY);
  if (ioctl(file, FS_IOC_GETFLAGS, &flags) == 0) {
    EXPECT_FAILS(EROFS, ioctl(file, FS_IOC_SETFLAGS, &flags));
  }
}

TEST_F(ReadOnly, EverythingIsRead) {
  EXPECT_FALSE(ReadFile("file").empty());
  EXPECT_TRUE(S_ISDIR(Stat("directory").st_mode));
  char target[100];
  EXPECT_GT(readlink("link", target, sizeof target), 0);
  struct statvfs result;
  ASSERT_OK(statvfs(".", &result));
  EXPECT_NE(result.f_flag & ST_RDONLY, 0u);
  const int64_t atime = Atime("file");
  ReadFile("file");
  EXPECT_EQ(Atime("file"), atime);
  File file("file", O_RDONLY);
  EXPECT_OK(fsync(file));
}

// The same filesystem is mounted at a second place.
class TwoPlaces : public PosixTest {
 protected:
  void SetUp() override {
    PosixTest::SetUp();
    if (options().second_directory.empty()) GTEST_SKIP() << "no --second-dir";
    other_ = options().second_directory + directory().substr(options().directory.size()) + "/";
  }
  std::string other_;
};

TEST_F(TwoPlaces, ShowTheSame) {
  WriteFile("f", "first");
  EXPECT_EQ(ReadFile(other_ + "f"), "first");
  EXPECT_EQ(Stat(other_ + "f").st_ino, Stat("f").st_ino);
  EXPECT_EQ(Stat(other_ + "f").st_dev, Stat("f").st_dev);
  WriteFile(other_ + "f", "second");
  EXPECT_EQ(ReadFile("f"), "second");
  ASSERT_OK(rename((other_ + "f").c_str(), (other_ + "g").c_str()));
  EXPECT_EQ(Names("."), std::vector<std::string>{"g"});
  EXPECT_OK(unlink("g"));
  EXPECT_FALSE(Exists(other_ + "g"));
}

TEST_F(TwoPlaces, ShareTheCache) {
  WriteFile("f", Zeroes(4096));
  File here("f", O_RDWR), there(other_ + "f", O_RDWR);
  Mapping memory(here, 4096);
  memory[7] = 'm';
  EXPECT_EQ(ReadRange(there, 7, 1), "m");
  WriteRange(there, 8, "w");
  EXPECT_EQ(memory[8], 'w');
}

TEST_F(TwoPlaces, NamesDoNotMoveBetweenMounts) {
  WriteFile("f", "x");
  EXPECT_FAILS(EXDEV, rename("f", (other_ + "g").c_str()));
  EXPECT_FAILS(EXDEV, link("f", (other_ + "g").c_str()));
}

}  // namespace
}  // namespace pbfs::posix
