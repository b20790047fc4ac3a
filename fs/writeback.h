// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "cache/write_batch.h"
#include "fs/extent_map.h"
#include "fs/inode.h"
#include "fs/log.h"
#include "fs/operation.h"
#include "fs/space.h"

namespace pbfs {

// Writes dirty file pages to the device.
//
// The unit is a *round*: one inode's dirty pages at one moment, ascending. A round claims blocks
// for what has none (late, contiguous), writes everything in one batch - rounds of many inodes
// share a batch, sorted by device block - and only when all its I/O has completed logs the new
// extents, the unwritten ones that are written now, and the new size in a transaction. An inode has
// one round at a time. So a size never becomes visible after a crash before the data below it, and
// a page past the old end never before the zeroed tail of the old last block, which is in the same
// round or an earlier one.
//
// Threads: whoever starts a round submits its I/O; the extent worker runs the transactions; the
// flusher starts rounds by age and by the amount of dirty data. Completions never wait; a round
// that only overwrote is ended by one.
class Writeback {
 public:
  struct Options {
    int64_t age_max_ns = 2'500'000'000;
    size_t dirty_background_pages = 8192;  // Start writing above this.
    size_t dirty_max_pages = 26000;        // Delay replies to writers above this.
    std::function<void(const std::string&)> log;
  };
  using Done = std::function<void(const Status&)>;

  // All borrowed.
  Writeback(BlockDevice& device, const MetaReader& reader, PageCache& pages, SpaceManager& space,
            Log& log, OperationRunner& runner, Options options);
  ~Writeback();
  // Also after Stop().
  void Start();
  // Stops the threads. Rounds in flight are completed; nothing new is started.
  void Stop();

  // The inode got dirty pages.
  void MarkDirty(const InodeRef& inode) ABSL_LOCKS_EXCLUDED(mutex_);
  // Calls `done` when everything that was dirty in the inode at the time of the call is on the
  // device and its extents and size are in a committed transaction, or with the error.
  void FlushAsync(const InodeRef& inode, Done done);
  Status Flush(const InodeRef& inode);
  // Somebody syncs the inode: what the next few writes bring is likely to be synced, too.
  static void ExpectFlush(Inode& inode) { inode.early_rounds.store(kEarlyRounds); }
  // The kernel has just sent data of its page cache: starts a round now if a flush is expected, so
  // that the device is at work while the fsync is on its way, or if there is much of it already.
  void StartEarly(const InodeRef& inode);
  // Flushes every dirty inode.
  void FlushAllAsync(Done done) ABSL_LOCKS_EXCLUDED(mutex_);
  Status FlushAll();

  // Makes pages of failed writebacks part of the next round: a last try.
  void RetryErrors() ABSL_LOCKS_EXCLUDED(mutex_);

  // Waits until no round of the inode runs and keeps new ones from starting, until EndExclusive().
  // For truncation: nothing is under writeback in between.
  void BeginExclusive(const InodeRef& inode);
  void EndExclusive(const InodeRef& inode);

  // Runs `reply` now, or when the amount of dirty data is back under its limit.
  void Throttle(std::function<void()> reply) ABSL_LOCKS_EXCLUDED(mutex_);
  // Somebody waits for a page frame.
  void Kick() ABSL_LOCKS_EXCLUDED(mutex_);

  // Space promised to new dirty pages of the inode: for the data of those that have no block, and
  // for the growth of its extent tree, which may come from the reserve when there are none of
  // those. False: not that much space is left for `by`.
  bool ReserveFor(Inode& inode, const PromiseCounts& pages, SpaceClass by);
  // Dirty pages were dropped (truncate): gives back what they had.
  void Unpromise(Inode& inode, const PromiseCounts& pages);

 private:
  static constexpr uint8_t kEarlyRounds = 4;

  struct Round {
    InodeRef inode;
    std::vector<FilePages::DirtyPage> pages;
    // What changes in the map, ascending: new extents, and (with `unwritten`) parts of unwritten
    // ones that become written.
    std::vector<Extent> extents;
    uint64_t size_after = 0;          // disk.size_bytes may rise to this.
    std::vector<BlockNumber> blocks;  // Where each page goes.
    std::vector<int> errors;          // Why each page does not get to the device; 0: it does.
    size_t first_piece = 0;           // In the batch.
    size_t committed = 0;             // Of `extents`, in committed transactions.
    Status status;                    // Of the round as a whole: not OK fails all pages.
    Status failure;                   // The first of `errors`, in words.
  };
  using Rounds = std::vector<std::unique_ptr<Round>>;
  struct Batch {
    Rounds rounds;
    std::unique_ptr<WriteBatch> writes;
  };
  // Rounds on their way to a batch that they share: the blocks of small files lie side by side.
  class Gathered {
   public:
    void Add(std::unique_ptr<Round> round);
    bool full() const;
    bool empty() const { return rounds_.empty(); }
    Rounds Take();

