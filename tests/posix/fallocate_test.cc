// SPDX-License-Identifier: Apache-2.0
// fallocate(2): allocating, punching holes, zeroing; space that was never written reads as zeroes.

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

constexpr int kKeep = FALLOC_FL_KEEP_SIZE;
constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZero = FALLOC_FL_ZERO_RANGE;
constexpr size_t kSize = 1 << 20;

class Fallocate : public PosixTest {
 protected:
  // A file with a pattern, on the disk.
  static std::string Fill(int fd, size_t size = kSize) {
    const std::string bytes = Pattern(size);
    WriteRange(fd, 0, bytes);
    EXPECT_OK(fsync(fd));
    return bytes;
  }
  // It holds this, in memory and on the disk.
  void Holds(File& file, const std::string& bytes) {
    EXPECT_TRUE(Same(ReadRange(file, 0, bytes.size() + 1), bytes)) << "in memory";
    Forget(file);
    EXPECT_TRUE(Same(ReadRange(file, 0, bytes.size() + 1), bytes)) << "after writing back";
    if (!CanRemount()) return;
    file.Close();
    Remount();
    EXPECT_TRUE(Same(ReadFile("f"), bytes)) << "after a remount";
  }
};

TEST_F(Fallocate, Allocates) {
  File file("f");
  ASSERT_OK(fallocate(file, 0, 0, kSize));
  EXPECT_EQ(Stat(file).st_size, static_cast<off_t>(kSize));
  EXPECT_GE(Blocks(file), 2048);
  EXPECT_LE(Blocks(file), 2048 + 64);
  Holds(file, Zeroes(kSize));
}

