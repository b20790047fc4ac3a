// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"
#include "fs/format.h"
#include "fs/tree.h"

namespace pbfs {

// PATH_MAX without the terminating NUL.
inline constexpr uint32_t kSymlinkBytesMax = 4095;
inline constexpr uint32_t kSymlinkPieceBytes = kTreeValueBytesMax;

// Nodes that WriteSymlink may create: five pieces lie in two leaves.
inline constexpr uint32_t kSymlinkChangeBlocksMax = 3;
static_assert((kSymlinkBytesMax + kSymlinkPieceBytes - 1) / kSymlinkPieceBytes == 5);

// The target of a symbolic link is its data fork: inline if it fits, else a tree of pieces 0, 1,
// ... of kSymlinkPieceBytes each (the last is shorter). size_bytes is its length. It never changes;
// it is freed with the tree.

// Gives a new symlink inode its target: fills the data fork, size_bytes and blocks. ENOENT for an
// empty target, ENAMETOOLONG beyond kSymlinkBytesMax. REQUIRES: the data fork is kNone; the
// attribute fork may be in use.
Status WriteSymlink(const MetaReader& reader, NodeSpace& space, Transaction& transaction,
                    DiskInode& inode, std::string_view target);

// REQUIRES: a symlink inode that VerifyInode accepted; the caller holds its lock shared.
StatusOr<std::string> ReadSymlink(const MetaReader& reader, NodeSpace& space,
                                  const DiskInode& inode);

}  // namespace pbfs
