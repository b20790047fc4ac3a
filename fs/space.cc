// SPDX-License-Identifier: Apache-2.0
#include "fs/space.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "fs/rules.h"

namespace pbfs {
namespace {

// For a run of data this long (1 MiB) no other group is looked at; for a longer one, so many.
constexpr uint32_t kLongRun = 256;
constexpr uint32_t kGroupsTried = 8;
// Loaded groups that are looked at for one to unload: more than one call loads.
constexpr int kUnloadLooks = 32;

// First bit in [from, to) whose value is `value`; `to` if there is none.
uint32_t NextBit(const uint64_t* words, uint32_t from, uint32_t to, bool value) {
  while (from < to) {
    uint64_t word = words[from / 64];
    if (!value) word = ~word;
    word >>= from % 64;
    if (word != 0) return std::min(to, from + static_cast<uint32_t>(std::countr_zero(word)));
    from = (from / 64 + 1) * 64;
  }
  return to;
}

// Where the clear bits before `at` begin.
uint32_t AfterPreviousSet(const uint64_t* words, uint32_t at) {
  while (at > 0) {
    const uint32_t bits = (at - 1) % 64 + 1;
    const uint64_t word = words[(at - 1) / 64] << (64 - bits);
    if (word != 0) return at - static_cast<uint32_t>(std::countl_zero(word));
    at -= bits;
  }
  return 0;
}

}  // namespace

SpaceManager::SpaceManager(const MetaReader& reader, size_t loaded_groups_max)
    : reader_(reader),
      superblock_(reader.superblock),
      ag_count_(reader.superblock.ag_count),
      loaded_groups_max_(loaded_groups_max),
      on_disk_(reader.superblock.ag_count),
      groups_(reader.superblock.ag_count) {}

Status SpaceManager::Load() {
  int64_t free_blocks = 0;
  // Without the lock: the cache reads the device. Nobody else uses this object yet.
  std::vector<Group> groups(ag_count_);
  for (uint32_t ag = 0; ag < ag_count_; ++ag) {
    AgEntry entry;
    PBFS_ASSIGN_OR_RETURN(entry, Entry(ag));
    if (entry.free_blocks > AgLength(ag, superblock_.total_blocks)) {
      return CorruptionError(
          absl::StrCat("block ", superblock_.ag_table_start + ag / kAgEntriesPerBlock,
                       ": free_blocks of group ", ag, " is ", entry.free_blocks));
    }
    groups[ag].free_blocks = entry.free_blocks;
    on_disk_[ag].has_bitmap = (entry.flags & kAgInitialized) != 0;
    // Metadata fills a group from its start, data from a sixteenth on, so that the two stay apart.
    groups[ag].next = AgLength(ag, superblock_.total_blocks) / 16;
    free_blocks += entry.free_blocks;
  }
  LongMutexLock lock(mutex_);
  groups_ = std::move(groups);
  // Enough for the trees that grow while a full filesystem is emptied.
  reserve_pool_ = std::clamp<uint64_t>(superblock_.total_blocks / 64, 128, 4096);
  available_ = free_blocks;
  return OkStatus();
}

// ---- Promises -----------------------------------------------------------------------------------

void SpaceManager::KeepForCollected() {
  kept_for_collected_ = std::min<uint64_t>(superblock_.total_blocks / 32, 4096);
}

uint64_t SpaceManager::KeptFrom(SpaceClass by) const {
  switch (by) {
    case SpaceClass::kPrivileged:
      return 0;
    case SpaceClass::kConversion:
      return reserve_pool_ / 2;
    case SpaceClass::kCollected:
      return reserve_pool_;
    case SpaceClass::kOrdinary:
      break;
  }
  return kept_blocks();
}

bool SpaceManager::Reserve(uint64_t blocks, SpaceClass by) {
  // Who asks for nothing has been promised what it takes, or takes none; what is available may be
  // less than nothing while a promise and what was taken of it both count.
  if (blocks == 0) return true;
  const int64_t floor = static_cast<int64_t>(KeptFrom(by));
  int64_t available = available_.load(std::memory_order_relaxed);
  do {
    if (available - static_cast<int64_t>(blocks) < floor) return false;
  } while (!available_.compare_exchange_weak(available, available - static_cast<int64_t>(blocks),
                                             std::memory_order_relaxed));
  return true;
}

void SpaceManager::Unreserve(uint64_t blocks) {
  available_.fetch_add(static_cast<int64_t>(blocks), std::memory_order_relaxed);
}

uint64_t SpaceManager::available_blocks() const {
  return static_cast<uint64_t>(std::max<int64_t>(0, available_.load(std::memory_order_relaxed)));
}

// ---- The group table ----------------------------------------------------------------------------

StatusOr<AgEntry> SpaceManager::Entry(uint32_t ag) {
  BlockRef table;
  PBFS_ASSIGN_OR_RETURN(table, reader_.Read(superblock_.ag_table_start + ag / kAgEntriesPerBlock,
                                            kMagicAgTable, kOwnerFilesystem));
  return table.as<AgTableBlock>()->entries[ag % kAgEntriesPerBlock];
}

StatusOr<AgEntry*> SpaceManager::ModifyEntry(Transaction& transaction, uint32_t ag,
                                             BlockRef& keep) {
  PBFS_ASSIGN_OR_RETURN(keep, reader_.Read(superblock_.ag_table_start + ag / kAgEntriesPerBlock,
                                           kMagicAgTable, kOwnerFilesystem));
  return &transaction.ModifyAs<AgTableBlock>(keep)->entries[ag % kAgEntriesPerBlock];
}

// ---- In memory ----------------------------------------------------------------------------------

void SpaceManager::SetBits(uint64_t* words, uint32_t start, uint32_t length, bool value) {
  while (length > 0) {
    const uint32_t bit = start % 64;
    const uint32_t count = std::min(length, 64 - bit);
    const uint64_t mask = (count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1) << bit;
    if (value) {
      words[start / 64] |= mask;
    } else {
      words[start / 64] &= ~mask;
    }
    start += count;
    length -= count;
  }
}

// What a group looks like before anything was allocated in it.
void SpaceManager::InitialWords(uint32_t ag, uint64_t* words) const {
  std::memset(words, 0, kWords * sizeof(uint64_t));
  const uint32_t length = AgLength(ag, superblock_.total_blocks);
  SetBits(words, 0, kAgBitmapOffset + AgBitmapBlocks(ag, superblock_.total_blocks), true);
  SetBits(words, length, kAgBlocks - length, true);
  if (ag + 1 == ag_count_) SetBits(words, length - 1, 1, true);  // Superblock copy.
}

Status SpaceManager::LoadGroupLocked(uint32_t ag) {
  Group& group = groups_[ag];
  group.in_use = true;
  if (group.words != nullptr) return OkStatus();
  auto words = std::make_unique<uint64_t[]>(kWords);
  InitialWords(ag, words.get());
  if (on_disk_[ag].has_bitmap.load(std::memory_order_acquire)) {
    const uint32_t blocks = AgBitmapBlocks(ag, superblock_.total_blocks);
    for (uint32_t i = 0; i < blocks; ++i) {
      BlockRef bitmap;
      PBFS_ASSIGN_OR_RETURN(
          bitmap, reader_.Read(AgStart(ag) + kAgBitmapOffset + i, kMagicBitmap, kOwnerAgBase + ag));
      const uint64_t* from = bitmap.as<BitmapBlock>()->words;
      uint64_t* to = words.get() + size_t{i} * (kBitsPerBitmapBlock / 64);
      for (size_t w = 0; w < kBitsPerBitmapBlock / 64; ++w) to[w] |= from[w];
    }
  }
  uint32_t used = 0;
  for (size_t w = 0; w < kWords; ++w) used += static_cast<uint32_t>(std::popcount(words[w]));
  if (kAgBlocks - used != group.free_blocks) {
    return CorruptionError(absl::StrCat("group ", ag, ": bitmap has ", kAgBlocks - used,
                                        " free blocks, table says ", group.free_blocks));
  }
  group.words = std::move(words);
  loaded_.push_back(ag);
  if (std::exchange(group.given_up, false)) {
    available_.fetch_add(group.free_blocks, std::memory_order_relaxed);
  }
  return OkStatus();
}

// Second chance: a group that was used since it was last looked at stays.
void SpaceManager::UnloadSomeLocked() {
  for (int looks = kUnloadLooks; loaded_.size() > loaded_groups_max_ && looks > 0; --looks) {
    const uint32_t ag = loaded_.front();
    loaded_.pop_front();
    Group& group = groups_[ag];
    const bool agree = on_disk_[ag].only_in_memory.load(std::memory_order_acquire) == 0;
    if (!std::exchange(group.in_use, false) && agree) {
      group.words.reset();
    } else {
      loaded_.push_back(ag);
    }
  }
}

size_t SpaceManager::loaded_groups() const {
  LongMutexLock lock(mutex_);
  return loaded_.size();
}

void SpaceManager::CountOnlyInMemory(const BlockRun& run, int32_t sign) {
  on_disk_[AgOf(run.block)].only_in_memory.fetch_add(sign * static_cast<int32_t>(run.length),
                                                     std::memory_order_acq_rel);
}

BlockRun SpaceManager::FindRun(const Group& group, uint32_t from, uint32_t to, uint32_t wanted) {
  BlockRun best;
  uint32_t at = from;
  const uint32_t enough = std::min(wanted, group.longest_max);
  while (at < to) {
    const uint32_t start = NextBit(group.words.get(), at, to, false);
    if (start >= to) break;
    const uint32_t limit = std::min(to, start + wanted);
    const uint32_t end = NextBit(group.words.get(), start, limit, true);
    if (end - start > best.length) best = {start, end - start};
    if (best.length >= enough) break;
    at = end + 1;
  }
  return best;
}

BlockRun SpaceManager::FindBest(Group& group, uint32_t from, uint32_t wanted) {
  const uint32_t enough = std::min(wanted, group.longest_max);
  BlockRun run = FindRun(group, from, kAgBlocks, wanted);
  // A short run at the goal is worth less than a whole one elsewhere in the group.
  if (run.length < enough) {
    // As far as runs reach that start below.
    const BlockRun other = FindRun(group, 0, std::min(kAgBlocks, from + enough), wanted);
    if (other.length > run.length) run = other;
    if (run.length < enough) group.longest_max = run.length;
  }
  return run;
}

// Waits while blocks that are free already are out of use for a moment.
StatusOr<BlockRun> SpaceManager::ClaimLocked(BlockNumber goal, uint32_t wanted, bool metadata) {
  for (;;) {
    StatusOr<BlockRun> run = FindAndClaimLocked(goal, wanted, metadata);
    const int error = ErrnoOf(run.status());
    const bool none_free = error == ENOSPC || error == EAGAIN;
    if (!none_free || (held_blocks_ == 0 && !releasing_)) return run;
    AnnounceBlocking();
    more_free_.Wait(mutex_);
  }
}

StatusOr<BlockRun> SpaceManager::FindAndClaimLocked(BlockNumber goal, uint32_t wanted,
                                                    bool metadata) {
  UnloadSomeLocked();
  const uint32_t first_ag = goal != 0 ? AgOf(goal) : (metadata ? metadata_ag_ : data_ag_);
  // The first group with a run that is long enough, else the best of some.
  BlockRun best;
  uint32_t best_ag = 0;
  uint32_t tried = 0;
  Status bad;
  for (uint32_t i = 0; i < ag_count_; ++i) {
    const uint32_t ag = (first_ag + i) % ag_count_;
    Group& group = groups_[ag];
    if (group.free_blocks == 0 || group.given_up) continue;
    if (Status loaded = LoadGroupLocked(ag); !loaded.ok()) {
      if (!GiveUpGroupLocked(ag, loaded)) return loaded;
      bad = loaded;
      continue;
    }
    ++tried;
    if (best.length < std::min(wanted, group.longest_max)) {
      uint32_t from = metadata ? group.node_next : group.next;
      if (!metadata && goal != 0 && i == 0) from = static_cast<uint32_t>(goal - AgStart(ag));
      const BlockRun run = FindBest(group, from, wanted);
      if (run.length > best.length) {
        best = run;
        best_ag = ag;
      }
    }
    if (best.length >= std::min(wanted, kLongRun)) break;
    if (best.length > 0 && (metadata || tried >= kGroupsTried)) break;
  }
  if (best.length > 0) return TakeLocked(best_ag, best, wanted, metadata);
  if (HasBusy()) return ErrnoError(EAGAIN, "all free blocks wait for a log commit");
  return bad.ok() ? ErrnoError(ENOSPC, "no free block") : bad;
}

// A group whose bitmap is damaged or unreadable does not spoil what others have; nobody is promised
// its space, as in ext4, until somebody who frees a block there can load it. False: there is no
// other, or it is not the group's fault.
bool SpaceManager::GiveUpGroupLocked(uint32_t ag, const Status& error) {
  if (ag_count_ == 1 || (ErrnoOf(error) != EUCLEAN && ErrnoOf(error) != EIO)) return false;
  Group& group = groups_[ag];
  group.given_up = true;
  available_.fetch_sub(group.free_blocks, std::memory_order_relaxed);
  if (report_) report_(absl::StrCat("group ", ag, " is not used: ", std::string(error.message())));
  return true;
}

BlockRun SpaceManager::TakeLocked(uint32_t ag, const BlockRun& run, uint32_t wanted,
                                  bool metadata) {
  Group& group = groups_[ag];
  SetBits(group.words.get(), static_cast<uint32_t>(run.block), run.length, true);
  group.free_blocks -= run.length;
  const uint32_t end = static_cast<uint32_t>(run.block) + run.length;
  if (metadata) {
    metadata_ag_ = ag;
    if (run.length == 1 && wanted == 1) group.node_next = end;
  } else {
    data_ag_ = ag;
    group.next = end < kAgBlocks ? end : 0;
  }
  const BlockRun taken = {AgStart(ag) + run.block, run.length};
  CountOnlyInMemory(taken, 1);
  return taken;
}

StatusOr<BlockRun> SpaceManager::Claim(BlockNumber goal, uint32_t wanted) {
  LongMutexLock lock(mutex_);
  auto run = ClaimLocked(goal, wanted, /*metadata=*/false);
  if (run.ok() && !RuleHolds(Rule::kClaims)) UnclaimLocked(*run);
  return run;
}

void SpaceManager::UnclaimLocked(const BlockRun& run) {
  Group& group = groups_[AgOf(run.block)];
  const uint32_t start = static_cast<uint32_t>(run.block - AgStart(AgOf(run.block)));
  SetBits(group.words.get(), start, run.length, false);
  group.free_blocks += run.length;
  CountOnlyInMemory(run, -1);
  group.node_next = std::min(group.node_next, start);
  if (group.longest_max < kAgBlocks) {
    const uint32_t first = AfterPreviousSet(group.words.get(), start);
    const uint32_t end = NextBit(group.words.get(), start + run.length, kAgBlocks, true);
    group.longest_max = std::max(group.longest_max, end - first);
  }
}

void SpaceManager::Unclaim(const BlockRun& run) {
  LongMutexLock lock(mutex_);
  UnclaimLocked(run);
}

void SpaceManager::ReleaseFreed(const std::vector<Transaction::Freed>& freed) {
  LongMutexLock lock(mutex_);
  for (const Transaction::Freed& run : freed) {
    busy_blocks_.fetch_sub(run.length, std::memory_order_relaxed);
    UnclaimLocked({run.block, run.length});
  }
  more_free_.SignalAll();
}

// ---- Discards -----------------------------------------------------------------------------------

void SpaceManager::SetReleasing(bool releasing) {
  LongMutexLock lock(mutex_);
  releasing_ = releasing;
  more_free_.SignalAll();
}

StatusOr<std::optional<BlockRun>> SpaceManager::Hold(uint32_t ag, BlockNumber start,
                                                     BlockNumber end, uint32_t minimum,
                                                     uint32_t maximum) {
  LongMutexLock lock(mutex_);
  UnloadSomeLocked();
  PBFS_RETURN_IF_ERROR(LoadGroupLocked(ag));
  Group& group = groups_[ag];
  auto at = static_cast<uint32_t>(start - AgStart(ag));
  const auto to = static_cast<uint32_t>(end - AgStart(ag));
  while (at < to) {
    const uint32_t first = NextBit(group.words.get(), at, to, false);
    const uint32_t last = NextBit(group.words.get(), first, to, true);
    at = last;
    if (last - first < minimum || first == to) continue;
    const BlockRun run = {AgStart(ag) + first, std::min(last - first, std::max(minimum, maximum))};
    SetBits(group.words.get(), first, run.length, true);
    group.free_blocks -= run.length;
    CountOnlyInMemory(run, 1);
    held_blocks_ += run.length;
    return run;
  }
  return std::nullopt;
}

void SpaceManager::Unhold(const BlockRun& run) {
  LongMutexLock lock(mutex_);
  UnclaimLocked(run);
  held_blocks_ -= run.length;
  more_free_.SignalAll();
}

// ---- On disk ------------------------------------------------------------------------------------

Status SpaceManager::InitializeOnDisk(Transaction& transaction, uint32_t ag) {
  BlockRef keep;
  AgEntry* entry = nullptr;
  PBFS_ASSIGN_OR_RETURN(entry, ModifyEntry(transaction, ag, keep));
  if ((entry->flags & kAgInitialized) != 0) return OkStatus();
  entry->flags |= kAgInitialized;
  auto words = std::make_unique<uint64_t[]>(kWords);
  InitialWords(ag, words.get());
  const uint32_t blocks = AgBitmapBlocks(ag, superblock_.total_blocks);
  for (uint32_t i = 0; i < blocks; ++i) {
    BlockRef bitmap =
        transaction.Create(AgStart(ag) + kAgBitmapOffset + i, kMagicBitmap, kOwnerAgBase + ag);
    std::memcpy(bitmap.as<BitmapBlock>()->words,
                words.get() + size_t{i} * (kBitsPerBitmapBlock / 64), kBitsPerBitmapBlock / 8);
  }
  return OkStatus();
}

// Sets or clears the on-disk bits of a run and adjusts the group's counter.
Status SpaceManager::ChangeBits(Transaction& transaction, const BlockRun& run, bool used) {
  const uint32_t ag = AgOf(run.block);
  PBFS_RETURN_IF_ERROR(InitializeOnDisk(transaction, ag));
  uint32_t start = static_cast<uint32_t>(run.block - AgStart(ag));
  uint32_t left = run.length;
  while (left > 0) {
    const uint32_t bit = start % kBitsPerBitmapBlock;
    const uint32_t count = std::min(left, kBitsPerBitmapBlock - bit);
    BlockRef bitmap;
    PBFS_ASSIGN_OR_RETURN(bitmap,
                          reader_.Read(AgStart(ag) + kAgBitmapOffset + start / kBitsPerBitmapBlock,
                                       kMagicBitmap, kOwnerAgBase + ag));
    auto* words = transaction.ModifyAs<BitmapBlock>(bitmap)->words;
    if (NextBit(words, bit, bit + count, used) != bit + count) {
      return CorruptionError(absl::StrCat("block ", bitmap.block(), ": bits of blocks ", run.block,
                                          "+", run.length, " are ", used ? "set" : "clear",
                                          " already"));
    }
    SetBits(words, bit, count, used);
    start += count;
    left -= count;
  }
  BlockRef keep;
  AgEntry* entry = nullptr;
  PBFS_ASSIGN_OR_RETURN(entry, ModifyEntry(transaction, ag, keep));
  if (used ? entry->free_blocks < run.length
           : entry->free_blocks + run.length > AgLength(ag, superblock_.total_blocks)) {
    return CorruptionError(absl::StrCat("block ", keep.block(), ": free_blocks of group ", ag,
                                        " is ", entry->free_blocks));
  }
  entry->free_blocks = used ? entry->free_blocks - run.length : entry->free_blocks + run.length;
  return OkStatus();
}

Status SpaceManager::CommitClaim(Transaction& transaction, const BlockRun& run) {
  PBFS_RETURN_IF_ERROR(ChangeBits(transaction, run, true));
  transaction.OnCommit([this, run] {
    on_disk_[AgOf(run.block)].has_bitmap.store(true, std::memory_order_release);
    CountOnlyInMemory(run, -1);
  });
  return OkStatus();
}

StatusOr<BlockRun> SpaceManager::Allocate(Transaction& transaction, BlockNumber goal,
                                          uint32_t wanted) {
  BlockRun run;
  {
    LongMutexLock lock(mutex_);
    PBFS_ASSIGN_OR_RETURN(run, ClaimLocked(goal, wanted, /*metadata=*/true));
  }
  transaction.OnAbort([this, run] { Unclaim(run); });
  allocated_in_transaction_ += run.length;
  PBFS_RETURN_IF_ERROR(CommitClaim(transaction, run));
  return run;
}

Status SpaceManager::Free(Transaction& transaction, const BlockRun& run) {
  if (run.length == 0 || run.block + run.length > superblock_.total_blocks ||
      AgOf(run.block) != AgOf(run.block + run.length - 1)) {
    return CorruptionError(
        absl::StrCat("freeing blocks ", run.block, "+", run.length, ": out of range"));
  }
  {
    // A group with busy blocks is always loaded: its bitmap alone would show them as free.
    LongMutexLock lock(mutex_);
    UnloadSomeLocked();
    PBFS_RETURN_IF_ERROR(LoadGroupLocked(AgOf(run.block)));
    CountOnlyInMemory(run, 1);
  }
  transaction.OnAbort([this, run] { CountOnlyInMemory(run, -1); });
  PBFS_RETURN_IF_ERROR(ChangeBits(transaction, run, false));
  transaction.AddFreed(run.block, run.length);
  transaction.OnCommit([this, run] {
    busy_blocks_.fetch_add(run.length, std::memory_order_relaxed);
    available_.fetch_add(run.length, std::memory_order_relaxed);
    freed_blocks_.fetch_add(run.length, std::memory_order_relaxed);
  });
  return OkStatus();
}

StatusOr<BlockNumber> SpaceManager::AllocateNode(Transaction& transaction, BlockNumber hint) {
  BlockRun run;
  PBFS_ASSIGN_OR_RETURN(run, Allocate(transaction, hint, 1));
  return run.block;
}

void SpaceManager::FreeNode(Transaction& transaction, BlockNumber block) {
  transaction.Cancel(block);
  if (Status freed = Free(transaction, {block, 1}); !freed.ok()) transaction.Poison(freed);
}

}  // namespace pbfs
