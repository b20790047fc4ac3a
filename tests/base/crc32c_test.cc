// SPDX-License-Identifier: Apache-2.0
#include "base/crc32c.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string_view>

namespace pbfs {
namespace {

uint32_t CrcOf(std::string_view text) { return Crc32c(text.data(), text.size()); }

// RFC 3720, B.4.
TEST(Crc32c, MatchesTheIscsiTestVectors) {
  EXPECT_EQ(CrcOf("123456789"), 0xe3069283u);
  EXPECT_EQ(CrcOf(std::string_view("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                                   "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                                   32)),
            0x8a9136aau);
  std::array<unsigned char, 32> bytes;
  bytes.fill(0xff);
  EXPECT_EQ(Crc32c(bytes.data(), bytes.size()), 0x62a8ab43u);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i);
  EXPECT_EQ(Crc32c(bytes.data(), bytes.size()), 0x46dd794eu);
}

TEST(Crc32c, OfNothingIsZero) { EXPECT_EQ(Crc32c(nullptr, 0), 0u); }

TEST(Crc32c, ContinuesOverPiecesAtEverySplit) {
  const std::string_view text = "pages are pinned until their checkpoint is durable";
  for (size_t split = 0; split <= text.size(); ++split) {
    const uint32_t head = Crc32c(text.data(), split);
    EXPECT_EQ(Crc32c(text.data() + split, text.size() - split, head), CrcOf(text));
  }
}

TEST(Crc32c, ChangesWithEveryBit) {
  std::array<unsigned char, 64> bytes = {};
  const uint32_t before = Crc32c(bytes.data(), bytes.size());
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ (1u << (bit % 8)));
    EXPECT_NE(Crc32c(bytes.data(), bytes.size()), before);
    bytes[bit / 8] = 0;
  }
}

}  // namespace
}  // namespace pbfs
