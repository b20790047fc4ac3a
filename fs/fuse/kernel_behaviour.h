// SPDX-License-Identifier: Apache-2.0
// What the kernel's FUSE does depends on its version. The minor version of the protocol that it
// offers in INIT (7.minor) tells which it is; nothing else about these does.
#pragma once

#include <cstdint>

namespace pbfs::fuse {

// A page that the kernel collected is under writeback until its WRITE is answered. Before Linux
// 6.16 ("fuse: remove tmp folio for writebacks") a copy was sent, so sync_file_range(2) waited for
// nothing, and close(2) took the inode's lock to wait: whoever asks us for SEEK_DATA holds it.
constexpr bool WritebackLastsUntilAnswered(uint32_t minor) { return minor >= 44; }

// sync(2) and syncfs(2) send SYNCFS to a server of fuseblk: since Linux 6.18 ("fuse: enable
// FUSE_SYNCFS for all fuseblk servers").
constexpr bool SyncReachesFuseblk(uint32_t minor) { return minor >= 45; }

}  // namespace pbfs::fuse
