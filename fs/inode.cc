// SPDX-License-Identifier: Apache-2.0
#include "fs/inode.h"

#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "fs/fork.h"
#include "fs/verify.h"

namespace pbfs {

InodeRef& InodeRef::operator=(InodeRef&& other) noexcept {
  if (this != &other) {
    Reset();
    table_ = other.table_;
    inode_ = other.inode_;
    other.inode_ = nullptr;
  }
  return *this;
}

void InodeRef::Reset() {
  if (inode_ != nullptr) table_->Unpin(*inode_);
  inode_ = nullptr;
}

InodeRef InodeRef::Clone() const {
  table_->Pin(*inode_);
  return InodeRef(*table_, *inode_);
}

InodeTable::InodeTable(const MetaReader& reader, PageCache& pages, size_t cached_max)
    : reader_(reader), pages_(pages), cached_max_(cached_max) {}

InodeTable::~InodeTable() = default;

Status InodeTable::Load(Inode& inode) {
  const BlockNumber number = InodeBlock(inode.ino);
  const uint32_t slot = InodeSlot(inode.ino);
  if (slot >= kInodesPerBlock || number >= reader_.superblock.total_blocks) {
    return ErrnoError(ESTALE, absl::StrCat("inode ", inode.ino, ": no such inode"));
  }
  BlockRef block = reader_.cache.Find(number);
  // Of inodes that were made together, those around it are wanted soon.
  if (!block)
    reader_.Readahead(number / kInodeChunkBlocksMax * kInodeChunkBlocksMax, kInodeChunkBlocksMax);
  PBFS_ASSIGN_OR_RETURN(block, reader_.Read(number, kMagicInodes, kOwnerAgBase + AgOf(number)));
  WriterLock lock(inode.lock);
  inode.disk = block.as<InodeTableBlock>()->inodes[slot];
  if (inode.disk.mode == 0 || inode.disk.ino != inode.ino) {
    return ErrnoError(ESTALE, absl::StrCat("inode ", inode.ino, ": not in use"));
  }
  inode.size.store(inode.disk.size_bytes, std::memory_order_relaxed);
  inode.stored_size.store(inode.disk.size_bytes, std::memory_order_relaxed);
  inode.full_leaves_max.store(FullLeavesMax(inode.disk), std::memory_order_relaxed);
  return OkStatus();
}

StatusOr<InodeRef> InodeTable::Get(InodeNumber ino) {
  Inode* inode = nullptr;
  {
    MutexLock lock(mutex_);
    for (;;) {
      std::unique_ptr<Inode>& entry = inodes_[ino];
      if (entry == nullptr) {
        entry = std::make_unique<Inode>(pages_, ino);
        entry->pins = 1;
        entry->changed = evicted_changed_;
        entry->data_changed = evicted_changed_;
        entry->truncated = evicted_truncated_;
        inode = entry.get();
        break;
      }
      if (entry->loaded) {
        Inode& found = *entry;
        if (found.doomed) return ErrnoError(ESTALE, absl::StrCat("inode ", ino, ": was freed"));
        if (found.on_lru) {
          lru_.erase(found.lru);
          found.on_lru = false;
        }
        ++found.pins;
        return InodeRef(*this, found);
      }
      AnnounceBlocking();
      loaded_.Wait(mutex_);
    }
  }
  const Status status = Load(*inode);
  std::unique_ptr<Inode> failed;
  MutexLock lock(mutex_);
  loaded_.SignalAll();
  if (!status.ok()) {
    failed = std::move(inodes_[ino]);
    inodes_.erase(ino);
    return status;
  }
  inode->loaded = true;
  return InodeRef(*this, *inode);
}

InodeRef InodeTable::GetNew(InodeNumber ino) {
  MutexLock lock(mutex_);
  // Who is loading it (by a stale file handle) will find it not in use, and forget it.
  while (inodes_.contains(ino) && !inodes_[ino]->loaded) {
    AnnounceBlocking();
    loaded_.Wait(mutex_);
  }
  std::unique_ptr<Inode>& entry = inodes_[ino];
  if (entry == nullptr) entry = std::make_unique<Inode>(pages_, ino);
  // A former use of the number may still be cached, even pinned for a moment by a late reader.
  if (entry->on_lru) {
    lru_.erase(entry->lru);
    entry->on_lru = false;
  }
  ++entry->pins;
  entry->doomed = false;
  entry->loaded = true;
  entry->size.store(0, std::memory_order_relaxed);
  entry->stored_size.store(0, std::memory_order_relaxed);
  entry->full_leaves_max.store(0, std::memory_order_relaxed);
  return InodeRef(*this, *entry);
}

void InodeTable::Drop(InodeNumber ino) {
  std::unique_ptr<Inode> gone;
  MutexLock lock(mutex_);
  const auto found = inodes_.find(ino);
  if (found == inodes_.end()) return;
  if (found->second->pins > 0) {
    found->second->doomed = true;
    return;
  }
  if (found->second->on_lru) lru_.erase(found->second->lru);
  NoteEvictedLocked(*found->second);
  gone = std::move(found->second);
  inodes_.erase(found);
}

void InodeTable::Pin(Inode& inode) {
  MutexLock lock(mutex_);
  ++inode.pins;
}

void InodeTable::Unpin(Inode& inode) {
  std::vector<std::unique_ptr<Inode>> evicted;  // Destroyed after the lock.
  MutexLock lock(mutex_);
  PBFS_CHECK(inode.pins > 0);
  if (--inode.pins > 0) return;
  if (inode.doomed) {
    NoteEvictedLocked(inode);
    const auto found = inodes_.find(inode.ino);
    evicted.push_back(std::move(found->second));
    inodes_.erase(found);
    return;
  }
  inode.lru = lru_.insert(lru_.end(), &inode);
  inode.on_lru = true;
  EvictLocked(evicted);
}

void InodeTable::NoteEvictedLocked(const Inode& inode) {
  evicted_changed_ = std::max(evicted_changed_, inode.changed.load(std::memory_order_relaxed));
  evicted_truncated_ =
      std::max(evicted_truncated_, inode.truncated.load(std::memory_order_relaxed));
}

void InodeTable::EvictLocked(std::vector<std::unique_ptr<Inode>>& evicted) {
  // Inodes with dirty pages are pinned by the dirty list, so whatever is here may go.
  while (inodes_.size() > cached_max_ && !lru_.empty()) {
    Inode* victim = lru_.front();
    lru_.pop_front();
    NoteEvictedLocked(*victim);
    const auto found = inodes_.find(victim->ino);
    evicted.push_back(std::move(found->second));
    inodes_.erase(found);
  }
}

void InodeTable::AddReference(InodeNumber ino) {
  MutexLock lock(mutex_);
  ++references_[ino];
}

bool InodeTable::RemoveReferences(InodeNumber ino, uint64_t count) {
  MutexLock lock(mutex_);
  const auto found = references_.find(ino);
  if (found == references_.end()) return false;
  if (found->second > count) {
    found->second -= static_cast<uint32_t>(count);
    return false;
  }
  references_.erase(found);
  return true;
}

bool InodeTable::HasReferences(InodeNumber ino) {
  MutexLock lock(mutex_);
  return references_.contains(ino);
}

size_t InodeTable::reference_count() {
  MutexLock lock(mutex_);
  return references_.size();
}

uint64_t FullLeavesMax(const DiskInode& disk) {
  constexpr uint64_t kExtentsPerLeaf = 128;  // A few more fit.
  if (!S_ISREG(disk.mode) || FormatOf(disk, Fork::kData) != ForkFormat::kTree) return 0;
  return disk.blocks / kExtentsPerLeaf + 1;
}

Status StoreInode(Transaction& transaction, const MetaReader& reader, Inode& inode) {
  // A count that was wrong on disk may have left its range by now.
  PBFS_RETURN_IF_ERROR(VerifyInode(inode.disk, inode.ino, reader.superblock));
  const BlockNumber number = InodeBlock(inode.ino);
  BlockRef block;
  PBFS_ASSIGN_OR_RETURN(block, reader.Read(number, kMagicInodes, kOwnerAgBase + AgOf(number)));
  transaction.ModifyAs<InodeTableBlock>(block)->inodes[InodeSlot(inode.ino)] = inode.disk;
  return OkStatus();
}

Status CountWatchedInode(Transaction& transaction, const MetaReader& reader, int change) {
  BlockRef block;
  PBFS_ASSIGN_OR_RETURN(block,
                        reader.Read(reader.superblock.state_block, kMagicState, kOwnerFilesystem));
  auto* state = transaction.ModifyAs<StateBlock>(block);
  // A count that is wrong on disk stays within its type; fsck says so.
  if (change > 0) ++state->watched_inodes;
  if (change < 0 && state->watched_inodes > 0) --state->watched_inodes;
  return OkStatus();
}

Attributes AttributesOf(const DiskInode& disk, uint64_t size_bytes) {
  Attributes attributes;
  attributes.ino = disk.ino;
  attributes.mode = disk.mode;
  attributes.nlink = disk.nlink;
  attributes.uid = disk.uid;
  attributes.gid = disk.gid;
  attributes.rdev = disk.rdev;
  attributes.generation = disk.generation;
  attributes.flags = disk.flags;
  attributes.project = disk.project;
  attributes.size_bytes = size_bytes;
  attributes.blocks_512 = disk.blocks * (kBlockBytes / 512);
  attributes.atime = {disk.atime_seconds, disk.atime_nanoseconds};
  attributes.mtime = {disk.mtime_seconds, disk.mtime_nanoseconds};
  attributes.ctime = {disk.ctime_seconds, disk.ctime_nanoseconds};
  attributes.btime = {disk.btime_seconds, disk.btime_nanoseconds};
  return attributes;
}

Time CurrentTime() {
  const timespec now = RealTimeNow();
  return {now.tv_sec, static_cast<uint32_t>(now.tv_nsec)};
}

}  // namespace pbfs
