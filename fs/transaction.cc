// SPDX-License-Identifier: Apache-2.0
#include "fs/transaction.h"

#include <cstring>

#include "base/check.h"
#include "base/clock.h"
#include "fs/log.h"

namespace pbfs {
namespace {

// Which 128-byte chunks differ.
uint32_t ChangedChunks(const std::byte* before, const std::byte* after) {
  uint32_t chunks = 0;
  for (uint32_t i = 0; i < kBlockBytes / kLogChunkBytes; ++i) {
    const size_t offset = size_t{i} * kLogChunkBytes;
    if (std::memcmp(before + offset, after + offset, kLogChunkBytes) != 0) chunks |= 1u << i;
  }
  return chunks;
}

}  // namespace

Transaction::Touched* Transaction::Find(BlockNumber block) {
  // A transaction touches a handful of blocks, the same ones in a row: search from the end.
  for (auto it = touched_.rbegin(); it != touched_.rend(); ++it) {
    if (it->ref.block() == block) return &*it;
  }
  return nullptr;
}

// More than was reserved: the log may have no room. Nothing is lost, the operation fails.
void Transaction::CheckSize() {
  if (touched_.size() <= kTransactionBlocksMax) return;
  Poison(ErrnoError(EFBIG, "transaction touches more blocks than a checkpoint is sure to hold"));
}

std::byte* Transaction::Modify(const BlockRef& block) {
  if (Find(block.block()) == nullptr) {
    touched_.push_back({block.Clone(), log_.CopyOf(block)});
    CheckSize();
  }
  return block.data();
}

BlockRef Transaction::Create(BlockNumber block, uint32_t magic, uint64_t owner) {
  BlockRef ref = log_.cache_.GetZeroed(block);
  auto* header = ref.as<BlockHeader>();
  header->magic = magic;
  header->meta_uuid = log_.superblock_.meta_uuid;
  header->block = block;
  header->owner = owner;
  // GetZeroed may have put a new page in place of one this transaction cancelled before.
  std::erase_if(touched_, [block](const Touched& touched) { return touched.ref.block() == block; });
  touched_.push_back({ref.Clone(), nullptr});
  CheckSize();
  return ref;
}

void Transaction::Cancel(BlockNumber block) { cancelled_.push_back(block); }

StatusOr<Lsn> Transaction::Commit() {
  PBFS_CHECK(!done_);
  if (!poison_.ok()) return poison_;  // The destructor undoes everything.
  done_ = true;
  return log_.CommitTransaction(*this);
}

Transaction::~Transaction() {
  if (done_) return;
  for (Touched& touched : touched_) {
    if (touched.before == nullptr) {
      log_.cache_.Invalidate(touched.ref.block());
      continue;
    }
    // Only what differs: a neighbouring inode in the block may be read meanwhile.
    std::byte* now = touched.ref.data();
    const std::byte* before = touched.before.get();
    for (size_t i = 0; i < kBlockBytes; ++i) {
      if (now[i] != before[i]) now[i] = before[i];
    }
  }
  for (auto it = undo_.rbegin(); it != undo_.rend(); ++it) (*it)();
  log_.KeepImages(*this);
  log_.UnlockGate();
}

std::unique_ptr<std::byte[]> Log::CopyOf(const BlockRef& block) {
  std::unique_ptr<std::byte[]> image;
  if (spare_images_.empty()) {
    image = std::make_unique_for_overwrite<std::byte[]>(kBlockBytes);
  } else {
    image = std::move(spare_images_.back());
    spare_images_.pop_back();
  }
  std::memcpy(image.get(), block.data(), kBlockBytes);
  return image;
}

void Log::KeepImages(Transaction& transaction) {
  for (Transaction::Touched& touched : transaction.touched_) {
    if (touched.before != nullptr && spare_images_.size() < kSpareImagesMax) {
      spare_images_.push_back(std::move(touched.before));
    }
  }
}

Lsn Log::CommitTransaction(Transaction& transaction) {
  struct Change {
    Transaction::Touched* touched;
    uint32_t chunks;
  };
  std::vector<Change> changes;
  changes.reserve(transaction.touched_.size());
  for (Transaction::Touched& touched : transaction.touched_) {
    const BlockNumber block = touched.ref.block();
    bool cancelled = false;
    for (const BlockNumber gone : transaction.cancelled_) cancelled |= gone == block;
    if (cancelled) continue;
    const bool created = touched.before == nullptr;
    const uint32_t chunks =
        created ? kLogWholeBlock : ChangedChunks(touched.before.get(), touched.ref.data());
    if (chunks != 0) changes.push_back({&touched, chunks});
  }
  const bool empty =
      changes.empty() && transaction.cancelled_.empty() && transaction.freed_.empty();

  Lsn sequence = 0;
  bool seal = false;
  if (!empty) {
    MutexLock lock(mutex_);
    sequence = open_sequence_.load(std::memory_order_relaxed);
    if (open_items_.empty() && open_cancels_.empty()) open_since_ns_ = NowNs();
    for (const Change& change : changes) {
      CommitBlockLocked(change.touched->ref, change.chunks, change.touched->before == nullptr);
    }
    for (const BlockNumber block : transaction.cancelled_) CancelBlockLocked(block);
    if (RuleHolds(Rule::kBusyExtents)) {
      open_freed_.insert(open_freed_.end(), transaction.freed_.begin(), transaction.freed_.end());
    }
    seal = open_items_.size() > open_blocks_max_ / 2;
    if (seal) {
      seal_wanted_ = true;
      writer_wake_.Signal();
    }
  }
  for (const BlockNumber block : transaction.cancelled_) cache_.Invalidate(block);
  for (const auto& action : transaction.commit_actions_) action();
  if (!RuleHolds(Rule::kBusyExtents) && !transaction.freed_.empty()) {
    options_.release_freed(transaction.freed_);
  }
  KeepImages(transaction);
  UnlockGate();
  return sequence;
}

void Log::CommitBlockLocked(const BlockRef& ref, uint32_t chunks, bool created) {
  std::unique_ptr<Item>& slot = items_[ref.block()];
  if (slot == nullptr) {
    slot = std::make_unique<Item>();
    slot->pin = ref.Clone();
  } else if (created) {
    // A new life of the block: nothing of the old one is to be written back.
    slot->pin = ref.Clone();
    slot->needs_image = true;
  }
  Item& item = *slot;
  if (!item.in_open) {
    item.in_open = true;
    item.open_chunks = 0;
    open_items_.push_back(ref.block());
  }
  item.open_chunks |= chunks;
}

void Log::CancelBlockLocked(BlockNumber block) {
  if (RuleHolds(Rule::kCancel)) open_cancels_.push_back(block);
  const auto found = items_.find(block);
  if (found == items_.end()) return;
  // A write of the block in flight must not land after the block has a new owner. It completes
  // without anybody's help, so waiting here under the gate is short. After an error no block gets a
  // new owner.
  while (error_.ok() && found->second->writeback) {
    AnnounceBlocking();
    writeback_done_.Wait(mutex_);
    if (!items_.contains(block)) return;
  }
  const auto again = items_.find(block);
  DropImageLocked(*again->second);
  if (again->second->in_open) std::erase(open_items_, block);
  items_.erase(again);
}

}  // namespace pbfs
