// SPDX-License-Identifier: Apache-2.0
#include "fs/neighbour_reads.h"

#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "io/io_request.h"

namespace pbfs {
namespace {

constexpr size_t kRunBytesMax = 1 << 20;

}  // namespace

struct NeighbourReads::Run {
  NeighbourReads* owner;
  IoRequest io;
  std::vector<File> files;
};

void NeighbourReads::NoteRead(InodeNumber ino) {
  if (!IsWorthwhile(ino)) return;
  std::vector<File> files = FilesOf(InodeBlock(ino) / kInodeChunkBlocksMax);
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

// Of the inode blocks that are cached: InodeTable::Load() has read the window.
std::vector<NeighbourReads::File> NeighbourReads::FilesOf(uint64_t window) {
  std::vector<File> files;
  const BlockNumber first = window * kInodeChunkBlocksMax;
  for (BlockNumber block = first; block < first + kInodeChunkBlocksMax; ++block) {
    const BlockRef cached = reader_.cache.Find(block);
    if (!cached || cached.as<BlockHeader>()->magic != kMagicInodes) continue;
    for (uint32_t slot = 0; slot < kInodesPerBlock; ++slot) {
      StatusOr<InodeRef> inode = inodes_.Get(MakeInodeNumber(block, slot));
      if (!inode.ok()) continue;
      File file = {*std::move(inode), 0, {}};
      if (!file.inode->range.TryLock(0, UINT64_MAX, RangeLock::Mode::kShared)) continue;
      if (Prepare(file)) {
        files.push_back(std::move(file));
      } else {
        file.inode->range.Unlock(0, UINT64_MAX, RangeLock::Mode::kShared);
      }
    }
  }
  return files;
}

bool NeighbourReads::Prepare(File& file) {
  const uint64_t size = file.inode->size.load(std::memory_order_acquire);
  if (size == 0 || size > kFileBytesMax) return false;
  const auto count = static_cast<uint32_t>((size + kPageBytes - 1) / kPageBytes);
  return file.inode->pages.NoneCached(0, count) && FindBlocks(file, count) &&
         pages_.TryAllocateMany(count, file.frames, PageUse::kData);
}

// True when the whole file is one extent.
bool NeighbourReads::FindBlocks(File& file, uint32_t count) {
  Inode& inode = *file.inode;
  ReaderLock lock(inode.lock);
  if (!S_ISREG(inode.disk.mode)) return false;
  const auto extent = ExtentMap(reader_, space_, inode.disk).Lookup(0, count);
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
    uint64_t index = 0;
    for (PageBuf* frame : file.frames) {
      if (error == 0) {
        file.inode->pages.InsertClean(index++, *frame);
      } else {
        owner.pages_.Unpin(*frame);
      }
    }
    file.inode->range.Unlock(0, UINT64_MAX, RangeLock::Mode::kShared);
  }
  std::atomic<uint64_t>& in_flight = owner.in_flight_;
  run.reset();
  in_flight.fetch_sub(1, std::memory_order_release);
}

}  // namespace pbfs
