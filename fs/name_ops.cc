// SPDX-License-Identifier: Apache-2.0
// Operations on names: lookup, create, link, unlink, rename, readdir.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "fs/filesystem_impl.h"
#include "fs/inode_flags.h"
#include "fs/symlink.h"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE (1 << 0)
#define RENAME_EXCHANGE (1 << 1)
#define RENAME_WHITEOUT (1 << 2)
#endif

namespace pbfs {
namespace {

constexpr uint32_t kLinksMax = 0x7fffffff;
constexpr OperationRunner::Needs kAdding{.space_blocks = 32};
// Where an ACL may be inherited: it may need a tree of a few blocks.
constexpr OperationRunner::Needs kAddingWithAcl{.space_blocks = 40};
constexpr OperationRunner::Needs kAddingTwo{.space_blocks = 64};
constexpr OperationRunner::Needs kRemoving{.space_blocks = 24, .privileged = true};
// Entries handed out by one pass under a directory's lock.
constexpr size_t kReadDirBatch = 128;

uint8_t TypeOf(uint32_t mode) { return static_cast<uint8_t>((mode & S_IFMT) >> 12); }

Status CheckName(std::string_view name) {
  if (name.size() > kNameBytesMax) return ErrnoError(ENAMETOOLONG, "name too long");
  if (name == "." || name == ".." || !IsEntryName(name)) return ErrnoError(EINVAL, "bad name");
  return OkStatus();
}

// Without the inode's lock: the running operation may hold it, and only operations change `parent`.
InodeNumber ParentOf(const Inode& inode) ABSL_NO_THREAD_SAFETY_ANALYSIS {
  return inode.disk.parent;
}

const OperationRunner::Needs& NeedsToAdd(Inode& parent) ABSL_LOCKS_EXCLUDED(parent.lock) {
  ReaderLock lock(parent.lock);
  const bool acl = FormatOf(parent.disk, Fork::kAttributes) != ForkFormat::kNone;
  return acl ? kAddingWithAcl : kAdding;
}

Status CheckDirectory(const DiskInode& disk) {
  if (!S_ISDIR(disk.mode)) return ErrnoError(ENOTDIR, "not a directory");
  return OkStatus();
}

// Directories below each other. A path of PATH_MAX bytes has 2048 of them; who goes down step by
// step may make more.
constexpr uint64_t kDepthMax = 1 << 20;

// A directory that takes new names: it must still have one itself.
Status CheckLiveDirectory(const DiskInode& disk) {
  PBFS_RETURN_IF_ERROR(CheckDirectory(disk));
  if (disk.nlink == 0) return ErrnoError(ENOENT, "directory was removed");
  return CheckNewNames(disk);
}

}  // namespace

StatusOr<std::optional<Attributes>> FileSystemImpl::Lookup(InodeNumber dir, std::string_view name) {
  if (name.size() > kNameBytesMax) return ErrnoError(ENAMETOOLONG, "name too long");
  if (name == ".") {
    // By a file handle, which may be older than what lies at that place now.
    bool used = false;
    PBFS_ASSIGN_OR_RETURN(used, IsInUse(dir));
    if (!used) return std::nullopt;
  }
  InodeRef parent;
  PBFS_ASSIGN_OR_RETURN(parent, GetInode(dir));
  InodeNumber ino = 0;
  {
    ReaderLock lock(parent->lock);
    if (name == ".") {
      // By a file handle, for an inode that is not in use any more.
      if (parent->disk.nlink == 0) return std::nullopt;
      ino = dir;
    } else {
      PBFS_RETURN_IF_ERROR(CheckDirectory(parent->disk));
      if (name == "..") {
        ino = parent->disk.parent;
      } else {
        if (!IsEntryName(name)) return ErrnoError(EINVAL, "bad name");
        std::optional<Directory::Found> found;
        PBFS_ASSIGN_OR_RETURN(found, Directory(reader_, space_, hash_, parent->disk).Find(name));
        if (!found) return std::nullopt;
        ino = found->ino;
      }
    }
    // Under the directory's lock: the name, and so the inode, cannot go before it is referenced.
    inodes_.AddReference(ino);
  }
  StatusOr<InodeRef> child = GetInode(ino);
  if (!child.ok()) {
    inodes_.RemoveReferences(ino, 1);
    return child.status();
  }
  return AttributesOfInode(**child);
}

StatusOr<bool> FileSystemImpl::IsInUse(InodeNumber ino) {
  PBFS_RETURN_IF_ERROR(CheckRunning());
  return log_->WhileStill([&] { return inode_allocator_.Contains(ino); });
}

StatusOr<std::optional<Attributes>> FileSystemImpl::Reference(InodeNumber ino) {
  inodes_.AddReference(ino);
  StatusOr<InodeRef> inode = GetInode(ino);
  if (inode.ok()) return AttributesOfInode(**inode);
  inodes_.RemoveReferences(ino, 1);
  if (ErrnoOf(inode.status()) == ESTALE) return std::nullopt;
  return inode.status();
}

void FileSystemImpl::ReadInodesAhead(std::span<const InodeNumber> inos) {
  std::vector<uint64_t> windows;
  for (const InodeNumber ino : inos) {
    const uint64_t window = InodeBlock(ino) / kInodeChunkBlocksMax;
    const bool seen = !windows.empty() && windows.back() == window;
    if (!seen && !cache_.Find(InodeBlock(ino))) windows.push_back(window);
  }
  std::ranges::sort(windows);
  const auto rest = std::ranges::unique(windows);
  windows.erase(rest.begin(), rest.end());
  for (const uint64_t window : windows) {
    reader_.Readahead(window * kInodeChunkBlocksMax, kInodeChunkBlocksMax);
  }
}

void FileSystemImpl::Forget(InodeNumber ino, uint64_t count) {
  if (!inodes_.RemoveReferences(ino, count)) return;
  orphans_->Unreferenced(ino);
  access_times_->NoteForgotten();
}

Status FileSystemImpl::FillNewInode(Operation& operation, const InodeRef& child,
                                    const DiskInode& parent, const NewInode& request,
                                    const InodeAllocator::Slot& slot) {
  DiskInode& disk = operation.Edit(child);
  disk = DiskInode{};
  disk.ino = slot.ino;
  disk.generation = slot.generation;
  disk.mode = request.mode;
  disk.uid = request.uid;
  disk.gid = request.gid;
  disk.rdev = request.rdev;
  disk.nlink = 1;
  if (S_ISREG(disk.mode) || S_ISDIR(disk.mode)) disk.flags = parent.flags & kInodeFlagsInherited;
  if (!S_ISDIR(disk.mode)) disk.flags &= ~kInodeDirectoryFlags;
  if (IsWatched(disk)) {
    PBFS_RETURN_IF_ERROR(CountWatchedInode(operation.transaction(), reader_, 1));
  }
  if ((parent.flags & kInodeProjectInherit) != 0) disk.project = parent.project;
  if ((parent.mode & S_ISGID) != 0) {
    disk.gid = parent.gid;
    if (S_ISDIR(disk.mode)) disk.mode |= S_ISGID;
  }
  if (S_ISDIR(disk.mode)) {
    disk.nlink = 2;
    disk.parent = parent.ino;
  }
  const Time now = CurrentTime();
  SetTimes(disk, now, /*modified=*/true);
  disk.atime_seconds = disk.btime_seconds = now.seconds;
  disk.atime_nanoseconds = disk.btime_nanoseconds = now.nanoseconds;
  if (!S_ISLNK(disk.mode)) return InheritAcls(operation, parent, request, disk);
  PBFS_RETURN_IF_ERROR(
      WriteSymlink(reader_, space_, operation.transaction(), disk, request.symlink_target));
  child->size.store(disk.size_bytes, std::memory_order_relaxed);
  return OkStatus();
}

StatusOr<InodeRef> FileSystemImpl::MakeInode(Operation& operation, const DiskInode& parent,
                                             const NewInode& request) {
  InodeAllocator::Slot slot;
  PBFS_ASSIGN_OR_RETURN(slot, inode_allocator_.Allocate(operation.transaction(), parent.ino));
  InodeRef child = inodes_.GetNew(slot.ino);
  // At once: the next transaction may use the number.
  operation.transaction().OnAbort([this, gone = slot.ino] { inodes_.Drop(gone); });
  PBFS_RETURN_IF_ERROR(FillNewInode(operation, child, parent, request, slot));
  return child;
}

StatusOr<Attributes> FileSystemImpl::Create(InodeNumber dir, std::string_view name,
                                            const NewInode& request) {
  PBFS_RETURN_IF_ERROR(CheckName(name));
  InodeRef parent;
  PBFS_ASSIGN_OR_RETURN(parent, GetInode(dir));
  InodeRef child;
  const Status status = Run(NeedsToAdd(*parent), [&](Operation& operation) -> Status {
    DiskInode& directory = operation.Edit(parent);
    PBFS_RETURN_IF_ERROR(CheckLiveDirectory(directory));
    if (S_ISDIR(request.mode) && directory.nlink >= kLinksMax) {
      return ErrnoError(EMLINK, "too many links");
    }
    Directory names(reader_, space_, hash_, directory);
    std::optional<Directory::Found> found;
    PBFS_ASSIGN_OR_RETURN(found, names.Find(name));
    if (found) return ErrnoError(EEXIST, "name exists");
    PBFS_ASSIGN_OR_RETURN(child, MakeInode(operation, directory, request));
    const InodeNumber ino = child->ino;
    PBFS_RETURN_IF_ERROR(names.Insert(operation.transaction(), name, ino, TypeOf(request.mode)));
    if (S_ISDIR(request.mode)) ++directory.nlink;
    SetTimes(directory, CurrentTime(), /*modified=*/true);
    operation.transaction().OnCommit([this, ino] { inodes_.AddReference(ino); });
    return OkStatus();
  });
  PBFS_RETURN_IF_ERROR(status);
  return AttributesOfInode(*child);
}

StatusOr<Attributes> FileSystemImpl::CreateTemporary(InodeNumber dir, const NewInode& request) {
  if (!S_ISREG(request.mode)) return ErrnoError(EINVAL, "not a regular file");
  InodeRef parent;
  PBFS_ASSIGN_OR_RETURN(parent, GetInode(dir));
  InodeRef child;
  PBFS_RETURN_IF_ERROR(Run(NeedsToAdd(*parent), [&](Operation& operation) -> Status {
    const DiskInode& directory = operation.Edit(parent);
    PBFS_RETURN_IF_ERROR(CheckLiveDirectory(directory));
    PBFS_ASSIGN_OR_RETURN(child, MakeInode(operation, directory, request));
    operation.Edit(child).nlink = 0;
    const InodeNumber ino = child->ino;
    PBFS_RETURN_IF_ERROR(orphans_->Add(operation, ino, OrphanKind::kUnlinked));
    operation.transaction().OnCommit([this, ino] {
      inodes_.AddReference(ino);
      orphans_->NoteTemporary(ino);
    });
    return OkStatus();
  }));
  return AttributesOfInode(*child);
}

StatusOr<Attributes> FileSystemImpl::Link(InodeNumber ino, InodeNumber dir, std::string_view name) {
  PBFS_RETURN_IF_ERROR(CheckName(name));
  InodeRef parent;
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(parent, GetInode(dir));
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  PBFS_RETURN_IF_ERROR(CheckWritable());
  // What a truncation of a file without a name has left to free counts on the orphan tree.
  const bool temporary = orphans_->IsTemporary(ino);
  if (temporary) inode->range.Lock(0, UINT64_MAX, RangeLock::Mode::kExclusive);
  const Status status = Run(kAdding, [&](Operation& operation) -> Status {
    DiskInode& directory = operation.Edit(parent);
    PBFS_RETURN_IF_ERROR(CheckLiveDirectory(directory));
    DiskInode& disk = operation.Edit(inode);
    if (S_ISDIR(disk.mode)) return ErrnoError(EPERM, "hard link to a directory");
    if (disk.nlink == 0 && !temporary) return ErrnoError(ENOENT, "file was removed");
    if (disk.nlink >= kLinksMax) return ErrnoError(EMLINK, "too many links");
    PBFS_RETURN_IF_ERROR(CheckChange(disk));
    PBFS_RETURN_IF_ERROR(CheckProject(directory, disk));
    if (disk.nlink == 0) PBFS_RETURN_IF_ERROR(orphans_->Remove(operation, ino));
    PBFS_RETURN_IF_ERROR(Directory(reader_, space_, hash_, directory)
                             .Insert(operation.transaction(), name, ino, TypeOf(disk.mode)));
    ++disk.nlink;
    SetTimes(disk, CurrentTime(), /*modified=*/false);
    SetTimes(directory, CurrentTime(), /*modified=*/true);
    operation.transaction().OnCommit([this, ino, temporary] {
      inodes_.AddReference(ino);
      if (temporary) orphans_->NoteNamed(ino);
    });
    return OkStatus();
  });
  if (temporary) inode->range.Unlock(0, UINT64_MAX, RangeLock::Mode::kExclusive);
  PBFS_RETURN_IF_ERROR(status);
  return AttributesOfInode(*inode);
}

// Takes one link of an inode whose directory entry was just removed.
Status FileSystemImpl::DropLink(Operation& operation, const InodeRef& inode, bool directory) {
  DiskInode& disk = operation.Touch(inode, /*modified=*/false);
  const uint32_t links = directory ? 2 : 1;
  if (disk.nlink < links) {
    return CorruptionError(absl::StrCat("inode ", inode->ino, ": nlink is ", disk.nlink));
  }
  disk.nlink -= links;
  if (disk.nlink > 0) return OkStatus();
  const InodeNumber ino = inode->ino;
  PBFS_RETURN_IF_ERROR(orphans_->Add(operation, ino, OrphanKind::kUnlinked));
  return OkStatus();
}

Status FileSystemImpl::RemoveName(InodeNumber dir, std::string_view name, bool directory) {
  PBFS_RETURN_IF_ERROR(CheckName(name));
  InodeRef parent;
  PBFS_ASSIGN_OR_RETURN(parent, GetInode(dir));
  InodeNumber unlinked = 0;
  PBFS_RETURN_IF_ERROR(Run(kRemoving, [&](Operation& operation) -> Status {
    unlinked = 0;
    DiskInode& disk = operation.Edit(parent);
    PBFS_RETURN_IF_ERROR(CheckDirectory(disk));
    Directory names(reader_, space_, hash_, disk);
    std::optional<Directory::Found> found;
    PBFS_ASSIGN_OR_RETURN(found, names.Find(name));
    if (!found) return ErrnoError(ENOENT, "no such name");
    InodeRef child;
    PBFS_ASSIGN_OR_RETURN(child, GetInode(found->ino));
    const DiskInode& child_disk = operation.Edit(child);
    PBFS_RETURN_IF_ERROR(CheckRemoval(disk, child_disk));
    if (directory) {
      if (!S_ISDIR(child_disk.mode)) return ErrnoError(ENOTDIR, "not a directory");
      if (child_disk.entries != 0) return ErrnoError(ENOTEMPTY, "directory not empty");
      --disk.nlink;
    } else if (S_ISDIR(child_disk.mode)) {
      return ErrnoError(EISDIR, "is a directory");
    }
    PBFS_RETURN_IF_ERROR(names.Remove(operation.transaction(), name).status());
    SetTimes(disk, CurrentTime(), /*modified=*/true);
    PBFS_RETURN_IF_ERROR(DropLink(operation, child, directory));
    if (child_disk.nlink == 0) unlinked = found->ino;
    return OkStatus();
  }));
  if (unlinked != 0) orphans_->Unlinked(unlinked);
  return OkStatus();
}

Status FileSystemImpl::Unlink(InodeNumber dir, std::string_view name) {
  return RemoveName(dir, name, /*directory=*/false);
}

Status FileSystemImpl::Rmdir(InodeNumber dir, std::string_view name) {
  return RemoveName(dir, name, /*directory=*/true);
}

// ---- Rename -------------------------------------------------------------------------------------

// A directory may not move below itself. Gate held, so the tree stands still.
Status FileSystemImpl::CheckNotBelow(InodeNumber moved, InodeNumber new_dir) {
  uint64_t depth = 0;
  for (InodeNumber at = new_dir; at != root();) {
    if (at == moved) return ErrnoError(EINVAL, "directory moved below itself");
    if (++depth > kDepthMax) {
      return CorruptionError(absl::StrCat("inode ", at, ": parent: does not lead to the root"));
    }
    InodeRef inode;
    PBFS_ASSIGN_OR_RETURN(inode, GetInode(at));
    at = ParentOf(*inode);
    if (at == 0) return CorruptionError(absl::StrCat("inode ", inode->ino, ": parent is 0"));
  }
  return OkStatus();
}

void FileSystemImpl::MoveParent(Operation& operation, const InodeRef& child, const InodeRef& dir,
                                const InodeRef& new_dir) {
  DiskInode& disk = operation.Touch(child, /*modified=*/false);
  if (!S_ISDIR(disk.mode) || &*dir == &*new_dir) return;
  disk.parent = new_dir->ino;
  --operation.Edit(dir).nlink;
  ++operation.Edit(new_dir).nlink;
}

// What a union filesystem takes for a name that is not there.
Status FileSystemImpl::LeaveWhiteout(Operation& operation, const DiskInode& dir,
                                     std::string_view name, Directory& names, const Owner& owner) {
  NewInode request;
  request.mode = S_IFCHR;
  request.uid = owner.uid;
  request.gid = owner.gid;
  InodeRef whiteout;
  PBFS_ASSIGN_OR_RETURN(whiteout, MakeInode(operation, dir, request));
  return names.Replace(operation.transaction(), name, whiteout->ino, TypeOf(S_IFCHR));
}

Status FileSystemImpl::RenameOver(Operation& operation, const InodeRef& dir, std::string_view name,
                                  const InodeRef& new_dir, std::string_view new_name,
                                  unsigned flags, const Owner& whiteout_owner,
                                  InodeNumber* unlinked) {
  *unlinked = 0;
  Transaction& transaction = operation.transaction();
  DiskInode& from = operation.Edit(dir);
  DiskInode& to = operation.Edit(new_dir);
  PBFS_RETURN_IF_ERROR(CheckDirectory(from));
  PBFS_RETURN_IF_ERROR(CheckLiveDirectory(to));
  Directory from_names(reader_, space_, hash_, from);
  Directory to_names(reader_, space_, hash_, to);
  std::optional<Directory::Found> source;
  std::optional<Directory::Found> target;
  PBFS_ASSIGN_OR_RETURN(source, from_names.Find(name));
  if (!source) return ErrnoError(ENOENT, "no such name");
  PBFS_ASSIGN_OR_RETURN(target, to_names.Find(new_name));
  if (target && (flags & RENAME_NOREPLACE) != 0) return ErrnoError(EEXIST, "name exists");
  if (target && target->ino == source->ino) return OkStatus();  // Two links of one file: POSIX.
  InodeRef moved;
  PBFS_ASSIGN_OR_RETURN(moved, GetInode(source->ino));
  const DiskInode& moved_disk = operation.Edit(moved);
  PBFS_RETURN_IF_ERROR(CheckRemoval(from, moved_disk));
  PBFS_RETURN_IF_ERROR(CheckProject(to, moved_disk));
  const bool moves_directory = S_ISDIR(moved_disk.mode);
  if (moves_directory) {
    PBFS_RETURN_IF_ERROR(CheckNotBelow(moved->ino, new_dir->ino));
  }
  if (target) {
    InodeRef replaced;
    PBFS_ASSIGN_OR_RETURN(replaced, GetInode(target->ino));
    const DiskInode& victim = operation.Edit(replaced);
    PBFS_RETURN_IF_ERROR(CheckRemoval(to, victim));
    const bool replaces_directory = S_ISDIR(victim.mode);
    if (moves_directory && !replaces_directory) return ErrnoError(ENOTDIR, "not a directory");
    if (!moves_directory && replaces_directory) return ErrnoError(EISDIR, "is a directory");
    if (victim.entries != 0 && replaces_directory) return ErrnoError(ENOTEMPTY, "not empty");
    PBFS_RETURN_IF_ERROR(to_names.Replace(transaction, new_name, source->ino, source->type));
    if (replaces_directory) --to.nlink;
    PBFS_RETURN_IF_ERROR(DropLink(operation, replaced, replaces_directory));
    if (victim.nlink == 0) *unlinked = target->ino;
  } else {
    PBFS_RETURN_IF_ERROR(to_names.Insert(transaction, new_name, source->ino, source->type));
  }
  if ((flags & RENAME_WHITEOUT) != 0) {
    PBFS_RETURN_IF_ERROR(LeaveWhiteout(operation, from, name, from_names, whiteout_owner));
  } else {
    PBFS_RETURN_IF_ERROR(from_names.Remove(transaction, name).status());
  }
  MoveParent(operation, moved, dir, new_dir);
  SetTimes(from, CurrentTime(), /*modified=*/true);
  SetTimes(to, CurrentTime(), /*modified=*/true);
  return OkStatus();
}

Status FileSystemImpl::RenameExchange(Operation& operation, const InodeRef& dir,
                                      std::string_view name, const InodeRef& new_dir,
                                      std::string_view new_name) {
  Transaction& transaction = operation.transaction();
  DiskInode& from = operation.Edit(dir);
  DiskInode& to = operation.Edit(new_dir);
  PBFS_RETURN_IF_ERROR(CheckDirectory(from));
  PBFS_RETURN_IF_ERROR(CheckDirectory(to));
  Directory from_names(reader_, space_, hash_, from);
  Directory to_names(reader_, space_, hash_, to);
  std::optional<Directory::Found> source;
  std::optional<Directory::Found> target;
  PBFS_ASSIGN_OR_RETURN(source, from_names.Find(name));
  PBFS_ASSIGN_OR_RETURN(target, to_names.Find(new_name));
  if (!source || !target) return ErrnoError(ENOENT, "no such name");
  if (source->ino == target->ino) return OkStatus();
  InodeRef a;
  InodeRef b;
  PBFS_ASSIGN_OR_RETURN(a, GetInode(source->ino));
  PBFS_ASSIGN_OR_RETURN(b, GetInode(target->ino));
  for (const auto& [inode, out, in] : {std::tuple(&a, &from, &to), std::tuple(&b, &to, &from)}) {
    PBFS_RETURN_IF_ERROR(CheckRemoval(*out, operation.Edit(*inode)));
    PBFS_RETURN_IF_ERROR(CheckProject(*in, operation.Edit(*inode)));
  }
  if (S_ISDIR(operation.Edit(a).mode)) {
    PBFS_RETURN_IF_ERROR(CheckNotBelow(a->ino, new_dir->ino));
  }
  if (S_ISDIR(operation.Edit(b).mode)) {
    PBFS_RETURN_IF_ERROR(CheckNotBelow(b->ino, dir->ino));
  }
  PBFS_RETURN_IF_ERROR(from_names.Replace(transaction, name, target->ino, target->type));
  PBFS_RETURN_IF_ERROR(to_names.Replace(transaction, new_name, source->ino, source->type));
  MoveParent(operation, a, dir, new_dir);
  MoveParent(operation, b, new_dir, dir);
  SetTimes(from, CurrentTime(), /*modified=*/true);
  SetTimes(to, CurrentTime(), /*modified=*/true);
  return OkStatus();
}

Status FileSystemImpl::Rename(InodeNumber dir, std::string_view name, InodeNumber new_dir,
                              std::string_view new_name, unsigned flags,
                              const Owner& whiteout_owner) {
  PBFS_RETURN_IF_ERROR(CheckName(name));
  PBFS_RETURN_IF_ERROR(CheckName(new_name));
  if (flags != RENAME_EXCHANGE && (flags & ~unsigned{RENAME_NOREPLACE | RENAME_WHITEOUT}) != 0) {
    return ErrnoError(EINVAL, "unknown rename flags");
  }
  InodeRef from;
  InodeRef to;
  PBFS_ASSIGN_OR_RETURN(from, GetInode(dir));
  PBFS_ASSIGN_OR_RETURN(to, GetInode(new_dir));
  InodeNumber unlinked = 0;
  OperationRunner::Needs needs = (flags & RENAME_WHITEOUT) != 0 ? kAddingTwo : kAdding;
  const auto rename = [&](Operation& operation) {
    if ((flags & RENAME_EXCHANGE) != 0) {
      return RenameExchange(operation, from, name, to, new_name);
    }
    return RenameOver(operation, from, name, to, new_name, flags, whiteout_owner, &unlinked);
  };
  Status status = Run(needs, rename);
  if (ErrnoOf(status) == ENOSPC && flags != RENAME_WHITEOUT) {
    // It takes as many names away as it makes, so it may use the reserve, as an unlink may.
    needs.privileged = true;
    status = Run(needs, rename);
  }
  PBFS_RETURN_IF_ERROR(status);
  if (unlinked != 0) orphans_->Unlinked(unlinked);
  return OkStatus();
}

// ---- Reading ------------------------------------------------------------------------------------

StatusOr<std::string> FileSystemImpl::ReadLink(InodeNumber ino) {
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  access_times_->Note(inode);
  ReaderLock lock(inode->lock);
  if (!S_ISLNK(inode->disk.mode)) return ErrnoError(EINVAL, "not a symbolic link");
  return ReadSymlink(reader_, space_, inode->disk);
}

Status FileSystemImpl::ReadDir(InodeNumber dir, uint64_t after,
                               const std::function<bool(const DirEntry&)>& visit) {
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(dir));
  InodeNumber parent = 0;
  {
    ReaderLock lock(inode->lock);
    PBFS_RETURN_IF_ERROR(CheckDirectory(inode->disk));
    parent = inode->disk.parent;
  }
  access_times_->Note(inode);
  if (after < kCookieDot && !visit({dir, kCookieDot, DT_DIR, "."})) return OkStatus();
  if (after < kCookieDotDot && !visit({parent, kCookieDotDot, DT_DIR, ".."})) return OkStatus();
  uint64_t at = std::max(after, kCookieDotDot);
  // In batches: `visit` may lock the inodes it is told of, so it runs without the directory's lock.
  struct Copy {
    uint64_t key;
    InodeNumber ino;
    uint8_t type;
    std::string name;
  };
  std::vector<Copy> batch;
  do {
    batch.clear();
    {
      ReaderLock lock(inode->lock);
      PBFS_RETURN_IF_ERROR(
          Directory(reader_, space_, hash_, inode->disk)
              .Scan(at, [&](uint64_t key, InodeNumber ino, uint8_t type, std::string_view name) {
                batch.push_back({key, ino, type, std::string(name)});
                return batch.size() < kReadDirBatch;
              }));
    }
    for (const Copy& entry : batch) {
      if (!visit({entry.ino, entry.key, entry.type, entry.name})) return OkStatus();
      at = entry.key;
    }
  } while (batch.size() == kReadDirBatch);
  return OkStatus();
}

}  // namespace pbfs
