// SPDX-License-Identifier: Apache-2.0
// The checker's way through groups: inode trees, chunks, inodes.
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "fs/aligned_buffer.h"
#include "fs/checker_impl.h"
#include "fs/inode_alloc.h"
#include "fs/verify.h"

namespace pbfs {
namespace {

// Chunks that are read ahead at once.
constexpr size_t kReadaheadChunks = 16;
constexpr uint32_t kAllSlots = (1u << kInodesPerBlock) - 1;

uint8_t TypeOf(const DiskInode& inode) { return static_cast<uint8_t>((inode.mode & S_IFMT) >> 12); }

}  // namespace

// ---- What was found

void Checker::AddInode(const DiskInode& inode) {
  if (searching_owners_) return;
  inodes_.push_back({inode.ino * 16 + TypeOf(inode), inode.nlink, 0});
  if ((inode.flags & kInodeWatched) != 0) ++watched_inodes_;
  CheckReport::Stats& stats = report_.stats;
  switch (inode.mode & S_IFMT) {
    case S_IFREG:
      ++stats.files;
      break;
    case S_IFDIR:
      ++stats.directories;
      directories_.push_back({inode.ino, inode.parent});
      break;
    case S_IFLNK:
      ++stats.symlinks;
      break;
    default:
      ++stats.others;
  }
}

void Checker::AddDamagedInode(InodeNumber ino) {
  if (!searching_owners_) inodes_.push_back({ino * 16, 0, 0});
}

Checker::InodeInfo* Checker::FindInode(InodeNumber ino) {
  const auto found = std::lower_bound(
      inodes_.begin(), inodes_.end(), ino,
      [](const InodeInfo& info, InodeNumber number) { return info.ino() < number; });
  return found != inodes_.end() && found->ino() == ino ? &*found : nullptr;
}

Checker::DirectoryInfo* Checker::FindDirectory(InodeNumber ino) {
  const auto found = std::lower_bound(
      directories_.begin(), directories_.end(), ino,
      [](const DirectoryInfo& info, InodeNumber number) { return info.ino < number; });
  return found != directories_.end() && found->ino == ino ? &*found : nullptr;
}

// ---- Groups

Status Checker::WalkGroup(uint32_t ag) {
  const AgEntry& entry = groups_[ag];
  std::vector<Chunk> chunks;
  bool whole = true;
  PBFS_RETURN_IF_ERROR(ListChunks(ag, chunks, whole));
  uint64_t slots = 0;
  uint64_t used = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (i % kReadaheadChunks == 0) {
      const size_t end = std::min(chunks.size(), i + 2 * kReadaheadChunks);
      for (size_t ahead = i == 0 ? 0 : i + kReadaheadChunks; ahead < end; ++ahead) {
        reader_.Readahead(chunks[ahead].start, chunks[ahead].value.blocks);
      }
      PBFS_RETURN_IF_ERROR(Progress("inodes", report_.stats.inode_slots, inode_slots_));
    }
    PBFS_RETURN_IF_ERROR(WalkChunk(chunks[i]));
    slots += chunks[i].value.blocks * kInodesPerBlock;
    used += static_cast<uint64_t>(std::popcount(chunks[i].value.used_mask));
    if (!searching_owners_) report_.stats.inode_slots += chunks[i].value.blocks * kInodesPerBlock;
  }
  if (!whole) return OkStatus();
  if (entry.inode_slots != slots) {
    problems_.Add("group ", ag, ": inode_slots is ", entry.inode_slots, ", its chunks have ",
                  slots);
  }
  if (entry.free_inodes != slots - used) {
    problems_.Add("group ", ag, ": free_inodes is ", entry.free_inodes, ", its chunks have ",
                  slots - used);
  }
  return OkStatus();
}

// The chunks of the group's inode tree, ascending and apart from each other.
Status Checker::ListChunks(uint32_t ag, std::vector<Chunk>& chunks, bool& whole) {
  BlockNumber end = AgStart(ag);
  Walked walked;
  bool all_good = true;
  PBFS_RETURN_IF_ERROR(WalkTree(
      {BlockOwner::Kind::kInodeTree, ag}, kOwnerAgBase + ag, groups_[ag].inode_tree,
      [&](uint64_t key, std::span<const uint8_t> value) {
        Chunk chunk;
        if (!CheckChunk(ag, key, value, chunk)) {
          all_good = false;
          return;
        }
        if (chunk.start < end) {
          problems_.Add("group ", ag, ": inode chunk ", key, " overlaps the one before it");
          all_good = false;
          return;
        }
        end = chunk.start + chunk.value.blocks;
        chunks.push_back(chunk);
      },
      walked));
  whole = walked.whole && all_good;
  return OkStatus();
}

