// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "tests/crash/trial.h"

namespace pbfs {

// What pbfs-crashsim is to do.
struct CrashsimOptions {
  enum class What : uint8_t { kRun, kList, kShow, kRules, kSum };
  What what = What::kRun;
  std::vector<std::string> families;
  // Workloads [first, last] of each family, in its order or shuffled.
  std::optional<uint64_t> first, last;
  bool shuffle = false;
  bool smoke = false;
  // Faults instead of power cuts: every so many points. 0: power cuts.
  uint64_t fault_stride = 0;
  uint64_t seed = 1;
  TrialOptions trial;
  size_t jobs = 1;
  std::chrono::seconds time_max{0};  // 0: no limit.
  std::string keep;                  // Directory for failing states.
  std::string journal;
  std::string note;
  bool json = false;
  bool quiet = false;
};

// nullopt: it printed what was asked for (--help, --version).
StatusOr<std::optional<CrashsimOptions>> ParseCrashsimOptions(int argc, char** argv);

}  // namespace pbfs
