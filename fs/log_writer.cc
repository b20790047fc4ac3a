// SPDX-License-Identifier: Apache-2.0
// The log writer's thread: seals the open checkpoint and makes it durable.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/probe.h"
#include "fs/log.h"
#include "fs/verify.h"
#include "io/io_ring.h"

namespace pbfs {

bool Log::CheckpointDueLocked(int64_t now_ns) const {
  const bool open_empty = open_items_.empty() && open_cancels_.empty();
  if (seal_wanted_ || tail_wanted_) return true;
  if (open_empty) return false;
  return force_wanted_ >= open_sequence_.load(std::memory_order_relaxed) ||
         now_ns - open_since_ns_ >= options_.commit_interval_ns;
}

// A checkpoint of nothing serves to move the tail. While another flush (FlushAsync) has what was
// written back, the tail does not move, and headers alone would fill the ring.
bool Log::HasToSeal() {
  MutexLock lock(mutex_);
  Lsn tail_sequence = 0;
  const bool has_to =
      !open_items_.empty() || !open_cancels_.empty() || TailLocked(&tail_sequence) != sealed_tail_;
  if (!has_to) seal_wanted_ = tail_wanted_ = false;
  return has_to;
}

void Log::WriterLoop() {
  auto ring = IoRing::Create(64);
  if (ring.ok()) (*ring)->Attach();  // Else the device's own ring or pool serves.
  for (;;) {
    bool flush_first = false;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && (!error_.ok() || !CheckpointDueLocked(NowNs()))) {
        writer_wake_.WaitFor(mutex_, std::chrono::milliseconds(250));
      }
      if (stopping_) break;
      // A header's tail covers only writebacks flushed before: to move the tail now, flush first.
      flush_first = tail_wanted_ && !written_.empty();
    }
    if (flush_first && !RunCycle(/*seal=*/false)) continue;
    if (HasToSeal()) RunCycle(/*seal=*/true);
  }
  if (ring.ok()) IoRing::Detach();
}

bool Log::RunCycle(bool seal) {
  SealedBody body;
  if (seal) {
    LockGate();
    Status sealable = GrowCheckpointBuffer();
    if (sealable.ok()) sealable = VerifyOpenItems();
    if (sealable.ok()) body = Seal();
    UnlockGate();
    if (!sealable.ok()) {
      Fail(ErrnoError(EIO, std::string(sealable.message())));
      return false;
    }
  }
  PBFS_PROBE(log_seal, body.sequence, body.total_blocks, body.start);
  std::vector<Written> flushed;
  {
    MutexLock lock(mutex_);
    flushed.swap(written_);
  }
  if (const Status status = FlushAndWrite(body, seal); !status.ok()) {
    Fail(status);
    return false;
  }
  {
    MutexLock lock(mutex_);
    ++stats_.flushes;
    ReleaseWrittenLocked(flushed);
  }
  FinishCycle(body, seal);
  return true;
}

Status Log::FlushAndWrite(const SealedBody& body, bool sealed) {
  const std::string& name = device_.geometry().name;
  if (RuleHolds(Rule::kFlushBeforeLog) || !sealed) {
    if (const int error = FlushSync(device_); error != 0) {
      return ErrnoError(EIO, absl::StrCat(name, ": flush before checkpoint ",
                                          sealed ? body.sequence : open_sequence(),
                                          " failed: ", std::strerror(error)));
    }
  }
  if (!sealed) return OkStatus();
  // Another flush may have failed meanwhile, and what it should have covered is lost although this
  // one succeeded: the checkpoint must not name it.
  PBFS_RETURN_IF_ERROR(error());
  if (const int error = WriteCheckpoint(body); error != 0) {
    return ErrnoError(EIO, absl::StrCat(name, ": block ", RingBlock(body.start), ": checkpoint ",
                                        body.sequence, ": write failed: ", std::strerror(error)));
  }
  return OkStatus();
}

// The first checkpoint whose images are still needed; the open position if there is none.
uint64_t Log::TailLocked(Lsn* sequence) const {
  for (const Sealed& sealed : sealed_) {
    if (sealed.images_needed > 0) {
      *sequence = sealed.sequence;
      return sealed.start;
    }
  }
  *sequence = open_sequence_.load(std::memory_order_relaxed);
  return head_;
}

// What recovery would refuse must not become durable: it would take all that is in the log with it.
Status Log::VerifyOpenItems() const {
  MutexLock lock(mutex_);
  for (const BlockNumber block : open_items_) {
    const Status good = VerifyUnstamped(items_.at(block)->pin.data(), block, superblock_);
    if (good.ok()) continue;
    return CorruptionError(absl::StrCat(
        device_.geometry().name, ": refused to log bad metadata: ", std::string(good.message())));
  }
  return OkStatus();
}

