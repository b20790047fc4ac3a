// SPDX-License-Identifier: Apache-2.0
#include "fs/neighbour_reads.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "fs/fork.h"
#include "fs/rules.h"
#include "io/io_request.h"
#include "io/io_ring.h"

namespace pbfs {
namespace {

constexpr size_t kRunBytesMax = 1 << 20;

// The rest of the last block has whatever lay there. As any page that is cached, it must not show
// when the file grows.
void ZeroBehindEnd(uint64_t size_bytes, PageBuf& last) {
  const size_t used = size_bytes % kPageBytes;
  if (used > 0 && RuleHolds(Rule::kZeroTail)) std::memset(last.data + used, 0, kPageBytes - used);
}

}  // namespace

struct NeighbourReads::Run {
  NeighbourReads* owner;
  IoRequest io;
  std::vector<File> files;
};

void NeighbourReads::NoteRead(const InodeRef& inode) {
  if (!IsWorthwhile(inode->ino)) return;
  // The reader's own request first.
  if (IoRing* const ring = IoRing::Current()) ring->SubmitQueued();
  // An inode with a locked range is not freed, so its chunk stays, and what is cached of the chunk
  // is what there is. Blocks around it may be those of a chunk that was given up.
  if (!inode->range.TryLock(0, UINT64_MAX, RangeLock::Mode::kShared)) return;
  std::vector<File> files = FilesBeside(inode->ino);
  inode->range.Unlock(0, UINT64_MAX, RangeLock::Mode::kShared);
  if (!files.empty()) Submit(std::move(files));
}

bool NeighbourReads::IsWorthwhile(InodeNumber ino) {
  const uint64_t number = InodeBlock(ino) / kInodeChunkBlocksMax;
  MutexLock lock(mutex_);
  for (Window& window : windows_) {
    if (window.number != number) continue;
    if (window.started || window.first_ino == ino) return false;
    window.started = true;
    return true;
  }
  windows_[next_] = {number, ino, false};
  next_ = (next_ + 1) % windows_.size();
  return false;
}

std::vector<NeighbourReads::File> NeighbourReads::FilesBeside(InodeNumber ino) {
  std::vector<File> files;
  const auto used = used_beside_(ino);
  if (!used.ok()) return files;
  size_t frames = frames_in_flight_.load(std::memory_order_relaxed);
  for (const InodeNumber neighbour : *used) {
    // Not what the reader has. Not what would take a read of its own: the windows are read whole.
    if (neighbour == ino || !reader_.cache.Find(InodeBlock(neighbour))) continue;
    if (frames >= pages_.data_frames_max() / 8) break;
    StatusOr<InodeRef> inode = inodes_.Get(neighbour);
    if (!inode.ok()) continue;
    File file = {*std::move(inode), 0, 0, {}};
    if (!file.inode->range.TryLock(0, UINT64_MAX, RangeLock::Mode::kShared)) continue;
    if (Prepare(file)) {
      frames += file.frames.size();
      files.push_back(std::move(file));
    } else {
      file.inode->range.Unlock(0, UINT64_MAX, RangeLock::Mode::kShared);
    }
  }
  return files;
}

bool NeighbourReads::Prepare(File& file) {
  file.size_bytes = file.inode->size.load(std::memory_order_acquire);
  if (file.size_bytes == 0 || file.size_bytes > kFileBytesMax) return false;
  const auto count = static_cast<uint32_t>((file.size_bytes + kPageBytes - 1) / kPageBytes);
  return file.inode->pages.NoneCached(0, count) && FindBlocks(file, count) &&
         pages_.TryAllocateMany(count, file.frames, PageUse::kData);
}

// True when the whole file is one extent that the inode itself has.
bool NeighbourReads::FindBlocks(File& file, uint32_t count) {
  Inode& inode = *file.inode;
  if (!inode.lock.TryLockShared()) return false;
  StatusOr<Extent> extent = ErrnoError(ENOENT, "");
  if (S_ISREG(inode.disk.mode) && FormatOf(inode.disk, Fork::kData) == ForkFormat::kInline) {
    extent = ExtentMap(reader_, space_, inode.disk).Lookup(0, count);
  }
  inode.lock.UnlockShared();
  if (!extent.ok() || extent->is_hole() || extent->unwritten || extent->length < count) {
    return false;
  }
  file.block = extent->block;
  return true;
}

void NeighbourReads::Submit(std::vector<File> files) {
  std::ranges::sort(files, {}, &File::block);
  std::vector<IoRequest*> requests;
  Run* run = nullptr;  // The one to extend; owned by its completion.
  BlockNumber next = 0;
  for (File& file : files) {
    if (run == nullptr || file.block != next ||
        run->io.buffer.size_bytes() + file.frames.size() * kPageBytes > kRunBytesMax) {
      run = new Run{this, {}, {}};
      run->io.offset_bytes = file.block * kBlockBytes;
      run->io.PushCompletion(&Completed, run);
      requests.push_back(&run->io);
    }
    for (const PageBuf* frame : file.frames) run->io.buffer.Append(frame->data, kPageBytes);
    frames_in_flight_.fetch_add(file.frames.size(), std::memory_order_relaxed);
    next = file.block + file.frames.size();
    run->files.push_back(std::move(file));
  }
  in_flight_.fetch_add(requests.size(), std::memory_order_relaxed);
  device_.SubmitBatch(requests);
}

void NeighbourReads::Completed(IoRequest&, void* context, int error) {
  std::unique_ptr<Run> run(static_cast<Run*>(context));
  NeighbourReads& owner = *run->owner;
  for (File& file : run->files) {
    ZeroBehindEnd(file.size_bytes, *file.frames.back());
    uint64_t index = 0;
    for (PageBuf* frame : file.frames) {
      if (error == 0) {
        file.inode->pages.InsertClean(index++, *frame);
      } else {
        owner.pages_.Unpin(*frame);
      }
    }
    owner.frames_in_flight_.fetch_sub(file.frames.size(), std::memory_order_relaxed);
    file.inode->range.Unlock(0, UINT64_MAX, RangeLock::Mode::kShared);
  }
  std::atomic<uint64_t>& in_flight = owner.in_flight_;
  run.reset();
  in_flight.fetch_sub(1, std::memory_order_release);
}

}  // namespace pbfs
