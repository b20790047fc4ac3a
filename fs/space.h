// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "fs/format.h"
#include "fs/transaction.h"
#include "fs/tree.h"

namespace pbfs {

// A run of device blocks within one group.
struct BlockRun {
  BlockNumber block = 0;
  uint32_t length = 0;
};

// Who asks for space. Each leaves some to those behind it.
enum class SpaceClass : uint8_t {
  kOrdinary,
  kCollected,   // Data that the kernel accepted from a program before it asked us.
  kConversion,  // Data over unwritten extents: only the growth of the tree.
  kPrivileged,  // Frees something: a full filesystem can be emptied.
};

// Free space: who may use which block.
//
// Three views of a block:
// - on disk (bitmap bit, logged): in use or free;
// - in memory (a copy of the bitmap per loaded group): also in use while *claimed* (allocated by
//   writeback whose I/O has not completed) or *busy* (freed by a transaction that is not durable);
// - promises: `available` counts what may still be reserved.
// In memory is a superset of on disk, so an allocation never hands out a block that any crash could
// still attribute to another file.
//
// Groups are loaded when they are used, and unloaded again when they were not for a while and
// memory and disk agree: 32 KiB each, and a large device has thousands. A transaction changes bits
// of loaded groups only, which stay loaded until it has ended, so a load never sees half a change.
// A group that was never used has no bitmap blocks on disk; the transaction that first allocates in
// it creates them.
//
// Locks: the on-disk side is changed inside a transaction (gate held); the in-memory side is under
// mutex_, which is a leaf but for the block cache. Thread-safe.
class SpaceManager : public NodeSpace {
 public:
  // Groups in memory: 16 MiB.
  static constexpr size_t kLoadedGroupsMax = 512;
  // `reader` is borrowed. More groups are loaded than `loaded_groups_max` while they have to be.
  explicit SpaceManager(const MetaReader& reader, size_t loaded_groups_max = kLoadedGroupsMax);

  // Reads the group table. Call once before use, after replay.
  Status Load();

  // --- Promises. Data writes and operations reserve the worst case before they start.

  // False: not that much space is left for those.
  bool Reserve(uint64_t blocks, SpaceClass by = SpaceClass::kOrdinary);
  void Unreserve(uint64_t blocks);
  // Takes promised space without asking: a promise made elsewhere covers it.
  void Take(uint64_t blocks) {
    available_.fetch_sub(static_cast<int64_t>(blocks), std::memory_order_relaxed);
  }
  // Free blocks that a user may have, and all free ones (both without reservations).
  uint64_t available_blocks() const;
  // What kOrdinary leaves.
  uint64_t kept_blocks() const { return reserve_pool_ + kept_for_collected_; }
  // Who is told of a group that is not used because its bitmap is damaged; under the lock. Call
  // before others use this object.
  void SetReport(std::function<void(const std::string&)> report) { report_ = std::move(report); }
  // Keeps a part of the space for kCollected. Call once, after Load().
  void KeepForCollected();

  // --- Claims (data). No transaction. The caller has reserved the space.

  // Up to `wanted` contiguous blocks, at or near `goal` (0: anywhere). ENOSPC when nothing is free
  // in memory; EAGAIN when busy blocks will become free once the log is forced.
  StatusOr<BlockRun> Claim(BlockNumber goal, uint32_t wanted) ABSL_LOCKS_EXCLUDED(mutex_);
  void Unclaim(const BlockRun& run) ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Inside a transaction

  // A claimed run becomes allocated on disk.
  Status CommitClaim(Transaction& transaction, const BlockRun& run) ABSL_LOCKS_EXCLUDED(mutex_);
  // Claims and commits in one. Counts as taken from the operation's reservation.
  StatusOr<BlockRun> Allocate(Transaction& transaction, BlockNumber goal, uint32_t wanted);
  // Blocks become free: on disk with the transaction, in memory once it is durable (ReleaseFreed).
  Status Free(Transaction& transaction, const BlockRun& run) ABSL_LOCKS_EXCLUDED(mutex_);

  StatusOr<BlockNumber> AllocateNode(Transaction& transaction, BlockNumber hint) override;
  void FreeNode(Transaction& transaction, BlockNumber block) override;

  // Blocks taken by Allocate/AllocateNode in the running transaction; resets the count. Gate held.
  uint64_t TakeAllocatedCount() { return std::exchange(allocated_in_transaction_, 0); }