TEST_F(Fallocate, KeepsTheSize) {
  File file("f");
  WriteRange(file, 0, "x");
  ASSERT_OK(fallocate(file, kKeep, 0, kSize));
  EXPECT_EQ(Stat(file).st_size, 1);
  EXPECT_GE(Blocks(file), 2048);
  // What is behind the end is not contents yet, and zero when it becomes that.
  EXPECT_EQ(ReadRange(file, 0, 100), "x");
  ASSERT_OK(ftruncate(file, 10'000));
  Holds(file, "x" + Zeroes(9'999));
}

TEST_F(Fallocate, SpaceBehindTheEndSurvivesARemount) {
  SKIP_UNLESS_REMOUNT();
  {
    File file("f");
    WriteRange(file, 0, "x");
    ASSERT_OK(fallocate(file, kKeep, 0, kSize));
  }
  Remount();
  EXPECT_EQ(Stat("f").st_size, 1);
  EXPECT_GE(Stat("f").st_blocks, 2048);
  // truncate(2) to the present size releases it or not; to a smaller one does.
  ASSERT_OK(truncate("f", 0));
  EXPECT_EQ(Stat("f").st_blocks, 0);
}

TEST_F(Fallocate, LeavesContentsAlone) {
  File file("f");
  std::string bytes = Fill(file, 100'001);
  ASSERT_OK(fallocate(file, 0, 50'000, 200'000));
  bytes.resize(250'000);
  Holds(file, bytes);
}

TEST_F(Fallocate, FillsHoles) {
  File file("f");
  WriteRange(file, 500'000, "middle");
  ASSERT_OK(ftruncate(file, kSize));
  ASSERT_OK(fallocate(file, 0, 0, kSize));
  EXPECT_GE(Blocks(file), 2048);
  std::string bytes = Zeroes(kSize);
  bytes.replace(500'000, 6, "middle");
  Holds(file, bytes);
}

TEST_F(Fallocate, WritingIntoAllocatedSpace) {
  File file("f");
  ASSERT_OK(fallocate(file, 0, 0, kSize));
  ASSERT_OK(fsync(file));
  std::string bytes = Zeroes(kSize);
  uint64_t seed = 0;
  // Whole blocks, parts of blocks, across blocks.
  for (const auto& [offset, size] : std::vector<std::pair<size_t, size_t>>{
           {0, 4096}, {10'000, 1}, {20'480, 100}, {65'535, 2}, {300'000, 100'000}, {1048'575, 1}}) {
    const std::string part = Pattern(size, ++seed);
    WriteRange(file, static_cast<off_t>(offset), part);
    bytes.replace(offset, size, part);
  }
  Holds(file, bytes);
}

TEST_F(Fallocate, PunchesAHole) {
  File file("f");
  std::string bytes = Fill(file);
  const int64_t blocks = Blocks(file);
  ASSERT_OK(fallocate(file, kPunch, 262'144, 524'288));
  EXPECT_EQ(Stat(file).st_size, static_cast<off_t>(kSize));
  ASSERT_OK(fsync(file));
  EXPECT_LE(Blocks(file), blocks - 1024 + 16);
  bytes.replace(262'144, 524'288, Zeroes(524'288));
  Holds(file, bytes);
}

TEST_F(Fallocate, PunchesPartsOfBlocks) {
  File file("f");
  std::string bytes = Fill(file);
  for (const auto& [offset, size] : std::vector<std::pair<size_t, size_t>>{
           {1, 1}, {5000, 100}, {100'000, 50'001}, {8191, 4098}, {kSize - 1, 1}}) {
    ASSERT_OK(fallocate(file, kPunch, static_cast<off_t>(offset), static_cast<off_t>(size)));
    bytes.replace(offset, size, Zeroes(size));
  }
  Holds(file, bytes);
}

TEST_F(Fallocate, PunchesWhatIsNotWrittenBackYet) {
  File file("f");
  std::string bytes = Pattern(kSize);
  WriteRange(file, 0, bytes);
  ASSERT_OK(fallocate(file, kPunch, 100'000, 300'000));
  bytes.replace(100'000, 300'000, Zeroes(300'000));
  Holds(file, bytes);
}

TEST_F(Fallocate, PunchesTheEndAndBehindIt) {
  File file("f");
  std::string bytes = Fill(file, 100'000);
  ASSERT_OK(fallocate(file, kPunch, 90'000, 1'000'000));
  EXPECT_EQ(Stat(file).st_size, 100'000);
  ASSERT_OK(fallocate(file, kPunch, 200'000, 100));
  EXPECT_EQ(Stat(file).st_size, 100'000);
  bytes.replace(90'000, 10'000, Zeroes(10'000));
  Holds(file, bytes);
}

TEST_F(Fallocate, PunchesEverything) {
  File file("f");
  Fill(file);
  ASSERT_OK(fallocate(file, kPunch, 0, kSize));
  ASSERT_OK(fsync(file));
  EXPECT_LE(Blocks(file), 16);
  Holds(file, Zeroes(kSize));
}

TEST_F(Fallocate, ZeroesARange) {
  File file("f");
  std::string bytes = Fill(file);
  ASSERT_OK(fallocate(file, kZero, 4097, 500'000));
  bytes.replace(4097, 500'000, Zeroes(500'000));
  ASSERT_OK(fallocate(file, kZero | kKeep, 1'000'000, 500'000));
  bytes.replace(1'000'000, kSize - 1'000'000, Zeroes(kSize - 1'000'000));
  EXPECT_EQ(Stat(file).st_size, static_cast<off_t>(kSize));
  EXPECT_GE(Blocks(file), 2048);  // Zeroed space stays allocated.
  ASSERT_OK(fallocate(file, kZero, 1'000'000, 500'000));
  bytes.resize(1'500'000);
  EXPECT_EQ(Stat(file).st_size, 1'500'000);
  Holds(file, bytes);
}

TEST_F(Fallocate, ZeroesWhatIsNotWrittenBackYet) {
  File file("f");
  std::string bytes = Pattern(kSize);
  WriteRange(file, 0, bytes);
  ASSERT_OK(fallocate(file, kZero, 10, 300'000));
  bytes.replace(10, 300'000, Zeroes(300'000));
  WriteRange(file, 100'000, "again");
  bytes.replace(100'000, 5, "again");
  Holds(file, bytes);
}

TEST_F(Fallocate, ZeroesAllocateHoles) {
  File file("f");
  ASSERT_OK(ftruncate(file, kSize));
  ASSERT_OK(fallocate(file, kZero, 0, kSize));
  EXPECT_GE(Blocks(file), 2048);
  Holds(file, Zeroes(kSize));
}

TEST_F(Fallocate, MappingsSeePunchedHoles) {
  File file("f");
  Fill(file);
  Mapping memory(file, kSize);
  memory[5000] = 'd';
  ASSERT_OK(fallocate(file, kPunch, 4096, 8192));
  EXPECT_EQ(memory[5000], 0);
  memory[5001] = 'e';
  EXPECT_EQ(ReadRange(file, 5000, 2), std::string("\0e", 2));
}

TEST_F(Fallocate, WhatIsRefused) {
  File file("f");
  EXPECT_FAILS(EINVAL, fallocate(file, 0, 0, 0));
  EXPECT_FAILS(EINVAL, fallocate(file, 0, -1, 100));
  EXPECT_FAILS(EINVAL, fallocate(file, 0, 0, -100));
  EXPECT_FAILS(EFBIG, fallocate(file, 0, 0x7fff'ffff'ffff'f000, 0x10'0000));
  EXPECT_FAILS(EOPNOTSUPP, fallocate(file, FALLOC_FL_PUNCH_HOLE, 0, 4096));
  File reader("f", O_RDONLY);
  EXPECT_FAILS(EBADF, fallocate(reader, 0, 0, 4096));
  File directory(".", O_RDONLY);
  EXPECT_FAILS(EBADF, fallocate(directory, 0, 0, 4096));
  ASSERT_OK(mkfifo("p", 0644));
  File fifo("p", O_RDWR);
  EXPECT_FAILS(ESPIPE, fallocate(fifo, 0, 0, 4096));
  EXPECT_EQ(Stat(file).st_size, 0);
}

}  // namespace
}  // namespace pbfs::posix
