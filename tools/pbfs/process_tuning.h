// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace pbfs {

// What makes this process fit to stand between the kernel's memory and its disk. What the system
// refuses (an ordinary user) is done without. REQUIRES: no other thread and no ring exists yet.
void TuneProcess();

// vm.dirtytime_expire_seconds: after how long this kernel stores times that were set lazily.
int64_t LazyTimesDelayNs();

// `read_bytes_max`: of one READ. Lets the kernel read ahead and collect dirty pages on the mount as
// on a kernel filesystem's.
void TuneBackingDevice(dev_t mount_device, bool fuseblk, size_t read_bytes_max);

// At most about `limit_bytes` of dirty pages for the mount, or as many as for all of them.
void LimitBackingDevice(dev_t mount_device, bool fuseblk, uint64_t limit_bytes);

}  // namespace pbfs
