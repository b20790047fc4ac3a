// SPDX-License-Identifier: Apache-2.0
// The check as a whole: superblocks, anchors, group table, the walk over all trees, bitmaps.
#include "fs/checker.h"

#include <algorithm>
#include <cstring>

#include "fs/aligned_buffer.h"
#include "fs/checker_impl.h"
#include "fs/filesystem.h"
#include "fs/label.h"
#include "fs/recovery.h"
#include "fs/tree_node.h"
#include "fs/verify.h"
#include "io/overlay_device.h"

namespace pbfs {
namespace {

// The checker changes no tree.
class NoNodeSpace : public NodeSpace {
 public:
  StatusOr<BlockNumber> AllocateNode(Transaction&, BlockNumber) override {
    return ErrnoError(EROFS, "a check allocates nothing");
  }
  void FreeNode(Transaction&, BlockNumber) override {}
};

// Equal but for where they lie.
// But for the label: a power cut may have kept a new one from the copies.
bool SameSuperblock(Superblock a, const Superblock& b) {
  std::memcpy(a.label, b.label, kLabelBytes);
  const auto* bytes_a = reinterpret_cast<const std::byte*>(&a);
  const auto* bytes_b = reinterpret_cast<const std::byte*>(&b);
  return std::memcmp(bytes_a + sizeof(BlockHeader), bytes_b + sizeof(BlockHeader),
                     sizeof(Superblock) - sizeof(BlockHeader)) == 0;
}

std::string ReadError(BlockNumber block, int error) {
  return absl::StrCat("block ", block, ": cannot be read: ", std::strerror(error));
}

}  // namespace

Checker::Checker(BlockDevice& device, const Superblock& superblock, const CheckOptions& options)
    : device_(device),
      superblock_(superblock),
      options_(options),
      problems_(report_, options.problem_lines_max),
      usage_(superblock, problems_),
      pages_(std::max(options.cache_bytes, PageCache::kFramesMin * kPageBytes)),
      cache_(pages_, device),
      reader_{cache_, superblock},
      hash_(superblock) {}

StatusOr<CheckReport> Checker::Run() {
  if (!pages_.has_memory()) return ErrnoError(ENOMEM, "no memory for the cache");
  PBFS_RETURN_IF_ERROR(CheckSuperblocks());
  PBFS_RETURN_IF_ERROR(CheckAnchors());
  report_.stats.groups = superblock_.ag_count;
  report_.stats.blocks = superblock_.total_blocks;
  if (!LoadGroups()) {
    report_.notes.push_back("the check ended early: the group table cannot be read");
    return std::move(report_);
  }
  PBFS_RETURN_IF_ERROR(Walk());
  if (watched_expected_ && *watched_expected_ != watched_inodes_) {
    problems_.Add("state block: watched_inodes is ", *watched_expected_, ", there are ",
                  watched_inodes_);
  }
  PBFS_RETURN_IF_ERROR(CheckConnections());
  PBFS_RETURN_IF_ERROR(CheckLinks());
  PBFS_RETURN_IF_ERROR(CheckSpace());
  if (usage_.WantsOwners()) {
    searching_owners_ = true;
    problems_.Mute();
    usage_.BeginOwnerSearch();
    PBFS_RETURN_IF_ERROR(Walk());
    problems_.Unmute();
    usage_.ReportConflicts();
  }
  report_.stats.blocks_used = usage_.used_blocks();
  report_.stats.orphans = orphans_.size();
  return std::move(report_);
}

Status Checker::Poll() const {
  if (options_.cancelled && options_.cancelled()) {
    return ErrnoError(ECANCELED, "the check was cancelled");
  }
  return OkStatus();
}

Status Checker::Progress(const char* phase, uint64_t done, uint64_t total) const {
  if (options_.progress) options_.progress(phase, done, total);
  return Poll();
}

// ---- Fixed structures

Status Checker::CheckSuperblocks() {
  std::vector<BlockNumber> places = SuperblockCopies(superblock_);
  places.insert(places.begin(), 0);
  PBFS_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(kBlockBytes));
  for (const BlockNumber block : places) {
    const int error = ReadSync(device_, block * kBlockBytes, buffer.data(), kBlockBytes);
    const Status status = error != 0 ? ErrnoError(EIO, ReadError(block, error))
                                     : VerifySuperblock(buffer.data(), block);
    if (!status.ok()) {
      problems_.Add(status);
    } else if (!SameSuperblock(*buffer.as<Superblock>(), superblock_)) {
      problems_.Add("block ", block, ": superblock copy differs from the superblock in use");
    }
  }
  return OkStatus();
}

