// SPDX-License-Identifier: Apache-2.0
// SEEK_DATA and SEEK_HOLE of lseek(2). A filesystem may report zeroes as data, but ext4, XFS and
// pbfs are exact to the block; this asks for it at multiples of 64 KiB.

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

constexpr off_t kUnit = 65536;

class Seek : public PosixTest {
 protected:
  // The pieces of data, as "first-last " in units.
  static std::string Map(int fd) {
    std::string map;
    off_t at = 0;
    for (;;) {
      const off_t data = lseek(fd, at, SEEK_DATA);
      if (data < 0) {
        EXPECT_EQ(errno, ENXIO);
        return map;
      }
      const off_t hole = lseek(fd, data, SEEK_HOLE);
      EXPECT_GT(hole, data);
      if (hole <= data) return map + "?";
      map += std::to_string(data / kUnit) + (data % kUnit != 0 ? "+" : "") + "-" +
             std::to_string(hole / kUnit) + (hole % kUnit != 0 ? "+" : "") + " ";
      at = hole;
    }
  }
  static void Put(int fd, off_t first, off_t last) {
    WriteRange(fd, first * kUnit, Pattern(static_cast<size_t>((last - first) * kUnit)));
  }
};

TEST_F(Seek, WrittenData) {
  File file("f");
  Put(file, 2, 3);
  Put(file, 5, 7);
  ASSERT_OK(ftruncate(file, 10 * kUnit));
  EXPECT_EQ(Map(file), "2-3 5-7 ") << "not written back yet";
  ASSERT_OK(fsync(file));
  EXPECT_EQ(Map(file), "2-3 5-7 ");
  Forget(file);
  EXPECT_EQ(Map(file), "2-3 5-7 ");
  file.Close();
  if (!CanRemount()) return;
  Remount();
  EXPECT_EQ(Map(File("f")), "2-3 5-7 ");
}

TEST_F(Seek, FromInside) {
  File file("f");
  Put(file, 2, 4);
  ASSERT_OK(ftruncate(file, 6 * kUnit));
  for (bool flushed : {false, true}) {
    if (flushed) ASSERT_OK(fsync(file));
    EXPECT_EQ(lseek(file, 0, SEEK_HOLE), 0);
    EXPECT_EQ(lseek(file, 1, SEEK_HOLE), 1);
    EXPECT_EQ(lseek(file, 1, SEEK_DATA), 2 * kUnit);
    EXPECT_EQ(lseek(file, 2 * kUnit + 1, SEEK_DATA), 2 * kUnit + 1);
    EXPECT_EQ(lseek(file, 3 * kUnit + 7, SEEK_HOLE), 4 * kUnit);
    EXPECT_FAILS(ENXIO, lseek(file, 4 * kUnit, SEEK_DATA));
    EXPECT_EQ(lseek(file, 5 * kUnit, SEEK_HOLE), 5 * kUnit);
    EXPECT_FAILS(ENXIO, lseek(file, 6 * kUnit, SEEK_HOLE));
    EXPECT_FAILS(ENXIO, lseek(file, 6 * kUnit, SEEK_DATA));
    EXPECT_FAILS(ENXIO, lseek(file, -1, SEEK_DATA));
  }
}

TEST_F(Seek, TheEndIsAHole) {
  File file("f");
  WriteRange(file, 0, Pattern(kUnit + 100));
  EXPECT_EQ(lseek(file, 0, SEEK_HOLE), kUnit + 100);
  EXPECT_EQ(lseek(file, kUnit + 99, SEEK_DATA), kUnit + 99);
  EXPECT_FAILS(ENXIO, lseek(file, kUnit + 100, SEEK_DATA));
  ASSERT_OK(fsync(file));
  EXPECT_EQ(lseek(file, 0, SEEK_HOLE), kUnit + 100);
  File empty("empty");
  EXPECT_FAILS(ENXIO, lseek(empty, 0, SEEK_DATA));
  EXPECT_FAILS(ENXIO, lseek(empty, 0, SEEK_HOLE));
}

TEST_F(Seek, MovesTheOffset) {
  File file("f");
  Put(file, 1, 2);
  EXPECT_EQ(lseek(file, 0, SEEK_DATA), kUnit);
  EXPECT_EQ(lseek(file, 0, SEEK_CUR), kUnit);
}

TEST_F(Seek, PunchedHoles) {
  File file("f");
  Put(file, 0, 8);
  ASSERT_OK(fsync(file));
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  ASSERT_OK(fallocate(file, kPunch, 2 * kUnit, 2 * kUnit));
  EXPECT_EQ(Map(file), "0-2 4-8 ");
  ASSERT_OK(fallocate(file, kPunch, 7 * kUnit, kUnit));
  EXPECT_EQ(Map(file), "0-2 4-7 ");
  Put(file, 3, 4);
  EXPECT_EQ(Map(file), "0-2 3-7 ");
  ASSERT_OK(fsync(file));
  EXPECT_EQ(Map(file), "0-2 3-7 ");
}

TEST_F(Seek, AllocatedSpaceIsAHoleUntilItIsWritten) {
  File file("f");
  ASSERT_OK(fallocate(file, 0, 0, 8 * kUnit));
  EXPECT_EQ(Map(file), "");
  Put(file, 2, 4);
  EXPECT_EQ(Map(file), "2-4 ") << "not written back yet";
  ASSERT_OK(fsync(file));
  EXPECT_EQ(Map(file), "2-4 ");
  ASSERT_OK(fallocate(file, FALLOC_FL_ZERO_RANGE, 3 * kUnit, kUnit));
  ASSERT_OK(fsync(file));
  EXPECT_EQ(Map(file), "2-3 ");
}

TEST_F(Seek, PagesDirtiedThroughAMapping) {
  File file("f");
  ASSERT_OK(ftruncate(file, 8 * kUnit));
  Mapping memory(file, 8 * kUnit);
  memory.Put(3 * kUnit, std::string(kUnit, 'x'));
  EXPECT_EQ(Map(file), "3-4 ");
  ASSERT_OK(memory.Sync());
  EXPECT_EQ(Map(file), "3-4 ");
  EXPECT_EQ(memory[3 * kUnit], 'x');
}

TEST_F(Seek, TruncationMakesHoles) {
  File file("f");
  Put(file, 0, 6);
  ASSERT_OK(ftruncate(file, 2 * kUnit));
  ASSERT_OK(ftruncate(file, 6 * kUnit));
  EXPECT_EQ(Map(file), "0-2 ");
  ASSERT_OK(fsync(file));
  EXPECT_EQ(Map(file), "0-2 ");
}

}  // namespace
}  // namespace pbfs::posix
