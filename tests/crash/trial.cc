// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/trial.h"

#include <algorithm>
#include <fstream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/crc32c.h"
#include "base/simulation/scheduler.h"
#include "fs/rules.h"

namespace pbfs {
namespace {

using simulation::Scheduler;

struct Run {
  std::unique_ptr<Session> session;
  std::unique_ptr<Recording> recording;
};

uint64_t DigestOf(const std::vector<RecordedIo>& io) {
  uint64_t digest = 0;
  for (const RecordedIo& entry : io) {
    const uint64_t crc = Crc32c(entry.data.data(), entry.data.size());
    const uint64_t what = entry.id ^ entry.offset_bytes << 20 ^ crc << 32;
    digest = Random(digest ^ what ^ static_cast<uint64_t>(entry.kind)).Next();
  }
  return digest;
}

// The workload on a filesystem that then lost power. For a task.
Run RunWorkload(const Workload& workload, TrialResult& result) {
  Run run{std::make_unique<Session>(Session::Options{}), nullptr};
  workload.run(*run.session);
  run.session->CheckLive();
  run.recording = run.session->Finish();
  for (const std::string& problem : run.session->problems()) {
    result.violations.push_back(absl::StrCat("without a crash: ", problem));
  }
  for (const RecordedIo& entry : run.recording->io) {
    result.writes += entry.kind == RecordedIo::Kind::kWrite ? 1 : 0;
  }
  result.digest = DigestOf(run.recording->io);
  result.switches = Scheduler::Current()->switches();
  return run;
}

class RulesOff {
 public:
  explicit RulesOff(uint32_t rules) { g_disabled_rules = rules; }
  ~RulesOff() { g_disabled_rules = 0; }
};

void Add(Outcome&& outcome, TrialResult& result) {
  result.states += outcome.states;
  for (std::string& text : outcome.violations) result.violations.push_back(std::move(text));
  if (result.cut.position == 0) result.cut = std::move(outcome.first_cut);
}

}  // namespace

TrialResult RunTrial(const Workload& workload, const TrialOptions& options) {
  TrialResult result;
  FreshFilesystem();
  Scheduler(Scheduler::OptionsOf(options.seed)).Run([&] {
    const RulesOff off(options.disabled_rules);
    const Run run = RunWorkload(workload, result);
    if (!result.violations.empty()) return;
    Add(JudgeRecording(*run.recording, run.session->oracle(), options.limits, options.seed,
                       options.violations_max),
        result);
    if (!result.violations.empty()) return;
    const uint64_t before = result.states;
    Add(JudgeRecoveries(*run.recording, run.session->oracle(),
                        {options.recovery_states, options.recovery_cuts, options.second_cuts},
                        options.seed, options.violations_max),
        result);
    result.recoveries = result.states - before;
  });
  return result;
}

std::string RunCut(const Workload& workload, const TrialOptions& options, const Cut& cut,
                   const std::string& image_path, std::string* writes) {
  std::string problem;
  FreshFilesystem();
  Scheduler(Scheduler::OptionsOf(options.seed)).Run([&] {
    const RulesOff off(options.disabled_rules);
    TrialResult result;
    const Run run = RunWorkload(workload, result);
    if (cut.position == 0) {
      if (!result.violations.empty()) problem = result.violations.front();
      return;
    }
    CrashStates states(run.recording->base, run.recording->io);
    if (cut.position > run.recording->io.size() ||
        states.UncertainAt(cut.position).size() != cut.fates.size()) {
      return;  // Another run than the one the cut is of.
    }
    if (writes != nullptr) *writes = states.ListWrites(cut);
    Image image = states.Build(cut);
    if (!image_path.empty()) {
      std::vector<std::byte> bytes(image.size_bytes());
      image.Read(0, bytes.data(), bytes.size());
      std::ofstream file(image_path, std::ios::binary);
      file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<long>(bytes.size()));
    }
    problem = JudgeCut(states, cut, image, run.session->oracle(), /*grow_files=*/true);
  });
  return problem;
}

}  // namespace pbfs
