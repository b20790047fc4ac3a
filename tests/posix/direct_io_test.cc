// SPDX-License-Identifier: Apache-2.0
// O_DIRECT of open(2), together with what goes through the page cache.
#include <sys/uio.h>

#include <cstdlib>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

constexpr size_t kBlock = 4096;

class DirectIo : public PosixTest {
 protected:
  static constexpr size_t kSize = 1 << 20;
  void SetUp() override {
    PosixTest::SetUp();
    buffer_ = static_cast<char*>(aligned_alloc(kBlock, kSize));
  }
  void TearDown() override {
    free(buffer_);
    PosixTest::TearDown();
  }
  std::string Read(int fd, off_t offset, size_t size) {
    memset(buffer_, '?', size);
    const ssize_t got = pread(fd, buffer_, size, offset);
    EXPECT_GE(got, 0) << strerrorname_np(errno);
    return std::string(buffer_, static_cast<size_t>(std::max<ssize_t>(got, 0)));
  }
  void Write(int fd, off_t offset, const std::string& bytes) {
    memcpy(buffer_, bytes.data(), bytes.size());
    EXPECT_EQ(pwrite(fd, buffer_, bytes.size(), offset), static_cast<ssize_t>(bytes.size()))
        << strerrorname_np(errno);
  }
  char* buffer_ = nullptr;
};

TEST_F(DirectIo, IsWrittenAndRead) {
  File direct("f", O_RDWR | O_CREAT | O_DIRECT);
  Write(direct, 0, Pattern(kSize));
  EXPECT_EQ(Stat("f").st_size, static_cast<off_t>(kSize));
  EXPECT_TRUE(Same(Read(direct, 0, kSize), Pattern(kSize)));
  EXPECT_TRUE(Same(ReadFile("f"), Pattern(kSize)));
  direct.Close();
  if (!CanRemount()) return;
  Remount();
  EXPECT_TRUE(Same(ReadFile("f"), Pattern(kSize)));
}

TEST_F(DirectIo, SeesWhatIsOnlyInTheCache) {
  File cached("f"), direct("f", O_RDWR | O_DIRECT);
  std::string bytes = Pattern(kSize);
  WriteRange(cached, 0, bytes);
  EXPECT_TRUE(Same(Read(direct, 0, kSize), bytes));
  WriteRange(cached, 10'000, "dirty again");
  bytes.replace(10'000, 11, "dirty again");
  EXPECT_TRUE(Same(Read(direct, 0, kSize), bytes));
}

TEST_F(DirectIo, IsSeenThroughTheCache) {
  WriteFile("f", Pattern(kSize, 1));
  File cached("f", O_RDWR), direct("f", O_RDWR | O_DIRECT);
  std::string bytes = ReadRange(cached, 0, kSize);
  Write(direct, 65'536, Pattern(kBlock * 3, 2));
  bytes.replace(65'536, kBlock * 3, Pattern(kBlock * 3, 2));
  EXPECT_TRUE(Same(ReadRange(cached, 0, kSize), bytes));
  // A dirty neighbour in the cache is not lost.
  WriteRange(cached, 65'536 + kBlock * 3 + 7, "neighbour");
  bytes.replace(65'536 + kBlock * 3 + 7, 9, "neighbour");
  Write(direct, 65'536, Pattern(kBlock * 3, 3));
  bytes.replace(65'536, kBlock * 3, Pattern(kBlock * 3, 3));
  EXPECT_TRUE(Same(ReadRange(cached, 0, kSize), bytes));
  EXPECT_TRUE(Same(Read(direct, 0, kSize), bytes));
}

TEST_F(DirectIo, OverwritesWhatIsDirtyInTheCache) {
  File cached("f"), direct("f", O_RDWR | O_DIRECT);
  WriteRange(cached, 0, Pattern(kBlock * 4, 1));
  Write(direct, kBlock, Pattern(kBlock, 2));
  std::string bytes = Pattern(kBlock * 4, 1);
  bytes.replace(kBlock, kBlock, Pattern(kBlock, 2));
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
  Forget(cached);
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
}

TEST_F(DirectIo, TheEndOfTheFile) {
  WriteFile("f", Pattern(kBlock + 100));
  File direct("f", O_RDWR | O_DIRECT);
  EXPECT_TRUE(Same(Read(direct, 0, kBlock * 4), Pattern(kBlock + 100)));
  EXPECT_TRUE(Same(Read(direct, kBlock, kBlock), Pattern(kBlock + 100).substr(kBlock)));
  EXPECT_EQ(Read(direct, kBlock * 2, kBlock), "");
  // A write behind the end leaves a gap of zeroes.
  Write(direct, kBlock * 3, Pattern(kBlock, 2));
  EXPECT_TRUE(
      Same(ReadFile("f"), Pattern(kBlock + 100) + Zeroes(kBlock * 2 - 100) + Pattern(kBlock, 2)));
}

TEST_F(DirectIo, HolesAndAllocatedSpace) {
  File direct("f", O_RDWR | O_CREAT | O_DIRECT);
  ASSERT_OK(ftruncate(direct, kSize / 2));
  ASSERT_OK(fallocate(direct, 0, kSize / 2, kSize / 2));
  EXPECT_TRUE(Same(Read(direct, 0, kSize), Zeroes(kSize)));
  std::string bytes = Zeroes(kSize);
  for (const off_t at : {off_t{kBlock}, off_t{kSize / 2 + kBlock}}) {
    Write(direct, at, Pattern(kBlock));
    bytes.replace(static_cast<size_t>(at), kBlock, Pattern(kBlock));
  }
  EXPECT_TRUE(Same(Read(direct, 0, kSize), bytes));
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
}

TEST_F(DirectIo, PartsOfABlockOfTheFilesystem) {
  // The device's sectors may be larger than 512 bytes: then it is refused.
  File direct("f", O_RDWR | O_CREAT | O_DIRECT);
  Write(direct, 0, Pattern(kBlock));
  memset(buffer_, 'x', 512);
  if (pwrite(direct, buffer_, 512, 512) != 512) {
    EXPECT_EQ(errno, EINVAL);
    return;
  }
  std::string bytes = Pattern(kBlock);
  bytes.replace(512, 512, std::string(512, 'x'));
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
}

TEST_F(DirectIo, Appends) {
  File direct("f", O_RDWR | O_CREAT | O_DIRECT | O_APPEND);
  memcpy(buffer_, Pattern(kBlock).data(), kBlock);
  EXPECT_EQ(write(direct, buffer_, kBlock), static_cast<ssize_t>(kBlock));
  EXPECT_EQ(write(direct, buffer_, kBlock), static_cast<ssize_t>(kBlock));
  EXPECT_TRUE(Same(ReadFile("f"), Pattern(kBlock) + Pattern(kBlock)));
}

TEST_F(DirectIo, Vectors) {
  File direct("f", O_RDWR | O_CREAT | O_DIRECT);
  memcpy(buffer_, Pattern(kBlock * 4).data(), kBlock * 4);
  const iovec parts[3] = {
      {buffer_ + kBlock * 2, kBlock}, {buffer_, kBlock}, {buffer_ + kBlock * 3, kBlock}};
  EXPECT_EQ(pwritev(direct, parts, 3, 0), static_cast<ssize_t>(kBlock * 3));
  const std::string all = Pattern(kBlock * 4);
  EXPECT_TRUE(Same(ReadFile("f"), all.substr(kBlock * 2, kBlock) + all.substr(0, kBlock) +
                                      all.substr(kBlock * 3, kBlock)));
}

}  // namespace
}  // namespace pbfs::posix
