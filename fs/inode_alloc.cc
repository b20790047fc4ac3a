// SPDX-License-Identifier: Apache-2.0
#include "fs/inode_alloc.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "fs/log.h"

namespace pbfs {
namespace {

StatusOr<InodeChunk> ChunkOf(const Tree::Record& record) {
  InodeChunk chunk;
  if (record.value.size() != sizeof(chunk)) {
    return CorruptionError(
        absl::StrCat("inode chunk ", record.key, ": record of ", record.value.size(), " bytes"));
  }
  std::memcpy(&chunk, record.value.data(), sizeof(chunk));
  if (chunk.blocks == 0 || chunk.blocks > kInodeChunkBlocksMax ||
      (chunk.used_mask & ~ChunkMask(chunk.blocks)) != 0) {
    return CorruptionError(
        absl::StrCat("inode chunk ", record.key, ": blocks or used_mask is bad"));
  }
  return chunk;
}

}  // namespace

InodeAllocator::InodeAllocator(const MetaReader& reader, SpaceManager& space)
    : reader_(reader), space_(space), free_chunks_(reader.superblock.ag_count) {}

StatusOr<InodeAllocator::Chunks*> InodeAllocator::FreeChunks(uint32_t ag) {
  std::optional<Chunks>& chunks = free_chunks_[ag];
  if (chunks) return &*chunks;
  AgEntry entry;
  PBFS_ASSIGN_OR_RETURN(entry, space_.Entry(ag));
  Chunks found;
  Status bad;
  if (entry.free_inodes > 0) {
    Tree tree(reader_, space_, kOwnerAgBase + ag, entry.inode_tree);
    PBFS_RETURN_IF_ERROR(tree.Scan(0, [&](uint64_t key, std::span<const uint8_t> value) {
      auto chunk = ChunkOf({key, {value.begin(), value.end()}});
      if (!chunk.ok()) {
        bad = chunk.status();
        return false;
      }
      const uint64_t free = ChunkMask(chunk->blocks) & ~chunk->used_mask;
      if (free != 0) found[key] = free;
      return true;
    }));
  }
  PBFS_RETURN_IF_ERROR(bad);
  chunks = std::move(found);
  return &*chunks;
}

StatusOr<std::optional<uint32_t>> InodeAllocator::GroupWithFreeSlot(uint32_t preferred) {
  const uint32_t count = space_.ag_count();
  // Few groups have inodes at all; the table is scanned only when the preferred one is full.
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t ag = (preferred + i) % count;
    AgEntry entry;
    PBFS_ASSIGN_OR_RETURN(entry, space_.Entry(ag));
    if (entry.free_inodes > 0) return ag;
    if (i == 0 && entry.free_blocks >= kInodeChunkBlocksMax) break;  // Grow here instead.
  }
  return std::nullopt;
}

// Counts that are wrong on disk do not leave their range.
Status InodeAllocator::ChangeCounts(uint32_t ag, AgEntry& entry, int32_t slots_delta,
                                    int32_t free_delta) const {
  const int64_t slots = int64_t{entry.inode_slots} + slots_delta;
  const int64_t free = int64_t{entry.free_inodes} + free_delta;
  if (slots < 0 || free < 0 || free > slots) {
    return CorruptionError(
        absl::StrCat("block ", reader_.superblock.ag_table_start + ag / kAgEntriesPerBlock,
                     ": group ", ag, " free_inodes is ", entry.free_inodes, " of ",
                     entry.inode_slots, ", which does not fit its inodes"));
  }
  entry.inode_slots = static_cast<uint32_t>(slots);
  entry.free_inodes = static_cast<uint32_t>(free);
  return OkStatus();
}

Status InodeAllocator::PutChunk(Transaction& transaction, uint32_t ag, BlockNumber start,
                                const InodeChunk& chunk, int32_t slots_delta, int32_t free_delta) {
  BlockRef keep;
  AgEntry* entry = nullptr;
  PBFS_ASSIGN_OR_RETURN(entry, space_.ModifyEntry(transaction, ag, keep));
  PBFS_RETURN_IF_ERROR(ChangeCounts(ag, *entry, slots_delta, free_delta));
  TreeRoot root = entry->inode_tree;
  Tree tree(reader_, space_, kOwnerAgBase + ag, root);
  PBFS_RETURN_IF_ERROR(
      tree.Put(transaction, start, {reinterpret_cast<const uint8_t*>(&chunk), sizeof(chunk)}));
  entry->inode_tree = root;
  return OkStatus();
}

