// SPDX-License-Identifier: Apache-2.0
// Reading and writing file data.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "fs/filesystem_impl.h"
#include "fs/inode_flags.h"
#include "fs/rules.h"

namespace pbfs {

Status FileSystemImpl::CheckRegular(Inode& inode) {
  ReaderLock lock(inode.lock);
  if (S_ISDIR(inode.disk.mode)) return ErrnoError(EISDIR, "is a directory");
  if (!S_ISREG(inode.disk.mode)) return ErrnoError(EINVAL, "not a regular file");
  return OkStatus();
}

// ---- Read ---------------------------------------------------------------------------------------

// A read in progress: pages from the cache, zeroes for holes, frames that the device fills; or a
// pipe that it fills. Freed by its last completion.
struct FileSystemImpl::ReadOperation {
  FileSystemImpl& filesystem;
  ReadDone done;  // Goes last: what it holds keeps the filesystem in place.
  InodeRef inode;
  uint64_t offset_bytes;
  size_t length_bytes;

  std::vector<PageBuf*> pages;  // One per page of the range; each pinned.
  std::vector<std::unique_ptr<IoRequest>> requests;
  std::atomic<size_t> pending{1};
  std::atomic<int> error{0};
  std::atomic<BlockNumber> failed_block{0};

  uint64_t lock_start() const { return offset_bytes; }
  uint64_t lock_end() const { return offset_bytes + length_bytes; }

  static void Completed(IoRequest& request, void* context, int error) {
    auto* self = static_cast<ReadOperation*>(context);
    if (error != 0) {
      self->failed_block.store(request.offset_bytes / kBlockBytes, std::memory_order_relaxed);
      self->error.store(error, std::memory_order_relaxed);
    }
    self->Release();
  }

  void Release() {
    if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) Finish(OkStatus());
  }

  // Answers and deletes the operation.
  void Finish(Status status) {
    std::atomic<uint64_t>& in_flight = filesystem.reads_in_flight_;
    Answer(std::move(status));
    delete this;
    in_flight.fetch_sub(1, std::memory_order_release);
  }

  void Answer(Status status) {
    PageHold hold(filesystem.pages_);
    LogicalBuffer data;
    uint64_t skip = offset_bytes % kPageBytes;
    size_t left = length_bytes;
    for (PageBuf* page : pages) {
      if (page == nullptr) continue;  // Only after an error.
      hold.Add(*page);
      const size_t count = std::min<size_t>(left, kPageBytes - skip);
      data.Append(page->data + skip, count);
      left -= count;
      skip = 0;
    }
    if (const int failed = error.load(std::memory_order_relaxed); failed != 0) {
      status = filesystem.DataReadError(inode->ino, failed_block.load(std::memory_order_relaxed),
                                        failed);
    }
    done(status, data, std::move(hold));
    inode->range.Unlock(lock_start(), lock_end(), RangeLock::Mode::kShared);
  }
};

Status FileSystemImpl::DataReadError(InodeNumber ino, BlockNumber block, int error) const {
  Status status =
      ErrnoError(EIO, absl::StrCat(device_.geometry().name, ": block ", block, ": data of inode ",
                                   ino, ": read failed: ", std::strerror(error)));
  if (options_.log) options_.log(std::string(status.message()));
  return status;
}

