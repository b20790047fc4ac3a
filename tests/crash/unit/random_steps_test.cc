// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/random_steps.h"

#include <cstdlib>
#include <iostream>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "base/simulation/scheduler.h"
#include "gtest/gtest.h"
#include "tests/crash/judge.h"

namespace pbfs {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const text = std::getenv(name);
  uint64_t value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

TEST(RandomStepsTest, TheSeedDecides) {
  EXPECT_EQ(RandomSteps(5), RandomSteps(5));
  EXPECT_NE(RandomSteps(5), RandomSteps(6));
}

TEST(RandomStepsTest, ThereAreAllKindsOfSteps) {
  std::set<StepKind> kinds;
  std::set<uint32_t> clients;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    for (const Step& step : RandomSteps(seed)) {
      kinds.insert(step.kind);
      clients.insert(step.client);
    }
  }
  EXPECT_EQ(kinds.size(), static_cast<size_t>(StepKind::kAwait) + 1);
  EXPECT_EQ(clients.size(), 5u);
}

void RunOne(uint64_t seed, size_t& steps, size_t& skipped) {
  const Workload workload = RandomWorkload(seed);
  SCOPED_TRACE(workload.name + ": " + ToText(workload.steps));
  FreshFilesystem();
  simulation::Scheduler(simulation::Scheduler::OptionsOf(seed)).Run([&] {
    Session session{{}};
    std::vector<Step> not_run;
    RunSteps(session, workload.steps, &not_run);
    steps += workload.steps.size();
    skipped += not_run.size();
    session.CheckLive();
    const auto recording = session.Finish();
    EXPECT_TRUE(session.problems().empty()) << absl::StrJoin(session.problems(), "\n");
    const Outcome outcome = JudgeRecording(
        *recording, session.oracle(), {.cuts_max = FromEnvironment("PBFS_CRASH_STATES", 25)}, 1);
    EXPECT_TRUE(outcome.violations.empty()) << outcome.Text();
  });
}

// PBFS_CRASH_RANDOM: how many. PBFS_CRASH_SEED: the first.
TEST(RandomStepsTest, SomeOfThemAreSound) {
  const uint64_t first = FromEnvironment("PBFS_CRASH_SEED", 1);
  const uint64_t count = FromEnvironment("PBFS_CRASH_RANDOM", 24);
  size_t steps = 0;
  size_t skipped = 0;
  for (uint64_t seed = first; seed < first + count && !HasFailure(); ++seed) {
    RunOne(seed, steps, skipped);
  }
  std::cout << steps << " steps, of which " << skipped << " did not apply\n";
  EXPECT_LT(skipped, steps / 2);
}

}  // namespace
}  // namespace pbfs