Status InodeAllocator::EraseChunk(Transaction& transaction, uint32_t ag, BlockNumber start,
                                  const InodeChunk& chunk) {
  BlockRef keep;
  AgEntry* entry = nullptr;
  PBFS_ASSIGN_OR_RETURN(entry, space_.ModifyEntry(transaction, ag, keep));
  const auto slots = static_cast<int32_t>(chunk.blocks * kInodesPerBlock);
  // The one being freed was never counted free.
  PBFS_RETURN_IF_ERROR(ChangeCounts(ag, *entry, -slots, 1 - slots));
  TreeRoot root = entry->inode_tree;
  Tree tree(reader_, space_, kOwnerAgBase + ag, root);
  PBFS_RETURN_IF_ERROR(tree.Erase(transaction, start).status());
  entry->inode_tree = root;
  for (uint32_t i = 0; i < chunk.blocks; ++i) transaction.Cancel(start + i);
  return space_.Free(transaction, {start, chunk.blocks});
}

Status InodeAllocator::AddChunk(Transaction& transaction, uint32_t ag, uint32_t* in_group) {
  BlockRun run;
  PBFS_ASSIGN_OR_RETURN(run, space_.Allocate(transaction, AgStart(ag), kInodeChunkBlocksMax));
  *in_group = AgOf(run.block);
  for (uint32_t i = 0; i < run.length; ++i) {
    BlockRef block = transaction.Create(run.block + i, kMagicInodes, kOwnerAgBase + *in_group);
    // A chunk's blocks may have been a chunk before: start generations at different values.
    for (DiskInode& inode : block.as<InodeTableBlock>()->inodes) {
      inode.generation = static_cast<uint32_t>(transaction.log().open_sequence() * 2654435761u);
    }
  }
  InodeChunk chunk{0, run.length, 0};
  const auto slots = static_cast<int32_t>(run.length * kInodesPerBlock);
  PBFS_RETURN_IF_ERROR(PutChunk(transaction, *in_group, run.block, chunk, slots, slots));
  Chunks* chunks = nullptr;
  PBFS_ASSIGN_OR_RETURN(chunks, FreeChunks(*in_group));
  chunks->insert_or_assign(run.block, ChunkMask(run.length));
  transaction.OnAbort([this, ag = *in_group] { free_chunks_[ag].reset(); });
  return OkStatus();
}

StatusOr<InodeAllocator::Slot> InodeAllocator::Allocate(Transaction& transaction,
                                                        InodeNumber near) {
  std::optional<uint32_t> group;
  PBFS_ASSIGN_OR_RETURN(group, GroupWithFreeSlot(AgOf(InodeBlock(near))));
  uint32_t ag = 0;
  if (group) {
    ag = *group;
  } else {
    PBFS_RETURN_IF_ERROR(AddChunk(transaction, AgOf(InodeBlock(near)), &ag));
  }
  Chunks* chunks = nullptr;
  PBFS_ASSIGN_OR_RETURN(chunks, FreeChunks(ag));
  if (chunks->empty()) {
    return CorruptionError(
        absl::StrCat("group ", ag, ": free_inodes without a chunk that has one"));
  }
  const auto [start, free] = *chunks->begin();
  const auto bit = static_cast<uint32_t>(std::countr_zero(free));
  std::optional<Tree::Record> record;
  PBFS_ASSIGN_OR_RETURN(record, FindChunk(ag, start));
  if (!record) return CorruptionError(absl::StrCat("inode chunk ", start, " is gone"));
  InodeChunk chunk;
  PBFS_ASSIGN_OR_RETURN(chunk, ChunkOf(*record));
  chunk.used_mask |= uint64_t{1} << bit;
  PBFS_RETURN_IF_ERROR(PutChunk(transaction, ag, start, chunk, 0, -1));
  transaction.OnAbort([this, ag] { free_chunks_[ag].reset(); });
  const uint64_t left = free & (free - 1);
  if (left == 0) {
    chunks->erase(start);
  } else {
    (*chunks)[start] = left;
  }
  transaction.OnCommit([this] { used_count_.fetch_add(1, std::memory_order_relaxed); });
  const InodeNumber ino = MakeInodeNumber(start + bit / 8, bit % 8);
  BlockRef block;
  PBFS_ASSIGN_OR_RETURN(block, reader_.Read(InodeBlock(ino), kMagicInodes, kOwnerAgBase + ag));
  const DiskInode& old = block.as<InodeTableBlock>()->inodes[InodeSlot(ino)];
  if (old.mode != 0) {
    return CorruptionError(absl::StrCat("inode ", ino, " is free in its chunk but in use"));
  }
  return Slot{ino, old.generation + 1};
}

