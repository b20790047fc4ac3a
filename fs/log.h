// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/event.h"
#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "cache/block_cache.h"
#include "cache/write_batch.h"
#include "fs/aligned_buffer.h"
#include "fs/format.h"
#include "fs/rules.h"
#include "fs/transaction.h"
#include "io/block_device.h"

namespace pbfs {

// The write-ahead log: collects transactions into checkpoints, makes checkpoints durable, writes
// metadata back, and reuses log space. docs/FORMAT.md has the bytes, ARCHITECTURE.md the protocol.
//
// Threads: callers run transactions, one at a time, under the gate. The log writer seals the open
// checkpoint (under the gate) and writes it: flush, checkpoint with FUA. The metadata writer copies
// blocks whose checkpoints are durable (under the gate) and writes them in place. Neither thread
// ever waits for a transaction other than through the gate, and a transaction waits for log space
// only before it has the gate.
//
// Locks: gate_ -> mutex_ (leaf). Thread-safe.
class Log {
 public:
  struct Options {
    int64_t commit_interval_ns = 5'000'000'000;
    // Metadata blocks that may be dirty (pinned in the cache) at once.
    size_t dirty_blocks_max = 16384;
    std::function<void(const std::string&)> log;
    // Called when blocks freed by durable transactions may be reused; no lock held.
    std::function<void(const std::vector<Transaction::Freed>&)> release_freed;
  };

  // All borrowed. `epoch`/`first_sequence`: the anchor that recovery left on disk.
  Log(BlockDevice& device, const Superblock& superblock, BlockCache& cache, PageCache& pages,
      Options options);
  ~Log();

  // Begins a new epoch on disk (anchor, flush) and starts the threads. Also after Stop().
  Status Start(uint64_t anchor_generation, uint64_t first_sequence);
  // Everything durable and written back, anchor marked clean; threads stopped. Without it, the
  // destructor stops the threads and writes nothing more.
  Status Stop();

  // Of the newest anchor; when the log is stopped.
  uint64_t anchor_generation() const { return anchor_generation_; }

  // Waits for log space, then for the gate. EROFS when the log has failed, the status given to
  // Shutdown() after that.
  // REQUIRES: blocks <= kTransactionBlocksMax; the caller holds no lock that a transaction takes.
  StatusOr<std::unique_ptr<Transaction>> Begin(uint32_t blocks = kTransactionBlocksMax)
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Runs `body` while no transaction is open, also when the log has failed or is stopped: for
  // reading what only transactions change. It changes nothing and takes no lock that one takes.
  template <typename Body>
  auto WhileStill(const Body& body) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    LockGate();
    auto result = body();
    UnlockGate();
    return result;
  }

  using Done = std::function<void(const Status&)>;
  // Calls `done` once checkpoint `sequence` is durable (at once if it is already). The call comes
  // from the log writer's thread, or from this one.
  void ForceAsync(Lsn sequence, Done done) ABSL_LOCKS_EXCLUDED(mutex_);
  // Calls `done` after a device flush that started after this call; those who come while one runs
  // share the next. It says nothing about checkpoints. `done` may run as a completion.
  void FlushAsync(Done done) ABSL_LOCKS_EXCLUDED(mutex_);
  Status Force(Lsn sequence);
  // Forces everything committed so far.
  Status ForceAll() { return Force(open_sequence()); }

  // The checkpoint that transactions committed now will be part of.
  Lsn open_sequence() const { return open_sequence_.load(std::memory_order_acquire); }
  Lsn durable_sequence() const { return durable_sequence_.load(std::memory_order_acquire); }

  // Writes back dirty metadata in the background (the cache is short of frames).
  void RequestWriteback() ABSL_LOCKS_EXCLUDED(mutex_);

