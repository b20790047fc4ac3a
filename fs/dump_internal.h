// SPDX-License-Identifier: Apache-2.0
// Pieces that the files of the dump share; users want fs/dump.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "fs/dump.h"
#include "fs/format.h"

namespace pbfs {

std::string HexNumber(uint64_t number);
// "filesystem", "group 3", "inode 1234".
std::string OwnerText(uint64_t owner);
DumpNode RootNode(std::string_view name, const TreeRoot& root);
void AddAgEntry(const AgEntry& entry, DumpNode& node);
void AddCheckpointHeader(const CheckpointHeader& header, DumpNode& node);
// Records or children only of a sound node. `mode`: see DumpRecord.
void AddTreeNode(const std::byte* data, BlockNumber block, uint32_t mode,
                 const Superblock& superblock, DumpNode& node);
// What all blocks have: kind, verdict and header.
DumpNode BlockHead(const std::byte* data, BlockNumber block, const Superblock& superblock);

}  // namespace pbfs
