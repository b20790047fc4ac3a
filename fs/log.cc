// SPDX-License-Identifier: Apache-2.0
#include "fs/log.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/random.h"
#include "fs/aligned_buffer.h"
#include "fs/verify.h"

namespace pbfs {
namespace {

// Kept free in the ring beyond what the open checkpoint may need, so that a checkpoint that only
// moves the tail always fits.
constexpr uint64_t kRingSlackBlocks = 4;

}  // namespace

Log::Log(BlockDevice& device, const Superblock& superblock, BlockCache& cache, PageCache& pages,
         Options options)
    : device_(device),
      superblock_(superblock),
      cache_(cache),
      pages_(pages),
      options_(std::move(options)),
      ring_blocks_(superblock.log_blocks - kLogAnchorBlocks),
      open_blocks_max_(std::max<uint64_t>(std::min<uint64_t>(ring_blocks_ / 8, 2048),
                                          kTransactionBlocksMax + 16)) {}

Log::~Log() { StopThreads(); }

Status Log::Start(uint64_t anchor_generation, uint64_t first_sequence) {
  anchor_generation_ = anchor_generation;
  PBFS_RETURN_IF_ERROR(WriteAnchor(RandomBits(), first_sequence, /*clean=*/false));
  PBFS_ASSIGN_OR_RETURN(staging_, AlignedBuffer::CreateUnique(kMetadataBatchBlocks * kBlockBytes));
  open_sequence_ = first_sequence;
  durable_sequence_ = first_sequence - 1;
  previous_crc_ = 0;
  {
    MutexLock lock(mutex_);
    sealed_.clear();
    written_.clear();
    head_ = durable_tail_ = sealed_tail_ = 0;
    write_back_all_ = stopping_ = false;
    running_ = true;
  }
  writer_ = Thread([this] { WriterLoop(); });
  metadata_writer_ = Thread([this] { MetadataLoop(); });
  return OkStatus();
}

Status Log::Stop() {
  {
    MutexLock lock(mutex_);
    running_ = false;
  }
  LockGate();  // The last transaction has ended when it is ours.
  UnlockGate();
  Status result = ForceAll();
  if (result.ok()) {
    MutexLock lock(mutex_);
    write_back_all_ = true;
    while (!items_.empty() && error_.ok()) {
      metadata_wake_.Signal();
      writeback_done_.WaitFor(mutex_, std::chrono::milliseconds(100));
    }
    result = error_;
  }
  StopThreads();
  if (result.ok()) result = WriteAnchor(RandomBits(), open_sequence(), /*clean=*/true);
  return result;
}

void Log::StopThreads() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    writer_wake_.SignalAll();
    metadata_wake_.SignalAll();
    space_changed_.SignalAll();
  }
  if (writer_.joinable()) writer_.join();
  if (metadata_writer_.joinable()) metadata_writer_.join();
  MutexLock lock(mutex_);
  while (data_flush_runs_) data_flush_ended_.Wait(mutex_);
}

Status Log::WriteAnchor(uint64_t epoch, uint64_t first_sequence, bool clean) {
  PBFS_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(kBlockBytes));
  auto* anchor = buffer.as<LogAnchor>();
  ++anchor_generation_;
  anchor->header.magic = kMagicLogAnchor;
  anchor->header.meta_uuid = superblock_.meta_uuid;
  anchor->header.block = superblock_.log_start + anchor_generation_ % kLogAnchorBlocks;
  anchor->header.owner = kOwnerLog;
  anchor->generation = anchor_generation_;
  anchor->epoch = epoch;
  anchor->first_sequence = first_sequence;
  anchor->clean = clean ? 1 : 0;
  StampBlock(buffer.data(), first_sequence - 1);
  int error = FlushSync(device_);
  if (error == 0) {
    error = WriteSync(device_, anchor->header.block * kBlockBytes, buffer.data(), kBlockBytes,
                      /*fua=*/true);
  }
  if (error == 0) error = FlushSync(device_);
  if (error != 0) {
    return ErrnoError(error, absl::StrCat(device_.geometry().name, ": block ", anchor->header.block,
                                          ": log anchor: write failed: ", std::strerror(error)));
  }
  epoch_ = epoch;
  return OkStatus();
}