Status Checker::CheckAnchors() {
  StatusOr<LogAnchor> anchor = ReadLogAnchor(device_, superblock_);
  if (!anchor.ok()) {
    problems_.AddIn("log: no valid anchor", anchor.status());
    return OkStatus();
  }
  // The other one may be torn: a power cut while it was written is legal.
  PBFS_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(kBlockBytes));
  const BlockNumber other =
      superblock_.log_start + (anchor->header.block == superblock_.log_start ? 1 : 0);
  const int error = ReadSync(device_, other * kBlockBytes, buffer.data(), kBlockBytes);
  if (error != 0) problems_.Add(ErrnoError(EIO, ReadError(other, error)));
  if (anchor->clean == 0) {
    // The one that cannot be read, or could not a moment ago, may say otherwise.
    const bool newer = error == 0 && VerifyLogAnchor(buffer.data(), other, superblock_).ok() &&
                       buffer.as<LogAnchor>()->generation > anchor->generation;
    if (error != 0 || newer) return ErrnoError(EIO, ReadError(other, error != 0 ? error : EIO));
    return ErrnoError(EBUSY, "the log is not clean: replay it first");
  }
  if (error != 0) return OkStatus();
  const Status status = VerifyLogAnchor(buffer.data(), other, superblock_);
  if (!status.ok()) {
    report_.notes.push_back(
        absl::StrCat("the older log anchor is not valid, as after a power cut: ",
                     std::string(status.message())));
  }
  return OkStatus();
}

// The state block and the group table, without which nothing can be found.
bool Checker::LoadGroups() {
  StatusOr<BlockRef> state = reader_.Read(superblock_.state_block, kMagicState, kOwnerFilesystem);
  if (state.ok()) {
    orphan_root_ = state->as<StateBlock>()->orphans;
    watched_expected_ = state->as<StateBlock>()->watched_inodes;
  } else {
    problems_.Add(state.status());
  }
  reader_.Readahead(superblock_.ag_table_start, superblock_.ag_table_blocks);
  bool good = true;
  groups_.resize(superblock_.ag_count);
  for (uint32_t i = 0; i < superblock_.ag_table_blocks; ++i) {
    StatusOr<BlockRef> table =
        reader_.Read(superblock_.ag_table_start + i, kMagicAgTable, kOwnerFilesystem);
    if (!table.ok()) {
      problems_.Add(table.status());
      good = false;
      continue;
    }
    const uint32_t first = i * kAgEntriesPerBlock;
    const uint32_t count = std::min(kAgEntriesPerBlock, superblock_.ag_count - first);
    std::copy_n(table->as<AgTableBlock>()->entries, count, groups_.begin() + first);
  }
  if (!good) return false;
  for (uint32_t ag = 0; ag < superblock_.ag_count; ++ag) {
    // Group 0 has the filesystem's own blocks, so mkfs has initialized it.
    const bool initialized = (groups_[ag].flags & kAgInitialized) != 0;
    if (ag == 0 && !initialized) problems_.Add("group 0: flags say that it is not initialized");
    usage_.AddGroup(ag, initialized || ag == 0);
    if (initialized) {
      ++report_.stats.groups_initialized;
    } else {
      CheckUnusedGroup(ag);
    }
    inode_slots_ += groups_[ag].inode_slots;
  }
  return true;
}

void Checker::CheckUnusedGroup(uint32_t ag) {
  const AgEntry& entry = groups_[ag];
  const uint64_t total = superblock_.total_blocks;
  const uint32_t expected = AgLength(ag, total) - kAgBitmapOffset - AgBitmapBlocks(ag, total) -
                            (ag + 1 == superblock_.ag_count ? 1 : 0);
  if (entry.free_blocks != expected && ag != 0) {
    problems_.Add("group ", ag, ": free_blocks is ", entry.free_blocks,
                  ", a group that is not "
                  "initialized has ",
                  expected);
  }
  if (entry.inode_tree.block != 0) {
    problems_.Add("group ", ag, ": is not initialized, but has an inode tree in block ",
                  entry.inode_tree.block);
  }
}

