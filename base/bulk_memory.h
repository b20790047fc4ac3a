// SPDX-License-Identifier: Apache-2.0
// Memory by the block: the arena of frames, buffers for transfers. A request may be refused, and
// whoever makes it goes on without: a mount fails with ENOMEM, a running filesystem waits or gives
// ENOMEM. Small objects come from operator new, which never fails (base/out_of_memory.h).
#pragma once

#include <cstddef>

namespace pbfs {

// nullptr: there is none. `alignment` is a power of two, `size_bytes` a multiple of it. Freed with
// std::free().
void* AllocateBulk(size_t alignment, size_t size_bytes);
// Asked before all memory by the block that is had otherwise, frames included: false refuses it.
bool MayHaveBulkMemory();

// Tests refuse requests here: called for each, on any thread; false refuses it. nullptr: none.
using BulkMemoryGate = bool (*)();
void SetBulkMemoryGate(BulkMemoryGate gate);

}  // namespace pbfs
