// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/collect_limit.h"

#include <gtest/gtest.h>

namespace pbfs::fuse {
namespace {

constexpr uint64_t kMib = uint64_t{1} << 20;

TEST(CollectLimit, IsAShareOfWhatIsFree) {
  CollectLimit limit(4096 * kMib);
  EXPECT_TRUE(limit.Update(1000 * kMib));
  EXPECT_EQ(limit.limit_bytes(), 32 * kMib);
  EXPECT_FALSE(limit.Update(600 * kMib));
  EXPECT_TRUE(limit.Update(500 * kMib));
  EXPECT_EQ(limit.limit_bytes(), 16 * kMib);
}

TEST(CollectLimit, NeverStopsWritersAltogether) {
  CollectLimit limit(4096 * kMib);
  EXPECT_TRUE(limit.Update(0));
  EXPECT_EQ(limit.limit_bytes(), 4 * kMib);
  EXPECT_FALSE(limit.Update(0));
  CollectLimit small(64 * kMib);
  EXPECT_TRUE(small.Update(0));
  EXPECT_EQ(small.limit_bytes(), 1 * kMib);
}

TEST(CollectLimit, GoesUpByTwoStepsAtOnce) {
  CollectLimit limit(4096 * kMib);
  limit.Update(255 * kMib);
  EXPECT_EQ(limit.limit_bytes(), 8 * kMib);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(limit.Update(257 * kMib));
    EXPECT_FALSE(limit.Update(255 * kMib));
  }
  EXPECT_TRUE(limit.Update(513 * kMib));
  EXPECT_EQ(limit.limit_bytes(), 32 * kMib);
}

}  // namespace
}  // namespace pbfs::fuse