Log::SealedBody Log::Seal() {
  MutexLock lock(mutex_);
  SealedBody body;
  body.sequence = open_sequence_.load(std::memory_order_relaxed);
  body.start = head_;
  body.freed.swap(open_freed_);
  SealItemsLocked(body);

  auto* header = checkpoint_buffer_->as<CheckpointHeader>();
  header->header.magic = kMagicCheckpoint;
  header->header.meta_uuid = superblock_.meta_uuid;
  header->header.block = RingBlock(body.start);
  header->header.owner = kOwnerLog;
  header->epoch = epoch_;
  header->sequence = body.sequence;
  // Computed now, not after the flush to come: a transaction that runs meanwhile may cancel a block
  // whose image only older checkpoints have, and its cancel record is not in this one.
  Lsn tail_sequence = 0;
  const uint64_t tail = TailLocked(&tail_sequence);
  header->tail_sequence = tail_sequence;
  header->tail_position = static_cast<uint32_t>(tail % ring_blocks_);
  header->total_blocks = body.total_blocks;
  header->durable_sequence = durable_sequence_.load(std::memory_order_relaxed);
  header->previous_crc = previous_crc_;
  header->body_crc =
      Crc32c(checkpoint_buffer_->data() + kBlockBytes, size_t{body.total_blocks - 1} * kBlockBytes);
  StampBlock(checkpoint_buffer_->data(), body.sequence);
  previous_crc_ = header->header.crc;
  sealed_tail_ = tail;

  PBFS_CHECK(head_ + body.total_blocks - durable_tail_ <= ring_blocks_);
  head_ += body.total_blocks;
  open_sequence_.store(body.sequence + 1, std::memory_order_release);
  seal_wanted_ = false;
  tail_wanted_ = false;
  ++stats_.checkpoints;
  stats_.checkpoint_blocks += body.total_blocks;
  space_changed_.SignalAll();
  return body;
}

void Log::SealItemsLocked(SealedBody& body) {
  // Decide what each block logs.
  struct Plan {
    BlockNumber block;
    Item* item;  // nullptr: cancel.
    uint32_t chunks;
  };
  std::vector<Plan> plans;
  plans.reserve(open_items_.size() + open_cancels_.size());
  uint64_t chunk_count = 0;
  for (const BlockNumber block : open_cancels_) plans.push_back({block, nullptr, 0});
  Sealed sealed{body.sequence, body.start, 0, {}};
  for (const BlockNumber block : open_items_) {
    Item& item = *items_.at(block);
    uint64_t image_age = 0;
    if (item.image_sequence != 0) image_age = head_ - ImageStartLocked(item.image_sequence);
    // Relogged whole when its image is in the oldest quarter, so that hot blocks never pin the
    // tail.
    const bool whole = item.needs_image || image_age > ring_blocks_ / 4 * 3;
    const uint32_t chunks = whole ? kLogWholeBlock : item.open_chunks;
    plans.push_back({block, &item, chunks});
    chunk_count += static_cast<uint64_t>(std::popcount(chunks));
    if (chunks == kLogWholeBlock) {
      DropImageLocked(item);
      item.image_sequence = body.sequence;
      item.needs_image = false;
      ++sealed.images_needed;
      sealed.image_blocks.push_back(block);
    }
    item.logged_sequence = body.sequence;
    item.in_open = false;
    item.open_chunks = 0;
  }
  sealed_.push_back(std::move(sealed));
  open_items_.clear();
  open_cancels_.clear();

  // Lay it out: header, descriptors, chunks.
  const uint64_t descriptor_blocks = (plans.size() + kLogRecordsPerBlock - 1) / kLogRecordsPerBlock;
  const uint64_t data_bytes = chunk_count * kLogChunkBytes;
  const uint64_t data_blocks = (data_bytes + kBlockBytes - 1) / kBlockBytes;
  body.total_blocks = static_cast<uint32_t>(1 + descriptor_blocks + data_blocks);
  const size_t bytes = size_t{body.total_blocks} * kBlockBytes;
  PBFS_CHECK(checkpoint_buffer_->size_bytes() >= bytes);
  std::byte* const start = checkpoint_buffer_->data();
  std::memset(start, 0, kBlockBytes * (1 + descriptor_blocks));
  auto* records = reinterpret_cast<LogRecord*>(start + kBlockBytes);
  std::byte* data = start + kBlockBytes * (1 + descriptor_blocks);
  for (const Plan& plan : plans) {
    if (plan.item == nullptr) {
      *records++ = {plan.block, LogRecordKind::kCancel, 0};
      continue;
    }
    const bool whole = plan.chunks == kLogWholeBlock;
    *records++ = {plan.block, whole ? LogRecordKind::kImage : LogRecordKind::kRange, plan.chunks};
    ++(whole ? stats_.images : stats_.ranges);
    for (uint32_t i = 0; i < kBlockBytes / kLogChunkBytes; ++i) {
      if ((plan.chunks >> i & 1) == 0) continue;
      std::memcpy(data, plan.item->pin.data() + size_t{i} * kLogChunkBytes, kLogChunkBytes);
      data += kLogChunkBytes;
    }
  }
  std::memset(data, 0, static_cast<size_t>(start + bytes - data));
  auto* header = checkpoint_buffer_->as<CheckpointHeader>();
  header->record_count = static_cast<uint32_t>(plans.size());
  header->descriptor_blocks = static_cast<uint32_t>(descriptor_blocks);
  header->data_bytes = data_bytes;
}

