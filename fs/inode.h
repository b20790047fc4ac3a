// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "base/status.h"
#include "cache/file_pages.h"
#include "fs/filesystem.h"
#include "fs/format.h"
#include "fs/range_lock.h"
#include "fs/transaction.h"
#include "fs/tree.h"

namespace pbfs {

struct Inode;
class InodeTable;

// A pin on an Inode. Move-only.
class InodeRef {
 public:
  InodeRef() = default;
  InodeRef(InodeTable& table, Inode& inode) : table_(&table), inode_(&inode) {}  // Adopts a pin.
  InodeRef(InodeRef&& other) noexcept : table_(other.table_), inode_(other.inode_) {
    other.inode_ = nullptr;
  }
  InodeRef& operator=(InodeRef&& other) noexcept;
  ~InodeRef() { Reset(); }
  void Reset();
  InodeRef Clone() const;

  Inode* operator->() const { return inode_; }
  Inode& operator*() const { return *inode_; }
  explicit operator bool() const { return inode_ != nullptr; }

 private:
  InodeTable* table_ = nullptr;
  Inode* inode_ = nullptr;
};

// No more leaves of the inode's extent tree are full than this.
uint64_t FullLeavesMax(const DiskInode& disk);

// An inode in memory. Kept by InodeTable; used through an InodeRef, which pins it.
struct Inode {
  Inode(PageCache& cache, InodeNumber number) : ino(number), pages(cache, number) {}

  const InodeNumber ino;

  // The on-disk inode. Guards the inode's trees too. Changed only inside a transaction (gate held)
  // with this lock held exclusively; read with it held shared.
  SharedMutex lock;
  DiskInode disk ABSL_GUARDED_BY(lock){};

  // --- Regular files

  RangeLock range;
  FilePages pages;
  // Size that readers and writers see; disk.size_bytes follows when the data is on disk. Changed
  // with the affected range locked exclusively.
  std::atomic<uint64_t> size{0};
  // disk.size_bytes as of the last committed operation, readable without the lock.
  std::atomic<uint64_t> stored_size{0};
  // Of the extent tree as of then; no more leaves than this are full.
  std::atomic<uint64_t> full_leaves_max{0};

  // Newest checkpoint with any change of this inode, and with one that fdatasync must wait for.
  std::atomic<Lsn> changed{0};
  std::atomic<Lsn> data_changed{0};
  // Checkpoint of the last truncation to within a block: data of that block must not be written in
  // place before it is durable.
  std::atomic<Lsn> truncated{0};

  // Writeback state; see fs/writeback.h.
  Mutex writeback_lock;
  bool round_active ABSL_GUARDED_BY(writeback_lock) = false;
  // Called with the round's result when the running round ends (with writeback_lock free).
  struct RoundWaiter {
    std::function<void(const Status&)> done;
    // Of this inode; set if `done` is for everything that is dirty, which may take another round.
    InodeRef flushed = {};
  };
  std::vector<RoundWaiter> round_waiters ABSL_GUARDED_BY(writeback_lock);
  // What dirty pages were promised: blocks and conversions, and the metadata that those need.
  PromiseCounts promised ABSL_GUARDED_BY(writeback_lock);
  uint64_t metadata_reserved ABSL_GUARDED_BY(writeback_lock) = 0;
  // Time of the newest write that did not come from the kernel's page cache, until an operation
  // stores it (SetWriteTime) or sets a modification time itself.
  std::optional<Time> pending_mtime ABSL_GUARDED_BY(writeback_lock);
  // Of the newest read, until an operation stores it (fs/access_times.h).
  std::optional<Time> pending_atime ABSL_GUARDED_BY(writeback_lock);
  // So many more writes start a round at once: the file was synced lately, and may be again.
  std::atomic<uint8_t> early_rounds{0};
  // On the list of AccessTimes.
  std::atomic<bool> access_noted{false};
  // On Writeback's list of dirty inodes, which pins it; guarded by that list's lock.
  bool on_dirty_list = false;
  std::list<InodeRef>::iterator dirty_position;

  // --- InodeTable's, under its lock
  uint32_t pins = 0;
  bool loaded = false;
  bool doomed = false;  // Leaves the table with its last pin.
  std::list<Inode*>::iterator lru;
  bool on_lru = false;
};

// Inodes in memory (a bounded cache) and the kernel's references to inodes (one small number each,
// apart from the cache, so that millions of referenced inodes cost 16 bytes, not a kilobyte).
// Thread-safe.
class InodeTable {
 public:
  // Borrowed.
  InodeTable(const MetaReader& reader, PageCache& pages, size_t cached_max);
  ~InodeTable();

  // The inode, loaded if need be. ESTALE when the slot is not in use. May block.
  StatusOr<InodeRef> Get(InodeNumber ino) ABSL_LOCKS_EXCLUDED(mutex_);
  // An inode that a transaction is creating: not read from disk.
  InodeRef GetNew(InodeNumber ino) ABSL_LOCKS_EXCLUDED(mutex_);
  // Forgets the cached inode (it was freed or its creation aborted) as soon as it has no pins.
  void Drop(InodeNumber ino) ABSL_LOCKS_EXCLUDED(mutex_);

  void AddReference(InodeNumber ino) ABSL_LOCKS_EXCLUDED(mutex_);
  // True when the last reference went.
  bool RemoveReferences(InodeNumber ino, uint64_t count) ABSL_LOCKS_EXCLUDED(mutex_);
  bool HasReferences(InodeNumber ino) ABSL_LOCKS_EXCLUDED(mutex_);
  size_t reference_count() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class InodeRef;
  void Pin(Inode& inode) ABSL_LOCKS_EXCLUDED(mutex_);
  void Unpin(Inode& inode) ABSL_LOCKS_EXCLUDED(mutex_);
  void NoteEvictedLocked(const Inode& inode) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EvictLocked(std::vector<std::unique_ptr<Inode>>& evicted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Status Load(Inode& inode);

  const MetaReader& reader_;
  PageCache& pages_;
  const size_t cached_max_;
  Mutex mutex_;
  CondVar loaded_;
  absl::flat_hash_map<InodeNumber, std::unique_ptr<Inode>> inodes_ ABSL_GUARDED_BY(mutex_);
  // Newest checkpoints that any inode evicted from here was changed (truncated) in: what a reloaded
  // inode must assume of itself.
  Lsn evicted_changed_ ABSL_GUARDED_BY(mutex_) = 0;
  Lsn evicted_truncated_ ABSL_GUARDED_BY(mutex_) = 0;
  std::list<Inode*> lru_ ABSL_GUARDED_BY(mutex_);  // Unpinned, oldest first.
  absl::flat_hash_map<InodeNumber, uint32_t> references_ ABSL_GUARDED_BY(mutex_);
};

// Writes inode.disk into its slot. The caller holds inode.lock exclusively (or the inode is new)
// and has made its changes to inode.disk; on abort the caller reloads through RestoreInode.
Status StoreInode(Transaction& transaction, const MetaReader& reader, Inode& inode)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(inode.lock);

// One more inode (or one less) has one of kInodeWatched. In the transaction that changes it.
Status CountWatchedInode(Transaction& transaction, const MetaReader& reader, int change);

Attributes AttributesOf(const DiskInode& disk, uint64_t size_bytes);
Time CurrentTime();

}  // namespace pbfs
