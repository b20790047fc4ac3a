// SPDX-License-Identifier: Apache-2.0
// Crash enumeration: each workload runs on a memory device, and each way the power may have gone is
// mounted, compared with the oracle and checked. PBFS_CRASH_SEED and PBFS_CRASH_STATES (most states
// for each workload) change what is tried.
#include <cstdlib>
#include <iostream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/simulation/scheduler.h"
#include "gtest/gtest.h"
#include "tests/crash/judge.h"
#include "tests/crash/workloads.h"

namespace pbfs {
namespace {

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  uint64_t value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}
uint64_t Seed() { return FromEnvironment("PBFS_CRASH_SEED", 1); }

class CrashTest : public testing::TestWithParam<Workload> {
 protected:
  // Runs the workload, reports what went wrong without a crash.
  void Run() {
    FreshFilesystem();
    simulation::Scheduler(simulation::Scheduler::OptionsOf(Seed())).Run([&] {
      session_.emplace(Session::Options{});
      GetParam().run(*session_);
      session_->CheckLive();
      recording_ = session_->Finish();
    });
    EXPECT_TRUE(session_->problems().empty()) << absl::StrJoin(session_->problems(), "\n");
  }
  void Report(const Outcome& outcome) {
    std::cout << GetParam().name << ": " << outcome.states << " crash states, "
              << recording_->io.size() << " entries recorded, seed " << Seed() << "\n";
    EXPECT_TRUE(outcome.violations.empty())
        << "workload " << GetParam().name << ", seed " << Seed() << ": " << outcome.Text();
  }

  std::optional<Session> session_;
  std::unique_ptr<Recording> recording_;
};

TEST_P(CrashTest, EveryStateIsSound) {
  Run();
  CrashStates::Limits limits;
  limits.cuts_max = FromEnvironment("PBFS_CRASH_STATES", GetParam().states_max);
  simulation::Scheduler(simulation::Scheduler::OptionsOf(Seed())).Run([&] {
    Report(JudgeRecording(*recording_, session_->oracle(), limits, Seed()));
  });
}

TEST_P(CrashTest, EveryCutRecoveryIsSound) {
  Run();
  const uint64_t states = FromEnvironment("PBFS_CRASH_STATES", GetParam().states_max) / 40;
  simulation::Scheduler(simulation::Scheduler::OptionsOf(Seed())).Run([&] {
    Report(JudgeRecoveries(*recording_, session_->oracle(), {.states = states}, Seed()));
  });
}

std::string NameOf(const testing::TestParamInfo<Workload>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Small, CrashTest, testing::ValuesIn(SmallWorkloads()), NameOf);
INSTANTIATE_TEST_SUITE_P(Long, CrashTest, testing::ValuesIn(LongWorkloads()), NameOf);
INSTANTIATE_TEST_SUITE_P(Special, CrashTest, testing::ValuesIn(SpecialWorkloads()), NameOf);

}  // namespace
}  // namespace pbfs
