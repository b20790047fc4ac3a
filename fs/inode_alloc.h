// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/btree_map.h"
#include "base/status.h"
#include "fs/format.h"
#include "fs/space.h"
#include "fs/tree.h"

namespace pbfs {

// Inode slots: chunks of up to eight inode blocks, indexed by one tree per group. Chunks are added
// when no slot is free and given back when they empty.
//
// Gate held for everything (Log::WhileStill for what only reads).
class InodeAllocator {
 public:
  // Both borrowed.
  InodeAllocator(const MetaReader& reader, SpaceManager& space);

  struct Slot {
    InodeNumber ino;
    uint32_t generation;  // Of this use of the slot.
  };
  // A free slot near the directory `near`. The caller fills in the DiskInode.
  StatusOr<Slot> Allocate(Transaction& transaction, InodeNumber near);
  // The slot becomes free; its DiskInode is cleared but for the generation.
  Status Free(Transaction& transaction, InodeNumber ino);

  // True when `ino` names a slot in use: for numbers that come from outside (file handles).
  StatusOr<bool> Contains(InodeNumber ino);
  // The inodes in use in the chunk that `ino` lies in; none if that is not in use itself.
  StatusOr<std::vector<InodeNumber>> UsedBeside(InodeNumber ino);

  // Counts the inodes in use, from the group table. Once, before anything else runs.
  Status Load();
  // As of the last committed transaction. Any thread.
  uint64_t used_count() const { return used_count_.load(std::memory_order_relaxed); }

 private:
  using Chunks = absl::btree_map<BlockNumber, uint64_t>;  // First block -> mask of free slots.

  StatusOr<Chunks*> FreeChunks(uint32_t ag);
  StatusOr<std::optional<uint32_t>> GroupWithFreeSlot(uint32_t preferred);
  Status AddChunk(Transaction& transaction, uint32_t ag, uint32_t* in_group);
  Status ChangeCounts(uint32_t ag, AgEntry& entry, int32_t slots_delta, int32_t free_delta) const;
  Status PutChunk(Transaction& transaction, uint32_t ag, BlockNumber start, const InodeChunk& chunk,
                  int32_t slots_delta, int32_t free_delta);
  Status EraseChunk(Transaction& transaction, uint32_t ag, BlockNumber start,
                    const InodeChunk& chunk);
  struct Place {
    BlockNumber start;
    InodeChunk chunk;
  };
  // The chunk in which the slot `ino` is in use.
  StatusOr<std::optional<Place>> PlaceOf(InodeNumber ino);
  StatusOr<std::optional<Tree::Record>> FindChunk(uint32_t ag, BlockNumber block);

  const MetaReader& reader_;
  SpaceManager& space_;
  std::atomic<uint64_t> used_count_{0};
  // Per group, loaded on first use: chunks with free slots. Undone on abort.
  std::vector<std::optional<Chunks>> free_chunks_;
};

// All slots of a chunk of `blocks` blocks.
constexpr uint64_t ChunkMask(uint32_t blocks) {
  const uint64_t all = 0x7f7f7f7f7f7f7f7f;
  return blocks >= 8 ? all : all & ((uint64_t{1} << (8 * blocks)) - 1);
}

}  // namespace pbfs
