// SPDX-License-Identifier: Apache-2.0
// copy_file_range(2), and where a block of a file lies.
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/event.h"
#include "fs/filesystem_impl.h"
#include "fs/inode_flags.h"

namespace pbfs {
namespace {

// Of data, in one call: others wait for the thread. Holes cost nothing.
constexpr uint64_t kCopiedBytesMax = 16 << 20;
constexpr uint64_t kPieceBytesMax = 256 << 10;
// The answer to the kernel has 32 bits.
constexpr uint64_t kCallBytesMax = uint64_t{1} << 31;

}  // namespace

// Piece by piece through a buffer, so that at no time locks of two ranges are held, nor frames
// while others are waited for.
StatusOr<uint64_t> FileSystemImpl::CopyRange(const FileRange& from, const FilePosition& to,
                                             const WriteFlags& flags) {
  PBFS_RETURN_IF_ERROR(CheckWritable());
  InodeRef source;
  PBFS_ASSIGN_OR_RETURN(source, GetInode(from.ino));
  PBFS_RETURN_IF_ERROR(CheckRegular(*source));
  InodeRef target;
  PBFS_ASSIGN_OR_RETURN(target, GetInode(to.ino));
  PBFS_RETURN_IF_ERROR(CheckRegular(*target));
  const uint64_t size = source->size.load(std::memory_order_acquire);
  if (from.offset_bytes >= size || from.length_bytes == 0) return 0;
  const uint64_t wanted = std::min({from.length_bytes, size - from.offset_bytes, kCallBytesMax});
  if (to.offset_bytes > kFileBytesMax || wanted > kFileBytesMax - to.offset_bytes) {
    return ErrnoError(EFBIG, "file too large");
  }
  if (from.ino == to.ino && from.offset_bytes < to.offset_bytes + wanted &&
      to.offset_bytes < from.offset_bytes + wanted) {
    return ErrnoError(EINVAL, "ranges overlap");
  }
  {
    ReaderLock lock(target->lock);
    PBFS_RETURN_IF_ERROR(CheckChange(target->disk));
  }
  PBFS_RETURN_IF_ERROR(KillPrivileges(target, flags));
  uint64_t done = 0;
  for (uint64_t copied = 0; done < wanted && copied < kCopiedBytesMax;) {
    CopiedPiece piece;
    const FileRange rest{from.ino, from.offset_bytes + done, wanted - done};
    const Status status = CopyPiece(rest, {to.ino, to.offset_bytes + done}, &piece);
    if (!status.ok() && done == 0) return status;
    if (!status.ok() || piece.length_bytes == 0) break;
    done += piece.length_bytes;
    if (!piece.hole) copied += piece.length_bytes;
  }
  return done;
}

// The first part of `from`, data or hole; nothing when the file has become shorter.
Status FileSystemImpl::CopyPiece(const FileRange& from, const FilePosition& to,
                                 CopiedPiece* piece) {
  const StatusOr<uint64_t> data = Seek(from.ino, from.offset_bytes, SEEK_DATA);
  if (!data.ok() && ErrnoOf(data.status()) != ENXIO) return data.status();
  uint64_t hole = 0;
  if (data.ok()) {
    hole = std::min(*data - from.offset_bytes, from.length_bytes);
  } else {
    // A hole to the end of the file, which may have come nearer.
    uint64_t end = 0;
    PBFS_ASSIGN_OR_RETURN(end, SizeOf(from.ino));
    if (end <= from.offset_bytes) return OkStatus();
    hole = std::min(end - from.offset_bytes, from.length_bytes);
  }
  if (hole >= kBlockBytes) {
    *piece = {hole, true};
    return CopyHole(to, hole);
  }
  uint64_t length = std::min(from.length_bytes, kPieceBytesMax);
  if (hole == 0) {
    uint64_t data_end = 0;
    PBFS_ASSIGN_OR_RETURN(data_end, Seek(from.ino, from.offset_bytes, SEEK_HOLE));
    if (data_end > from.offset_bytes) length = std::min(length, data_end - from.offset_bytes);
  }
  std::vector<std::byte> bytes(length);
  Event read;
  Status status;
  Read(from.ino, from.offset_bytes, length, /*leaves_atime=*/false, nullptr,
       [&](const Status& result, const LogicalBuffer& found, PageHold) {
         status = result;
         bytes.resize(found.size_bytes());
         found.CopyTo(0, bytes.data(), bytes.size());
         read.Set();
       });
  read.Wait();
  if (!status.ok() || bytes.empty()) return status;
  *piece = {bytes.size(), false};
  WritePayload payload;
  payload.data.Append(bytes.data(), bytes.size());
  Event written;
  Write(to.ino, to.offset_bytes, payload, {}, [&](const Status& result) {
    status = result;
    written.Set();
  });
  written.Wait();
  return status;
}

StatusOr<uint64_t> FileSystemImpl::SizeOf(InodeNumber ino) {
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  return inode->size.load(std::memory_order_acquire);
}

Status FileSystemImpl::CopyHole(const FilePosition& to, uint64_t length_bytes) {
  InodeRef target;
  PBFS_ASSIGN_OR_RETURN(target, GetInode(to.ino));
  if (to.offset_bytes < target->size.load(std::memory_order_acquire)) {
    PBFS_RETURN_IF_ERROR(Fallocate(to.ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                   to.offset_bytes, length_bytes, {}));
  }
  const uint64_t end = to.offset_bytes + length_bytes;
  target->range.Lock(0, UINT64_MAX, RangeLock::Mode::kExclusive);
  Status status;
  if (end > target->size.load(std::memory_order_acquire)) status = Grow(target, end);
  target->range.Unlock(0, UINT64_MAX, RangeLock::Mode::kExclusive);
  return status;
}

StatusOr<BlockNumber> FileSystemImpl::BlockOf(InodeNumber ino, uint64_t file_block) {
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  PBFS_RETURN_IF_ERROR(CheckRegular(*inode));
  if (writing_) {
    PBFS_RETURN_IF_ERROR(writeback_->Flush(inode));
  }
  ReaderLock lock(inode->lock);
  Extent extent;
  PBFS_ASSIGN_OR_RETURN(extent, ExtentMap(reader_, space_, inode->disk).Lookup(file_block, 1));
  return extent.unwritten ? BlockNumber{0} : extent.block;
}

}  // namespace pbfs
