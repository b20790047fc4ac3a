// SPDX-License-Identifier: Apache-2.0
// fallocate(2): space for a range, or none, or zeroes.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "base/clock.h"
#include "fs/filesystem_impl.h"
#include "fs/inode_flags.h"
#include "fs/rules.h"

namespace pbfs {
namespace {

// New tree nodes of one step. No retry: making room waits for writeback, which is held up.
constexpr uint32_t kNodesPerStep = 16;
// Extents that a step looks at and leaves alone.
constexpr uint32_t kLookedAtPerStep = 256;

OperationRunner::Needs StepNeeds(bool privileged) {
  return {.space_blocks = kNodesPerStep, .privileged = privileged, .retry = false};
}

Status CheckFallocate(int mode, uint64_t offset_bytes, uint64_t length_bytes) {
  switch (mode) {
    case 0:
    case FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
    case FALLOC_FL_ZERO_RANGE:
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
      break;
    default:
      return ErrnoError(EOPNOTSUPP, "fallocate mode not supported");
  }
  if (length_bytes == 0) return ErrnoError(EINVAL, "length is 0");
  if (offset_bytes > kFileBytesMax || length_bytes > kFileBytesMax - offset_bytes) {
    return ErrnoError(EFBIG, "file too large");
  }
  return OkStatus();
}

uint64_t BlocksUp(uint64_t bytes) { return (bytes + kBlockBytes - 1) / kBlockBytes; }

// The part of a page that is zeroed where the range does not end with a block.
struct Edge {
  uint64_t index = 0;
  size_t offset = 0;
  size_t length = 0;  // 0: none.
};

// Of a range, at its two ends, as far as the file has data there.
std::array<Edge, 2> EdgesOf(uint64_t start, uint64_t end, uint64_t size) {
  std::array<Edge, 2> edges;
  const uint64_t head = start / kPageBytes;
  const uint64_t tail = end / kPageBytes;
  if (start % kPageBytes != 0) {
    edges[0] = {head, start % kPageBytes, std::min(end, (head + 1) * kPageBytes) - start};
  }
  if (end % kPageBytes != 0 && (edges[0].length == 0 || tail != head)) {
    edges[1] = {tail, 0, end % kPageBytes};
  }
  for (Edge& edge : edges) {
    if (edge.index * kPageBytes + edge.offset >= size) edge.length = 0;
  }
  return edges;
}

}  // namespace

// What happens to a range of a file, in file blocks.
struct FileSystemImpl::RangeChange {
  uint64_t first;
  uint64_t end;
  // The part whose data goes.
  uint64_t drop_first;
  uint64_t drop_end;
  // Holes get unwritten extents and the data that goes makes its extents unwritten. Else the range
  // becomes a hole.
  bool fill;
  uint64_t size_after = 0;  // The size is raised to this.

