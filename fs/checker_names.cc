// SPDX-License-Identifier: Apache-2.0
// The checker's view of names: directories, their connection to the root, links, orphans.
#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>

#include "fs/checker_impl.h"

namespace pbfs {
namespace {

// A name for a message: what is not printable shows as its code.
std::string Quoted(std::string_view name) {
  std::string text = "'";
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppend(&text, "\\x", absl::Hex(byte, absl::kZeroPad2));
    } else {
      text += c;
    }
  }
  return text + "'";
}

}  // namespace

// ---- Directories

Status Checker::WalkDirectories() {
  for (size_t i = 0; i < directories_.size(); ++i) {
    if (i % 64 == 0) PBFS_RETURN_IF_ERROR(Progress("directories", i, directories_.size()));
    PBFS_RETURN_IF_ERROR(WalkDirectory(directories_[i]));
  }
  return OkStatus();
}

Status Checker::WalkDirectory(DirectoryInfo& directory) {
  InodeTableBlock inodes;
  const uint32_t slot = InodeSlot(directory.ino);
  problems_.Mute();  // What is wrong with its block was said before.
  const uint32_t readable = ReadInodes(InodeBlock(directory.ino), inodes);
  if (!searching_owners_) problems_.Unmute();
  if ((readable >> slot & 1) == 0) {
    directory.whole = false;
    return OkStatus();
  }
  const DiskInode& inode = inodes.inodes[slot];
  Walked walked;
  HashNames names;
  uint64_t entries = 0;
  const auto bad_record = [&](uint64_t at) {
    problems_.Add("inode ", directory.ino, ": directory record ", at, " is malformed");
    directory.whole = false;
  };
  if (FormatOf(inode, Fork::kData) == ForkFormat::kTree) {
    PBFS_RETURN_IF_ERROR(WalkTree(
        {BlockOwner::Kind::kDataTree, inode.ino}, inode.ino, GetTreeRoot(inode, Fork::kData),
        [&](uint64_t key, std::span<const uint8_t> value) {
          ++entries;
          const std::optional<DirEntryView> entry = ParseTreeDirRecord(key, value);
          if (!entry) return bad_record(key);
          CheckEntry(directory, *entry, names);
        },
        walked));
  } else {
    const std::span<const uint8_t> content = ForkBytes(inode, Fork::kData);
    for (size_t offset = 0; offset < content.size(); ++entries) {
      const std::optional<DirEntryView> entry = ParseInlineDirRecord(content, offset);
      if (!entry) {
        bad_record(offset);
        break;
      }
      CheckEntry(directory, *entry, names);
      offset += InlineRecordBytes(*entry);
    }
  }
  PBFS_RETURN_IF_ERROR(WalkAttributes(inode, walked));
  CheckBlocks(inode, walked);
  directory.whole = directory.whole && walked.whole;
  if (walked.whole && entries != inode.entries) {
    problems_.Add("inode ", inode.ino, ": entries is ", inode.entries, ", it has ", entries);
  }
  if (inode.nlink == 0 && entries != 0) {
    problems_.Add("inode ", inode.ino, ": directory without links has ", entries, " entries");
  }
  return OkStatus();
}

void Checker::CheckEntry(DirectoryInfo& directory, const DirEntryView& entry, HashNames& names) {
  if (searching_owners_) return;
  const auto bad = [&](const auto&... what) {
    problems_.Add("inode ", directory.ino, ": entry ", Quoted(entry.name), ": ", what...);
  };
  if (entry.name == "." || entry.name == "..") bad("the name is not legal");
  if (entry.key >> kHashCollisionBits != hash_.Hash(entry.name)) {
    bad("key ", entry.key, " does not match the name");
  } else if (!names.AddUnique(entry.key >> kHashCollisionBits, entry.name)) {
    bad("the name is there twice");
  }
  InodeInfo* const target = FindInode(entry.ino);
  if (target == nullptr) {
    bad("inode ", entry.ino, " is not in use");
    return;
  }
  ++target->names;
  if (target->damaged()) return;
  if (entry.type != target->type()) {
    bad("type is ", uint32_t{entry.type}, ", inode ", entry.ino, " is of type ",
        uint32_t{target->type()});
  }
  if (target->type() == DT_DIR) NameDirectory(directory, *target, Quoted(entry.name));
}

void Checker::NameDirectory(DirectoryInfo& directory, InodeInfo& target, const std::string& name) {
  DirectoryInfo* const child = FindDirectory(target.ino());
  if (child == nullptr) return;
  ++directory.subdirectories;
  if (child->ino == superblock_.root_inode) {
    problems_.Add("inode ", directory.ino, ": entry ", name, " names the root directory");
    return;
  }
  if (child->named_in != 0) {
    problems_.Add("inode ", child->ino, ": directory has two names, in inode ", child->named_in,
                  " and in inode ", directory.ino);
    return;
  }
  child->named_in = directory.ino;
  if (child->parent != directory.ino) {
    problems_.Add("inode ", child->ino, ": parent is ", child->parent, ", it is named in ",
                  directory.ino);
  }
}

// ---- Orphans

