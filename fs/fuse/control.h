// SPDX-License-Identifier: Apache-2.0
// What the tools ask a running server for, by ioctls on the root of its mount.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

namespace pbfs::fuse {

// The mount's flags (MS_*, the argument) have changed. Root only.
inline constexpr unsigned kIoctlRemount = _IOW('P', 0xbf, uint64_t);

}  // namespace pbfs::fuse
