// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "base/status.h"
#include "fs/filesystem.h"
#include "fs/format.h"

namespace pbfs {

// What immutable and append-only inodes refuse: EPERM, as for a filesystem of the kernel. The
// kernel does not know a FUSE inode's flags, so it checks none of this itself.

constexpr bool IsImmutable(const DiskInode& inode) { return (inode.flags & kInodeImmutable) != 0; }
constexpr bool IsGuarded(const DiskInode& inode) { return (inode.flags & kInodeGuards) != 0; }
constexpr bool IsWatched(const DiskInode& inode) { return (inode.flags & kInodeWatched) != 0; }

// The inode is changed (attributes, extended attributes, size), or gets or loses a name.
Status CheckChange(const DiskInode& inode);
// The directory gets a name.
Status CheckNewNames(const DiskInode& directory);
// A name of `inode` goes from the directory.
Status CheckRemoval(const DiskInode& directory, const DiskInode& inode);
// `inode` gets a name in a directory that may give its project to what is in it: EXDEV.
Status CheckProject(const DiskInode& directory, const DiskInode& inode);
Status CheckAttributeChange(const DiskInode& inode, const SetAttributes& request);

}  // namespace pbfs
