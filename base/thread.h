// SPDX-License-Identifier: Apache-2.0
#pragma once

#ifdef PBFS_SIMULATION
#include "base/simulation/primitives.h"
#else
#include <thread>
#endif

namespace pbfs {

// A thread. In a simulation, when the one that starts it is a task: a task of the same scheduler.
#ifdef PBFS_SIMULATION
using Thread = simulation::Thread;
#else
using Thread = std::thread;
#endif

}  // namespace pbfs
