// SPDX-License-Identifier: Apache-2.0
#include "io/pipe.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace pbfs {
namespace {

constexpr size_t kPages = 32;
constexpr size_t kBytes = kPages * 4096;

TEST(PipeTest, TakesAsManyPagesAsWereAskedForAndNoMore) {
  const auto pipe = Pipe::Create(kPages);
  ASSERT_TRUE(pipe.ok()) << pipe.status();
  const std::string bytes(kBytes, 'b');
  EXPECT_EQ(WriteToPipe((*pipe)->write_end(), bytes.data(), bytes.size()), 0);
  EXPECT_EQ(WriteToPipe((*pipe)->write_end(), bytes.data(), 1), EAGAIN);
  std::string back(kBytes + 1, '\0');
  EXPECT_EQ(read((*pipe)->read_end(), back.data(), back.size()), ssize_t{kBytes});
  EXPECT_EQ(read((*pipe)->read_end(), back.data(), back.size()), -1);
  EXPECT_EQ(errno, EAGAIN);
}

TEST(PipeTest, RefusesWhatNobodyMayHave) { EXPECT_FALSE(Pipe::Create(size_t{1} << 40).ok()); }

}  // namespace
}  // namespace pbfs