BlockNumber Log::RingBlock(uint64_t position) const {
  return superblock_.log_start + kLogAnchorBlocks + position % ring_blocks_;
}

// ---- Transactions -------------------------------------------------------------------------------

void Log::LockGate() {
  for (int i = 0; i < 64; ++i) {
    if (gate_.TryLock()) return;
    __builtin_ia32_pause();
  }
  AnnounceBlocking();
  gate_.Lock();
}

uint64_t Log::OpenBlocksWorstLocked(uint64_t more_items) const {
  const uint64_t images = open_items_.size() + more_items;
  const uint64_t records = images + open_cancels_.size() + more_items;
  return 1 + (records + kLogRecordsPerBlock - 1) / kLogRecordsPerBlock + images;
}

bool Log::SpaceForLocked(uint32_t blocks) const {
  const uint64_t ring_free = ring_blocks_ - (head_ - durable_tail_);
  return OpenBlocksWorstLocked(blocks) + kRingSlackBlocks <= ring_free &&
         open_items_.size() + blocks <= open_blocks_max_ &&
         items_.size() + blocks <= options_.dirty_blocks_max;
}

StatusOr<std::unique_ptr<Transaction>> Log::Begin(uint32_t blocks) {
  PBFS_CHECK(blocks <= kTransactionBlocksMax);
  for (;;) {
    LockGate();
    {
      MutexLock lock(mutex_);
      if (error_.ok() && running_ && SpaceForLocked(blocks)) {
        return std::unique_ptr<Transaction>(new Transaction(*this, blocks));
      }
    }
    UnlockGate();
    AnnounceBlocking();
    MutexLock lock(mutex_);
    PBFS_RETURN_IF_ERROR(CheckWritableLocked());
    if (SpaceForLocked(blocks)) continue;
    ++stats_.space_waits;
    ++space_waiters_;
    seal_wanted_ = !open_items_.empty() || !open_cancels_.empty();
    // Space that only a header with a newer tail frees.
    Lsn tail_sequence = 0;
    if (TailLocked(&tail_sequence) > sealed_tail_) tail_wanted_ = true;
    writer_wake_.Signal();
    metadata_wake_.Signal();
    space_changed_.WaitFor(mutex_, std::chrono::milliseconds(100));
    --space_waiters_;
  }
}

void Log::ForceAsync(Lsn sequence, Done done) {
  Status status;
  {
    MutexLock lock(mutex_);
    status = error_;
    const Lsn open = open_sequence_.load(std::memory_order_relaxed);
    if (sequence >= open) {
      const bool open_empty = open_items_.empty() && open_cancels_.empty();
      sequence = open_empty ? open - 1 : open;
    }
    if (status.ok() && sequence > durable_sequence_.load(std::memory_order_relaxed)) {
      force_waiters_.push_back({sequence, std::move(done)});
      force_wanted_ = std::max(force_wanted_, sequence);
      writer_wake_.Signal();
      return;
    }
  }
  done(status);
}

void Log::FlushAsync(Done done) {
  Status status;
  {
    MutexLock lock(mutex_);
    status = error_;
    if (status.ok()) {
      flush_waiters_.push_back(std::move(done));
      if (data_flush_runs_) return;
      data_flush_runs_ = true;
    }
  }
  if (!status.ok()) return done(status);
  StartDataFlush();
}

void Log::StartDataFlush() {
  auto* flush = new DataFlush{*this, {}, {}, {}};
  {
    MutexLock lock(mutex_);
    flush->waiters.swap(flush_waiters_);
    flush->written.swap(written_);
  }
  flush->request.op = IoOp::kFlush;
  flush->request.PushCompletion(&DataFlushCompleted, flush);
  device_.Submit(flush->request);
}

