// SPDX-License-Identifier: Apache-2.0
#include "base/histogram.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace pbfs {
namespace {

TEST(HistogramTest, ClassesAreNarrowAndWithoutGaps) {
  for (size_t i = 0; i + 1 < Histogram::kClassCount; ++i) {
    const uint64_t end = Histogram::UpperEnd(i);
    EXPECT_EQ(Histogram::ClassOf(end), i);
    EXPECT_EQ(Histogram::ClassOf(end + 1), i + 1);
    if (i == 0) continue;
    const uint64_t begin = Histogram::UpperEnd(i - 1) + 1;
    EXPECT_LE(end - begin, begin / Histogram::kClassesPerOctave);
  }
  EXPECT_EQ(Histogram::ClassOf(UINT64_MAX), Histogram::kClassCount - 1);
}

TEST(HistogramTest, PercentilesAreEndsOfClasses) {
  Histogram histogram;
  EXPECT_EQ(histogram.Take().Percentile(50), 0u);
  for (uint64_t value = 1; value <= 1000; ++value) histogram.Add(value);
  const Histogram::Snapshot all = histogram.Take();
  EXPECT_EQ(all.count, 1000u);
  EXPECT_EQ(all.mean(), 500u);
  EXPECT_EQ(all.max, 1000u);
  EXPECT_EQ(all.Percentile(50), 511u);
  EXPECT_EQ(all.Percentile(90), 1000u);  // The class ends at 1023.
  EXPECT_EQ(all.Percentile(0.1), 1u);
}

TEST(HistogramTest, JsonShowsClassesThatHaveValues) {
  Histogram histogram;
  histogram.Add(0);
  histogram.Add(2);
  histogram.Add(2);
  histogram.Add(4);
  EXPECT_EQ(histogram.Take().Json(),
            "{\"count\":4,\"mean\":2,\"p50\":2,\"p90\":4,\"p99\":4,\"p99.9\":4,\"max\":4,"
            "\"classes\":[[3,3],[7,1]]}");
}

TEST(HistogramTest, CountsFromManyThreads) {
  Histogram histogram;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&histogram] {
      for (uint64_t value = 0; value < 10000; ++value) histogram.Add(value);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Histogram::Snapshot all = histogram.Take();
  EXPECT_EQ(all.count, 40000u);
  EXPECT_EQ(all.sum, 4u * 9999 * 10000 / 2);
  EXPECT_EQ(all.max, 9999u);
}

}  // namespace
}  // namespace pbfs