  // The freeing transactions are durable.
  void ReleaseFreed(const std::vector<Transaction::Freed>& freed) ABSL_LOCKS_EXCLUDED(mutex_);
  // Blocks that durable transactions freed are on their way to ReleaseFreed(): who finds no free
  // block waits for them.
  void SetReleasing(bool releasing) ABSL_LOCKS_EXCLUDED(mutex_);
  // How many were ever freed: whoever finds no space sees whether there may be more since.
  uint64_t freed_blocks() const { return freed_blocks_.load(std::memory_order_relaxed); }
  bool HasBusy() const { return busy_blocks_.load(std::memory_order_relaxed) > 0; }

  // --- Discards (fs/discards.h)

  // Takes the first run of `minimum` to `maximum` free blocks of the group in [start, end) out of
  // use. Who finds no other free block waits until it is back. nullopt: there is none.
  StatusOr<std::optional<BlockRun>> Hold(uint32_t ag, BlockNumber start, BlockNumber end,
                                         uint32_t minimum, uint32_t maximum)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void Unhold(const BlockRun& run) ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t total_blocks() const { return superblock_.total_blocks; }
  size_t loaded_groups() const ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Group table (gate held)
  uint32_t ag_count() const { return ag_count_; }
  StatusOr<AgEntry> Entry(uint32_t ag);
  // The entry inside its table block, declared modified.
  StatusOr<AgEntry*> ModifyEntry(Transaction& transaction, uint32_t ag, BlockRef& keep);

 private:
  static constexpr size_t kWords = kAgBlocks / 64;
  struct Group {
    std::unique_ptr<uint64_t[]> words;  // Bit 1: not allocatable. kWords words, or not loaded.
    uint32_t free_blocks = 0;           // Zero bits, also of one that is not loaded.
    bool in_use = false;                // Since unloading last looked at it.
    bool given_up = false;              // Its bitmap could not be loaded: nothing is claimed here.
    uint32_t next = 0;                  // Where the next scan for data starts.
    uint32_t node_next = 0;             // Below it, no free block for metadata.
    uint32_t longest_max = kAgBlocks;   // No free run is longer.
  };

  // Changed by transactions too, which do not wait for somebody who loads a group.
  struct GroupOnDisk {
    // Blocks that are, or are going to be, taken in memory and free on disk: claimed, busy, held.
    // The group stays loaded meanwhile. (Negative only with a rule switched off.)
    std::atomic<int32_t> only_in_memory{0};
    std::atomic<bool> has_bitmap{false};
  };

  uint64_t KeptFrom(SpaceClass by) const;
  Status LoadGroupLocked(uint32_t ag) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool GiveUpGroupLocked(uint32_t ag, const Status& error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Down to as many loaded groups as there should be. What was loaded before may be gone.
  void UnloadSomeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Blocks of the run are taken in memory alone (+), or no longer (-).
  void CountOnlyInMemory(const BlockRun& run, int32_t sign);
  void InitialWords(uint32_t ag, uint64_t* words) const;
  Status InitializeOnDisk(Transaction& transaction, uint32_t ag);
  // Best run of free bits that starts in [from, to): the first of `wanted`, or as long as any is,
  // else the longest seen.
  static BlockRun FindRun(const Group& group, uint32_t from, uint32_t to, uint32_t wanted);
  // The same from `from` on and, if that is short, below it. Notes how long any is.
  static BlockRun FindBest(Group& group, uint32_t from, uint32_t wanted);
  static void SetBits(uint64_t* words, uint32_t start, uint32_t length, bool value);
  StatusOr<BlockRun> ClaimLocked(BlockNumber goal, uint32_t wanted, bool metadata)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  StatusOr<BlockRun> FindAndClaimLocked(BlockNumber goal, uint32_t wanted, bool metadata)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `run` counts from the start of the group.
  BlockRun TakeLocked(uint32_t ag, const BlockRun& run, uint32_t wanted, bool metadata)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Status ChangeBits(Transaction& transaction, const BlockRun& run, bool used);
  void UnclaimLocked(const BlockRun& run) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const MetaReader& reader_;
  const Superblock& superblock_;
  const uint32_t ag_count_;
  const size_t loaded_groups_max_;
  uint64_t reserve_pool_ = 0;
  uint64_t kept_for_collected_ = 0;

  std::function<void(const std::string&)> report_;
  std::vector<GroupOnDisk> on_disk_;
  std::atomic<int64_t> available_{0};
  std::atomic<int64_t> busy_blocks_{0};
  std::atomic<uint64_t> freed_blocks_{0};
  uint64_t allocated_in_transaction_ = 0;  // Gate.

  mutable Mutex mutex_;
  CondVar more_free_;  // Held blocks, or some of those being released.
  bool releasing_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t held_blocks_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Group> groups_ ABSL_GUARDED_BY(mutex_);
  std::deque<uint32_t> loaded_ ABSL_GUARDED_BY(mutex_);  // Oldest first.
  uint32_t data_ag_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t metadata_ag_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace pbfs
