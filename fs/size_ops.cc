// SPDX-License-Identifier: Apache-2.0
// Changing a file's size.
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "fs/filesystem_impl.h"
#include "fs/rules.h"

namespace pbfs {
namespace {

constexpr OperationRunner::Needs kChangingSize{
    .space_blocks = 8, .privileged = true, .retry = false};

}  // namespace

Status FileSystemImpl::SetSize(const InodeRef& inode, uint64_t size) {
  {
    ReaderLock lock(inode->lock);
    if (S_ISDIR(inode->disk.mode)) return ErrnoError(EISDIR, "is a directory");
    if (!S_ISREG(inode->disk.mode)) return ErrnoError(EINVAL, "not a regular file");
  }
  if (size > kFileBytesMax) return ErrnoError(EFBIG, "file too large");
  inode->range.Lock(0, UINT64_MAX, RangeLock::Mode::kExclusive);
  Status status;
  for (RoomSearch search;;) {
    const uint64_t old_size = inode->size.load(std::memory_order_acquire);
    status = size > old_size ? Grow(inode, size) : Shrink(inode, size);
    // Here and not in Run(): making room waits for writeback, which Shrink() keeps from running.
    if (ErrnoOf(status) != ENOSPC || !SearchRoom(search).ok()) break;
  }
  inode->range.Unlock(0, UINT64_MAX, RangeLock::Mode::kExclusive);
  return status;
}

Status FileSystemImpl::Grow(const InodeRef& inode, uint64_t size) {
  PBFS_RETURN_IF_ERROR(log_->CheckWritable());
  // The zeroed tail, and all data below the new size, are on disk before the size is.
  PBFS_RETURN_IF_ERROR(ZeroOldTail(inode));
  PBFS_RETURN_IF_ERROR(writeback_->Flush(inode));
  PBFS_RETURN_IF_ERROR(Run(kChangingSize, [&](Operation& operation) -> Status {
    operation.Touch(inode, /*modified=*/true).size_bytes = size;
    return OkStatus();
  }));
  inode->size.store(size, std::memory_order_release);
  return OkStatus();
}

Status FileSystemImpl::Shrink(const InodeRef& inode, uint64_t size) {
  PBFS_RETURN_IF_ERROR(log_->CheckWritable());
  const uint64_t first_gone = (size + kPageBytes - 1) / kPageBytes;
  PageBuf* const spare = pages_.Allocate(PageUse::kData);  // Before writeback is held up.
  writeback_->BeginExclusive(inode);
  bool done = false;
  bool on_tree = false;
  Status status = Run(kChangingSize, [&](Operation& operation) -> Status {
    DiskInode& disk = operation.Touch(inode, /*modified=*/true);
    operation.TakeWriteTime(inode);  // Of an earlier write.
    disk.size_bytes = std::min(disk.size_bytes, size);
    ExtentMap map(reader_, space_, disk);
    PBFS_ASSIGN_OR_RETURN(done, map.RemoveTail(operation.transaction(), first_gone));
    on_tree = !done && disk.nlink > 0;
    if (!on_tree) return OkStatus();
    return orphans_->Add(operation, inode->ino, OrphanKind::kTruncate);
  });
  if (status.ok()) {
    CutPages(inode, size, *spare);
    inode->size.store(size, std::memory_order_release);
    if (!done) FinishShrink(inode, first_gone, on_tree);
  }
  pages_.Unpin(*spare);
  writeback_->EndExclusive(inode);
  return status;
}

// The file ends at `size` from now on. Nothing is under writeback.
void FileSystemImpl::CutPages(const InodeRef& inode, uint64_t size, PageBuf& spare) {
  const uint64_t first_gone = (size + kPageBytes - 1) / kPageBytes;
  writeback_->Unpromise(*inode, inode->pages.Drop(first_gone, UINT64_MAX));
  if (size % kPageBytes == 0) return;
  const uint64_t last = size / kPageBytes;
  if (!inode->pages.IsDirtyOrPromised(last)) {
    inode->pages.DropCached(last);  // Read again, it is masked.
  } else {
    PageCache::Pin(spare);  // ZeroTail() takes a pin over.
    inode->pages.ZeroTail(last, size % kPageBytes, spare, NowNs());
  }
  inode->truncated.store(inode->changed.load(std::memory_order_acquire), std::memory_order_release);
}

// The truncation has happened; what is left behind the end of file may not stay there while the
// file can grow again.
void FileSystemImpl::FinishShrink(const InodeRef& inode, uint64_t first_gone, bool on_tree) {
  const Status status = orphans_->FinishTruncate(inode, first_gone, on_tree);
  if (status.ok() || ErrnoOf(status) == EROFS) return;
  log_->Fail(ErrnoError(
      EIO, absl::StrCat(device_.geometry().name, ": inode ", inode->ino,
                        ": freeing blocks behind its end: ", std::string(status.message()))));
}

}  // namespace pbfs
