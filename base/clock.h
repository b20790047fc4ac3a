// SPDX-License-Identifier: Apache-2.0
// Time, as everything above base/ sees it: a simulation (base/simulation/) puts its own here.
#pragma once

#include <chrono>
#include <cstdint>
#include <ctime>

namespace pbfs {

// Steady clock, nanoseconds.
int64_t NowNs();
// Wall clock, as the kernel stamps inodes: never ahead of a time that it sets afterwards.
timespec RealTimeNow();
// The calling thread sleeps, or lets others run.
void SleepFor(std::chrono::nanoseconds duration);
void YieldThread();

}  // namespace pbfs
