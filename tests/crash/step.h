// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/crash/session.h"

namespace pbfs {

// What one step of a workload does; in brackets: what it uses of the step besides `path`.
enum class StepKind : uint8_t {
  kRecord,     // (no path) Ends the preparation.
  kFill,       // (no path; a: blocks left) Fills the device. From then on it may be full.
  kDelays,     // (no path; a: seed, b: microseconds) Device requests complete late, at random.
  kPress,      // (no path) Memory is short for a moment.
  kCreate,     // A regular file.
  kMkdir,      //
  kMknod,      // A fifo.
  kSymlink,    // (a: bytes of the target)
  kLink,       // (other: new name)
  kUnlink,     //
  kRmdir,      //
  kRename,     // (other: new name)
  kExchange,   // (other)
  kWhiteout,   // (other: new name) A rename that leaves one.
  kTmpfile,    // A file without a name, made in the path's directory; open as "@path".
  kOpen,       // Keeps the file open; "@path" names what was opened, whatever happens to the name.
  kClose,      // The path begins with '@'.
  kTruncate,   // (a: size)
  kWrite,      // (a: offset or kAtEnd, b: length) Through the kernel's cache; then the times.
  kDirect,     // (a, b) Past the kernel's cache.
  kMmapWrite,  // (a, b) From a mapping: the kernel sends pages, and no times.
  kSyncWrite,  // (a, b) O_DSYNC.
  kAllocate,   // (a, b) As the next four: fallocate(2). Raises the size.
  kAllocateKeep,    // Keeps it.
  kPunch,           //
  kZeroRange,       //
  kZeroRangeKeep,   //
  kCopy,            // (other: to, a: offset in both, b: length) copy_file_range(2).
  kChmod,           // (a: mode)
  kChown,           // (a: uid, b: gid)
  kSetTimes,        // (a: seconds as int64_t, b: nanoseconds) mtime; atime a day earlier.
  kSetXattr,        // (other: name, a: bytes)
  kRemoveXattr,     // (other: name)
  kSetAcl,          // (a: mode, b: users in it)
  kSetDefaultAcl,   // (a, b) Of a directory.
  kSetFlags,        // (a: flags, b: project)
  kFsync,           //
  kFdatasync,       //
  kSync,            // (no path)
  kRemount,         // (no path) Read-only, then read-write again.
  kFsyncStart,      // An fsync that others run beside; kAwait waits for it.
  kFdatasyncStart,  //
  kAwait,           // (no path) Waits for the newest one that was started.
};

// One operation as plain data: workloads are lists of them, so that they can be generated, printed,
// and run again with some left out.
struct Step {
  static constexpr uint64_t kAtEnd = UINT64_MAX;

  StepKind kind;
  std::string path = {};  // Relative to the client's root; "/" is that root.
  std::string other = {};
  uint64_t a = 0;
  uint64_t b = 0;
  uint32_t client = 0;  // Above 0: one with a directory of its own, "client1", ...
  friend bool operator==(const Step&, const Step&) = default;
};

// "rename A/foo B/bar".
std::string ToText(const Step& step);
// "; " between them; the preparation is left out.
std::string ToText(const std::vector<Step>& steps);

// Runs the steps. One that does not apply (a name is missing or taken, ...) is skipped and put into
// `skipped` (optional), so any part of a list is a list. Without a kRecord everything is recorded.
// After it, different clients run at the same time; kFill, kDelays and kPress are for client 0.
void RunSteps(Session& session, const std::vector<Step>& steps,
              std::vector<Step>* skipped = nullptr);

}  // namespace pbfs
