// SPDX-License-Identifier: Apache-2.0
// A checker that cannot fail proves nothing: with each ordering rule of fs/ switched off in turn,
// the enumeration must find a violation.
#include "fs/rules.h"

#include <iostream>

#include "base/simulation/scheduler.h"
#include "gtest/gtest.h"
#include "tests/crash/judge.h"
#include "tests/crash/workloads.h"

namespace pbfs {
namespace {

constexpr uint64_t kSeed = 1;
// Threads race: what one run does not show, another does.
constexpr int kRunsMax = 40;

struct RuleCase {
  const char* name;
  Rule rule;
  std::vector<const char*> workloads;
  bool cut_recoveries = false;
};

class RuleTest : public testing::TestWithParam<RuleCase> {
 protected:
  ~RuleTest() override { g_disabled_rules = 0; }

  // What went wrong in one run without the rule; empty: nothing.
  std::string Violation(const Workload& workload, uint64_t seed, size_t& states) {
    FreshFilesystem();
    std::string violation;
    simulation::Scheduler(simulation::Scheduler::OptionsOf(seed)).Run([&] {
      violation = ViolationInRun(workload, states);
    });
    return violation;
  }
  std::string ViolationInRun(const Workload& workload, size_t& states) {
    Session session{{}};
    g_disabled_rules = static_cast<uint32_t>(GetParam().rule);
    workload.run(session);
    session.CheckLive();
    const std::unique_ptr<Recording> recording = session.Finish();
    const Outcome outcome =
        GetParam().cut_recoveries
            ? JudgeRecoveries(*recording, session.oracle(), {.states = 8}, kSeed, 1)
            : JudgeRecording(*recording, session.oracle(), {.cuts_max = 400}, kSeed, 1);
    states += outcome.states;
    g_disabled_rules = 0;
    if (!outcome.violations.empty()) return outcome.violations.front();
    if (!session.problems().empty()) return "without a crash: " + session.problems().front();
    return "";
  }
};

TEST_P(RuleTest, IsMissedWhenSwitchedOff) {
  size_t states = 0;
  for (int run = 0; run < kRunsMax; ++run) {
    for (const char* name : GetParam().workloads) {
      const std::string found = Violation(WorkloadNamed(name), static_cast<uint64_t>(run), states);
      if (found.empty()) continue;
      std::cout << "without " << GetParam().name << ", after " << states << " crash states, by "
                << name << ": " << found << "\n";
      return;
    }
  }
  FAIL() << "without " << GetParam().name << ", nothing went wrong in " << states << " states";
}

INSTANTIATE_TEST_SUITE_P(
    All, RuleTest,
    testing::Values(RuleCase{"kWriteAheadLog", Rule::kWriteAheadLog, {"LateLogWrite"}},
                    RuleCase{"kFlushBeforeLog", Rule::kFlushBeforeLog, {"CreateWriteFsync"}},
                    RuleCase{"kFlushAfterLog", Rule::kFlushAfterLog, {"CreateFsync"}},
                    RuleCase{"kWholeImage", Rule::kWholeImage, {"HotBlocks"}},
                    RuleCase{"kTail", Rule::kTail, {"LateMetadataWrite"}},
                    RuleCase{"kCancel", Rule::kCancel, {"MetadataBecomesData"}},
                    RuleCase{"kBusyExtents", Rule::kBusyExtents, {"FreedDataIsNeeded"}},
                    RuleCase{"kDataBeforeMetadata", Rule::kDataBeforeMetadata, {"LateDataWrite"}},
                    RuleCase{"kOrphans", Rule::kOrphans, {"UnlinkWhileOpen"}},
                    RuleCase{"kZeroTail", Rule::kZeroTail, {"TruncateDownUp", "WritePastEnd"}},
                    RuleCase{"kReplayFlush", Rule::kReplayFlush, {"CreateWriteSync"}, true},
                    RuleCase{"kClaims", Rule::kClaims, {"TwoGrowingFiles"}}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace pbfs
