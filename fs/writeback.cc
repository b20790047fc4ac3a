// SPDX-License-Identifier: Apache-2.0
#include "fs/writeback.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "fs/rules.h"
#include "io/completion_scope.h"

namespace pbfs {
namespace {

constexpr size_t kRoundPagesMax = 16384;  // 64 MiB.
constexpr size_t kBatchPagesMax = 1024;   // 4 MiB of many files in one batch.
constexpr size_t kBatchesInFlightMax = 4;
constexpr size_t kRequestBytesMax = 1 << 20;
// So much of one file (16 MiB) need not be collected any further: the kernel has done that already,
// and its blocks will lie together anyway.
constexpr size_t kStreamPages = 4096;
// Tree nodes that new extents of one inode may need: a path, a leaf per this many blocks, and for
// each of those leaves that were full (extents in ascending order leave them so) another one.
constexpr uint64_t kMetadataPerInode = 4;
constexpr uint64_t kBlocksPerMetadataBlock = 64;
// What a written block in the middle of an unwritten extent adds.
constexpr uint64_t kExtentsPerConversion = 2;

}  // namespace

Writeback::Writeback(BlockDevice& device, const MetaReader& reader, PageCache& pages,
                     SpaceManager& space, Log& log, OperationRunner& runner, Options options)
    : device_(device),
      reader_(reader),
      pages_(pages),
      space_(space),
      log_(log),
      runner_(runner),
      options_(std::move(options)) {}

Writeback::~Writeback() { Stop(); }

void Writeback::Start() {
  {
    MutexLock lock(mutex_);
    stopping_ = worker_stopping_ = false;
  }
  flusher_ = Thread([this] { FlusherLoop(); });
  extent_worker_ = Thread([this] { ExtentLoop(); });
}

void Writeback::Stop() {
  std::deque<std::function<void()>> replies;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    flusher_wake_.SignalAll();
    replies.swap(throttled_);
  }
  for (auto& reply : replies) reply();
  if (flusher_.joinable()) flusher_.join();
  {
    MutexLock lock(mutex_);
    while (batches_in_flight_ > 0 && extent_worker_.joinable()) idle_.Wait(mutex_);
    // Not before: the flusher may have started one more batch when it was told to stop.
    worker_stopping_ = true;
    extent_wake_.SignalAll();
  }
  if (extent_worker_.joinable()) extent_worker_.join();
  std::list<InodeRef> dirty;
  MutexLock lock(mutex_);
  for (const InodeRef& inode : dirty_) inode->on_dirty_list = false;
  dirty.swap(dirty_);
}

// ---- Promises -----------------------------------------------------------------------------------

bool Writeback::ReserveFor(Inode& inode, const PromiseCounts& pages, SpaceClass by) {
  if (pages.sum() == 0) return true;
  MutexLock lock(inode.writeback_lock);
  PromiseCounts after = inode.promised;
  after += pages;
  const uint64_t full_leaves = inode.full_leaves_max.load(std::memory_order_relaxed);
  const uint64_t metadata =
      kMetadataPerInode + std::min(after.sum(), full_leaves) +
      (after.blocks + kExtentsPerConversion * after.conversions) / kBlocksPerMetadataBlock;
  const uint64_t more = metadata > inode.metadata_reserved ? metadata - inode.metadata_reserved : 0;
  if (pages.blocks == 0) by = SpaceClass::kConversion;
  if (!space_.Reserve(pages.blocks + more, by)) return false;
  inode.promised = after;
  inode.metadata_reserved += more;
  return true;
}

uint64_t Writeback::EndPromise(Inode& inode, const PromiseCounts& pages) {
  MutexLock lock(inode.writeback_lock);
  PromiseCounts& promised = inode.promised;
  PBFS_CHECK(promised.blocks >= pages.blocks);
  PBFS_CHECK(promised.conversions >= pages.conversions);
  promised.blocks -= pages.blocks;
  promised.conversions -= pages.conversions;
  return promised.sum() == 0 ? std::exchange(inode.metadata_reserved, 0) : 0;
}

void Writeback::Unpromise(Inode& inode, const PromiseCounts& pages) {
  if (pages.sum() > 0) space_.Unreserve(pages.blocks + EndPromise(inode, pages));
}

void Writeback::UsePromise(Inode& inode, const PromiseCounts& pages) {
  if (pages.sum() > 0) space_.Unreserve(EndPromise(inode, pages));
}

// ---- Dirty inodes -------------------------------------------------------------------------------