void FileSystemImpl::Read(InodeNumber ino, uint64_t offset_bytes, size_t length_bytes,
                          bool leaves_atime, ReadPipe* pipe, ReadDone done) {
  StatusOr<InodeRef> inode = GetInode(ino);
  Status status = inode.status();
  if (status.ok()) status = CheckRegular(**inode);
  if (!status.ok()) {
    done(status, {}, {});
    return;
  }
  uint64_t end = offset_bytes + length_bytes;
  if (length_bytes == 0 || end < offset_bytes) {
    done(length_bytes == 0 ? OkStatus() : ErrnoError(EINVAL, "offset out of range"), {}, {});
    return;
  }
  // Until the locked range lies within the file: then it stays so. A read behind the end locks for
  // nothing, briefly.
  for (;;) {
    (*inode)->range.Lock(offset_bytes, end, RangeLock::Mode::kShared);
    const uint64_t size = (*inode)->size.load(std::memory_order_acquire);
    if (end <= size) break;
    (*inode)->range.Unlock(offset_bytes, end, RangeLock::Mode::kShared);
    if (offset_bytes >= size) {
      done(OkStatus(), {}, {});
      return;
    }
    end = size;
  }
  length_bytes = end - offset_bytes;
  if (!leaves_atime) access_times_->Note(*inode);
  reads_in_flight_.fetch_add(1, std::memory_order_relaxed);
  auto* operation = new ReadOperation{
      *this, std::move(done), std::move(*inode), offset_bytes, length_bytes, {}, {}};
  status = PrepareRead(*operation, pipe);
  if (!status.ok()) {
    operation->Finish(status);
    return;
  }
  std::vector<IoRequest*> requests;
  requests.reserve(operation->requests.size());
  for (auto& request : operation->requests) requests.push_back(request.get());
  operation->pending.store(requests.size() + 1, std::memory_order_relaxed);
  if (!requests.empty()) device_.SubmitBatch(requests);
  InodeRef small;  // Set: read whole from the device.
  if (!requests.empty() && offset_bytes == 0 && length_bytes <= NeighbourReads::kFileBytesMax &&
      end == operation->inode->size.load(std::memory_order_acquire)) {
    small = operation->inode.Clone();
    reads_in_flight_.fetch_add(1, std::memory_order_relaxed);
  }
  operation->Release();
  if (!small) return;
  neighbour_reads_.NoteRead(small);
  small.Reset();
  reads_in_flight_.fetch_sub(1, std::memory_order_release);
}

// Has the device fill the pipe if everything lies in one place there and nowhere else. Pages of the
// kernel's are as long as ours.
bool FileSystemImpl::PrepareReadIntoPipe(ReadOperation& operation, const Extent& extent,
                                         ReadPipe& pipe) {
  const size_t count = operation.pages.size();
  if (operation.offset_bytes % kPageBytes != 0 || operation.length_bytes != count * kPageBytes ||
      extent.is_hole() || extent.unwritten || extent.length != count ||
      !device_.geometry().reads_into_pipes) {
    return false;
  }
  const int write_end = pipe.Open(operation.length_bytes);
  if (write_end < 0) return false;
  auto request = std::make_unique<IoRequest>();
  request->op = IoOp::kRead;
  request->offset_bytes = extent.block * kBlockBytes;
  request->length_bytes = operation.length_bytes;
  request->pipe = write_end;
  request->PushCompletion(&ReadOperation::Completed, &operation);
  operation.requests.push_back(std::move(request));
  return true;
}

