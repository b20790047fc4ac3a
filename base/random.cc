// SPDX-License-Identifier: Apache-2.0
#include "base/random.h"

#include <sys/random.h>

#include "base/check.h"
#ifdef PBFS_SIMULATION
#include "base/simulation/scheduler.h"
#endif

namespace pbfs {

uint64_t RandomBits() {
#ifdef PBFS_SIMULATION
  if (auto* scheduler = simulation::Scheduler::Current()) return scheduler->RandomBits();
#endif
  uint64_t bits = 0;
  PBFS_CHECK(getrandom(&bits, sizeof(bits), 0) == sizeof(bits));
  return bits;
}

}  // namespace pbfs