void Writeback::MarkDirty(const InodeRef& inode) {
  bool wake = false;
  {
    MutexLock lock(mutex_);
    if (!inode->on_dirty_list) {
      inode->on_dirty_list = true;
      dirty_.push_back(inode.Clone());
      inode->dirty_position = std::prev(dirty_.end());
    }
    wake = MuchToWrite() && !kicked_;
    if (wake) kicked_ = true;
  }
  if (wake) flusher_wake_.Signal();
}

void Writeback::Kick() {
  MutexLock lock(mutex_);
  kicked_ = true;
  flusher_wake_.Signal();
}

void Writeback::Throttle(std::function<void()> reply) {
  {
    MutexLock lock(mutex_);
    if (!stopping_ && OverDirtyLimit()) {
      throttled_.push_back(std::move(reply));
      kicked_ = true;
      flusher_wake_.Signal();
      return;
    }
  }
  reply();
}

bool Writeback::OverDirtyLimit() const {
  return PagesToWrite() > static_cast<int64_t>(options_.dirty_max_pages);
}

bool Writeback::MuchToWrite() const {
  return PagesToWrite() > static_cast<int64_t>(options_.dirty_background_pages);
}

// Failed pages are not tried again, so who waits for fewer must not count them.
int64_t Writeback::PagesToWrite() const {
  return pages_.dirty_pages.load(std::memory_order_relaxed) -
         pages_.error_pages.load(std::memory_order_relaxed);
}

// True when a round of the inode would store something: pages, a size, a time.
bool Writeback::NeedsRound(Inode& inode) {
  if (inode.pages.pending_count() > 0) return true;
  {
    MutexLock lock(inode.writeback_lock);
    if (inode.pending_mtime) return true;
  }
  return inode.size.load(std::memory_order_acquire) >
         inode.stored_size.load(std::memory_order_acquire);
}

void Writeback::ReleaseThrottled() {
  // With a log that has failed nothing is written any more: waiting would be for ever.
  const bool failed = !log_.error().ok();
  for (;;) {
    std::function<void()> reply;
    {
      MutexLock lock(mutex_);
      if (throttled_.empty() || (!failed && OverDirtyLimit())) return;
      reply = std::move(throttled_.front());
      throttled_.pop_front();
    }
    reply();
  }
}

// Unpins an inode that has nothing dirty any more.
void Writeback::DropIfClean(Inode& inode) {
  std::list<InodeRef> clean;  // Unpinned after the lock.
  MutexLock lock(mutex_);
  // Under the lock: who makes it dirty from here on puts it on the list again.
  const bool needed = NeedsRound(inode) || inode.pages.dirty_count() > 0 ||
                      inode.pages.HasErrors() || inode.pages.writeback_count() > 0;
  if (!inode.on_dirty_list || needed) return;
  inode.on_dirty_list = false;
  clean.splice(clean.end(), dirty_, inode.dirty_position);
}

std::vector<InodeRef> Writeback::DueInodes(bool all) {
  std::vector<InodeRef> due;
  const int64_t now = NowNs();
  MutexLock lock(mutex_);
  for (const InodeRef& inode : dirty_) {
    // Nothing dirty but on the list: a size or a time to store.
    const int64_t oldest = inode->pages.oldest_dirty_ns();
    if (all || oldest == INT64_MAX || now - oldest >= options_.age_max_ns) {
      due.push_back(inode.Clone());
    }
  }
  return due;
}

// ---- Rounds -------------------------------------------------------------------------------------

bool Writeback::TryClaimRoundSlot(Inode& inode) {
  MutexLock lock(inode.writeback_lock);
  if (inode.round_active) return false;
  inode.round_active = true;
  return true;
}

bool Writeback::HasRound(Inode& inode) {
  MutexLock lock(inode.writeback_lock);
  return inode.round_active;
}

void Writeback::ReleaseRoundSlot(Inode& inode, const Status& status) {
  std::vector<Inode::RoundWaiter> waiters;
  {
    MutexLock lock(inode.writeback_lock);
    inode.round_active = false;
    waiters.swap(inode.round_waiters);
  }
  for (Inode::RoundWaiter& waiter : waiters) {
    if (!waiter.flushed) {
      waiter.done(status);
    } else if (!InCompletion()) {
      FlushAsync(waiter.flushed, std::move(waiter.done));
    } else if (!NeedsRound(inode) && !HasRound(inode)) {
      // In this order: what the waiter wants is still dirty, or in a round, or done.
      waiter.done(ErrorOf(inode));
    } else {
      // Building a round may have to wait.
      auto flushed = std::make_shared<InodeRef>(std::move(waiter.flushed));
      MutexLock lock(mutex_);
      deferred_.push_back([this, flushed = std::move(flushed), done = std::move(waiter.done)] {
        FlushAsync(*flushed, done);
      });
      extent_wake_.Signal();
    }
  }
}

