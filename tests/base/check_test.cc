// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"

#include <gtest/gtest.h>

namespace pbfs {
namespace {

TEST(Check, PassesWhenTrueAndEvaluatesOnce) {
  int count = 0;
  PBFS_CHECK(++count == 1);
  EXPECT_EQ(count, 1);
}

TEST(CheckDeathTest, AbortsWithTheConditionWhenFalse) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(PBFS_CHECK(1 + 1 == 3), "CHECK failed: 1 \\+ 1 == 3 at .*check_test.cc");
}

}  // namespace
}  // namespace pbfs