// Fills operation.pages from the cache, with zero pages and with new frames that requests will
// fill. Or fills `pipe` (may be nullptr).
Status FileSystemImpl::PrepareRead(ReadOperation& operation, ReadPipe* pipe) {
  Inode& inode = *operation.inode;
  const uint64_t first = operation.offset_bytes / kPageBytes;
  const uint64_t last = (operation.offset_bytes + operation.length_bytes - 1) / kPageBytes;
  std::vector<PageBuf*>& pages = operation.pages;
  inode.pages.Lookup(first, last - first + 1, pages);
  const auto misses = static_cast<size_t>(std::count(pages.begin(), pages.end(), nullptr));
  pages_.data_misses.fetch_add(misses, std::memory_order_relaxed);
  pages_.data_hits.fetch_add(pages.size() - misses, std::memory_order_relaxed);

  struct Missing {
    size_t at;  // In `pages`.
    uint32_t length;
    BlockNumber block;
  };
  std::vector<Missing> missing;
  size_t frames_needed = 0;
  for (size_t at = 0; at < pages.size();) {
    if (pages[at] != nullptr) {
      ++at;
      continue;
    }
    size_t end = at + 1;
    while (end < pages.size() && pages[end] == nullptr) ++end;
    ReaderLock lock(inode.lock);
    ExtentMap map(reader_, space_, inode.disk);
    while (at < end) {
      Extent extent;
      PBFS_ASSIGN_OR_RETURN(extent, map.Lookup(first + at, static_cast<uint32_t>(end - at)));
      if (pipe != nullptr && misses == pages.size() && at == 0 &&
          PrepareReadIntoPipe(operation, extent, *pipe)) {
        return OkStatus();
      }
      if (extent.is_hole() || extent.unwritten) {
        for (uint32_t i = 0; i < extent.length; ++i) {
          PageCache::Pin(*zero_page_);
          pages[at + i] = zero_page_;
        }
      } else {
        missing.push_back({at, extent.length, extent.block});
        frames_needed += extent.length;
      }
      at += extent.length;
    }
  }
  if (frames_needed == 0) return OkStatus();
  std::vector<PageBuf*> frames;
  pages_.AllocateMany(frames_needed, frames, PageUse::kData);
  size_t next = 0;
  for (const Missing& run : missing) {
    auto request = std::make_unique<IoRequest>();
    request->op = IoOp::kRead;
    request->offset_bytes = run.block * kBlockBytes;
    for (uint32_t i = 0; i < run.length; ++i) {
      pages[run.at + i] = frames[next++];
      request->buffer.Append(pages[run.at + i]->data, kPageBytes);
    }
    request->PushCompletion(&ReadOperation::Completed, &operation);
    operation.requests.push_back(std::move(request));
  }
  return OkStatus();
}

// ---- Write --------------------------------------------------------------------------------------

void FileSystemImpl::Write(InodeNumber ino, uint64_t offset_bytes, const WritePayload& payload,
                           const WriteFlags& flags, Done done) {
  const size_t length = payload.data.size_bytes();
  StatusOr<InodeRef> inode = GetInode(ino);
  Status status = CheckWritable();
  if (status.ok()) status = log_->CheckWritable();
  if (status.ok()) status = inode.status();
  if (status.ok()) status = CheckRegular(**inode);
  if (status.ok() && (offset_bytes > kFileBytesMax || length > kFileBytesMax - offset_bytes)) {
    status = ErrnoError(EFBIG, "file too large");
  }
  if (!status.ok() || length == 0) {
    done(status);
    return;
  }
  RangeLock& range = (*inode)->range;
  uint64_t lock_start = 0;
  uint64_t lock_end = 0;
  for (;;) {
    // Who raises the size holds everything from the old end of file on.
    const uint64_t size = (*inode)->size.load(std::memory_order_acquire);
    const bool extends = offset_bytes + length > size;
    lock_start = (extends ? std::min(offset_bytes, size) : offset_bytes) / kPageBytes * kPageBytes;
    lock_end =
        extends ? UINT64_MAX : (offset_bytes + length + kPageBytes - 1) / kPageBytes * kPageBytes;
    range.Lock(lock_start, lock_end, RangeLock::Mode::kExclusive);
    const uint64_t now = (*inode)->size.load(std::memory_order_acquire);
    if (now == size || (!extends && offset_bytes + length <= now)) break;
    range.Unlock(lock_start, lock_end, RangeLock::Mode::kExclusive);
  }
  bool sync = false;
  status = WriteLocked(*inode, offset_bytes, payload, flags, &sync);
  range.Unlock(lock_start, lock_end, RangeLock::Mode::kExclusive);
  if (!status.ok()) {
    done(status);
  } else if (sync) {
    Fsync(ino, /*datasync=*/true, std::move(done));
  } else {
    writeback_->Throttle([done = std::move(done)] { done(OkStatus()); });
    if (flags.from_page_cache) writeback_->StartEarly(*inode);
  }
}