StatusOr<BlockRun> Writeback::ClaimRun(BlockNumber goal, uint32_t wanted) {
  for (int commits = 0;; ++commits) {
    auto run = space_.Claim(goal, wanted);
    if (run.ok() || ErrnoOf(run.status()) != EAGAIN) return run;
    if (commits == OperationRunner::kCommitsWhenPromised) {
      return ErrnoError(ENOSPC, "all free blocks wait for a log commit");
    }
    PBFS_RETURN_IF_ERROR(log_.ForceAll());
  }
}

// Finds or claims a device block for each page of the round.
Status Writeback::MapPages(Round& round) {
  Inode& inode = *round.inode;
  std::vector<FilePages::DirtyPage>& pages = round.pages;
  size_t at = 0;
  while (at < pages.size()) {
    size_t run = 1;
    while (at + run < pages.size() && pages[at + run].index == pages[at].index + run) ++run;
    uint64_t file_block = pages[at].index;
    uint64_t left = run;
    while (left > 0) {
      Extent extent;
      BlockNumber goal = 0;
      {
        ReaderLock lock(inode.lock);
        ExtentMap map(reader_, space_, inode.disk);
        const uint32_t most = static_cast<uint32_t>(std::min<uint64_t>(left, kAgBlocks));
        PBFS_ASSIGN_OR_RETURN(extent, map.Lookup(file_block, most));
        if (extent.is_hole()) {
          PBFS_ASSIGN_OR_RETURN(goal, map.Goal(file_block));
        }
      }
      if (extent.is_hole()) {
        if (!round.extents.empty()) {
          const Extent& last = round.extents.back();
          goal = last.block + last.length;
          if (goal >= reader_.superblock.total_blocks) goal = 0;
        }
        BlockRun claimed;
        PBFS_ASSIGN_OR_RETURN(claimed, ClaimRun(goal, extent.length));
        extent = {file_block, claimed.block, claimed.length, false};
        round.extents.push_back(extent);
      } else if (extent.unwritten) {
        round.extents.push_back(extent);
      }
      for (uint32_t i = 0; i < extent.length; ++i) round.blocks.push_back(extent.block + i);
      file_block += extent.length;
      left -= extent.length;
    }
    at += run;
  }
  return OkStatus();
}

void Writeback::Gathered::Add(std::unique_ptr<Round> round) {
  pages_ += std::max<size_t>(1, round->pages.size());
  rounds_.push_back(std::move(round));
}

// What is large enough goes alone, so that nobody's fsync waits for it.
void Writeback::Gather(Gathered& gathered, std::unique_ptr<Round> round) {
  if (round == nullptr) return;
  const bool alone = round->pages.size() >= kBatchPagesMax;
  if (alone && !gathered.empty()) Submit(gathered.Take());
  gathered.Add(std::move(round));
  if (gathered.full()) Submit(gathered.Take());
}

bool Writeback::Gathered::full() const { return pages_ >= kBatchPagesMax; }

Writeback::Rounds Writeback::Gathered::Take() {
  pages_ = 0;
  return std::exchange(rounds_, {});
}

// The caller owns the round slot. Never empty-handed: the round may have no pages.
std::unique_ptr<Writeback::Round> Writeback::BuildRound(const InodeRef& inode, size_t pages_max) {
  auto round = std::make_unique<Round>();
  round->inode = inode.Clone();
  const uint64_t size = inode->size.load(std::memory_order_acquire);
  // Before the pages are taken: a page that is rewritten from here on is of the next round, and
  // what this one stores must take it for bad.
  const bool had_errors = inode->pages.HasErrors();
  const int tail_error = had_errors ? inode->pages.WriteErrorAt(StoredTail(*inode)) : 0;
  // Pages behind the end are of a write that is not done: blocks for them would lie behind the size
  // that this round stores, and after a crash show when the file grows.
  if (size > 0) {
    inode->pages.CollectDirty(0, (size - 1) / kBlockBytes, pages_max, round->pages);
  }
  const bool all = round->pages.size() < pages_max;
  round->size_after = all || round->pages.empty()
                          ? size
                          : std::min(size, (round->pages.back().index + 1) * kBlockBytes);
  round->errors.resize(round->pages.size(), 0);
  if (had_errors) {
    // The size rises over failed pages only together with a good one behind them.
    const uint64_t end = round->pages.empty() ? 0 : (round->pages.back().index + 1) * kBlockBytes;
    round->size_after = std::min(round->size_after, end);
    FailBehindBadTail(*round, tail_error);
  }
  const Lsn truncated = inode->truncated.load(std::memory_order_acquire);
  if (truncated > log_.durable_sequence()) round->status = log_.Force(truncated);
  if (round->status.ok()) round->status = MapPages(*round);
  return round;
}

