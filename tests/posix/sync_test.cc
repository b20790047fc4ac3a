// SPDX-License-Identifier: Apache-2.0
// fsync(2), sync(2), O_SYNC and the mount options sync and dirsync, as far as they are seen without
// a power cut; those are in tests/crash and tests/mount.
#include <linux/fs.h>
#include <sys/uio.h>

#include <fstream>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class Sync : public PosixTest {};

TEST_F(Sync, WhatCanBeSynced) {
  WriteFile("f", Pattern(100'000));
  File reader("f", O_RDONLY), writer("f", O_WRONLY), directory(".", O_RDONLY);
  EXPECT_OK(fsync(reader));
  EXPECT_OK(fsync(writer));
  EXPECT_OK(fdatasync(reader));
  EXPECT_OK(fsync(directory));
  EXPECT_OK(fdatasync(directory));
  EXPECT_OK(syncfs(directory));
  EXPECT_OK(sync_file_range(reader, 0, 0, SYNC_FILE_RANGE_WRITE));
  ASSERT_OK(mkfifo("p", 0644));
  File fifo("p", O_RDWR);
  EXPECT_FAILS(EINVAL, fsync(fifo));
  File path("f", O_PATH);
  EXPECT_FAILS(EBADF, fsync(path));
  // Without a name.
  ASSERT_OK(unlink("f"));
  WriteRange(writer, 0, "x");
  EXPECT_OK(fsync(writer));
}

TEST_F(Sync, WritesThatAreSynced) {
  for (const int flag : {O_SYNC, O_DSYNC}) {
    File file("f", O_RDWR | O_CREAT | O_TRUNC | flag);
    EXPECT_EQ(fcntl(file, F_GETFL) & flag, flag);
    std::string bytes = Pattern(50'000);
    WriteRange(file, 0, bytes);
    WriteRange(file, 1'000'000, "end");
    EXPECT_EQ(Stat(file).st_size, 1'000'003);
    EXPECT_TRUE(Same(ReadRange(file, 0, 50'000), bytes));
  }
  File file("g");
  iovec part = {const_cast<char*>("once"), 4};
  EXPECT_EQ(pwritev2(file, &part, 1, 0, RWF_SYNC), 4);
  EXPECT_EQ(pwritev2(file, &part, 1, 4, RWF_DSYNC), 4);
  EXPECT_EQ(ReadFile("g"), "onceonce");
}

TEST_F(Sync, OptionsAreShown) {
  // With dirsync, or sync, it must say so: programs look.
  std::ifstream table("/proc/self/mountinfo");
  std::string found;
  for (std::string line; std::getline(table, line);) {
    const struct stat here = Stat(".");
    const std::string device = " " + std::to_string(here.st_dev >> 8 & 0xfff) + ":" +
                               std::to_string((here.st_dev & 0xff) | (here.st_dev >> 12 & ~0xffu)) +
                               " ";
    if (line.find(device) != std::string::npos) found = line;
  }
  for (const char* option : {"sync", "dirsync"}) {
    if (!MountedWith(option)) continue;
    EXPECT_TRUE((found + ",").find(std::string(",") + option + ",") != std::string::npos) << found;
  }
}

TEST_F(Sync, WorkUnderTheMountOptions) {
  ASSERT_OK(mkdir("d", 0755));
  const std::string bytes = Pattern(300'000);
  WriteFile("d/f", bytes);
  ASSERT_OK(link("d/f", "d/g"));
  ASSERT_OK(rename("d/f", "h"));
  ASSERT_OK(symlink("x", "d/l"));
  ASSERT_OK(unlink("d/l"));
  EXPECT_EQ(Names("d"), std::vector<std::string>{"g"});
  EXPECT_TRUE(Same(ReadFile("h"), bytes));
  EXPECT_EQ(Stat("h").st_nlink, 2u);
}

}  // namespace
}  // namespace pbfs::posix