   private:
    Rounds rounds_;
    size_t pages_ = 0;
  };

  // Dirty pages got their blocks: what they were promised is used up.
  void UsePromise(Inode& inode, const PromiseCounts& pages);
  // Takes the pages off what the inode was promised; returns what of it is left over.
  uint64_t EndPromise(Inode& inode, const PromiseCounts& pages);
  // True: the caller owns the inode's round slot.
  bool TryClaimRoundSlot(Inode& inode);
  static bool HasRound(Inode& inode);
  void ReleaseRoundSlot(Inode& inode, const Status& status);
  std::unique_ptr<Round> BeginFlush(const InodeRef& inode, Done done);
  std::unique_ptr<Round> BuildRound(const InodeRef& inode, size_t pages_max);
  Status MapPages(Round& round);
  StatusOr<BlockRun> ClaimRun(BlockNumber goal, uint32_t wanted);
  // Adds the round (nullptr: none), and submits what is enough.
  void Gather(Gathered& gathered, std::unique_ptr<Round> round);
  void Submit(Rounds rounds);
  // True when ending the batch takes nothing that a completion must not do.
  bool EndsWithoutWaiting(const Batch& batch) ABSL_LOCKS_EXCLUDED(mutex_);
  void BatchWritten(std::unique_ptr<Batch> batch) ABSL_LOCKS_EXCLUDED(mutex_);
  void BatchEnded() ABSL_LOCKS_EXCLUDED(mutex_);
  // The page that the stored size ends in.
  static uint64_t StoredTail(const Inode& inode);
  void FinishBatch(Batch& batch);
  void NoteErrors(Round& round, const std::vector<WriteBatch::Piece>& pieces);
  // `error`: of the page that the stored size ends in, when the round was built.
  void FailBehindBadTail(Round& round, int error);
  void KeepGoodParts(Round& round);
  void FinishRound(Round& round);
  void EndRound(Round& round);
  Status ErrorOf(Inode& inode);
  Status DataError(const Inode& inode, int error) const;
  Status CommitRound(Round& round);
  Status CommitExtents(Round& round, bool grows);
  Status StoreRound(Operation& operation, const Round& round, size_t first, size_t end);
  static bool MayShareTransaction(const Round& round);
  void FinishTogether(std::span<Round* const> rounds);
  Status ChangeMap(Operation& operation, ExtentMap& map, const Extent& extent);
  // True when a round of the inode would store something.
  bool NeedsRound(Inode& inode);
  int64_t PagesToWrite() const;
  bool MuchToWrite() const;
  bool OverDirtyLimit() const;

  void FlusherLoop();
  void ExtentLoop();
  std::vector<InodeRef> DueInodes(bool all) ABSL_LOCKS_EXCLUDED(mutex_);
  void DropIfClean(Inode& inode) ABSL_LOCKS_EXCLUDED(mutex_);
  void ReleaseThrottled() ABSL_LOCKS_EXCLUDED(mutex_);

  BlockDevice& device_;
  const MetaReader& reader_;
  PageCache& pages_;
  SpaceManager& space_;
  Log& log_;
  OperationRunner& runner_;
  const Options options_;

  Mutex mutex_;
  CondVar flusher_wake_;
  CondVar extent_wake_;
  CondVar idle_;
  std::list<InodeRef> dirty_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::unique_ptr<Batch>> completed_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::function<void()>> throttled_ ABSL_GUARDED_BY(mutex_);
  // What a completion left to the extent worker.
  std::deque<std::function<void()>> deferred_ ABSL_GUARDED_BY(mutex_);
  size_t batches_in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  bool kicked_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool worker_stopping_ ABSL_GUARDED_BY(mutex_) = false;  // All batches have ended.
  Thread flusher_;
  Thread extent_worker_;
};

}  // namespace pbfs
