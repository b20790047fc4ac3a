// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/crash/session.h"
#include "tests/crash/step.h"

namespace pbfs {

// A short program: preparation, Record(), and what is cut off at every point.
struct Workload {
  std::string name;
  std::function<void(Session& session)> run;
  size_t states_max = 220;
  std::vector<Step> steps = {};  // What `run` does, if that is a list of steps.

  // For GoogleTest.
  friend void PrintTo(const Workload& workload, std::ostream* out) { *out << workload.name; }
};

// One to five operations and the calls that make them durable, as CrashMonkey's ACE has them.
const std::vector<Workload>& SmallWorkloads();
// Longer ones: the log wraps, metadata is written back in between, space is used again, requests
// are late. Each opens the window of some rule.
const std::vector<Workload>& LongWorkloads();
// Corners: full devices and logs, files without names, directories and
// attributes that grow, clients at the same time.
const std::vector<Workload>& SpecialWorkloads();
// REQUIRES: one of them has that name.
const Workload& WorkloadNamed(std::string_view name);

}  // namespace pbfs
