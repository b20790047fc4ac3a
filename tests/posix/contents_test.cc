// SPDX-License-Identifier: Apache-2.0
// read(2), write(2), truncate(2), lseek(2), O_APPEND.
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class Contents : public PosixTest {};

TEST_F(Contents, GapsAreZeroes) {
  File file("f");
  WriteRange(file, 10'000, "x");
  EXPECT_EQ(Stat(file).st_size, 10'001);
  EXPECT_TRUE(Same(ReadFile("f"), Zeroes(10'000) + "x"));
  WriteRange(file, 1'000'000, "y");
  std::string bytes = Zeroes(10'000) + "x" + Zeroes(989'999) + "y";
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
  Forget(file);
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
  EXPECT_LE(Blocks(file), 256);
}

TEST_F(Contents, WhatTruncationCutOffDoesNotComeBack) {
  for (const bool flushed : {false, true}) {
    File file("f");
    const std::string bytes = Pattern(100'000);
    for (const size_t cut : {size_t{50'001}, size_t{4096}, size_t{4095}, size_t{1}, size_t{0}}) {
      WriteRange(file, 0, bytes);
      if (flushed) ASSERT_OK(fsync(file));
      ASSERT_OK(ftruncate(file, static_cast<off_t>(cut)));
      if (flushed) ASSERT_OK(fsync(file));
      ASSERT_OK(truncate("f", 100'000));
      EXPECT_TRUE(Same(ReadRange(file, 0, 200'000), bytes.substr(0, cut) + Zeroes(100'000 - cut)));
      Forget(file);
      EXPECT_TRUE(Same(ReadRange(file, 0, 200'000), bytes.substr(0, cut) + Zeroes(100'000 - cut)));
      // Nor with a write behind it.
      WriteRange(file, 0, bytes);
      ASSERT_OK(ftruncate(file, static_cast<off_t>(cut)));
      WriteRange(file, 99'999, "x");
      EXPECT_TRUE(
          Same(ReadRange(file, 0, 200'000), bytes.substr(0, cut) + Zeroes(99'999 - cut) + "x"));
    }
  }
}

TEST_F(Contents, TruncationIsRefused) {
  WriteFile("f", "x");
  ASSERT_OK(mkdir("d", 0755));
  File reader("f", O_RDONLY), writer("f", O_WRONLY);
  EXPECT_FAILS(EISDIR, truncate("d", 0));
  EXPECT_FAILS(EINVAL, truncate("f", -1));
  EXPECT_FAILS(EINVAL, ftruncate(writer, -1));
  EXPECT_FAILS(EINVAL, ftruncate(reader, 0));
  EXPECT_FAILS(ENOENT, truncate("none", 0));
  EXPECT_FAILS(ENOTDIR, truncate("f/x", 0));
  EXPECT_EQ(ReadFile("f"), "x");
}

TEST_F(Contents, VeryLongFiles) {
  // All have at least 8 TiB.
  const off_t far = (off_t{8} << 40) - 1;
  File file("f");
  WriteRange(file, far, "z");
  EXPECT_EQ(Stat(file).st_size, far + 1);
  ASSERT_OK(fsync(file));
  EXPECT_EQ(ReadRange(file, far - 1, 10), std::string("\0z", 2));
  EXPECT_EQ(lseek(file, 0, SEEK_END), far + 1);
  EXPECT_FAILS(EINVAL, pwrite(file, "x", 1, -1));
  EXPECT_FAILS(EINVAL, pwrite(file, "xx", 2, INT64_MAX));  // The end would overflow.
  EXPECT_OK(ftruncate(file, 10));
}

TEST_F(Contents, AppendingAlwaysAtTheEnd) {
  WriteFile("f", "start ");
  File append("f", O_RDWR | O_APPEND), other("f", O_RDWR);
  EXPECT_EQ(write(append, "one ", 4), 4);
  WriteRange(other, 10, "two ");
  EXPECT_EQ(lseek(append, 0, SEEK_SET), 0);
  EXPECT_EQ(write(append, "three ", 6), 6);
  EXPECT_EQ(lseek(append, 0, SEEK_CUR), 20);
  // pwrite(2): Linux appends, whatever the offset.
  EXPECT_EQ(pwrite(append, "four", 4, 0), 4);
  EXPECT_EQ(ReadFile("f"), "start one two three four");
}

TEST_F(Contents, AppendsOfManyProcesses) {
  constexpr int kProcesses = 4, kRecords = 200;
  constexpr size_t kLength = 97;
  for (int process = 0; process < kProcesses; ++process) {
    if (fork() != 0) continue;
    const int fd = open("f", O_WRONLY | O_CREAT | O_APPEND, 0644);
    for (int i = 0; i < kRecords; ++i) {
      std::string record(kLength, static_cast<char>('a' + process));
      record.back() = '\n';
      if (write(fd, record.data(), kLength) != static_cast<ssize_t>(kLength)) _exit(1);
    }
    _exit(0);
  }
  for (int i = 0; i < kProcesses; ++i) {
    int status = 0;
    ASSERT_GT(wait(&status), 0);
    EXPECT_EQ(status, 0);
  }
  const std::string all = ReadFile("f");
  ASSERT_EQ(all.size(), kProcesses * kRecords * kLength);
  for (size_t at = 0; at < all.size(); at += kLength) {
    const std::string record = all.substr(at, kLength);
    ASSERT_EQ(record, std::string(kLength - 1, record[0]) + "\n") << at;
  }
}

TEST_F(Contents, DescriptorsAndOffsets) {
  WriteFile("f", "0123456789");
  File file("f", O_RDWR), other("f", O_RDONLY);
  const int copy = dup(file);
  char byte;
  EXPECT_EQ(read(file, &byte, 1), 1);
  EXPECT_EQ(lseek(copy, 0, SEEK_CUR), 1);
  EXPECT_EQ(lseek(other, 0, SEEK_CUR), 0);
  EXPECT_EQ(lseek(file, -2, SEEK_END), 8);
  EXPECT_EQ(read(copy, &byte, 1), 1);
  EXPECT_EQ(byte, '8');
  EXPECT_FAILS(EINVAL, lseek(file, -1, SEEK_SET));
  EXPECT_EQ(lseek(file, 100, SEEK_SET), 100);
  EXPECT_EQ(read(file, &byte, 1), 0);
  EXPECT_EQ(Stat(file).st_size, 10);
  close(copy);
  File writer("f", O_WRONLY);
  EXPECT_FAILS(EBADF, read(writer, &byte, 1));
  EXPECT_FAILS(EBADF, write(other, "x", 1));
}

TEST_F(Contents, Vectors) {
  File file("f");
  char a[4], b[10];
  iovec out[3] = {{const_cast<char*>("one"), 3}, {nullptr, 0}, {const_cast<char*>("three"), 5}};
  EXPECT_EQ(writev(file, out, 3), 8);
  iovec in[2] = {{a, 4}, {b, 10}};
  EXPECT_EQ(preadv(file, in, 2, 0), 8);
  EXPECT_EQ(std::string(a, 4) + std::string(b, 4), "onethree");
}

TEST_F(Contents, SmallWritesAtOddPlaces) {
  File file("f");
  std::string bytes;
  uint64_t state = 1;
  for (int i = 0; i < 500; ++i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    const size_t offset = (state >> 33) % 200'000, size = (state >> 20) % 3000 + 1;
    const std::string part = Pattern(size, state);
    if (bytes.size() < offset + size) bytes.resize(offset + size);
    bytes.replace(offset, size, part);
    WriteRange(file, static_cast<off_t>(offset), part);
    if (i % 100 == 50) Forget(file);
  }
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
  file.Close();
  if (!CanRemount()) return;
  Remount();
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
}

TEST_F(Contents, SentAndSpliced) {
  const std::string bytes = Pattern(500'000);
  WriteFile("from", bytes);
  File from("from", O_RDONLY), to("to"), spliced("spliced");
  off_t offset = 0;
  while (offset < 500'000) ASSERT_GT(sendfile(to, from, &offset, 500'000), 0);
  EXPECT_TRUE(Same(ReadFile("to"), bytes));
  int channel[2];
  ASSERT_OK(pipe(channel));
  off_t in = 0, out = 0;
  while (in < 500'000) {
    const ssize_t got = splice(from, &in, channel[1], nullptr, 65'536, 0);
    ASSERT_GT(got, 0);
    for (ssize_t left = got; left > 0;) {
      const ssize_t put = splice(channel[0], nullptr, spliced, &out, static_cast<size_t>(left), 0);
      ASSERT_GT(put, 0);
      left -= put;
    }
  }
  EXPECT_TRUE(Same(ReadFile("spliced"), bytes));
  close(channel[0]);
  close(channel[1]);
}

TEST_F(Contents, ManyFilesSurviveARemount) {
  SKIP_UNLESS_REMOUNT();
  for (int i = 0; i < 300; ++i) {
    WriteFile("f" + std::to_string(i),
              Pattern(static_cast<size_t>(i) * 37, static_cast<uint64_t>(i)));
  }
  Remount();
  for (int i = 0; i < 300; ++i) {
    EXPECT_TRUE(Same(ReadFile("f" + std::to_string(i)),
                     Pattern(static_cast<size_t>(i) * 37, static_cast<uint64_t>(i))));
  }
}

}  // namespace
}  // namespace pbfs::posix
