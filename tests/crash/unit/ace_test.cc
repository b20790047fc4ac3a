// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/ace.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "base/random.h"
#include "base/simulation/scheduler.h"
#include "gtest/gtest.h"
#include "tests/crash/judge.h"

namespace pbfs {
namespace {

std::string AllText(const Workload& workload) {
  std::string text;
  for (const Step& step : workload.steps) text += ToText(step) + "; ";
  return text;
}

TEST(AceTest, EveryNumberIsAWorkloadOfItsOwn) {
  std::cout << "seq-1: " << SeqCount(1) << ", seq-2: " << SeqCount(2) << "\n";
  std::set<std::string> seen;
  for (uint64_t number = 0; number < SeqCount(1); ++number) {
    const Workload workload = SeqWorkload(1, number);
    EXPECT_TRUE(seen.insert(AllText(workload)).second) << workload.name;
  }
}

TEST(AceTest, ANumberAlwaysGivesTheSame) {
  Random random(1);
  for (int i = 0; i < 100; ++i) {
    const uint64_t number = random.Below(SeqCount(2));
    EXPECT_EQ(SeqWorkload(2, number).steps, SeqWorkload(2, number).steps);
  }
}

void RunInSimulation(const Workload& workload) {
  Session session{{}};
  std::vector<Step> skipped;
  RunSteps(session, workload.steps, &skipped);
  session.CheckLive();
  const auto recording = session.Finish();
  EXPECT_TRUE(session.problems().empty()) << absl::StrJoin(session.problems(), "\n");
  for (const Step& step : skipped) ADD_FAILURE() << "does not apply: " << ToText(step);
  const Outcome outcome = JudgeRecording(*recording, session.oracle(), {.cuts_max = 12}, 1);
  EXPECT_TRUE(outcome.violations.empty()) << outcome.Text();
}

void RunOne(const Workload& workload, uint64_t seed) {
  SCOPED_TRACE(workload.name);
  FreshFilesystem();
  simulation::Scheduler(simulation::Scheduler::OptionsOf(seed)).Run([&] {
    RunInSimulation(workload);
  });
}

// PBFS_CRASH_SEQ: how many of either length.
uint64_t CountToRun() {
  const char* const text = std::getenv("PBFS_CRASH_SEQ");
  uint64_t value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : 30;
}

TEST(AceTest, SomeOfLengthOneAreSound) {
  Random random(7);
  const uint64_t count = CountToRun();
  const bool all = count >= SeqCount(1);
  for (uint64_t i = 0; i < std::min(count, SeqCount(1)); ++i) {
    RunOne(SeqWorkload(1, all ? i : random.Below(SeqCount(1))), i);
  }
}

TEST(AceTest, SomeOfLengthTwoAreSound) {
  Random random(8);
  for (uint64_t i = 0; i < CountToRun(); ++i) {
    RunOne(SeqWorkload(2, random.Below(SeqCount(2))), i);
  }
}

}  // namespace
}  // namespace pbfs