Status Checker::LoadOrphans() {
  Walked walked;
  return WalkTree(
      {BlockOwner::Kind::kOrphanTree}, kOwnerOrphans, orphan_root_,
      [&](uint64_t key, std::span<const uint8_t> value) {
        if (searching_owners_) return;
        if (value.size() != 1) {
          problems_.Add("orphan ", key, ": record has ", value.size(), " bytes");
          return;
        }
        const auto kind = static_cast<OrphanKind>(value[0]);
        orphans_[key] = kind;
        CheckOrphan(key, kind);
      },
      walked);
}

void Checker::CheckOrphan(InodeNumber ino, OrphanKind kind) {
  const InodeInfo* const inode = FindInode(ino);
  if (inode == nullptr) {
    problems_.Add("orphan ", ino, ": inode is not in use");
    return;
  }
  if (inode->damaged()) return;
  switch (kind) {
    case OrphanKind::kUnlinked:
      if (inode->nlink != 0)
        problems_.Add("orphan ", ino, ": unlinked, but nlink is ", inode->nlink);
      return;
    case OrphanKind::kTruncate:
      if (inode->type() != DT_REG)
        problems_.Add("orphan ", ino, ": truncated, but no regular file");
      return;
  }
  problems_.Add("orphan ", ino, ": kind is ", static_cast<uint32_t>(kind));
}

void Checker::CheckTruncations() {
  for (const InodeNumber ino : written_behind_end_) {
    const auto orphan = orphans_.find(ino);
    if (orphan != orphans_.end() && orphan->second == OrphanKind::kTruncate) continue;
    problems_.Add("inode ", ino, ": has written blocks behind its end");
  }
}

// ---- Links

Status Checker::CheckLinks() {
  CheckTruncations();
  for (size_t i = 0; i < inodes_.size(); ++i) {
    if (i % 65536 == 0) PBFS_RETURN_IF_ERROR(Progress("links", i, inodes_.size()));
    if (!inodes_[i].damaged()) CheckInodeLinks(inodes_[i]);
  }
  const InodeInfo* const root = FindInode(superblock_.root_inode);
  if (root == nullptr) {
    problems_.Add("inode ", superblock_.root_inode, ": the root directory is not in use");
  } else if (root->type() != DT_DIR && !root->damaged()) {
    problems_.Add("inode ", superblock_.root_inode, ": the root is no directory");
  }
  return OkStatus();
}

void Checker::CheckInodeLinks(const InodeInfo& inode) {
  const InodeNumber ino = inode.ino();
  const bool is_root = ino == superblock_.root_inode;
  if (inode.nlink == 0) {
    const auto orphan = orphans_.find(ino);
    if (orphan == orphans_.end() || orphan->second != OrphanKind::kUnlinked) {
      problems_.Add("inode ", ino, ": nlink is 0, but it is not among the orphans");
    }
  } else if (inode.names == 0 && !is_root) {
    problems_.Add("inode ", ino, ": not connected: no directory names it, nlink is ", inode.nlink);
    return;
  }
  if (inode.type() == DT_DIR) {
    CheckDirectoryLinks(inode);
  } else if (inode.nlink != inode.names) {
    problems_.Add("inode ", ino, ": nlink is ", inode.nlink, ", it has ", inode.names, " names");
  }
}

void Checker::CheckDirectoryLinks(const InodeInfo& inode) {
  const DirectoryInfo* const directory = FindDirectory(inode.ino());
  if (directory == nullptr) return;
  if (inode.ino() == superblock_.root_inode && directory->parent != inode.ino()) {
    problems_.Add("inode ", inode.ino(), ": the root's parent is ", directory->parent);
  }
  if (!directory->whole) return;
  // A removed directory is empty and has no name.
  const uint32_t expected = inode.nlink == 0 && inode.names == 0 && directory->subdirectories == 0
                                ? 0
                                : 2 + directory->subdirectories;
  if (inode.nlink != expected) {
    problems_.Add("inode ", inode.ino(), ": nlink is ", inode.nlink, ", a directory with ",
                  directory->subdirectories, " subdirectories has ", expected);
  }
}

// ---- Connection to the root

Status Checker::CheckConnections() {
  for (size_t i = 0; i < directories_.size(); ++i) {
    if (i % 65536 == 0) PBFS_RETURN_IF_ERROR(Poll());
    Climb(directories_[i]);
  }
  return OkStatus();
}

// From a directory up through those that name each other, until one that was reached before, or
// that nothing names: the root, or one that CheckLinks() complains of.
void Checker::Climb(DirectoryInfo& start) {
  std::vector<DirectoryInfo*> path;
  for (DirectoryInfo* at = &start; at != nullptr && at->path != DirectoryInfo::Path::kKnown;) {
    if (at->path == DirectoryInfo::Path::kClimbing) {
      problems_.Add("inode ", at->ino, ": directory is below itself, not connected to the root");
      break;
    }
    at->path = DirectoryInfo::Path::kClimbing;
    path.push_back(at);
    at = at->named_in == 0 ? nullptr : FindDirectory(at->named_in);
  }
  for (DirectoryInfo* directory : path) directory->path = DirectoryInfo::Path::kKnown;
}

}  // namespace pbfs