void Writeback::Submit(Rounds rounds) {
  auto batch = std::make_unique<Batch>();
  batch->rounds = std::move(rounds);
  batch->writes = std::make_unique<WriteBatch>(device_, kRequestBytesMax);
  for (auto& round : batch->rounds) {
    round->first_piece = batch->writes->size_blocks();
    if (!round->status.ok()) continue;
    if (!RuleHolds(Rule::kDataBeforeMetadata)) round->status = CommitRound(*round);
    for (size_t i = 0; i < round->pages.size(); ++i) {
      if (round->errors[i] != 0) continue;
      batch->writes->Add(round->blocks[i], round->pages[i].page->data, i);
    }
  }
  {
    MutexLock lock(mutex_);
    ++batches_in_flight_;
  }
  Batch* const raw = batch.release();
  raw->writes->Start([this, raw](WriteBatch&) { BatchWritten(std::unique_ptr<Batch>(raw)); });
}

// A completion, or the end of Start().
void Writeback::BatchWritten(std::unique_ptr<Batch> batch) {
  if (EndsWithoutWaiting(*batch)) {
    for (auto& round : batch->rounds) EndRound(*round);
    batch.reset();
    BatchEnded();
    return;
  }
  MutexLock lock(mutex_);
  completed_.push_back(std::move(batch));
  extent_wake_.Signal();
}

bool Writeback::EndsWithoutWaiting(const Batch& batch) {
  if (batch.writes->any_failed()) return false;
  for (const auto& round : batch.rounds) {
    Inode& inode = *round->inode;
    if (!round->status.ok() || !round->failure.ok() || !round->extents.empty()) return false;
    if (round->size_after > inode.stored_size.load(std::memory_order_acquire)) return false;
    MutexLock lock(inode.writeback_lock);
    if (inode.pending_mtime) return false;
  }
  MutexLock lock(mutex_);
  return throttled_.empty();
}

void Writeback::BatchEnded() {
  MutexLock lock(mutex_);
  // The flusher waits for room, or passed over an inode with more to write.
  if (MuchToWrite() || !throttled_.empty()) kicked_ = true;
  if (kicked_ || batches_in_flight_ >= kBatchesInFlightMax) flusher_wake_.Signal();
  --batches_in_flight_;
  idle_.SignalAll();
}

Status Writeback::ErrorOf(Inode& inode) {
  const int error = inode.pages.WriteError();
  return error == 0 ? OkStatus() : DataError(inode, error);
}

Status Writeback::DataError(const Inode& inode, int error) const {
  return ErrnoError(error, absl::StrCat(device_.geometry().name, ": inode ", inode.ino,
                                        ": some data could not be written"));
}

void Writeback::ExtentLoop() {
  for (;;) {
    std::unique_ptr<Batch> batch;
    std::deque<std::function<void()>> deferred;
    {
      MutexLock lock(mutex_);
      while (completed_.empty() && deferred_.empty() && !worker_stopping_) {
        extent_wake_.Wait(mutex_);
      }
      if (completed_.empty() && deferred_.empty()) return;
      deferred.swap(deferred_);
      if (!completed_.empty()) {
        batch = std::move(completed_.front());
        completed_.pop_front();
      }
    }
    for (const auto& function : deferred) function();
    if (batch == nullptr) continue;
    FinishBatch(*batch);
    batch.reset();
    ReleaseThrottled();
    BatchEnded();
  }
}

// ---- Flushing -----------------------------------------------------------------------------------

// Starts a flush of one inode: what failed before fails it, but only after what can be written was.
// Returns the round to submit for it, or none: `done` is called already, or waits for another
// round.
std::unique_ptr<Writeback::Round> Writeback::BeginFlush(const InodeRef& inode, Done done) {
  {
    MutexLock lock(inode->writeback_lock);
    if (inode->round_active) {
      // It may have begun before some of the data was there, or be limited: look again after it.
      inode->round_waiters.push_back({std::move(done), inode.Clone()});
      return nullptr;
    }
    inode->round_active = true;
  }
  if (!NeedsRound(*inode)) {
    ReleaseRoundSlot(*inode, OkStatus());
    done(ErrorOf(*inode));
    return nullptr;
  }
  {
    auto flushed = std::make_shared<InodeRef>(inode.Clone());
    auto answer = [this, flushed, done = std::move(done)](const Status& status) {
      done(status.ok() ? ErrorOf(**flushed) : status);
    };
    MutexLock lock(inode->writeback_lock);
    inode->round_waiters.push_back({std::move(answer)});
  }
  // Without a limit: it takes everything that is dirty now.
  return BuildRound(inode, SIZE_MAX);
}