bool Checker::CheckChunk(uint32_t ag, uint64_t key, std::span<const uint8_t> value, Chunk& chunk) {
  const std::string name = absl::StrCat("group ", ag, ": inode chunk ", key);
  if (value.size() != sizeof(InodeChunk)) {
    problems_.Add(name, ": record has ", value.size(), " bytes");
    return false;
  }
  chunk.start = key;
  std::memcpy(&chunk.value, value.data(), sizeof(InodeChunk));
  const uint32_t blocks = chunk.value.blocks;
  if (blocks == 0 || blocks > kInodeChunkBlocksMax) {
    problems_.Add(name, ": blocks is ", blocks);
    return false;
  }
  const uint64_t total = superblock_.total_blocks;
  if (key < AgStart(ag) || key - AgStart(ag) >= AgLength(ag, total) ||
      key - AgStart(ag) + blocks > AgLength(ag, total)) {
    problems_.Add(name, ": is not within the group");
    return false;
  }
  if ((chunk.value.used_mask & ~ChunkMask(blocks)) != 0) {
    problems_.Add(name, ": used_mask has bits of slots that do not exist");
    chunk.value.used_mask &= ChunkMask(blocks);
  }
  if (chunk.value.zero != 0) problems_.Add(name, ": reserved field is ", chunk.value.zero);
  return true;
}

// ---- Inodes

Status Checker::WalkChunk(const Chunk& chunk) {
  usage_.Use({BlockOwner::Kind::kInodeChunk, AgOf(chunk.start)}, chunk.start, chunk.value.blocks);
  InodeTableBlock inodes;
  for (uint32_t i = 0; i < chunk.value.blocks; ++i) {
    const BlockNumber block = chunk.start + i;
    const uint32_t readable = ReadInodes(block, inodes);
    for (uint32_t slot = 0; slot < kInodesPerBlock; ++slot) {
      const bool used = (chunk.value.used_mask >> (i * 8 + slot) & 1) != 0;
      const InodeNumber ino = MakeInodeNumber(block, slot);
      if ((readable >> slot & 1) == 0) {
        if (used) AddDamagedInode(ino);
        continue;
      }
      const DiskInode& inode = inodes.inodes[slot];
      if (used != (inode.mode != 0)) {
        problems_.Add("inode ", ino, ": mode is ", absl::Hex(inode.mode),
                      ", but its chunk's used_mask ", used ? "has it in use" : "has it free");
      }
      if (inode.mode != 0) PBFS_RETURN_IF_ERROR(WalkInode(inode));
    }
  }
  return OkStatus();
}

uint32_t Checker::ReadInodes(BlockNumber block, InodeTableBlock& inodes) {
  const uint64_t owner = kOwnerAgBase + AgOf(block);
  const StatusOr<BlockRef> ref = reader_.Read(block, kMagicInodes, owner);
  if (ref.ok()) {
    inodes = *ref->as<InodeTableBlock>();
    return kAllSlots;
  }
  // One bad inode makes the block unreadable for the filesystem; here the others still count.
  const StatusOr<AlignedBuffer> made = AlignedBuffer::Create(kBlockBytes);
  if (!made.ok()) {
    problems_.Add(made.status());
    return 0;
  }
  const AlignedBuffer& buffer = *made;
  if (ReadSync(device_, block * kBlockBytes, buffer.data(), kBlockBytes) != 0 ||
      !VerifyHeader(buffer.data(), block, kMagicInodes, superblock_).ok() ||
      buffer.as<BlockHeader>()->owner != owner) {
    problems_.Add(ref.status());
    return 0;
  }
  inodes = *buffer.as<InodeTableBlock>();
  uint32_t readable = 0;
  for (uint32_t slot = 0; slot < kInodesPerBlock; ++slot) {
    const DiskInode& inode = inodes.inodes[slot];
    const Status status = inode.mode == 0
                              ? OkStatus()
                              : VerifyInode(inode, MakeInodeNumber(block, slot), superblock_);
    if (status.ok()) {
      readable |= 1u << slot;
    } else {
      problems_.Add(status);
    }
  }
  return readable;
}

Status Checker::WalkInode(const DiskInode& inode) {
  AddInode(inode);
  if (S_ISDIR(inode.mode)) return OkStatus();  // Later, when all inodes are known.
  if (inode.parent != 0)
    problems_.Add("inode ", inode.ino, ": parent is ", inode.parent, ", not 0");
  if (inode.entries != 0) {
    problems_.Add("inode ", inode.ino, ": entries is ", inode.entries, ", not 0");
  }
  return WalkFile(inode);
}

}  // namespace pbfs