// What the pages of the range have to be promised: those that lie in a hole or over an unwritten
// extent and were promised nothing yet. One look at map and pages together: under the inode's lock
// no round can move a page from "promised" to "in the map".
StatusOr<std::vector<PagePromise>> FileSystemImpl::MissingPromises(Inode& inode, uint64_t first,
                                                                   uint64_t count) {
  std::vector<PagePromise> missing(count, PagePromise::kNone);
  ReaderLock lock(inode.lock);
  ExtentMap map(reader_, space_, inode.disk);
  for (uint64_t at = first; at < first + count;) {
    Extent extent;
    PBFS_ASSIGN_OR_RETURN(extent, map.Lookup(at, static_cast<uint32_t>(first + count - at)));
    const uint64_t end = at + extent.length;
    if (extent.is_hole() || extent.unwritten) {
      const auto needed = extent.is_hole() ? PagePromise::kBlock : PagePromise::kConversion;
      const bool some_promised = inode.pages.CountPromised(at, extent.length) > 0;
      for (uint64_t i = at; i < end; ++i) {
        if (some_promised && inode.pages.CountPromised(i, 1) > 0) continue;
        missing[i - first] = needed;
      }
    }
    at = end;
  }
  return missing;
}

StatusOr<std::vector<PagePromise>> FileSystemImpl::ReserveRange(const InodeRef& inode,
                                                                uint64_t first, uint64_t count,
                                                                SpaceClass by) {
  for (RoomSearch search;;) {
    std::vector<PagePromise> missing;
    PBFS_ASSIGN_OR_RETURN(missing, MissingPromises(*inode, first, count));
    PromiseCounts needed;
    for (const PagePromise promise : missing) {
      needed.blocks += promise == PagePromise::kBlock ? 1 : 0;
      needed.conversions += promise == PagePromise::kConversion ? 1 : 0;
    }
    if (writeback_->ReserveFor(*inode, needed, by)) return missing;
    PBFS_RETURN_IF_ERROR(SearchRoom(search));
  }
}

Status FileSystemImpl::FillPage(const InodeRef& inode, uint64_t index, PageHold& hold) {
  std::vector<PageBuf*> cached;
  inode->pages.Lookup(index, 1, cached);
  if (cached[0] != nullptr) {
    hold.Add(*cached[0]);
    return OkStatus();
  }
  Extent extent;
  {
    ReaderLock lock(inode->lock);
    PBFS_ASSIGN_OR_RETURN(extent, ExtentMap(reader_, space_, inode->disk).Lookup(index, 1));
  }
  if (extent.is_hole() || extent.unwritten) return OkStatus();
  PageBuf* frame = pages_.Allocate(PageUse::kData);
  const int error = ReadSync(device_, extent.block * kBlockBytes, frame->data, kPageBytes);
  if (error != 0) {
    pages_.Unpin(*frame);
    return DataReadError(inode->ino, extent.block, error);
  }
  // Behind the end of file the block holds garbage.
  const uint64_t size = inode->size.load(std::memory_order_acquire);
  const uint64_t start = index * kPageBytes;
  if (size < start + kPageBytes && RuleHolds(Rule::kZeroTail)) {
    const size_t valid = size > start ? size - start : 0;
    std::memset(frame->data + valid, 0, kPageBytes - valid);
  }
  hold.Add(*inode->pages.InsertCleanPinned(index, *frame));
  return OkStatus();
}

Status FileSystemImpl::ZeroOldTail(const InodeRef& inode) {
  const uint64_t size = inode->size.load(std::memory_order_acquire);
  if (size % kPageBytes == 0 || !RuleHolds(Rule::kZeroTail)) return OkStatus();
  const uint64_t index = size / kPageBytes;
  // Dirty pages have zeroes behind the end already, and reach the disk before a larger size does.
  if (inode->pages.IsDirtyOrPromised(index)) return OkStatus();
  PageHold hold(pages_);
  PBFS_RETURN_IF_ERROR(FillPage(inode, index, hold));
  PageBuf* spare = pages_.Allocate(PageUse::kData);
  if (inode->pages.ZeroTail(index, size % kPageBytes, *spare, NowNs())) {
    writeback_->MarkDirty(inode);
  }
  return OkStatus();
}