void Log::DataFlushCompleted(IoRequest&, void* context, int error) {
  const std::unique_ptr<DataFlush> flush(static_cast<DataFlush*>(context));
  Log& log = flush->log;
  Status status;
  if (error != 0) {
    status = ErrnoError(EIO, absl::StrCat(log.device_.geometry().name,
                                          ": flush of file data failed: ", std::strerror(error)));
    log.Fail(status);
  } else {
    // Another flush may have failed meanwhile, and what it should have covered is lost although
    // this one succeeded.
    status = log.error();
  }
  for (Done& done : flush->waiters) done(status);
  flush->waiters.clear();  // What they hold (inodes) goes before the filesystem may.
  bool more = false;
  {
    MutexLock lock(log.mutex_);
    ++log.stats_.flushes;
    if (status.ok()) log.ReleaseWrittenLocked(flush->written);
    more = !log.flush_waiters_.empty();
    if (!more) {
      log.data_flush_runs_ = false;
      log.data_flush_ended_.SignalAll();
    }
  }
  if (more) log.StartDataFlush();
}

Status Log::Force(Lsn sequence) {
  struct Result {
    Event done;
    Status status;
  } result;
  ForceAsync(sequence, [&result](const Status& status) {
    result.status = status;
    result.done.Set();
  });
  result.done.Wait();
  return result.status;
}

void Log::RequestWriteback() {
  MutexLock lock(mutex_);
  writeback_wanted_ = true;
  seal_wanted_ = seal_wanted_ || !open_items_.empty();
  metadata_wake_.Signal();
  writer_wake_.Signal();
}

Status Log::error() const {
  MutexLock lock(mutex_);
  return error_;
}

Status Log::CheckWritable() const {
  MutexLock lock(mutex_);
  return CheckWritableLocked();
}

Status Log::CheckWritableLocked() const {
  if (error_.ok() && running_) return OkStatus();
  if (error_.ok()) return ErrnoError(EROFS, "read-only");
  if (shut_down_) return error_;
  return ErrnoError(EROFS,
                    absl::StrCat("read-only after an error: ", std::string(error_.message())));
}

std::vector<Log::Waiter> Log::TakeWaitersLocked() {
  std::vector<Waiter> waiters;
  waiters.swap(force_waiters_);
  for (Done& done : flush_waiters_) waiters.push_back({0, std::move(done)});
  flush_waiters_.clear();
  space_changed_.SignalAll();
  writeback_done_.SignalAll();
  metadata_wake_.SignalAll();
  writer_wake_.SignalAll();
  return waiters;
}

void Log::Fail(const Status& status) {
  std::vector<Waiter> waiters;
  {
    MutexLock lock(mutex_);
    if (!error_.ok()) return;
    error_ = status;
    waiters = TakeWaitersLocked();
  }
  if (options_.log) {
    options_.log(absl::StrCat(std::string(status.message()), "; the filesystem is read-only now"));
  }
  for (Waiter& waiter : waiters) waiter.done(status);
}

void Log::Shutdown(const Status& status) {
  std::vector<Waiter> waiters;
  {
    MutexLock lock(mutex_);
    error_ = status;
    shut_down_ = true;
    waiters = TakeWaitersLocked();
  }
  for (Waiter& waiter : waiters) waiter.done(status);
}

Log::Stats Log::stats() const {
  MutexLock lock(mutex_);
  Stats stats = stats_;
  stats.ring_blocks = ring_blocks_;
  stats.ring_used = head_ - durable_tail_;
  stats.dirty_blocks = items_.size();
  return stats;
}

// ---- Metadata writeback -------------------------------------------------------------------------

bool Log::WritebackWantedLocked() const {
  if (items_.empty() || !error_.ok()) return false;
  return write_back_all_ || writeback_wanted_ || space_waiters_ > 0 ||
         head_ - durable_tail_ > ring_blocks_ / 2 || items_.size() > options_.dirty_blocks_max / 2;
}