// ---- The walk

Status Checker::Walk() {
  for (uint32_t ag = 0; ag < superblock_.ag_count; ++ag) PBFS_RETURN_IF_ERROR(WalkGroup(ag));
  PBFS_RETURN_IF_ERROR(WalkDirectories());
  return LoadOrphans();
}

// Every node belongs to `owner`; every record is visited.
Status Checker::WalkTree(const BlockOwner& owner, uint64_t header_owner, const TreeRoot& root,
                         const RecordVisitor& visit, Walked& walked) {
  NoNodeSpace space;
  TreeRoot copy = root;
  const Tree tree(reader_, space, header_owner, copy);
  const Status status = tree.VisitNodes([&](BlockNumber block, const TreeNodeHeader& node) {
    usage_.Use(owner, block, 1);
    ++walked.blocks;
    const auto* data = reinterpret_cast<const std::byte*>(&node);
    if (IsLeaf(data)) {
      for (uint32_t i = 0; i < NodeCount(data); ++i) visit(NodeKey(data, i), LeafValue(data, i));
    }
    return Poll();
  });
  if (ErrnoOf(status) == ECANCELED) return status;
  if (!status.ok()) {
    walked.whole = false;
    problems_.AddIn(owner.ToString(), status);
  }
  return OkStatus();
}

// ---- Bitmaps

Status Checker::CheckSpace() {
  for (uint32_t ag = 0; ag < superblock_.ag_count; ++ag) {
    if ((groups_[ag].flags & kAgInitialized) == 0) continue;
    PBFS_RETURN_IF_ERROR(Progress("space", ag, superblock_.ag_count));
    const uint32_t bitmaps = AgBitmapBlocks(ag, superblock_.total_blocks);
    reader_.Readahead(AgStart(ag) + kAgBitmapOffset, bitmaps);
    uint32_t free_blocks = 0;
    bool whole = true;
    for (uint32_t i = 0; i < bitmaps; ++i) {
      StatusOr<BlockRef> bitmap =
          reader_.Read(AgStart(ag) + kAgBitmapOffset + i, kMagicBitmap, kOwnerAgBase + ag);
      if (bitmap.ok()) {
        free_blocks += usage_.CompareBitmap(ag, i, *bitmap->as<BitmapBlock>());
      } else {
        problems_.Add(bitmap.status());
        whole = false;
      }
    }
    if (whole && free_blocks != groups_[ag].free_blocks) {
      problems_.Add("group ", ag, ": free_blocks is ", groups_[ag].free_blocks, ", its bitmap has ",
                    free_blocks);
    }
  }
  return OkStatus();
}

// ---- Entry points

StatusOr<CheckReport> CheckFilesystem(BlockDevice& device, const CheckOptions& options) {
  PBFS_ASSIGN_OR_RETURN(const FileSystem::ProbeResult probe, FileSystem::Probe(device));
  if (probe.must_be_read_only) {
    return ErrnoError(EOPNOTSUPP, absl::StrCat(device.geometry().name,
                                               ": uses features that this "
                                               "program does not know: cannot check it"));
  }
  return Checker(device, probe.superblock, options).Run();
}

StatusOr<CheckReport> CheckReplayed(BlockDevice& device, const CheckOptions& options) {
  PBFS_ASSIGN_OR_RETURN(const FileSystem::ProbeResult probe, FileSystem::Probe(device));
  OverlayDevice overlay(device);
  RecoveryResult recovery;
  if (!probe.must_be_read_only) {
    StatusOr<RecoveryResult> replayed = ReplayLog(overlay, probe.superblock);
    if (!replayed.ok()) {
      if (!IsCorruption(replayed.status())) return replayed.status();
      CheckReport report;
      ProblemList(report, options.problem_lines_max).Add(replayed.status());
      return report;
    }
    recovery = *replayed;
  }
  StatusOr<CheckReport> checked = CheckFilesystem(overlay, options);
  if (ErrnoOf(checked.status()) == EBUSY) {
    return ErrnoError(EIO, absl::StrCat(device.geometry().name,
                                        ": the log anchors read otherwise than a moment ago"));
  }
  PBFS_ASSIGN_OR_RETURN(CheckReport report, std::move(checked));
  report.log_was_dirty = recovery.replayed;
  report.checkpoints_replayed = recovery.checkpoints;
  return report;
}

}  // namespace pbfs
