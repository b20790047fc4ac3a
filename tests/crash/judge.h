// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/crash/oracle.h"
#include "tests/crash/session.h"
#include "tests/crash/states.h"

namespace pbfs {

// Judges one crash state: mounts `image` (which replays the log and finishes orphans), compares
// what is there with the oracle, unmounts, runs the checker. Empty if all is well, else what is
// wrong.
// `grow_files`: also raises the size of every file and looks for bytes behind the old end.
// `seen` (optional): what was there after the mount.
std::string JudgeState(Image& image, const Oracle& oracle, const std::vector<Bounds>& bounds,
                       bool grow_files, Observed* seen = nullptr);

// The same for a cut of a recording.
std::string JudgeCut(const CrashStates& states, const Cut& cut, Image& image, const Oracle& oracle,
                     bool grow_files);

// The outcome of going through the crash states of a recording.
struct Outcome {
  size_t states = 0;
  std::vector<std::string> violations;  // It stops after some.
  Cut first_cut;                        // Of the first violation.
  std::string Text() const;
};
inline constexpr size_t kViolationsMax = 3;

// Judges the crash states of a workload.
Outcome JudgeRecording(const Recording& recording, const Oracle& oracle, CrashStates::Limits limits,
                       uint64_t seed, size_t violations_max = kViolationsMax);

// How recoveries are cut: of so many crash states the recovery (a mount) is recorded and cut at up
// to `cuts` points; the recovery of each of these is recorded and cut at up to `second_cuts`.
struct RecoveryLimits {
  size_t states = 1;
  size_t cuts = 12;
  size_t second_cuts = 2;
};
// Whatever was cut, the next mount must end where an uncut one does.
Outcome JudgeRecoveries(const Recording& recording, const Oracle& oracle,
                        const RecoveryLimits& limits, uint64_t seed,
                        size_t violations_max = kViolationsMax);

}  // namespace pbfs
