// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

#include <thread>

#ifdef PBFS_SIMULATION
#include "base/simulation/scheduler.h"
#endif

namespace pbfs {

#ifdef PBFS_SIMULATION
using simulation::Scheduler;
#endif

int64_t NowNs() {
#ifdef PBFS_SIMULATION
  if (auto* scheduler = Scheduler::Current()) return scheduler->NowNs();
#endif
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

timespec RealTimeNow() {
#ifdef PBFS_SIMULATION
  if (auto* scheduler = Scheduler::Current()) return scheduler->RealTimeNow();
#endif
  timespec now{};
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return now;
}

void SleepFor(std::chrono::nanoseconds duration) {
#ifdef PBFS_SIMULATION
  if (auto* scheduler = Scheduler::Current()) return scheduler->Sleep(duration.count());
#endif
  std::this_thread::sleep_for(duration);
}

void YieldThread() {
#ifdef PBFS_SIMULATION
  if (auto* scheduler = Scheduler::Current()) return scheduler->Yield();
#endif
  std::this_thread::yield();
}

}  // namespace pbfs
