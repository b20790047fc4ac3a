// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "tests/crash/step.h"
#include "tests/crash/workloads.h"

namespace pbfs {

// A random sequence of 5 to 200 operations of one to four clients. The seed also decides what kind
// of sequence it is: mostly truncations and appends; names that move in circles; growing
// attributes; directories that grow and shrink; files that are used after they lost their names; a
// device that is nearly full; very few operations; or some of everything. Not every step applies.
std::vector<Step> RandomSteps(uint64_t seed);
// Named after the seed.
Workload RandomWorkload(uint64_t seed);

}  // namespace pbfs