  // OK, or why the filesystem went read-only.
  Status error() const ABSL_LOCKS_EXCLUDED(mutex_);
  // OK or EROFS.
  Status CheckWritable() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Turns the filesystem read-only: nothing more becomes durable, all waiters get the error.
  void Fail(const Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  // The same on request: without a message, and whoever begins a transaction gets `status` too.
  void Shutdown(const Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  struct Stats {
    uint64_t checkpoints = 0;
    uint64_t checkpoint_blocks = 0;
    uint64_t flushes = 0;
    uint64_t images = 0;
    uint64_t ranges = 0;
    uint64_t metadata_writes = 0;
    uint64_t ring_blocks = 0;
    uint64_t ring_used = 0;
    uint64_t dirty_blocks = 0;
    uint64_t space_waits = 0;
  };
  Stats stats() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class Transaction;

  // Log state of one block that is dirty: changed since it was last written back and flushed.
  // Invariants:
  // - `pin` keeps the block in the cache; page.log_item points here.
  // - in_open: changed by a transaction of the open checkpoint, in `open_chunks`.
  // - image_sequence: newest sealed checkpoint that has a whole image of the block, unless that
  //   image is no longer needed (0): counted in that checkpoint's `images_needed`.
  // - logged_sequence: newest sealed checkpoint that has any record of it.
  struct Item {
    BlockRef pin;
    uint32_t open_chunks = 0;
    bool in_open = false;
    bool needs_image = true;  // No whole image since a writeback was submitted, or none at all.
    bool writeback = false;   // A write is in flight.
    Lsn image_sequence = 0;
    Lsn logged_sequence = 0;
    Lsn written_sequence = 0;  // logged_sequence as of the last completed writeback.
  };

  // A sealed checkpoint that is in the ring. The front one that is needed is the tail.
  struct Sealed {
    Lsn sequence;
    uint64_t start;                         // Absolute position (blocks since the epoch began).
    uint64_t images_needed = 0;             // Items whose image_sequence is this one.
    std::vector<BlockNumber> image_blocks;  // Candidates for writeback; may be outdated.
  };

  // A completed writeback: the block as of checkpoint `sequence`.
  struct Written {
    BlockNumber block;
    Lsn sequence;
  };

  struct Waiter {
    Lsn sequence;
    Done done;
  };

  // A device flush under way for FlushAsync.
  struct DataFlush {
    Log& log;
    std::vector<Done> waiters;
    std::vector<Written> written;  // Metadata writebacks that it covers.
    IoRequest request;
  };

  // What a seal hands to the writer.
  struct SealedBody {
    Lsn sequence = 0;
    uint64_t start = 0;
    uint32_t total_blocks = 0;
    std::vector<Transaction::Freed> freed;
  };

  // The log has ended: takes and wakes all who wait.
  std::vector<Waiter> TakeWaitersLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Gate.
  void LockGate() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void UnlockGate() ABSL_NO_THREAD_SAFETY_ANALYSIS { gate_.Unlock(); }
  bool SpaceForLocked(uint32_t blocks) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t OpenBlocksWorstLocked(uint64_t more_items) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // For a transaction that is about to change the block.
  std::unique_ptr<std::byte[]> CopyOf(const BlockRef& block);
  // The transaction is over: the next one finds its memory warm.
  void KeepImages(Transaction& transaction);
  Lsn CommitTransaction(Transaction& transaction) ABSL_LOCKS_EXCLUDED(mutex_);
  void CommitBlockLocked(const BlockRef& ref, uint32_t chunks, bool created)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CancelBlockLocked(BlockNumber block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t ImageStartLocked(Lsn sequence) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropImageLocked(Item& item) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Log writer.
  void WriterLoop();
  bool CheckpointDueLocked(int64_t now_ns) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasToSeal() ABSL_LOCKS_EXCLUDED(mutex_);
  // What the open checkpoint will hold is what recovery accepts. REQUIRES: the gate is held.
  Status VerifyOpenItems() const ABSL_LOCKS_EXCLUDED(mutex_);
  SealedBody Seal() ABSL_LOCKS_EXCLUDED(mutex_);
  void SealItemsLocked(SealedBody& body) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes the buffer large enough for whatever a seal may put there now. REQUIRES: the gate is
  // held.
  Status GrowCheckpointBuffer() ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t TailLocked(Lsn* sequence) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int WriteCheckpoint(const SealedBody& body);
  Status FlushAndWrite(const SealedBody& body, bool sealed);
  Status CheckWritableLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool RunCycle(bool seal);
  void FinishCycle(const SealedBody& body, bool sealed);
  void ReleaseWrittenLocked(const std::vector<Written>& flushed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Flushes for others.
  void StartDataFlush() ABSL_LOCKS_EXCLUDED(mutex_);
  static void DataFlushCompleted(IoRequest& request, void* context, int error);

  // Metadata writer.
  void MetadataLoop();
  bool WritebackWantedLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t PickWriteback(size_t max);
  bool WriteBackSome(size_t* picked);

  Status WriteAnchor(uint64_t epoch, uint64_t first_sequence, bool clean);
  BlockNumber RingBlock(uint64_t position) const;
  void StopThreads();

  BlockDevice& device_;
  const Superblock& superblock_;
  BlockCache& cache_;
  PageCache& pages_;
  const Options options_;
  const uint64_t ring_blocks_;
  const uint64_t open_blocks_max_;

  Mutex gate_;
  // Memory of one block each, of former transactions; the gate guards it.
  static constexpr size_t kSpareImagesMax = 32;
  std::vector<std::unique_ptr<std::byte[]>> spare_images_;
  mutable Mutex mutex_;
  CondVar space_changed_;
  CondVar writer_wake_;
  CondVar metadata_wake_;
  CondVar writeback_done_;
  CondVar data_flush_ended_;

  std::atomic<Lsn> open_sequence_{1};
  std::atomic<Lsn> durable_sequence_{0};

  // The open checkpoint.
  absl::flat_hash_map<BlockNumber, std::unique_ptr<Item>> items_ ABSL_GUARDED_BY(mutex_);
  std::vector<BlockNumber> open_items_ ABSL_GUARDED_BY(mutex_);
  std::vector<BlockNumber> open_cancels_ ABSL_GUARDED_BY(mutex_);
  std::vector<Transaction::Freed> open_freed_ ABSL_GUARDED_BY(mutex_);
  int64_t open_since_ns_ ABSL_GUARDED_BY(mutex_) = 0;

  // The ring, in absolute positions.
  std::deque<Sealed> sealed_ ABSL_GUARDED_BY(mutex_);
  uint64_t head_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t durable_tail_ ABSL_GUARDED_BY(mutex_) = 0;  // Tail in the last durable checkpoint.
  uint64_t sealed_tail_ ABSL_GUARDED_BY(mutex_) = 0;   // Tail in the last sealed one.

  // Requests.
  std::vector<Waiter> force_waiters_ ABSL_GUARDED_BY(mutex_);
  // Wait for the data flush after the one that runs.
  std::vector<Done> flush_waiters_ ABSL_GUARDED_BY(mutex_);
  bool data_flush_runs_ ABSL_GUARDED_BY(mutex_) = false;
  Lsn force_wanted_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t space_waiters_ ABSL_GUARDED_BY(mutex_) = 0;
  bool seal_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool tail_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool writeback_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool write_back_all_ ABSL_GUARDED_BY(mutex_) = false;
  bool running_ ABSL_GUARDED_BY(mutex_) = false;   // Transactions may begin.
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;  // The threads end.
  Status error_ ABSL_GUARDED_BY(mutex_);
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;

  // Written back, waiting for a flush.
  std::vector<Written> written_ ABSL_GUARDED_BY(mutex_);
  Stats stats_ ABSL_GUARDED_BY(mutex_);

  // Log writer only (after Start).
  std::unique_ptr<AlignedBuffer> checkpoint_buffer_;
  uint32_t previous_crc_ = 0;
  uint64_t epoch_ = 0;
  uint64_t anchor_generation_ = 0;

  // Metadata writer only.
  static constexpr size_t kMetadataBatchBlocks = 256;
  std::unique_ptr<AlignedBuffer> staging_;
  std::vector<Written> staged_;

  Thread writer_;
  Thread metadata_writer_;
};

}  // namespace pbfs
