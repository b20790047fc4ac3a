// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace pbfs {

// From now on a failed operator new ends the process with `exit_code` and the message "out of
// memory": like a power cut, which the log is there for. Nothing is unwound, nothing more is
// written; code above need not be ready for an exception anywhere. (Memory by the block has its own
// errors, see base/bulk_memory.h.)
void InstallOutOfMemoryHandler(int exit_code);
// The message goes to this file, too, besides stderr and syslog. -1: to none.
void SetOutOfMemoryLog(int fd);

}  // namespace pbfs
