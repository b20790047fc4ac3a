// SPDX-License-Identifier: Apache-2.0
// CHECK for our own bugs, always on. Disk bytes, kernel and user input never reach a CHECK: they
// become a Status.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace pbfs {
[[noreturn]] inline void CheckFailed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "pbfs: CHECK failed: %s at %s:%d\n", condition, file, line);
  std::abort();
}
}  // namespace pbfs

#define PBFS_CHECK(condition) \
  ((condition) ? void(0) : ::pbfs::CheckFailed(#condition, __FILE__, __LINE__))

#ifdef NDEBUG
#define PBFS_DCHECK(condition) void(sizeof((condition) ? 1 : 0))
#else
#define PBFS_DCHECK(condition) PBFS_CHECK(condition)
#endif