Status FileSystemImpl::WriteLocked(const InodeRef& inode, uint64_t offset_bytes,
                                   const WritePayload& payload, const WriteFlags& flags,
                                   bool* sync) {
  bool guarded = false;
  {
    ReaderLock lock(inode->lock);
    if (IsImmutable(inode->disk)) return CheckChange(inode->disk);
    guarded = IsGuarded(inode->disk);
    *sync = flags.sync_data || ((inode->disk.flags & kInodeSync) != 0 && !flags.from_page_cache);
  }
  if (!guarded) return WritePages(inode, offset_bytes, payload, flags);
  WritePayload rest;
  PBFS_ASSIGN_OR_RETURN(rest, AppendedPart(inode->size.load(std::memory_order_acquire),
                                           offset_bytes, payload, flags));
  return WritePages(inode, offset_bytes + payload.data.size_bytes() - rest.data.size_bytes(), rest,
                    flags);
}

Status FileSystemImpl::WritePages(const InodeRef& inode, uint64_t offset_bytes,
                                  const WritePayload& payload, const WriteFlags& flags) {
  const uint64_t end = offset_bytes + payload.data.size_bytes();
  const uint64_t first = offset_bytes / kPageBytes;
  const uint64_t last = (end - 1) / kPageBytes;
  const uint64_t size = inode->size.load(std::memory_order_acquire);
  // What comes from the kernel's cache was dealt with when it was written there.
  if (flags.kill_suidgid || !flags.from_page_cache) {
    PBFS_RETURN_IF_ERROR(KillPrivileges(inode, flags));
  }
  // Everything that can fail comes before the first page is changed. `hold` keeps what is filled
  // from eviction until it is dirty.
  PageHold hold(pages_);
  if (end > size && first > size / kPageBytes) {
    PBFS_RETURN_IF_ERROR(ZeroOldTail(inode));
  }
  if (offset_bytes % kPageBytes != 0 && first * kPageBytes < size) {
    PBFS_RETURN_IF_ERROR(FillPage(inode, first, hold));
  }
  if (end % kPageBytes != 0 && end < size) {
    PBFS_RETURN_IF_ERROR(FillPage(inode, last, hold));
  }
  std::vector<PagePromise> promises;
  PBFS_ASSIGN_OR_RETURN(promises, ReserveRange(inode, first, last - first + 1,
                                               flags.from_page_cache ? SpaceClass::kCollected
                                                                     : SpaceClass::kOrdinary));
  InsertPages(inode, offset_bytes, payload, size, promises);
  // Whatever has happened meanwhile: no round would ever take pages behind the end.
  if (end > size) inode->size.store(end, std::memory_order_release);
  if (!flags.from_page_cache) {
    MutexLock lock(inode->writeback_lock);
    inode->pending_mtime = CurrentTime();
  }
  writeback_->MarkDirty(inode);
  return CheckRunning();
}

// Puts the payload into the file's pages, which take over their promises.
void FileSystemImpl::InsertPages(const InodeRef& inode, uint64_t offset_bytes,
                                 const WritePayload& payload, uint64_t size,
                                 const std::vector<PagePromise>& promises) {
  const uint64_t end = offset_bytes + payload.data.size_bytes();
  const uint64_t first = offset_bytes / kPageBytes;
  const int64_t now = NowNs();
  const bool aligned = offset_bytes % kPageBytes == 0 && payload.frames != nullptr;
  // After a shutdown frames do not come back: not one more is taken.
  for (uint64_t at = offset_bytes; at < end && !shut_down_;) {
    const uint64_t index = at / kPageBytes;
    const size_t offset = at % kPageBytes;
    const size_t count = std::min<uint64_t>(end - at, kPageBytes - offset);
    const PagePromise promise = promises[index - first];
    const size_t frame_index = (at - offset_bytes) / kPageBytes;
    // A page that ends at or behind the end of file is whole too: the rest reads as zeroes.
    if (aligned && (count == kPageBytes || at + count >= size) &&
        frame_index < payload.frames->size() && (*payload.frames)[frame_index] != nullptr) {
      PageBuf* frame = std::exchange((*payload.frames)[frame_index], nullptr);
      std::memset(frame->data + count, 0, kPageBytes - count);
      inode->pages.InsertDirty(index, *frame, promise, now);
    } else {
      inode->pages.WritePartial(index, offset, payload.data, at - offset_bytes, count, promise,
                                *pages_.Allocate(PageUse::kData), now);
    }
    at += count;
  }
}

