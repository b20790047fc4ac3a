// SPDX-License-Identifier: Apache-2.0
// Inode flags and project ids.
#include <sys/stat.h>

#include "fs/filesystem_impl.h"
#include "fs/inode_flags.h"

namespace pbfs {
namespace {

constexpr OperationRunner::Needs kSettingFlags{.space_blocks = 0, .privileged = true};

}  // namespace

Status FileSystemImpl::SetFlags(InodeNumber ino, uint32_t flags, std::optional<uint32_t> project) {
  if ((flags & ~kInodeFlagsKnown) != 0) return ErrnoError(EOPNOTSUPP, "unknown inode flags");
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  return Run(kSettingFlags, [&](Operation& operation) -> Status {
    DiskInode& disk = operation.Edit(inode);
    if (!S_ISREG(disk.mode) && !S_ISDIR(disk.mode)) {
      return ErrnoError(EOPNOTSUPP, "only files and directories have flags");
    }
    const uint32_t wanted = S_ISDIR(disk.mode) ? flags : flags & ~kInodeDirectoryFlags;
    const uint32_t number = project.value_or(disk.project);
    // What guards the inode must be taken off first, or together with the rest.
    const bool stays_immutable = (disk.flags & wanted & kInodeImmutable) != 0;
    if (stays_immutable && (wanted != disk.flags || number != disk.project)) {
      return CheckChange(disk);
    }
    const int watched = (wanted & kInodeWatched) != 0 ? 1 : 0;
    const int change = watched - (IsWatched(disk) ? 1 : 0);
    if (change != 0) {
      PBFS_RETURN_IF_ERROR(CountWatchedInode(operation.transaction(), reader_, change));
    }
    disk.flags = wanted;
    disk.project = number;
    SetTimes(disk, CurrentTime(), /*modified=*/false);
    return OkStatus();
  });
}

Status FileSystemImpl::LoadWatched() {
  BlockRef block;
  PBFS_ASSIGN_OR_RETURN(block,
                        reader_.Read(superblock_.state_block, kMagicState, kOwnerFilesystem));
  report_.watched_inodes = block.as<StateBlock>()->watched_inodes;
  return OkStatus();
}

// What of a write to an append-only file is behind its end. From the kernel's cache whole pages
// come, with bytes that were written before.
StatusOr<WritePayload> FileSystemImpl::AppendedPart(uint64_t size_bytes, uint64_t offset_bytes,
                                                    const WritePayload& payload,
                                                    const WriteFlags& flags) {
  if (offset_bytes >= size_bytes) return payload;
  const uint64_t before = size_bytes - offset_bytes;
  if (!flags.from_page_cache || payload.data.size_bytes() <= before) {
    return ErrnoError(EPERM, "the file is append-only");
  }
  WritePayload rest;
  rest.data = payload.data.Carve(before, payload.data.size_bytes() - before);
  return rest;
}

}  // namespace pbfs
