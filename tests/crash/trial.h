// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/crash/judge.h"
#include "tests/crash/states.h"
#include "tests/crash/workloads.h"

namespace pbfs {

// How thoroughly a workload is tried.
struct TrialOptions {
  // Decides the schedule and which crash states are looked at.
  uint64_t seed = 1;
  CrashStates::Limits limits;
  // So many crash states have their recovery cut, at up to so many points; and of each second
  // recovery that follows, again so many.
  size_t recovery_states = 1;
  size_t recovery_cuts = 8;
  size_t second_cuts = 2;
  // Rule, OR'ed: switched off while the workload runs and while the log is replayed.
  uint32_t disabled_rules = 0;
  size_t violations_max = 1;
};

// What a trial found.
struct TrialResult {
  uint64_t states = 0;      // Crash states recovered, checked and compared.
  uint64_t recoveries = 0;  // Of these, states of a recovery that was cut.
  uint64_t writes = 0;      // Writes recorded.
  uint64_t switches = 0;    // Between threads, while the workload ran.
  // Of everything the workload wrote, in order: the same for the same seed.
  uint64_t digest = 0;
  std::vector<std::string> violations;
  Cut cut;  // Of the first violation; position 0: it went wrong without a crash.
};

// Runs a workload on a schedule of its own and judges its crash states. Everything is decided by
// the workload and the options. Not from a task of a scheduler.
TrialResult RunTrial(const Workload& workload, const TrialOptions& options);

// Runs a workload and judges the one cut: "" or what is wrong. `image` (optional): where the state
// is stored, `writes` (optional): its uncertain writes.
std::string RunCut(const Workload& workload, const TrialOptions& options, const Cut& cut,
                   const std::string& image_path, std::string* writes);

}  // namespace pbfs