void Writeback::FlushAsync(const InodeRef& inode, Done done) {
  Gathered one;
  Gather(one, BeginFlush(inode, std::move(done)));
  if (!one.empty()) Submit(one.Take());
}

void Writeback::StartEarly(const InodeRef& inode) {
  const uint8_t left = inode->early_rounds.load(std::memory_order_relaxed);
  if (left == 0 && inode->pages.pending_count() < kStreamPages) return;
  if (HasRound(*inode)) return;
  if (left > 0) {
    inode->early_rounds.store(static_cast<uint8_t>(left - 1), std::memory_order_relaxed);
  }
  FlushAsync(inode, [](const Status&) {});  // The fsync will meet an error, too.
}

void Writeback::RetryErrors() {
  MutexLock lock(mutex_);
  for (const InodeRef& inode : dirty_) inode->pages.RetryErrors();
}

Status Writeback::Flush(const InodeRef& inode) {
  Event finished;
  Status status;
  FlushAsync(inode, [&](const Status& result) {
    status = result;
    finished.Set();
  });
  finished.Wait();
  return status;
}

void Writeback::FlushAllAsync(Done done) {
  struct All {
    Mutex mutex;
    Status first_error ABSL_GUARDED_BY(mutex);
    std::atomic<size_t> left{1};
    Done done;
  };
  auto all = std::make_shared<All>();
  all->done = std::move(done);
  const auto one_done = [all](const Status& status) {
    {
      MutexLock lock(all->mutex);
      if (all->first_error.ok()) all->first_error = status;
    }
    if (all->left.fetch_sub(1) != 1) return;
    // Only the last one knows them all.
    Status result;
    {
      MutexLock lock(all->mutex);
      result = all->first_error;
    }
    all->done(result);
  };
  std::vector<InodeRef> due = DueInodes(/*all=*/true);
  all->left += due.size();
  Gathered gathered;
  for (const InodeRef& inode : due) Gather(gathered, BeginFlush(inode, one_done));
  if (!gathered.empty()) Submit(gathered.Take());
  one_done(OkStatus());
}

Status Writeback::FlushAll() {
  Event finished;
  Status status;
  FlushAllAsync([&](const Status& result) {
    status = result;
    finished.Set();
  });
  finished.Wait();
  return status;
}

void Writeback::BeginExclusive(const InodeRef& inode) {
  while (!TryClaimRoundSlot(*inode)) {
    Event ended;
    {
      MutexLock lock(inode->writeback_lock);
      if (!inode->round_active) continue;
      inode->round_waiters.push_back({[&ended](const Status&) { ended.Set(); }});
    }
    ended.Wait();
  }
}

void Writeback::EndExclusive(const InodeRef& inode) { ReleaseRoundSlot(*inode, OkStatus()); }

void Writeback::FlusherLoop() {
  // No ring of its own: rounds complete on the device's thread, this one starts them and goes on.
  for (;;) {
    bool all = false;
    {
      MutexLock lock(mutex_);
      if (!stopping_ && !kicked_) flusher_wake_.WaitFor(mutex_, std::chrono::milliseconds(250));
      while (!stopping_ && batches_in_flight_ >= kBatchesInFlightMax) flusher_wake_.Wait(mutex_);
      if (stopping_) return;
      all = std::exchange(kicked_, false);
    }
    ReleaseThrottled();  // A truncation may have dropped what they waited for.
    all = all || MuchToWrite();
    Gathered gathered;
    for (const InodeRef& inode : DueInodes(all)) {
      if (!NeedsRound(*inode)) {
        DropIfClean(*inode);
        continue;
      }
      if (!TryClaimRoundSlot(*inode)) continue;
      Gather(gathered, BuildRound(inode, kRoundPagesMax));
      if (!gathered.empty()) continue;
      MutexLock lock(mutex_);
      while (!stopping_ && batches_in_flight_ >= kBatchesInFlightMax) flusher_wake_.Wait(mutex_);
    }
    if (!gathered.empty()) Submit(gathered.Take());
    pages_.ClearAhead();  // Takes a while: the device has its work already.
  }
}

}  // namespace pbfs