size_t Log::PickWriteback(size_t max) {
  LockGate();
  {
    MutexLock lock(mutex_);
    staged_.clear();
    const Lsn durable = durable_sequence_.load(std::memory_order_relaxed);
    for (Sealed& sealed : sealed_) {
      if (sealed.images_needed == 0) continue;
      for (const BlockNumber block : sealed.image_blocks) {
        const auto found = items_.find(block);
        if (found == items_.end() || found->second->image_sequence != sealed.sequence) continue;
        Item& item = *found->second;
        if (item.writeback || item.logged_sequence <= item.written_sequence) continue;
        if (RuleHolds(Rule::kWriteAheadLog) && (item.in_open || item.logged_sequence > durable)) {
          continue;
        }
        std::byte* copy = staging_->data() + staged_.size() * kBlockBytes;
        std::memcpy(copy, item.pin.data(), kBlockBytes);
        StampBlock(copy, item.logged_sequence);
        item.writeback = true;
        if (RuleHolds(Rule::kWholeImage)) item.needs_image = true;
        staged_.push_back({block, item.logged_sequence});
        if (staged_.size() == max) break;
      }
      if (staged_.size() == max) break;
    }
  }
  UnlockGate();
  return staged_.size();
}

bool Log::WriteBackSome(size_t* picked) {
  *picked = PickWriteback(kMetadataBatchBlocks);
  if (*picked == 0) return true;
  Status bad;
  WriteBatch batch(device_, 1 << 20);
  for (size_t i = 0; i < staged_.size(); ++i) {
    std::byte* data = staging_->data() + i * kBlockBytes;
    const BlockNumber block = staged_[i].block;
    if (Status verified = VerifyBlock(data, block, superblock_); !verified.ok()) bad = verified;
    batch.Add(block, data, i);
  }
  if (!bad.ok()) {
    // Ours or memory's fault, found before it reached the disk.
    Fail(ErrnoError(EIO, absl::StrCat(device_.geometry().name, ": refused to write bad metadata: ",
                                      std::string(bad.message()))));
  } else {
    if (!RuleHolds(Rule::kTail)) {
      // The flush before each checkpoint covers all that completed before its tail was computed; so
      // to break the rule, the tail must pass what is only submitted.
      MutexLock lock(mutex_);
      ReleaseWrittenLocked(staged_);
    }
    Event done;
    batch.Start([&done](WriteBatch&) { done.Set(); });
    done.Wait();
    for (const WriteBatch::Piece& piece : batch.pieces()) {
      if (piece.error == 0) continue;
      const uint32_t magic = reinterpret_cast<const BlockHeader*>(piece.data)->magic;
      Fail(ErrnoError(
          EIO, absl::StrCat(device_.geometry().name, ": block ", piece.block, ": ",
                            StructureName(magic), ": write failed: ", std::strerror(piece.error))));
      bad = error();
      break;
    }
  }
  MutexLock lock(mutex_);
  for (const Written& staged : staged_) {
    const auto found = items_.find(staged.block);
    if (found == items_.end()) continue;
    found->second->writeback = false;
    if (bad.ok()) found->second->written_sequence = staged.sequence;
  }
  stats_.metadata_writes += staged_.size();
  if (bad.ok()) written_.insert(written_.end(), staged_.begin(), staged_.end());
  writeback_done_.SignalAll();
  return bad.ok();
}

void Log::MetadataLoop() {
  for (;;) {
    {
      MutexLock lock(mutex_);
      while (!stopping_ && !WritebackWantedLocked()) metadata_wake_.Wait(mutex_);
      if (stopping_) return;
    }
    size_t picked = 0;
    if (!WriteBackSome(&picked)) continue;  // Failed: nothing is wanted any more.
    MutexLock lock(mutex_);
    writeback_wanted_ = false;
    if (picked == kMetadataBatchBlocks) continue;
    // What is left is in the open checkpoint, not durable yet, or waits for a flush: a cycle of the
    // log writer gets on with all three.
    if (WritebackWantedLocked()) {
      tail_wanted_ = true;
      writer_wake_.Signal();
      if (picked == 0 && !stopping_) metadata_wake_.WaitFor(mutex_, std::chrono::milliseconds(20));
    }
  }
}

}  // namespace pbfs
