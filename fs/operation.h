// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/status.h"
#include "fs/inode.h"
#include "fs/log.h"
#include "fs/space.h"

namespace pbfs {

// One change of the filesystem: a transaction together with the inodes it changes.
//
// Edit() locks an inode and hands out its disk image; when the operation succeeds, all edited
// inodes are stored in the transaction and it is committed; when it fails, inodes and blocks are
// put back before the locks are released. Only one operation runs at a time (the gate), so inodes
// may be edited in any order. Single thread.
class Operation {
 public:
  Operation(const MetaReader& reader, Transaction& transaction)
      : reader_(reader), transaction_(transaction) {}
  ~Operation();
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

  Transaction& transaction() { return transaction_; }

  // Locks the inode exclusively (once) and returns its disk image for changing.
  DiskInode& Edit(const InodeRef& inode) ABSL_NO_THREAD_SAFETY_ANALYSIS;
  // As Edit(), and sets ctime (and mtime) to now.
  DiskInode& Touch(const InodeRef& inode, bool modified);

  // The write time that the inode still has to store: it is the operation's now, to store or to
  // drop. An abort gives it back. After Edit().
  std::optional<Time> TakeWriteTime(const InodeRef& inode);
  // The same for the access time. Without it, StoreAll() stores it with the inode.
  std::optional<Time> TakeAccessTime(const InodeRef& inode);

  // fdatasync need not wait for this change (times only).
  void SetTimesOnly() { times_only_ = true; }

  // Stores the edited inodes; last step before the commit.
  Status StoreAll();
  // Committed: notes the checkpoint in the edited inodes. The transaction is done.
  void Keep(Lsn sequence);
  // Puts the edited inodes back. To be followed by aborting the transaction, then destruction.
  void Restore() ABSL_NO_THREAD_SAFETY_ANALYSIS;

 private:
  struct Edited {
    InodeRef inode;
    DiskInode before;
  };
  std::optional<Time> TakeTime(const InodeRef& inode, std::optional<Time> Inode::*pending);

  const MetaReader& reader_;
  Transaction& transaction_;
  std::vector<Edited> edited_;
  bool times_only_ = false;
};

void SetTimes(DiskInode& disk, Time now, bool modified);
// For a write that happened some time ago: the inode may have been changed since.
void SetWriteTime(DiskInode& disk, Time written);

// How somebody who found no space has looked for more so far.
struct RoomSearch {
  int attempts = 0;
  uint64_t freed_blocks = 0;  // Ever, when it was looked last.
};

// Runs operations: reserves space, begins the transaction, retries when only a log commit stands
// between it and free blocks.
class OperationRunner {
 public:
  // Writes back what is reserved too generously and finishes orphans; called without locks before
  // an operation fails with ENOSPC. OK when it is worth another look.
  using SearchRoom = std::function<Status(RoomSearch& search)>;

  // All borrowed.
  OperationRunner(const MetaReader& reader, SpaceManager& space, Log& log, SearchRoom search_room)
      : reader_(reader), space_(space), log_(log), search_room_(std::move(search_room)) {}

  struct Needs {
    uint32_t space_blocks = 32;  // New metadata blocks at worst.
    bool privileged = false;     // May use the reserve of a full filesystem: it frees something.
    bool retry = true;           // May search for room.
    bool promised = false;       // Its space is there, if only it becomes free for use.
  };
  // What was promised is free when it is asked for, but others may use what a commit frees first.
  static constexpr int kCommitsWhenPromised = 64;
  using Body = std::function<Status(Operation& operation)>;
  Status Run(const Needs& needs, const Body& body);
  bool writable() const { return log_.CheckWritable().ok(); }

 private:
  Status RunOnce(const Needs& needs, const Body& body);

  const MetaReader& reader_;
  SpaceManager& space_;
  Log& log_;
  const SearchRoom search_room_;
};

}  // namespace pbfs
