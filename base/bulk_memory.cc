// SPDX-License-Identifier: Apache-2.0
#include "base/bulk_memory.h"

#include <atomic>
#include <cstdlib>

namespace pbfs {
namespace {

std::atomic<BulkMemoryGate> g_gate{nullptr};

}  // namespace

void* AllocateBulk(size_t alignment, size_t size_bytes) {
  return MayHaveBulkMemory() ? std::aligned_alloc(alignment, size_bytes) : nullptr;
}

bool MayHaveBulkMemory() {
  const BulkMemoryGate gate = g_gate.load(std::memory_order_relaxed);
  return gate == nullptr || gate();
}

void SetBulkMemoryGate(BulkMemoryGate gate) { g_gate = gate; }

}  // namespace pbfs
