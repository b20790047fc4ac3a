// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "fs/extent_map.h"
#include "fs/inode.h"
#include "fs/inode_alloc.h"
#include "fs/operation.h"
#include "fs/writeback.h"

namespace pbfs {

// Long work that a crash must not lose: inodes without a name that are still referenced, and
// truncations that free more extents than one transaction may. Both are on the orphan tree from the
// transaction that begins them to the one that ends them; each step between is a transaction of its
// own; mount goes through the tree and finishes what it finds.
//
// A thread frees inodes in the background. Thread-safe.
class Orphans {
 public:
  // All borrowed.
  Orphans(const MetaReader& reader, SpaceManager& space, InodeAllocator& allocator,
          InodeTable& inodes, Writeback& writeback, OperationRunner& runner,
          std::function<void(const std::string&)> log);
  ~Orphans();
  void Start();
  void Stop();

  // Inside an operation. Add() of an inode that is there replaces its kind.
  Status Add(Operation& operation, InodeNumber ino, OrphanKind kind);
  Status Remove(Operation& operation, InodeNumber ino);

  // The inode's last name went (its transaction is committed): freed when it has no references.
  void Unlinked(InodeNumber ino) ABSL_LOCKS_EXCLUDED(mutex_);
  // The inode was made without a name, and may get one; it has a reference.
  void NoteTemporary(InodeNumber ino) ABSL_LOCKS_EXCLUDED(mutex_);
  bool IsTemporary(InodeNumber ino) ABSL_LOCKS_EXCLUDED(mutex_);
  // It has got one. Both at the commit.
  void NoteNamed(InodeNumber ino) ABSL_LOCKS_EXCLUDED(mutex_);
  // The inode's last reference went.
  void Unreferenced(InodeNumber ino) ABSL_LOCKS_EXCLUDED(mutex_);

  // Frees device blocks from `first_block` on, in steps, and takes the inode off the tree at the
  // end (if `on_tree`). The caller holds the range lock and has begun exclusive writeback.
  Status FinishTruncate(const InodeRef& inode, uint64_t first_block, bool on_tree);

  // Finishes everything on the tree but inodes that are referenced (at a remount). Before Start();
  // returns how many it finished. An unlinked inode that is damaged or unreadable is reported and
  // stays there.
  StatusOr<uint64_t> Recover();
  // Nobody holds references any more (unmount): frees what was still referenced.
  void ForgetReferences() ABSL_LOCKS_EXCLUDED(mutex_);
  // The kernel forgets an inode some time after it was unlinked, even if nobody has it open: waits
  // until it did for the newest one, but not for long. Whoever has looked for space in vain calls
  // it.
  void AwaitForgotten() ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether something that was unlinked is being freed, or will be in a moment.
  bool MayFree() ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits until all that is to be freed now has been.
  void Drain() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Loop();
  // Until there is something to free, and a burst of it, or somebody waits for it.
  void AwaitBurstLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  class Claim;
  StatusOr<std::optional<Claim>> ClaimInode(InodeNumber ino, bool wait);
  Status FreeInode(InodeNumber ino);
  Status FreeClaimed(const Claim& claim);
  Status FreeTogether(const std::vector<Claim>& claims);
  void FreeSome(std::span<const InodeNumber> inodes);
  void Report(InodeNumber ino, const Status& status);
  Status FreeStep(Operation& operation, const InodeRef& inode, bool* done);
  Status FinishOne(InodeNumber ino, OrphanKind kind);

  const MetaReader& reader_;
  SpaceManager& space_;
  InodeAllocator& allocator_;
  InodeTable& inodes_;
  Writeback& writeback_;
  OperationRunner& runner_;
  const std::function<void(const std::string&)> log_;

  Mutex mutex_;
  CondVar changed_;
  absl::flat_hash_set<InodeNumber> unlinked_ ABSL_GUARDED_BY(mutex_);   // Referenced, nlink 0.
  absl::flat_hash_set<InodeNumber> temporary_ ABSL_GUARDED_BY(mutex_);  // The part of unlinked_.
  InodeNumber newest_unlinked_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t newest_unlinked_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<InodeNumber> queue_ ABSL_GUARDED_BY(mutex_);
  uint64_t queued_ ABSL_GUARDED_BY(mutex_) = 0;    // Ever.
  uint64_t finished_ ABSL_GUARDED_BY(mutex_) = 0;  // Of these.
  uint32_t forgotten_waiters_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t drainers_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace pbfs
