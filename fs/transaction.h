// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"
#include "cache/block_cache.h"
#include "fs/format.h"

namespace pbfs {

class Log;

// A set of changes to metadata blocks that reaches the disk entirely or not at all.
//
// One transaction runs at a time (it holds the log's gate, see ARCHITECTURE.md): so its blocks need
// no locks against other writers, and whole images taken between transactions are consistent.
// Readers of a structure are kept out by that structure's own lock (an inode's lock).
//
// The first Modify() of a block keeps its before-image: Commit() logs just the 128-byte chunks that
// differ, the destructor without Commit() puts the old bytes back. Single thread.
class Transaction {
 public:
  ~Transaction();
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  // Declares that the caller will change the block; call it before the first changed byte (repeated
  // calls are cheap). Returns the contents.
  std::byte* Modify(const BlockRef& block);
  template <typename T>
  T* ModifyAs(const BlockRef& block) {
    return reinterpret_cast<T*>(Modify(block));
  }

  // A newly allocated metadata block: zeroed, header filled in, logged whole.
  BlockRef Create(BlockNumber block, uint32_t magic, uint64_t owner);

  // The block is no longer metadata: its cached contents are void (a cancel record is logged). The
  // space itself is given back through SpaceManager::Free.
  void Cancel(BlockNumber block);

  // Device blocks that become free when this transaction is durable (bookkeeping for SpaceManager).
  struct Freed {
    BlockNumber block;
    uint32_t length;
  };
  void AddFreed(BlockNumber block, uint32_t length) { freed_.push_back({block, length}); }

  // Runs in reverse order if the transaction is aborted, when the blocks are as they were; dropped
  // at commit. For in-memory state that shadows blocks.
  void OnAbort(std::function<void()> undo) { undo_.push_back(std::move(undo)); }
  // Runs in order at commit, with the gate still held.
  void OnCommit(std::function<void()> action) { commit_actions_.push_back(std::move(action)); }

  // Remembers an error where it cannot be returned: the transaction must not be committed.
  void Poison(const Status& status) {
    if (poison_.ok()) poison_ = status;
  }

  // Makes the changes part of the open checkpoint, and releases the gate. Cannot fail for lack of
  // log space: that was reserved at Begin. Returns the sequence of the checkpoint that carries the
  // changes (0: nothing changed), or what Poison() got, and then everything is undone.
  StatusOr<Lsn> Commit();

  Log& log() { return log_; }

 private:
  friend class Log;
  Transaction(Log& log, uint32_t reserved_blocks) : log_(log), reserved_blocks_(reserved_blocks) {}

  struct Touched {
    BlockRef ref;
    std::unique_ptr<std::byte[]> before;  // nullptr: created in this transaction.
  };
  Touched* Find(BlockNumber block);
  void CheckSize();

  Log& log_;
  const uint32_t reserved_blocks_;
  bool done_ = false;
  Status poison_;
  std::vector<Touched> touched_;
  std::vector<BlockNumber> cancelled_;
  std::vector<Freed> freed_;
  std::vector<std::function<void()>> undo_;
  std::vector<std::function<void()>> commit_actions_;
};

}  // namespace pbfs
