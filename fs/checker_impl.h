// SPDX-License-Identifier: Apache-2.0
// The checker's insides; users want fs/checker.h.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "cache/block_cache.h"
#include "fs/checker.h"
#include "fs/checker_usage.h"
#include "fs/directory.h"
#include "fs/fork.h"
#include "fs/format.h"
#include "fs/name_hash.h"
#include "fs/tree.h"

namespace pbfs {

// One run over a filesystem. Walk() visits everything that uses blocks, top down: group trees,
// inodes, files' forks, then directories; what is found is compared afterwards. When blocks are
// used twice, Walk() runs again, muted, to find out by whom.
//
// Functions that check return an error only to end the whole check (cancelled); what is wrong with
// the filesystem goes to problems_.
class Checker {
 public:
  // All borrowed.
  Checker(BlockDevice& device, const Superblock& superblock, const CheckOptions& options);
  StatusOr<CheckReport> Run();

 private:
  // An inode that exists, as far as its links need it. Kept small: there are many.
  struct InodeInfo {
    uint64_t ino_and_type;  // Number * 16 + DT_* (0: too damaged to tell).
    uint32_t nlink;         // As the inode says.
    uint32_t names;         // Found in directories.
    InodeNumber ino() const { return ino_and_type / 16; }
    uint8_t type() const { return ino_and_type % 16; }
    bool damaged() const { return type() == 0; }
  };
  struct DirectoryInfo {
    InodeNumber ino;
    InodeNumber parent;        // As the inode says.
    InodeNumber named_in = 0;  // Directory that has a name for it; 0: none found.
    uint32_t subdirectories = 0;
    enum class Path : uint8_t { kUnknown, kClimbing, kKnown } path = Path::kUnknown;
    bool whole = true;  // All its entries could be read.
  };
  struct Chunk {
    BlockNumber start;
    InodeChunk value;
  };
  // What walking a tree or fork found.
  struct Walked {
    uint64_t blocks = 0;
    bool whole = true;  // False: parts could not be read.
  };
  // Names of one hash seen so far in the directory or attribute set at hand.
  struct HashNames {
    uint64_t hash = 0;
    std::vector<std::string> names;
    bool AddUnique(uint64_t of_hash, std::string_view name);
  };
  // Puts the pieces of extended attributes together.
  struct PieceWalk {
    uint64_t next_key = 0;
    uint64_t bytes_left = 0;
    HashNames names;
    // The attribute at hand, if it is an ACL.
    std::string acl_name;
    std::string acl_bytes;
  };
  using RecordVisitor = std::function<void(uint64_t key, std::span<const uint8_t> value)>;

  // checker.cc
  Status Poll() const;
  Status Progress(const char* phase, uint64_t done, uint64_t total) const;
  Status CheckSuperblocks();
  Status CheckAnchors();
  bool LoadGroups();
  Status Walk();
  Status WalkTree(const BlockOwner& owner, uint64_t header_owner, const TreeRoot& root,
                  const RecordVisitor& visit, Walked& walked);
  Status CheckSpace();
  void CheckUnusedGroup(uint32_t ag);

  // checker_inodes.cc
  Status WalkGroup(uint32_t ag);
  Status ListChunks(uint32_t ag, std::vector<Chunk>& chunks, bool& whole);
  bool CheckChunk(uint32_t ag, uint64_t key, std::span<const uint8_t> value, Chunk& chunk);
  Status WalkChunk(const Chunk& chunk);
  // Copies the block's inodes; returns a mask of the slots that are readable and correct.
  uint32_t ReadInodes(BlockNumber block, InodeTableBlock& inodes);
  Status WalkInode(const DiskInode& inode);
  void AddInode(const DiskInode& inode);
  void AddDamagedInode(InodeNumber ino);
  InodeInfo* FindInode(InodeNumber ino);
  DirectoryInfo* FindDirectory(InodeNumber ino);

  // checker_forks.cc
  Status WalkFile(const DiskInode& inode);
  Status WalkExtents(const DiskInode& inode, Walked& walked);
  void CheckExtent(const DiskInode& inode, uint64_t file_block, const ExtentValue& value,
                   uint64_t& previous_end, Walked& walked);
  Status WalkSymlink(const DiskInode& inode, Walked& walked);
  Status WalkAttributes(const DiskInode& inode, Walked& walked);
  void CheckInlineAttributes(const DiskInode& inode);
  void CheckAcl(const DiskInode& inode, std::string_view name, std::string_view value);
  void CheckAttributePiece(const DiskInode& inode, uint64_t key, std::span<const uint8_t> value,
                           PieceWalk& walk);
  void BeginAttribute(const DiskInode& inode, uint64_t key, std::span<const uint8_t> value,
                      PieceWalk& walk);
  void CheckBlocks(const DiskInode& inode, const Walked& walked);

  // checker_names.cc
  Status WalkDirectories();
  Status WalkDirectory(DirectoryInfo& directory);
  void CheckEntry(DirectoryInfo& directory, const DirEntryView& entry, HashNames& names);
  void NameDirectory(DirectoryInfo& directory, InodeInfo& target, const std::string& name);
  Status LoadOrphans();
  void CheckOrphan(InodeNumber ino, OrphanKind kind);
  Status CheckLinks();
  void CheckTruncations();
  void CheckInodeLinks(const InodeInfo& inode);
  void CheckDirectoryLinks(const InodeInfo& inode);
  Status CheckConnections();
  void Climb(DirectoryInfo& start);

  BlockDevice& device_;
  const Superblock& superblock_;
  const CheckOptions& options_;
  CheckReport report_;
  ProblemList problems_;
  BlockUsage usage_;
  PageCache pages_;
  BlockCache cache_;
  const MetaReader reader_;
  const NameHash hash_;
  bool searching_owners_ = false;  // Second walk.

  std::vector<AgEntry> groups_;
  TreeRoot orphan_root_ = {};
  std::optional<uint64_t> watched_expected_;  // As the state block has it.
  uint64_t watched_inodes_ = 0;
  uint64_t inode_slots_ = 0;  // As the group table has it; for progress.
  // Both ascending, as they are found.
  std::vector<InodeInfo> inodes_;
  std::vector<DirectoryInfo> directories_;
  absl::flat_hash_map<InodeNumber, OrphanKind> orphans_;
  // Files with written blocks behind their end: legal only while they are being truncated.
  std::vector<InodeNumber> written_behind_end_;
};

}  // namespace pbfs
