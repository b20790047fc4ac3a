// SPDX-License-Identifier: Apache-2.0
#include "io/logical_buffer.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "io/buffer_cursor.h"

namespace pbfs {
namespace {

// Three segments with gaps between them: 100, 50 and 30 bytes of a counting pattern.
class ThreeSegments : public ::testing::Test {
 protected:
  ThreeSegments() {
    std::iota(memory_.begin(), memory_.end(), static_cast<unsigned char>(0));
    buffer_.Append(memory_.data(), 100);
    buffer_.Append(memory_.data() + 110, 50);
    buffer_.Append(memory_.data() + 170, 30);
  }
  // The bytes the buffer describes, by a way of their own.
  std::vector<unsigned char> Expected() const {
    std::vector<unsigned char> bytes(memory_.begin(), memory_.begin() + 100);
    bytes.insert(bytes.end(), memory_.begin() + 110, memory_.begin() + 160);
    bytes.insert(bytes.end(), memory_.begin() + 170, memory_.begin() + 200);
    return bytes;
  }
  static std::vector<unsigned char> BytesOf(const LogicalBuffer& buffer) {
    std::vector<unsigned char> bytes;
    for (const iovec& segment : buffer.segments()) {
      const auto* base = static_cast<const unsigned char*>(segment.iov_base);
      bytes.insert(bytes.end(), base, base + segment.iov_len);
    }
    return bytes;
  }

  std::array<unsigned char, 256> memory_;
  LogicalBuffer buffer_;
};

TEST_F(ThreeSegments, AreKeptInOrderWithTheirSum) {
  EXPECT_EQ(buffer_.segments().size(), 3u);
  EXPECT_EQ(buffer_.size_bytes(), 180u);
  EXPECT_EQ(BytesOf(buffer_), Expected());
}

TEST(LogicalBuffer, MergesSegmentsAdjacentInMemory) {
  char memory[64];
  LogicalBuffer buffer;
  buffer.Append(memory, 16);
  buffer.Append(memory + 16, 16);
  buffer.Append(memory + 40, 8);
  buffer.Append(memory + 32, 8);  // Adjacent, but before: order counts.
  ASSERT_EQ(buffer.segments().size(), 3u);
  EXPECT_EQ(buffer.segments()[0].iov_len, 32u);
  EXPECT_EQ(buffer.size_bytes(), 48u);
}

TEST(LogicalBuffer, IgnoresEmptySegments) {
  LogicalBuffer buffer;
  buffer.Append(nullptr, 0);
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.segments().size(), 0u);
}

TEST_F(ThreeSegments, CarveGivesTheSameBytesForEveryRangeWithoutACopy) {
  const std::vector<unsigned char> all = Expected();
  for (size_t offset = 0; offset <= all.size(); offset += 7) {
    for (size_t length = 0; offset + length <= all.size(); length += 11) {
      const LogicalBuffer carved = buffer_.Carve(offset, length);
      ASSERT_EQ(carved.size_bytes(), length);
      ASSERT_EQ(BytesOf(carved),
                std::vector<unsigned char>(all.begin() + static_cast<ptrdiff_t>(offset),
                                           all.begin() + static_cast<ptrdiff_t>(offset + length)));
    }
  }
  EXPECT_EQ(buffer_.Carve(105, 1).segments()[0].iov_base, memory_.data() + 115);
}

TEST_F(ThreeSegments, PartsJoinedAgainAreTheWholeWithMergedSegments) {
  LogicalBuffer joined = buffer_.Carve(0, 40);
  joined.Append(buffer_.Carve(40, 90));
  joined.Append(buffer_.Carve(130, 50));
  EXPECT_EQ(BytesOf(joined), Expected());
  EXPECT_EQ(joined.segments().size(), 3u);
}

TEST_F(ThreeSegments, JoinedToItselfIsTwiceItself) {
  buffer_.Append(buffer_);
  std::vector<unsigned char> twice = Expected();
  const std::vector<unsigned char> once = twice;
  twice.insert(twice.end(), once.begin(), once.end());
  EXPECT_EQ(BytesOf(buffer_), twice);
  EXPECT_EQ(buffer_.size_bytes(), 360u);
}

TEST_F(ThreeSegments, ClearEmpties) {
  buffer_.Clear();
  EXPECT_TRUE(buffer_.empty());
  EXPECT_TRUE(buffer_.segments().empty());
}

TEST_F(ThreeSegments, CopyToReadsAcrossSegments) {
  std::array<unsigned char, 120> out = {};
  buffer_.CopyTo(50, out.data(), out.size());
  const std::vector<unsigned char> all = Expected();
  EXPECT_TRUE(std::equal(out.begin(), out.end(), all.begin() + 50));
}

TEST_F(ThreeSegments, CopyFromWritesAcrossSegmentsAndNothingElse) {
  const std::string text(80, 'x');
  const std::array<unsigned char, 256> before = memory_;
  buffer_.CopyFrom(90, text.data(), text.size());
  std::array<unsigned char, 256> expected = before;
  std::fill(expected.begin() + 90, expected.begin() + 100, 'x');
  std::fill(expected.begin() + 110, expected.begin() + 160, 'x');
  std::fill(expected.begin() + 170, expected.begin() + 190, 'x');
  EXPECT_EQ(memory_, expected);
}

TEST_F(ThreeSegments, FillZeroClearsTheRangeOnly) {
  buffer_.FillZero(99, 52);
  EXPECT_NE(memory_[98], 0);
  EXPECT_EQ(memory_[99], 0);
  EXPECT_EQ(memory_[109], 109);
  EXPECT_EQ(memory_[110], 0);
  EXPECT_EQ(memory_[159], 0);
  EXPECT_EQ(memory_[170], 0);
  EXPECT_EQ(memory_[171], 171);
}

TEST_F(ThreeSegments, RangesPastTheEndAreOurBugs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(buffer_.Carve(100, 81), "CHECK failed");
  char byte = 0;
  EXPECT_DEATH(buffer_.CopyTo(180, &byte, 1), "CHECK failed");
}

TEST(LogicalBufferAlignment, NeedsEveryStartAndEndAligned) {
  alignas(4096) static char memory[8192];
  LogicalBuffer buffer(memory, 512);
  EXPECT_TRUE(buffer.IsAligned(512));
  EXPECT_FALSE(buffer.IsAligned(4096));  // Its end.
  buffer.Append(memory + 4096, 4096);
  EXPECT_TRUE(buffer.IsAligned(512));
  buffer.Append(memory + 1000, 512);  // Its start.
  EXPECT_FALSE(buffer.IsAligned(512));
  EXPECT_TRUE(buffer.IsAligned(8));
  EXPECT_TRUE(LogicalBuffer().IsAligned(4096));
}

TEST_F(ThreeSegments, CursorMeasuresWithinBothLimits) {
  BufferCursor cursor(buffer_);
  EXPECT_EQ(cursor.Measure(2, 1000), 150u);
  EXPECT_EQ(cursor.Measure(2, 120), 120u);
  EXPECT_EQ(cursor.Measure(9, 1000), 180u);
  cursor.Skip(60);
  EXPECT_EQ(cursor.Measure(1, 1000), 40u);
  EXPECT_EQ(cursor.Measure(2, 1000), 90u);
  cursor.Skip(120);
  EXPECT_EQ(cursor.Measure(9, 1000), 0u);
}

}  // namespace
}  // namespace pbfs
