// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/fault_device.h"
#include "tests/crash/workloads.h"

namespace pbfs {

// When a request fails.
enum class FaultStage : uint8_t {
  kMounting,    // Of a clean filesystem.
  kRunning,     // The workload.
  kUnmounting,  // After it.
  kRecovering,  // Mounting what a power cut at its end leaves.
  kChecking,    // fsck of that, and of the filesystem unmounted.
};

// One fault: what happens to the nth request (from 1) of a kind in a stage, to all from it on, or
// to it and all later ones that touch the block where it ends.
struct FaultPoint {
  FaultStage stage;
  IoOp op;
  uint64_t nth;
  bool from_then_on;
  FaultDevice::Action action;
  int error;
  bool bad_block = false;
  std::string Text() const;
};

struct FaultOptions {
  uint64_t seed = 1;    // Of the scheduler.
  uint64_t stride = 1;  // Every so many points, from the one `offset` on.
  uint64_t offset = 0;
  size_t violations_max = 3;
  // Called before each point.
  std::function<void(const FaultPoint& point)> on_point = {};
};

struct FaultResult {
  size_t points = 0;  // Tried.
  size_t hits = 0;    // Of those, the ones that were reached.
  std::vector<std::string> violations;
  std::string Text() const;
};

// All points of a workload, from a run without faults.
std::vector<FaultPoint> ListFaultPoints(const Workload& workload, uint64_t seed);

// Runs the workload once for each point, on a scheduler of its own, to its end. What must hold:
//
// - Nothing crashes or hangs (the scheduler sees that), nothing leaks.
// - Operations fail with the injected error, EIO, or EROFS once the filesystem has become
//   read-only, which its log then says. They have no effect, as the live filesystem shows.
// - A file whose fsync failed fails it again, until it is rewritten or truncated.
// - With the device well again it unmounts, mounts, shows what was acknowledged before and after
//   the fault (Model), and the checker finds nothing.
// - A request that is only late fails nothing.
// - A recovery that failed can be repeated and ends where one without a fault does.
// - The checker does not call clean what it cannot read.
FaultResult RunFaults(const Workload& workload, const FaultOptions& options);

// One point again. Empty, or what is wrong.
std::string RunFault(const Workload& workload, const FaultPoint& point, uint64_t seed);

}  // namespace pbfs