  bool Drops(uint64_t block) const { return block >= drop_first && block < drop_end; }
  // Where the piece from `block` on ends, in which all is dropped or nothing.
  uint64_t PieceEnd(uint64_t block) const {
    if (block < drop_first) return std::min(drop_first, end);
    return block < drop_end ? std::min(drop_end, end) : end;
  }
};

Status FileSystemImpl::Fallocate(InodeNumber ino, int mode, uint64_t offset_bytes,
                                 uint64_t length_bytes, const WriteFlags& flags) {
  PBFS_RETURN_IF_ERROR(CheckWritable());
  PBFS_RETURN_IF_ERROR(log_->CheckWritable());
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  {
    ReaderLock lock(inode->lock);
    if (S_ISDIR(inode->disk.mode)) return ErrnoError(EISDIR, "is a directory");
    if (!S_ISREG(inode->disk.mode)) return ErrnoError(ENODEV, "not a regular file");
    // An append-only file may get space, but loses nothing.
    const bool adds = (mode & ~FALLOC_FL_KEEP_SIZE) == 0;
    if (IsImmutable(inode->disk) || !adds) PBFS_RETURN_IF_ERROR(CheckChange(inode->disk));
  }
  PBFS_RETURN_IF_ERROR(CheckFallocate(mode, offset_bytes, length_bytes));
  PBFS_RETURN_IF_ERROR(KillPrivileges(inode, flags));
  const uint64_t end = offset_bytes + length_bytes;
  // Who may raise the size holds everything.
  const bool keeps_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  const uint64_t lock_start = keeps_size ? offset_bytes / kPageBytes * kPageBytes : 0;
  const uint64_t lock_end = keeps_size ? BlocksUp(end) * kPageBytes : UINT64_MAX;
  inode->range.Lock(lock_start, lock_end, RangeLock::Mode::kExclusive);
  const Status status = FallocateLocked(inode, mode, offset_bytes, end);
  inode->range.Unlock(lock_start, lock_end, RangeLock::Mode::kExclusive);
  return status;
}

Status FileSystemImpl::FallocateLocked(const InodeRef& inode, int mode, uint64_t start,
                                       uint64_t end) {
  const uint64_t size = inode->size.load(std::memory_order_acquire);
  const bool punches = (mode & FALLOC_FL_PUNCH_HOLE) != 0;
  const bool drops = punches || (mode & FALLOC_FL_ZERO_RANGE) != 0;
  const uint64_t whole_first = BlocksUp(start);
  const uint64_t whole_end = std::max(whole_first, end / kBlockBytes);
  RangeChange change{start / kBlockBytes, BlocksUp(end), BlocksUp(end), BlocksUp(end), !punches};
  if (drops) {
    change.drop_first = whole_first;
    change.drop_end = whole_end;
  }
  if (punches) {
    change.first = whole_first;
    change.end = whole_end;
  }
  // What can fail or wait comes first. Frames are not waited for while writeback is held up.
  PageHold hold(pages_);
  std::array<Edge, 2> edges;
  if (drops) edges = EdgesOf(start, end, size);
  for (const Edge& edge : edges) {
    if (edge.length == 0) continue;
    PBFS_RETURN_IF_ERROR(FillPage(inode, edge.index, hold));
  }
  std::vector<PageBuf*> spares;
  pages_.AllocateMany(edges.size(), spares, PageUse::kData);
  for (PageBuf* spare : spares) hold.Add(*spare);
  if ((mode & FALLOC_FL_KEEP_SIZE) == 0 && end > size) {
    // As a truncation upwards: the zeroed tail, and all data below, before the size.
    PBFS_RETURN_IF_ERROR(ZeroOldTail(inode));
    PBFS_RETURN_IF_ERROR(writeback_->Flush(inode));
    change.size_after = end;
  }
  PBFS_RETURN_IF_ERROR(ChangeRange(inode, change));
  for (size_t i = 0; i < edges.size(); ++i) {
    if (edges[i].length == 0) continue;
    PageCache::Pin(*spares[i]);  // ZeroPart() takes a pin over.
    // Not cached: it has no data.
    inode->pages.ZeroPart(edges[i].index, edges[i].offset, edges[i].length, *spares[i], NowNs());
    writeback_->MarkDirty(inode);
  }
  return CheckRunning();
}

// Space for what `change` fills is reserved, and the caller holds the inode's round slot; or an
// error, and neither.
StatusOr<uint64_t> FileSystemImpl::BeginChange(const InodeRef& inode, const RangeChange& change) {
  for (RoomSearch search;;) {
    writeback_->BeginExclusive(inode);
    if (!change.fill) return 0;
    const StatusOr<uint64_t> needed = CountBlocksToFill(*inode, change);
    if (needed.ok() && *needed == 0) return 0;
    // With something for the first step, so that as a rule it is all or nothing.
    if (needed.ok() && space_.Reserve(*needed + kNodesPerStep)) {
      space_.Unreserve(kNodesPerStep);
      return *needed;
    }
    writeback_->EndExclusive(inode);
    if (!needed.ok()) return needed.status();
    PBFS_RETURN_IF_ERROR(SearchRoom(search));
  }
}

StatusOr<uint64_t> FileSystemImpl::CountBlocksToFill(Inode& inode, const RangeChange& change) {
  uint64_t count = 0;
  ReaderLock lock(inode.lock);
  ExtentMap map(reader_, space_, inode.disk);
  for (uint64_t at = change.first; at < change.end;) {
    const uint64_t piece_end = change.PieceEnd(at);
    Extent next;
    PBFS_ASSIGN_OR_RETURN(next, map.Next(at));
    const uint64_t hole_end =
        next.length == 0 ? piece_end : std::min(piece_end, std::max(at, next.file_block));
    if (hole_end > at) {
      count += hole_end - at;
      // Those will get a block of their own.
      if (!change.Drops(at)) count -= inode.pages.CountPromised(at, hole_end - at);
      at = hole_end;
    } else {
      at = std::min(piece_end, next.file_block + next.length);
    }
  }
  return count;
}

Status FileSystemImpl::ChangeRange(const InodeRef& inode, const RangeChange& change) {
  uint64_t reserved = 0;
  PBFS_ASSIGN_OR_RETURN(reserved, BeginChange(inode, change));
  const OperationRunner::Needs needs = StepNeeds(/*privileged=*/reserved == 0);
  Status status;
  uint64_t at = change.first;
  do {
    StepResult step;
    status = Run(needs, [&](Operation& operation) -> Status {
      DiskInode& disk = operation.Edit(inode);
      PBFS_ASSIGN_OR_RETURN(step, ChangeStep(operation, inode, change, at));
      if (step.next < change.end) return OkStatus();
      operation.TakeWriteTime(inode);  // Of an earlier write.
      SetTimes(disk, CurrentTime(), /*modified=*/true);
      disk.size_bytes = std::max(disk.size_bytes, change.size_after);
      return OkStatus();
    });
    if (!status.ok()) break;
    reserved -= step.filled;
    // Not before: a step that fails leaves everything as it was.
    const uint64_t first = std::max(at, change.drop_first);
    const uint64_t end = std::min(step.next, change.drop_end);
    if (first < end) writeback_->Unpromise(*inode, inode->pages.Drop(first, end - 1));
    at = step.next;
  } while (at < change.end);
  space_.Unreserve(reserved);
  if (status.ok() && change.size_after > 0) {
    inode->size.store(change.size_after, std::memory_order_release);
  }
  writeback_->EndExclusive(inode);
  return status;
}

// One transaction's worth, from `at` on. The inode is locked for editing.
StatusOr<FileSystemImpl::StepResult> FileSystemImpl::ChangeStep(Operation& operation,
                                                                const InodeRef& inode,
                                                                const RangeChange& change,
                                                                uint64_t at) {
  Transaction& transaction = operation.transaction();
  ExtentMap map(reader_, space_, operation.Edit(inode));
  StepResult result{at, 0};
  if (!change.fill) {
    PBFS_ASSIGN_OR_RETURN(result.next, map.RemoveRange(transaction, at, change.end));
    return result;
  }
  uint32_t changes = 0;
  for (uint32_t looked_at = 0;
       at < change.end && changes < kExtentsPerTransaction && looked_at < kLookedAtPerStep;
       ++looked_at) {
    const uint64_t most = std::min<uint64_t>(change.PieceEnd(at) - at, kAgBlocks);
    Extent extent;
    PBFS_ASSIGN_OR_RETURN(extent, map.Lookup(at, static_cast<uint32_t>(most)));
    if (extent.is_hole() && !change.Drops(at)) {
      // A page that waits for its own block gets that.
      const uint64_t promised = inode->pages.NextPromised(at);
      if (promised == at) {
        ++at;
        continue;
      }
      extent.length = static_cast<uint32_t>(std::min<uint64_t>(extent.length, promised - at));
    }
    if (extent.is_hole()) {
      PBFS_ASSIGN_OR_RETURN(extent.length, FillHole(transaction, map, at, extent.length));
      result.filled += extent.length;
      ++changes;
    } else if (change.Drops(at) && !extent.unwritten) {
      extent.unwritten = true;
      PBFS_RETURN_IF_ERROR(map.Convert(transaction, extent));
      ++changes;
    }
    at += extent.length;
  }
  result.next = at;
  return result;
}

// Returns how many blocks it got, at least one. The caller has reserved them.
StatusOr<uint32_t> FileSystemImpl::FillHole(Transaction& transaction, ExtentMap& map,
                                            uint64_t file_block, uint32_t wanted) {
  BlockNumber goal = 0;
  PBFS_ASSIGN_OR_RETURN(goal, map.Goal(file_block));
  BlockRun run;
  PBFS_ASSIGN_OR_RETURN(run, space_.Claim(goal, wanted));
  transaction.OnAbort([this, run] { space_.Unclaim(run); });
  PBFS_RETURN_IF_ERROR(space_.CommitClaim(transaction, run));
  PBFS_RETURN_IF_ERROR(
      map.Insert(transaction, {file_block, run.block, run.length, RuleHolds(Rule::kUnwritten)}));
  return run.length;
}

}  // namespace pbfs
