// SPDX-License-Identifier: Apache-2.0
// Fault loops: each request of each workload fails once, from then on, or is late.
// PBFS_FAULT_STRIDE (1: every point), PBFS_FAULT_OFFSET and PBFS_CRASH_SEED change what is tried.
#include "tests/crash/faults.h"

#include <cstdlib>
#include <iostream>

#include "absl/strings/numbers.h"
#include "gtest/gtest.h"

namespace pbfs {
namespace {

// Samples for everyday; primes, so that the kinds of faults take turns.
constexpr uint64_t kStride = 37;
constexpr uint64_t kLongStride = 397;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  uint64_t value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

class FaultsTest : public testing::TestWithParam<Workload> {};

TEST_P(FaultsTest, EveryFaultIsSurvived) {
  FaultOptions options;
  options.seed = FromEnvironment("PBFS_CRASH_SEED", 1);
  const std::string suite = testing::UnitTest::GetInstance()->current_test_suite()->name();
  const bool small = suite.rfind("Small", 0) == 0;
  options.stride = FromEnvironment("PBFS_FAULT_STRIDE", small ? kStride : kLongStride);
  options.offset = FromEnvironment("PBFS_FAULT_OFFSET", 0);
  if (std::getenv("PBFS_FAULT_TRACE") != nullptr) {
    options.on_point = [](const FaultPoint& point) { std::cerr << point.Text() << std::endl; };
  }
  const FaultResult result = RunFaults(GetParam(), options);
  std::cout << GetParam().name << ": " << result.Text() << "\n";
  EXPECT_TRUE(result.violations.empty()) << result.Text();
}

std::string NameOf(const testing::TestParamInfo<Workload>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Small, FaultsTest, testing::ValuesIn(SmallWorkloads()), NameOf);
INSTANTIATE_TEST_SUITE_P(Long, FaultsTest, testing::ValuesIn(LongWorkloads()), NameOf);
INSTANTIATE_TEST_SUITE_P(Special, FaultsTest, testing::ValuesIn(SpecialWorkloads()), NameOf);

}  // namespace
}  // namespace pbfs