Status Log::GrowCheckpointBuffer() {
  size_t bytes = 0;
  {
    MutexLock lock(mutex_);
    bytes = OpenBlocksWorstLocked(0) * kBlockBytes;
  }
  if (checkpoint_buffer_ != nullptr && checkpoint_buffer_->size_bytes() >= bytes) return OkStatus();
  constexpr size_t kBytesMin = 1 << 18;
  const size_t spare = bytes / 4 / kBlockBytes * kBlockBytes;
  auto larger = AlignedBuffer::CreateUnique(std::max(bytes + spare, kBytesMin));
  if (!larger.ok()) {
    return ErrnoError(ENOMEM, absl::StrCat(device_.geometry().name, ": checkpoint ",
                                           open_sequence(), ": no memory for ", bytes, " bytes"));
  }
  checkpoint_buffer_ = *std::move(larger);
  return OkStatus();
}

uint64_t Log::ImageStartLocked(Lsn sequence) const {
  // sealed_ holds consecutive sequences.
  return sealed_[sequence - sealed_.front().sequence].start;
}

void Log::DropImageLocked(Item& item) {
  if (item.image_sequence == 0) return;
  Sealed& sealed = sealed_[item.image_sequence - sealed_.front().sequence];
  PBFS_CHECK(sealed.images_needed > 0);
  --sealed.images_needed;
  item.image_sequence = 0;
}

int Log::WriteCheckpoint(const SealedBody& body) {
  const uint64_t first = body.start % ring_blocks_;
  const uint64_t before_wrap = std::min<uint64_t>(body.total_blocks, ring_blocks_ - first);
  IoRequest requests[2];
  IoRequest* pointers[2] = {&requests[0], &requests[1]};
  const bool fua = RuleHolds(Rule::kFlushAfterLog);
  for (IoRequest& request : requests) {
    request.op = IoOp::kWrite;
    request.fua = fua;
  }
  requests[0].offset_bytes = RingBlock(body.start) * kBlockBytes;
  requests[0].buffer.Append(checkpoint_buffer_->data(), before_wrap * kBlockBytes);
  requests[1].offset_bytes = RingBlock(0) * kBlockBytes;
  requests[1].buffer.Append(checkpoint_buffer_->data() + before_wrap * kBlockBytes,
                            (body.total_blocks - before_wrap) * kBlockBytes);
  const size_t count = requests[1].buffer.empty() ? 1 : 2;
  return RunSync(device_, std::span<IoRequest* const>(pointers, count));
}

void Log::ReleaseWrittenLocked(const std::vector<Written>& flushed) {
  for (const Written& written : flushed) {
    const auto found = items_.find(written.block);
    if (found == items_.end()) continue;
    Item& item = *found->second;
    // Logged again since: that checkpoint has a whole image, which is needed until it is written
    // and flushed. It may have been written since; the flush did not cover that.
    if (item.logged_sequence != written.sequence) continue;
    DropImageLocked(item);
    if (!item.in_open && !item.writeback) items_.erase(found);
  }
  while (!sealed_.empty() && sealed_.front().images_needed == 0 &&
         sealed_.front().sequence < durable_sequence_.load(std::memory_order_relaxed)) {
    sealed_.pop_front();
  }
  space_changed_.SignalAll();
  writeback_done_.SignalAll();
}

void Log::FinishCycle(const SealedBody& body, bool sealed) {
  std::vector<Waiter> ready;
  // First: who waits for the checkpoint may wait for these blocks.
  if (!body.freed.empty()) options_.release_freed(body.freed);
  {
    MutexLock lock(mutex_);
    if (sealed) {
      durable_sequence_.store(body.sequence, std::memory_order_release);
      durable_tail_ = sealed_tail_;
    }
    const Lsn durable = durable_sequence_.load(std::memory_order_relaxed);
    std::erase_if(force_waiters_, [&](Waiter& waiter) {
      if (waiter.sequence > durable) return false;
      ready.push_back(std::move(waiter));
      return true;
    });
    PBFS_PROBE(log_durable, durable, ready.size());
    space_changed_.SignalAll();
    if (WritebackWantedLocked()) metadata_wake_.Signal();
  }
  const IoRing::DetachedScope detached;  // They may start a flush.
  for (Waiter& waiter : ready) waiter.done(OkStatus());
}

}  // namespace pbfs
