// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "fs/extent_map.h"
#include "fs/inode.h"
#include "io/block_device.h"

namespace pbfs {

// Reads small files ahead of whoever reads a tree (grep -r, tar, cp -r, a compiler): each file
// would cost a request of its own to the device, one after the other, which the kernel's readahead,
// within a file, cannot help. Inodes that were made together lie together, and so does their data.
// So when two files of a window of inode blocks were read from the device whole, the other small
// files of the second one's inode chunk are read as well, as few long requests, into their pages.
//
// Only a guess: it takes no more than a part of the memory for data, does not wait for memory or
// for a lock of a file (as a rule not at all; it may for the gate, or a block of the inode tree),
// and leaves errors to the real reader. Thread-safe.
class NeighbourReads {
 public:
  // Files up to this size; a chunk has at most 56.
  static constexpr uint64_t kFileBytesMax = 32 << 10;
  // The inodes in use in the chunk of this one (InodeAllocator::UsedBeside).
  using UsedBeside = std::function<StatusOr<std::vector<InodeNumber>>(InodeNumber)>;

  // All borrowed. `in_flight` counts what still touches them.
  NeighbourReads(BlockDevice& device, const MetaReader& reader, SpaceManager& space,
                 PageCache& pages, InodeTable& inodes, std::atomic<uint64_t>& in_flight,
                 UsedBeside used_beside)
      : device_(device),
        reader_(reader),
        space_(space),
        pages_(pages),
        inodes_(inodes),
        in_flight_(in_flight),
        used_beside_(std::move(used_beside)) {}

  // A file of at most kFileBytesMax was read whole, from the device. May start requests.
  // REQUIRES: no locks held; *in_flight > 0.
  void NoteRead(const InodeRef& inode) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // The files read lately in one window.
  struct Window {
    uint64_t number = UINT64_MAX;  // Inode block / kInodeChunkBlocksMax.
    InodeNumber first_ino = 0;
    bool started = false;
  };
  // A file to read, its bytes locked against changes until that has ended.
  struct File {
    InodeRef inode;
    uint64_t size_bytes;
    BlockNumber block;
    std::vector<PageBuf*> frames;
  };
  // Files that lie one behind the other; deletes itself at completion.
  struct Run;

  // True once per window, as long as it is remembered.
  bool IsWorthwhile(InodeNumber ino) ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<File> FilesBeside(InodeNumber ino);
  bool Prepare(File& file);
  bool FindBlocks(File& file, uint32_t count);
  void Submit(std::vector<File> files);
  static void Completed(IoRequest& request, void* context, int error);

  BlockDevice& device_;
  const MetaReader& reader_;
  SpaceManager& space_;
  PageCache& pages_;
  InodeTable& inodes_;
  std::atomic<uint64_t>& in_flight_;
  const UsedBeside used_beside_;
  std::atomic<size_t> frames_in_flight_{0};
  Mutex mutex_;
  std::array<Window, 16> windows_ ABSL_GUARDED_BY(mutex_);
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;  // To be forgotten.
};

}  // namespace pbfs