// ---- Fsync, seek --------------------------------------------------------------------------------

void FileSystemImpl::Fsync(InodeNumber ino, bool datasync, Done done) {
  if (!writing_) return done(SyncedWhileReadOnly());
  StatusOr<InodeRef> found = GetInode(ino);
  if (!found.ok()) {
    done(found.status());
    return;
  }
  // All there is of anything else is in the log: no data to flush.
  const bool has_data = CheckRegular(**found).ok();
  if (has_data) Writeback::ExpectFlush(**found);
  if (!datasync) (void)access_times_->Store(*found);           // An error of the log is met below.
  auto inode = std::make_shared<InodeRef>(std::move(*found));  // Shared with the continuation.
  writeback_->FlushAsync(
      *inode, [this, done = std::move(done), inode, datasync, has_data](const Status& status) {
        if (!status.ok()) {
          done(status);
          return;
        }
        const Lsn wanted = datasync ? (*inode)->data_changed.load(std::memory_order_acquire)
                                    : (*inode)->changed.load(std::memory_order_acquire);
        // A checkpoint that is still open is sealed from now on, and flushes the data first. One
        // that is sealed may have flushed before the data was written (in place): a flush of our
        // own then, too.
        if (!has_data || wanted >= log_->open_sequence()) return log_->ForceAsync(wanted, done);
        if (wanted <= log_->durable_sequence()) return log_->FlushAsync(done);
        log_->ForceAsync(wanted, [this, done](const Status& forced) {
          if (!forced.ok()) return done(forced);
          log_->FlushAsync(done);
        });
      });
}

StatusOr<uint64_t> FileSystemImpl::Seek(InodeNumber ino, uint64_t offset_bytes, int whence) {
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return ErrnoError(EINVAL, "bad whence");
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  PBFS_RETURN_IF_ERROR(CheckRegular(*inode));
  const uint64_t size = inode->size.load(std::memory_order_acquire);
  if (offset_bytes >= size) return ErrnoError(ENXIO, "behind the end of file");
  uint64_t index = offset_bytes / kPageBytes;
  for (;;) {
    // Pages with data that the map does not show first: a block leaves that state only after it is
    // written in the map.
    const uint64_t promised = inode->pages.NextPromised(index);
    Extent next;
    {
      ReaderLock lock(inode->lock);
      ExtentMap map(reader_, space_, inode->disk);
      PBFS_ASSIGN_OR_RETURN(next, map.Next(index));
      while (next.length > 0 && next.unwritten) {
        PBFS_ASSIGN_OR_RETURN(next, map.Next(next.file_block + next.length));
      }
    }
    const uint64_t mapped = next.length > 0 ? std::max(next.file_block, index) : UINT64_MAX;
    const uint64_t data = std::min(promised, mapped);
    if (whence == SEEK_DATA) {
      if (data == UINT64_MAX || data * kPageBytes >= size) return ErrnoError(ENXIO, "no more data");
      return std::max(offset_bytes, data * kPageBytes);
    }
    if (data != index) return std::min(size, std::max(offset_bytes, index * kPageBytes));
    index = mapped == index ? next.file_block + next.length : index + 1;
    if (index * kPageBytes >= size) return size;
  }
}

}  // namespace pbfs
