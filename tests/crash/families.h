// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/crash/workloads.h"

namespace pbfs {

// A source of workloads, numbered from 0.
struct Family {
  std::string name;
  const char* what;
  uint64_t count;
  std::function<Workload(uint64_t number)> make;
};

// "named": the hand-written ones; "seq-1", "seq-2": bounded exhaustive; "random": by seed, without
// end.
const std::vector<Family>& Families();
// nullptr: there is none of that name.
const Family* FamilyNamed(const std::string& name);

// The seed of workload `number` of a family in a run with seed `run_seed`.
uint64_t SeedOf(const Family& family, uint64_t number, uint64_t run_seed);

}  // namespace pbfs
