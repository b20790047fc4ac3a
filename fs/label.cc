// SPDX-License-Identifier: Apache-2.0
#include "fs/label.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/aligned_buffer.h"
#include "fs/verify.h"

namespace pbfs {
namespace {

static_assert(offsetof(Superblock, label) + kLabelBytes <= 512, "changed in one sector");

Status IoError(BlockDevice& device, BlockNumber block, const char* what, int error) {
  return ErrnoError(EIO, absl::StrCat(device.geometry().name, ": block ", block, ": ", what,
                                      " the superblock: ", std::strerror(error)));
}

Status WriteLabelAt(BlockDevice& device, BlockNumber block, std::string_view label) {
  PBFS_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(kBlockBytes));
  int error = ReadSync(device, block * kBlockBytes, buffer.data(), kBlockBytes);
  if (error != 0) return IoError(device, block, "reading", error);
  PBFS_RETURN_IF_ERROR(VerifySuperblock(buffer.data(), block));
  auto* superblock = buffer.as<Superblock>();
  std::memset(superblock->label, 0, kLabelBytes);
  std::memcpy(superblock->label, label.data(), label.size());
  StampBlock(buffer.data(), superblock->header.lsn);
  error = WriteSync(device, block * kBlockBytes, buffer.data(), kBlockBytes, /*fua=*/true);
  if (error != 0) return IoError(device, block, "writing", error);
  return OkStatus();
}

}  // namespace

StatusOr<Superblock> ReadSuperblock(BlockDevice& device, BlockNumber block) {
  PBFS_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(kBlockBytes));
  const int error = ReadSync(device, block * kBlockBytes, buffer.data(), kBlockBytes);
  if (error != 0) return IoError(device, block, "reading", error);
  PBFS_RETURN_IF_ERROR(VerifySuperblock(buffer.data(), block));
  return *buffer.as<Superblock>();
}

std::string LabelOf(const Superblock& superblock) {
  return {superblock.label, strnlen(superblock.label, kLabelBytes)};
}

std::vector<BlockNumber> SuperblockCopies(const Superblock& superblock) {
  std::vector<BlockNumber> places;
  for (uint64_t ag = 1; ag < superblock.ag_count; ag *= 3) {
    places.push_back(AgStart(static_cast<uint32_t>(ag)));
  }
  places.push_back(superblock.total_blocks - 1);
  return places;
}

Status WriteLabel(BlockDevice& device, const Superblock& superblock, std::string_view label) {
  if (label.size() > kLabelBytes) {
    return ErrnoError(EINVAL, absl::StrCat("a label has at most ", kLabelBytes, " bytes"));
  }
  PBFS_RETURN_IF_ERROR(WriteLabelAt(device, 0, label));
  // A copy that cannot be written, or was bad before, is fsck's business.
  for (const BlockNumber block : SuperblockCopies(superblock)) {
    WriteLabelAt(device, block, label).IgnoreError();
  }
  const int error = FlushSync(device);
  return error == 0 ? OkStatus() : IoError(device, 0, "flushing", error);
}

}  // namespace pbfs
