// SPDX-License-Identifier: Apache-2.0
// The superblock as it is on the device, and the one thing in it that may change: the label.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "fs/format.h"
#include "io/block_device.h"

namespace pbfs {

// Reads and verifies the superblock or copy in `block`. May block.
StatusOr<Superblock> ReadSuperblock(BlockDevice& device, BlockNumber block);

std::string LabelOf(const Superblock& superblock);

// Where the copies of the superblock lie.
std::vector<BlockNumber> SuperblockCopies(const Superblock& superblock);

// Writes the label into the superblock and its copies; it is durable when this returns. What
// changes lies in one sector (label and CRC), so a power cut leaves the old superblock or the new
// one; the copies may then still have the old label. EINVAL: longer than kLabelBytes.
Status WriteLabel(BlockDevice& device, const Superblock& superblock, std::string_view label);

}  // namespace pbfs
