// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>

#include "tests/crash/trial.h"

namespace pbfs {

struct Minimised {
  std::string steps;      // What is left of the workload; its name if it is no list of steps.
  std::string violation;  // Of that.
  std::string cut;        // The crash state, in a line, and ...
  std::string writes;     // ... its uncertain writes.
};

// Makes a failing trial smaller: leaves out steps while anything still goes wrong, then keeps as
// many of the lost and torn writes as can be. Runs in child processes, as long as `time_max`. The
// state that is left is stored as an image at `image_path` (if not empty).
Minimised Minimise(const Workload& workload, const TrialOptions& options,
                   const std::string& image_path, std::chrono::seconds time_max);

}  // namespace pbfs
