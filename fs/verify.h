// SPDX-License-Identifier: Apache-2.0
// Stateless checks of metadata blocks, one per block type: run after a read and before a write, by
// the filesystem and by the tools. They see one block and the superblock, nothing else; what lies
// in several blocks is fsck's matter.
//
// All of them take bytes nobody has looked at yet, name the block and the field in the error
// (CorruptionError), and never crash on hostile bytes. After one succeeded, code may use the
// block's fields as array bounds, shifts and block numbers without further checks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "fs/format.h"

namespace pbfs {

// What messages call a metadata block with this magic: "tree node".
const char* StructureName(uint32_t magic);

// ---- Header

// CRC-32C of the block as its header has it: with the crc field taken as zero.
uint32_t BlockCrc(const std::byte* data);
// Last step before a block is written: sets lsn, then crc.
void StampBlock(std::byte* data, Lsn lsn);
// Magic, crc, meta_uuid and block number. The owner is checked by those who know it.
Status VerifyHeader(const std::byte* data, BlockNumber block, uint32_t magic,
                    const Superblock& superblock);

// ---- Superblock

// A superblock (primary or copy) that was read from `block`, before anything is known. Unknown
// versions and incompat features give EOPNOTSUPP, for then the rest may mean something else. The
// caller compares total_blocks with the device, and looks at feature_ro_compat.
//
// After success: all ranges named by the superblock lie in group 0 and do not overlap, and no
// geometry function of format.h overflows for block numbers below total_blocks.
Status VerifySuperblock(const std::byte* data, BlockNumber block);

// ---- The other types

// State block, group table, bitmap, inodes or tree node, whichever the magic says; without what the
// header says of itself.
Status VerifyContent(const std::byte* data, BlockNumber block, const Superblock& superblock);
// Of a block in memory, which has neither its lsn nor its crc yet: the rest of the header, and the
// content.
Status VerifyUnstamped(const std::byte* data, BlockNumber block, const Superblock& superblock);
// The header with this magic, and the content.
Status VerifyBlockOf(const std::byte* data, BlockNumber block, uint32_t magic,
                     const Superblock& superblock);
Status VerifyLogAnchor(const std::byte* data, BlockNumber block, const Superblock& superblock);
// The header only; the body's crc is checked by recovery.
Status VerifyCheckpointHeader(const std::byte* data, BlockNumber block,
                              const Superblock& superblock);

// Whichever the magic says. An unknown magic is an error.
Status VerifyBlock(const std::byte* data, BlockNumber block, const Superblock& superblock);

// ---- Parts

// The content of a block of inodes.
Status VerifyInodeTable(const std::byte* data, BlockNumber block, const Superblock& superblock);

// A used inode (mode != 0) at its place.
Status VerifyInode(const DiskInode& inode, InodeNumber ino, const Superblock& superblock);
// An inode number that could exist: slot below 7, block within the device.
bool IsInodeNumber(InodeNumber ino, const Superblock& superblock);
// Empty, or a root block within the device and a legal level.
bool IsTreeRoot(const TreeRoot& root, const Superblock& superblock);

}  // namespace pbfs