StatusOr<std::optional<Tree::Record>> InodeAllocator::FindChunk(uint32_t ag, BlockNumber block) {
  AgEntry entry;
  PBFS_ASSIGN_OR_RETURN(entry, space_.Entry(ag));
  Tree tree(reader_, space_, kOwnerAgBase + ag, entry.inode_tree);
  return tree.FindLast(block);
}

Status InodeAllocator::Free(Transaction& transaction, InodeNumber ino) {
  const BlockNumber block_number = InodeBlock(ino);
  const uint32_t ag = AgOf(block_number);
  std::optional<Tree::Record> record;
  PBFS_ASSIGN_OR_RETURN(record, FindChunk(ag, block_number));
  if (!record) return CorruptionError(absl::StrCat("inode ", ino, ": no chunk has it"));
  InodeChunk chunk;
  PBFS_ASSIGN_OR_RETURN(chunk, ChunkOf(*record));
  const uint64_t offset = block_number - record->key;
  const uint64_t bit = offset * 8 + InodeSlot(ino);
  if (offset >= chunk.blocks || InodeSlot(ino) >= kInodesPerBlock ||
      (chunk.used_mask >> bit & 1) == 0) {
    return CorruptionError(absl::StrCat("inode ", ino, ": not in use in its chunk"));
  }
  chunk.used_mask &= ~(uint64_t{1} << bit);
  transaction.OnCommit([this] { used_count_.fetch_sub(1, std::memory_order_relaxed); });
  Chunks* chunks = nullptr;
  PBFS_ASSIGN_OR_RETURN(chunks, FreeChunks(ag));
  transaction.OnAbort([this, ag] { free_chunks_[ag].reset(); });
  // Keep one chunk's worth of free slots, so that create and unlink in turn do not churn chunks.
  AgEntry entry;
  PBFS_ASSIGN_OR_RETURN(entry, space_.Entry(ag));
  if (chunk.used_mask == 0 && entry.free_inodes > kInodesPerBlock * kInodeChunkBlocksMax * 2) {
    chunks->erase(record->key);
    return EraseChunk(transaction, ag, record->key, chunk);
  }
  (*chunks)[record->key] |= uint64_t{1} << bit;
  BlockRef block;
  PBFS_ASSIGN_OR_RETURN(block, reader_.Read(block_number, kMagicInodes, kOwnerAgBase + ag));
  DiskInode& inode = transaction.ModifyAs<InodeTableBlock>(block)->inodes[InodeSlot(ino)];
  const uint32_t generation = inode.generation;
  std::memset(&inode, 0, sizeof(inode));
  inode.generation = generation;
  return PutChunk(transaction, ag, record->key, chunk, 0, 1);
}

StatusOr<std::optional<InodeAllocator::Place>> InodeAllocator::PlaceOf(InodeNumber ino) {
  const BlockNumber block = InodeBlock(ino);
  if (block == 0 || block >= reader_.superblock.total_blocks || InodeSlot(ino) >= kInodesPerBlock) {
    return std::nullopt;
  }
  std::optional<Tree::Record> record;
  PBFS_ASSIGN_OR_RETURN(record, FindChunk(AgOf(block), block));
  if (!record) return std::nullopt;
  InodeChunk chunk;
  PBFS_ASSIGN_OR_RETURN(chunk, ChunkOf(*record));
  const uint64_t offset = block - record->key;
  const bool used =
      offset < chunk.blocks && (chunk.used_mask >> (offset * 8 + InodeSlot(ino)) & 1) != 0;
  if (!used) return std::nullopt;
  return Place{record->key, chunk};
}

StatusOr<bool> InodeAllocator::Contains(InodeNumber ino) {
  std::optional<Place> place;
  PBFS_ASSIGN_OR_RETURN(place, PlaceOf(ino));
  return place.has_value();
}

StatusOr<std::vector<InodeNumber>> InodeAllocator::UsedBeside(InodeNumber ino) {
  std::optional<Place> place;
  PBFS_ASSIGN_OR_RETURN(place, PlaceOf(ino));
  std::vector<InodeNumber> used;
  if (!place) return used;
  for (uint64_t mask = place->chunk.used_mask; mask != 0; mask &= mask - 1) {
    used.push_back(MakeInodeNumber(place->start, 0) +
                   static_cast<uint64_t>(std::countr_zero(mask)));
  }
  return used;
}

Status InodeAllocator::Load() {
  uint64_t used = 0;
  for (uint32_t ag = 0; ag < space_.ag_count(); ++ag) {
    AgEntry entry;
    PBFS_ASSIGN_OR_RETURN(entry, space_.Entry(ag));
    used += entry.inode_slots - std::min(entry.free_inodes, entry.inode_slots);
  }
  used_count_ = used;
  return OkStatus();
}

}  // namespace pbfs
