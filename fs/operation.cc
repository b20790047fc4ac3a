// SPDX-License-Identifier: Apache-2.0
#include "fs/operation.h"

#include <utility>

namespace pbfs {

Operation::~Operation() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (Edited& edited : edited_) edited.inode->lock.Unlock();
}

DiskInode& Operation::Edit(const InodeRef& inode) {
  for (Edited& edited : edited_) {
    if (&*edited.inode == &*inode) return inode->disk;
  }
  inode->lock.Lock();
  edited_.push_back({inode.Clone(), inode->disk});
  return inode->disk;
}

void SetTimes(DiskInode& disk, Time now, bool modified) {
  disk.ctime_seconds = now.seconds;
  disk.ctime_nanoseconds = now.nanoseconds;
  if (!modified) return;
  disk.mtime_seconds = now.seconds;
  disk.mtime_nanoseconds = now.nanoseconds;
}

void SetWriteTime(DiskInode& disk, Time written) {
  const Time changed{disk.ctime_seconds, disk.ctime_nanoseconds};
  SetTimes(disk, written, /*modified=*/true);
  if (changed > written) SetTimes(disk, changed, /*modified=*/false);
}

std::optional<Time> Operation::TakeTime(const InodeRef& inode,
                                        std::optional<Time> Inode::*pending) {
  std::optional<Time> time;
  {
    MutexLock lock(inode->writeback_lock);
    time = std::exchange((*inode).*pending, std::nullopt);
  }
  if (time) {
    transaction_.OnAbort([&undone = *inode, pending, time] {
      MutexLock lock(undone.writeback_lock);
      if (!(undone.*pending)) undone.*pending = time;
    });
  }
  return time;
}

std::optional<Time> Operation::TakeWriteTime(const InodeRef& inode) {
  return TakeTime(inode, &Inode::pending_mtime);
}

std::optional<Time> Operation::TakeAccessTime(const InodeRef& inode) {
  return TakeTime(inode, &Inode::pending_atime);
}

DiskInode& Operation::Touch(const InodeRef& inode, bool modified) {
  DiskInode& disk = Edit(inode);
  SetTimes(disk, CurrentTime(), modified);
  return disk;
}

Status Operation::StoreAll() {
  for (Edited& edited : edited_) {
    Inode& inode = *edited.inode;
    inode.lock.AssertHeld();
    if (inode.disk.mode == 0) continue;  // Freed in this operation: its slot is clear already.
    if (const auto accessed = TakeAccessTime(edited.inode)) {
      inode.disk.atime_seconds = accessed->seconds;
      inode.disk.atime_nanoseconds = accessed->nanoseconds;
    }
    PBFS_RETURN_IF_ERROR(StoreInode(transaction_, reader_, inode));
  }
  return OkStatus();
}

void Operation::Keep(Lsn sequence) {
  for (Edited& edited : edited_) {
    edited.inode->lock.AssertHeld();
    edited.inode->stored_size.store(edited.inode->disk.size_bytes, std::memory_order_release);
    edited.inode->full_leaves_max.store(FullLeavesMax(edited.inode->disk),
                                        std::memory_order_relaxed);
    if (sequence == 0) continue;
    edited.inode->changed.store(sequence, std::memory_order_release);
    if (!times_only_) edited.inode->data_changed.store(sequence, std::memory_order_release);
  }
}

void Operation::Restore() {
  for (Edited& edited : edited_) edited.inode->disk = edited.before;
}

Status OperationRunner::RunOnce(const Needs& needs, const Body& body) {
  if (!space_.Reserve(needs.space_blocks,
                      needs.privileged ? SpaceClass::kPrivileged : SpaceClass::kOrdinary)) {
    return ErrnoError(ENOSPC, "no space left for metadata");
  }
  auto transaction = log_.Begin();
  if (!transaction.ok()) {
    space_.Unreserve(needs.space_blocks);
    return transaction.status();
  }
  Status status;
  uint64_t used = 0;
  {
    Operation operation(reader_, **transaction);
    status = body(operation);
    if (status.ok()) status = operation.StoreAll();
    used = space_.TakeAllocatedCount();
    if (status.ok()) {
      auto sequence = (*transaction)->Commit();
      status = sequence.status();
      if (sequence.ok()) operation.Keep(*sequence);
    }
    if (!status.ok()) {
      operation.Restore();
      transaction->reset();  // Aborts, with the inodes still locked.
      used = 0;
    }
  }
  if (used > needs.space_blocks) {
    space_.Take(used - needs.space_blocks);
  } else {
    space_.Unreserve(needs.space_blocks - used);
  }
  return status;
}

Status OperationRunner::Run(const Needs& needs, const Body& body) {
  constexpr int kCommitsMax = 2;
  int commits = 0;
  for (RoomSearch search;;) {
    const Status status = RunOnce(needs, body);
    const int error = ErrnoOf(status);
    if (error == EAGAIN) {
      // Blocks freed lately become free for use with the checkpoint that frees them.
      const int most = needs.promised ? kCommitsWhenPromised : kCommitsMax;
      if (++commits > most) return ErrnoError(ENOSPC, "no space left");
      PBFS_RETURN_IF_ERROR(log_.ForceAll());
    } else if (error == ENOSPC && needs.retry) {
      PBFS_RETURN_IF_ERROR(search_room_(search));
    } else {
      return status;
    }
  }
}

}  // namespace pbfs
