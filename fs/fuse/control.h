// SPDX-License-Identifier: Apache-2.0
// What the tools ask a running server for, by ioctls on the root of its mount.
#pragma once

#include <sys/ioctl.h>

namespace pbfs::fuse {

// The mount's flags have changed: the server follows before it answers. Root only.
inline constexpr unsigned kIoctlRemount = _IO('P', 0xbf);

}  // namespace pbfs::fuse
