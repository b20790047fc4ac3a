// SPDX-License-Identifier: Apache-2.0
// The second half of a round: the device has its data, or not.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/probe.h"
#include "fs/fork.h"
#include "fs/writeback.h"

namespace pbfs {
namespace {

// Rounds that share a transaction. Each may touch an inode block and, for its extent, two bitmap
// blocks, a group entry and (the first node of a tree) a new block with as many: not more than
// kTransactionBlocksMax together.
constexpr size_t kRoundsPerTransaction = 12;
// Space was promised when the data was accepted: nothing more to reserve.
constexpr OperationRunner::Needs kStoring{
    .space_blocks = 0, .privileged = true, .retry = false, .promised = true};

// What fsync says about a failed write, as Linux has it: ENOSPC (the host of an image file is full)
// or EIO.
int WriteErrno(int error) { return error == ENOSPC || error == EDQUOT ? ENOSPC : EIO; }

}  // namespace

uint64_t Writeback::StoredTail(const Inode& inode) {
  return inode.stored_size.load(std::memory_order_acquire) / kBlockBytes;
}

// New extents, the new size and the time of the newest write, after the data is on the device.
Status Writeback::CommitRound(Round& round) {
  Inode& inode = *round.inode;
  bool grows = false;
  {
    ReaderLock lock(inode.lock);
    // The size in memory may have shrunk since, but a truncation waits for the round.
    grows = round.size_after > inode.disk.size_bytes;
  }
  bool timed = false;
  {
    MutexLock lock(inode.writeback_lock);
    timed = inode.pending_mtime.has_value();
  }
  if (round.committed == round.extents.size() && !grows && !timed) return OkStatus();
  return CommitExtents(round, grows);
}

Status Writeback::ChangeMap(Operation& operation, ExtentMap& map, const Extent& extent) {
  Transaction& transaction = operation.transaction();
  if (extent.unwritten) {
    return map.Convert(transaction, {extent.file_block, extent.block, extent.length, false});
  }
  PBFS_RETURN_IF_ERROR(space_.CommitClaim(transaction, {extent.block, extent.length}));
  return map.Insert(transaction, extent);
}

Status Writeback::CommitExtents(Round& round, bool grows) {
  size_t next = round.committed;
  do {
    const size_t end = std::min(next + kExtentsPerTransaction, round.extents.size());
    PBFS_RETURN_IF_ERROR(runner_.Run(kStoring, [&](Operation& operation) -> Status {
      PBFS_RETURN_IF_ERROR(StoreRound(operation, round, next, end));
      if (next == end && !grows) operation.SetTimesOnly();
      return OkStatus();
    }));
    next = end;
    round.committed = next;
  } while (next < round.extents.size());
  return OkStatus();
}

// The extents [first, end) of the round and what goes with them.
Status Writeback::StoreRound(Operation& operation, const Round& round, size_t first, size_t end) {
  DiskInode& disk = operation.Edit(round.inode);
  ExtentMap map(reader_, space_, disk);
  for (size_t i = first; i < end; ++i) {
    PBFS_RETURN_IF_ERROR(ChangeMap(operation, map, round.extents[i]));
  }
  const bool last = end == round.extents.size();
  // With each step the size that goes with it: a crash leaves no blocks behind the end.
  uint64_t size = round.size_after;
  if (!last) {
    const Extent& extent = round.extents[end - 1];
    size = std::min(size, (extent.file_block + extent.length) * kBlockBytes);
  }
  disk.size_bytes = std::max(disk.size_bytes, size);
  // Taken with the inode locked: who looks at it, or sets times, comes before or after.
  const auto written = last ? operation.TakeWriteTime(round.inode) : std::nullopt;
  if (written) SetWriteTime(disk, *written);
  return OkStatus();
}

// True: it is stored in a transaction with others of its kind. A tree of extents would take too
// many blocks for that. A long extent would, too, but whoever has one is alone in its batch.
bool Writeback::MayShareTransaction(const Round& round) {
  if (!round.status.ok() || !round.failure.ok()) return false;
  if (round.extents.size() != 1 || round.committed != 0) return false;
  ReaderLock lock(round.inode->lock);
  return FormatOf(round.inode->disk, Fork::kData) != ForkFormat::kTree;
}

// Stores small rounds together: most of what a transaction costs does not depend on what is in it.
// What is not stored here, for lack of company or after an error, is stored alone.
void Writeback::FinishTogether(std::span<Round* const> rounds) {
  if (rounds.size() > 1) {
    const Status status = runner_.Run(kStoring, [&](Operation& operation) -> Status {
      for (const Round* round : rounds) {
        PBFS_RETURN_IF_ERROR(StoreRound(operation, *round, 0, 1));
      }
      return OkStatus();
    });
    for (Round* round : rounds) round->committed = status.ok() ? 1 : 0;
  }
  for (Round* round : rounds) {
    FinishRound(*round);
    DropIfClean(*round->inode);
  }
}

// Which pages the device did not take.
void Writeback::NoteErrors(Round& round, const std::vector<WriteBatch::Piece>& pieces) {
  size_t piece = round.first_piece;
  size_t count = 0;
  for (size_t i = 0; i < round.pages.size(); ++i) {
    if (round.errors[i] != 0) continue;
    const WriteBatch::Piece& written = pieces[piece++];
    if (written.error == 0) continue;
    round.errors[i] = WriteErrno(written.error);
    if (++count > 1) continue;
    round.failure =
        ErrnoError(round.errors[i], absl::StrCat(device_.geometry().name, ": block ", written.block,
                                                 ": data of inode ", round.inode->ino,
                                                 ": write failed: ", std::strerror(written.error)));
  }
  if (count == 0 || !options_.log) return;
  std::string line(round.failure.message());
  if (count > 1) absl::StrAppend(&line, " (and ", count - 1, " more blocks)");
  options_.log(line);
}

// Behind the stored size the block on the device holds garbage until the page with the zeroed tail
// is written. If that failed, the size must stay, and what lies behind it fails, too.
void Writeback::FailBehindBadTail(Round& round, int error) {
  Inode& inode = *round.inode;
  if (inode.stored_size.load(std::memory_order_acquire) % kBlockBytes == 0) return;
  const uint64_t tail = StoredTail(inode);
  for (size_t i = 0; i < round.pages.size(); ++i) {
    if (round.pages[i].index == tail) error = round.errors[i];
    if (round.pages[i].index > tail && round.errors[i] == 0) round.errors[i] = error;
  }
  if (error == 0) return;
  round.size_after = 0;
  if (round.failure.ok()) round.failure = DataError(inode, error);
}

// Cuts the failed pages out of what the round stores: they get no blocks, and the size does not
// rise to them.
void Writeback::KeepGoodParts(Round& round) {
  uint64_t end = 0;
  size_t at = 0;
  std::vector<Extent> good;
  for (const Extent& extent : round.extents) {
    while (round.pages[at].index < extent.file_block) ++at;
    for (uint32_t i = 0; i < extent.length; ++i) {
      const BlockNumber block = extent.block + i;
      if (round.errors[at + i] != 0) {
        if (!extent.unwritten) space_.Unclaim({block, 1});
      } else if (i > 0 && round.errors[at + i - 1] == 0) {
        ++good.back().length;
      } else {
        good.push_back({extent.file_block + i, block, 1, extent.unwritten});
      }
    }
  }
  round.extents = std::move(good);
  for (size_t i = 0; i < round.pages.size(); ++i) {
    if (round.errors[i] == 0) end = (round.pages[i].index + 1) * kBlockBytes;
  }
  round.size_after = std::min(round.size_after, end);
}

void Writeback::FinishRound(Round& round) {
  Inode& inode = *round.inode;
  if (round.status.ok() && !round.failure.ok()) KeepGoodParts(round);
  if (round.status.ok()) round.status = CommitRound(round);
  if (!round.status.ok()) {
    for (size_t i = round.committed; i < round.extents.size(); ++i) {
      const Extent& extent = round.extents[i];
      if (!extent.unwritten) space_.Unclaim({extent.block, extent.length});
    }
    // That the filesystem became read-only has been said.
    if (options_.log && log_.error().ok()) {
      options_.log(absl::StrCat("inode ", inode.ino,
                                ": writing data: ", std::string(round.status.message())));
    }
  }
  EndRound(round);
}

// Its pages, promise and slot.
void Writeback::EndRound(Round& round) {
  Inode& inode = *round.inode;
  PBFS_PROBE(round_end, inode.ino, round.pages.size(), round.extents.size(),
             ErrnoOf(round.status.ok() ? round.failure : round.status));
  PromiseCounts used;
  for (size_t i = 0; i < round.committed; ++i) {
    used += inode.pages.ClearPromises(round.extents[i].file_block, round.extents[i].length);
  }
  PromiseCounts given_up;
  for (size_t i = 0; i < round.pages.size(); ++i) {
    const int error = round.status.ok() ? round.errors[i] : WriteErrno(ErrnoOf(round.status));
    given_up += inode.pages.EndWriteback(round.pages[i], error);
  }
  UsePromise(inode, used);
  Unpromise(inode, given_up);
  ReleaseRoundSlot(inode, round.status.ok() ? round.failure : round.status);
}

void Writeback::FinishBatch(Batch& batch) {
  const std::vector<WriteBatch::Piece>& pieces = batch.writes->pieces();
  const bool any_failed = batch.writes->any_failed();
  if (any_failed) {
    for (auto& round : batch.rounds) {
      if (!round->status.ok()) continue;
      NoteErrors(*round, pieces);
      Inode& inode = *round->inode;
      FailBehindBadTail(*round, inode.pages.WriteErrorAt(StoredTail(inode)));
    }
  }
  std::vector<Round*> together;
  for (const auto& round : batch.rounds) {
    if (!MayShareTransaction(*round)) {
      FinishTogether(std::array{round.get()});
      continue;
    }
    together.push_back(round.get());
    if (together.size() < kRoundsPerTransaction) continue;
    FinishTogether(together);
    together.clear();
  }
  FinishTogether(together);
}

}  // namespace pbfs
