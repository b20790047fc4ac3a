// SPDX-License-Identifier: Apache-2.0
#include "tools/common/size.h"

#include "gtest/gtest.h"

namespace pbfs {
namespace {

TEST(ParseSize, TakesUnitsOf1024) {
  EXPECT_EQ(*ParseSize("4096"), 4096u);
  EXPECT_EQ(*ParseSize("4096b"), 4096u);
  EXPECT_EQ(*ParseSize("16k"), 16u << 10);
  EXPECT_EQ(*ParseSize("16M"), 16u << 20);
  EXPECT_EQ(*ParseSize("3GiB"), uint64_t{3} << 30);
  EXPECT_EQ(*ParseSize("2TB"), uint64_t{2} << 40);
  EXPECT_EQ(*ParseSize("1.5G"), uint64_t{3} << 29);
  EXPECT_EQ(*ParseSize("15E"), uint64_t{15} << 60);
}

TEST(ParseSize, RefusesWhatIsNoSize) {
  for (const char* text : {"", "M", "-1", "1X", "1MM", "1.2.3G", "1.5", "16E",
                           "99999999999999999999", "1 G", "0x10", "1Mi"}) {
    EXPECT_EQ(ErrnoOf(ParseSize(text).status()), EINVAL) << text;
  }
}

TEST(FormatSize, ChoosesTheUnit) {
  EXPECT_EQ(FormatSize(0), "0 bytes");
  EXPECT_EQ(FormatSize(1023), "1023 bytes");
  EXPECT_EQ(FormatSize(16 << 20), "16 MiB");
  EXPECT_EQ(FormatSize(uint64_t{3} << 29), "1.5 GiB");
  EXPECT_EQ(FormatSize(uint64_t{15} << 40), "15 TiB");
}

}  // namespace
}  // namespace pbfs
