// SPDX-License-Identifier: Apache-2.0
// copy_file_range(2).

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class CopyRange : public PosixTest {
 protected:
  // All of the length, in as many calls as it takes; the number of bytes that were copied.
  static size_t Copy(int from, off_t from_offset, int to, off_t to_offset, size_t size) {
    size_t done = 0;
    while (done < size) {
      const ssize_t copied = copy_file_range(from, &from_offset, to, &to_offset, size - done, 0);
      if (copied < 0) ADD_FAILURE() << strerrorname_np(errno);
      if (copied <= 0) break;
      done += static_cast<size_t>(copied);
    }
    return done;
  }
};

TEST_F(CopyRange, WholeFiles) {
  const std::string bytes = Pattern(5'000'001);
  WriteFile("from", bytes);  // Not written back yet.
  {
    File from("from", O_RDONLY), to("to");
    EXPECT_EQ(Copy(from, 0, to, 0, 10'000'000), bytes.size());
  }
  EXPECT_TRUE(Same(ReadFile("to"), bytes));
  if (!CanRemount()) return;
  Remount();
  EXPECT_TRUE(Same(ReadFile("to"), bytes));
}

TEST_F(CopyRange, Parts) {
  std::string from_bytes = Pattern(300'000, 1), to_bytes = Pattern(300'000, 2);
  WriteFile("from", from_bytes);
  WriteFile("to", to_bytes);
  File from("from", O_RDONLY), to("to", O_RDWR);
  ASSERT_OK(fsync(to));
  struct Part {
    size_t from, to, size;
  };
  for (const Part& part : std::vector<Part>{{0, 0, 1},
                                            {4096, 8192, 4096},
                                            {10'001, 77'777, 12'345},
                                            {131'072, 131'072, 65'536},
                                            {1, 250'000, 50'000},
                                            {299'999, 0, 1}}) {
    EXPECT_EQ(Copy(from, static_cast<off_t>(part.from), to, static_cast<off_t>(part.to), part.size),
              part.size);
    to_bytes.replace(part.to, part.size, from_bytes, part.from, part.size);
  }
  EXPECT_TRUE(Same(ReadRange(to, 0, 400'000), to_bytes));
  Forget(to);
  EXPECT_TRUE(Same(ReadRange(to, 0, 400'000), to_bytes));
  // The copy is one: later changes to the source are not seen.
  File writer("from", O_RDWR);
  WriteRange(writer, 0, Pattern(300'000, 3));
  EXPECT_TRUE(Same(ReadRange(to, 0, 400'000), to_bytes));
}

TEST_F(CopyRange, OffsetsOfTheFiles) {
  WriteFile("from", "0123456789");
  File from("from", O_RDONLY), to("to");
  EXPECT_EQ(lseek(from, 2, SEEK_SET), 2);
  EXPECT_EQ(copy_file_range(from, nullptr, to, nullptr, 4, 0), 4);
  EXPECT_EQ(lseek(from, 0, SEEK_CUR), 6);
  EXPECT_EQ(lseek(to, 0, SEEK_CUR), 4);
  off_t offset = 1;
  EXPECT_EQ(copy_file_range(from, &offset, to, nullptr, 2, 0), 2);
  EXPECT_EQ(offset, 3);
  EXPECT_EQ(lseek(from, 0, SEEK_CUR), 6);
  EXPECT_EQ(ReadFile("to"), "234512");
}

TEST_F(CopyRange, TheEndOfTheSource) {
  WriteFile("from", "0123456789");
  File from("from", O_RDONLY), to("to");
  EXPECT_EQ(Copy(from, 8, to, 0, 100), 2u);
  EXPECT_EQ(Copy(from, 10, to, 50, 100), 0u);
  EXPECT_EQ(Copy(from, 1000, to, 50, 100), 0u);
  EXPECT_EQ(ReadFile("to"), "89");
}

TEST_F(CopyRange, BehindTheEndOfTheTarget) {
  WriteFile("from", "0123456789");
  WriteFile("to", std::string(100, 'x'));
  File from("from", O_RDONLY), to("to", O_RDWR);
  ASSERT_OK(ftruncate(to, 3));
  EXPECT_EQ(Copy(from, 0, to, 10'000, 10), 10u);
  EXPECT_TRUE(Same(ReadFile("to"), "xxx" + Zeroes(9'997) + "0123456789"));
}

TEST_F(CopyRange, InOneFile) {
  std::string bytes = Pattern(200'000);
  WriteFile("f", bytes);
  File file("f", O_RDWR);
  EXPECT_EQ(Copy(file, 0, file, 100'000, 50'000), 50'000u);
  bytes.replace(100'000, 50'000, bytes, 0, 50'000);
  EXPECT_EQ(Copy(file, 100'000, file, 300'000, 50'000), 50'000u);
  bytes += Zeroes(100'000) + bytes.substr(100'000, 50'000);
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
  off_t from = 0, to = 10;
  EXPECT_FAILS(EINVAL, copy_file_range(file, &from, file, &to, 100, 0));
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
}

TEST_F(CopyRange, HolesAreZeroes) {
  WriteFile("to", std::string(1 << 20, 'x'));
  File from("from"), to("to", O_RDWR);
  WriteRange(from, 500'000, "middle");
  ASSERT_OK(ftruncate(from, 1 << 20));
  EXPECT_EQ(Copy(from, 0, to, 0, 1 << 20), size_t{1 << 20});
  std::string bytes = Zeroes(1 << 20);
  bytes.replace(500'000, 6, "middle");
  EXPECT_TRUE(Same(ReadFile("to"), bytes));
}

TEST_F(CopyRange, MappingsAndTheCacheSeeIt) {
  WriteFile("from", Pattern(8192, 1));
  WriteFile("to", Pattern(8192, 2));
  File from("from", O_RDWR), to("to", O_RDWR);
  Mapping source(from, 8192), target(to, 8192);
  source[100] = 'd';
  EXPECT_NE(target[5000], 0);  // Is in the cache.
  EXPECT_EQ(Copy(from, 0, to, 4096, 4096), 4096u);
  EXPECT_EQ(target[4196], 'd');
  EXPECT_TRUE(Same(target.Bytes(4096, 4096), source.Bytes(0, 4096)));
}

TEST_F(CopyRange, WhatIsRefused) {
  WriteFile("from", "0123456789");
  WriteFile("to", "");
  File from("from", O_RDONLY), reader("to", O_RDONLY), writer("to", O_WRONLY);
  File append("to", O_WRONLY | O_APPEND), directory(".", O_RDONLY);
  EXPECT_FAILS(EBADF, copy_file_range(from, nullptr, reader, nullptr, 10, 0));
  EXPECT_FAILS(EBADF, copy_file_range(writer, nullptr, writer, nullptr, 10, 0));
  EXPECT_FAILS(EBADF, copy_file_range(from, nullptr, append, nullptr, 10, 0));
  EXPECT_FAILS(EISDIR, copy_file_range(directory, nullptr, writer, nullptr, 10, 0));
  EXPECT_FAILS(EINVAL, copy_file_range(from, nullptr, writer, nullptr, 10, 1));
  ASSERT_OK(mkfifo("p", 0644));
  File fifo("p", O_RDWR);
  EXPECT_FAILS(EINVAL, copy_file_range(fifo, nullptr, writer, nullptr, 10, 0));
  EXPECT_EQ(Stat("to").st_size, 0);
}

}  // namespace
}  // namespace pbfs::posix
