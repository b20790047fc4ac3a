// SPDX-License-Identifier: Apache-2.0
// Attributes and extended attributes.
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>

#include "fs/filesystem_impl.h"
#include "fs/inode_flags.h"

namespace pbfs {
namespace {

// A change of mode may rewrite an ACL.
constexpr OperationRunner::Needs kChanging{.space_blocks = 8, .privileged = true};
constexpr OperationRunner::Needs kSettingXattr{.space_blocks = 40};
constexpr OperationRunner::Needs kRemovingXattr{.space_blocks = 8, .privileged = true};

// The attribute spaces pbfs keeps. The kernel checks who may use which.
Status CheckXattrName(std::string_view name) {
  if (IsAclXattr(name)) return OkStatus();
  for (const std::string_view prefix : {"user.", "trusted.", "security."}) {
    if (name == prefix) return ErrnoError(EINVAL, "attribute without a name");
    if (name.starts_with(prefix)) return OkStatus();
  }
  return ErrnoError(EOPNOTSUPP, "attribute space not supported");
}

constexpr std::string_view kCapabilityXattr = "security.capability";
constexpr int kXattrFlags = XATTR_CREATE | XATTR_REPLACE;

void ClearSuidgid(DiskInode& disk, bool outsider) {
  disk.mode &= ~uint32_t{S_ISUID};
  if ((disk.mode & S_IXGRP) != 0 || outsider) disk.mode &= ~uint32_t{S_ISGID};
}

}  // namespace

Attributes FileSystemImpl::AttributesLocked(Inode& inode) {
  Attributes attributes = AttributesOf(inode.disk, inode.disk.size_bytes);
  if (S_ISDIR(inode.disk.mode)) {
    attributes.size_bytes = std::max<uint64_t>(inode.disk.blocks, 1) * kBlockBytes;
  }
  MutexLock lock(inode.writeback_lock);
  attributes.atime = inode.pending_atime.value_or(attributes.atime);
  if (!S_ISREG(inode.disk.mode)) return attributes;
  attributes.size_bytes = inode.size.load(std::memory_order_acquire);
  attributes.blocks_512 += inode.promised.blocks * (kBlockBytes / 512);
  if (inode.pending_mtime) {
    attributes.mtime = *inode.pending_mtime;
    attributes.ctime = std::max(attributes.ctime, *inode.pending_mtime);
  }
  return attributes;
}

Attributes FileSystemImpl::AttributesOfInode(Inode& inode) {
  ReaderLock lock(inode.lock);
  return AttributesLocked(inode);
}

StatusOr<Attributes> FileSystemImpl::GetAttributes(InodeNumber ino) {
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  return AttributesOfInode(*inode);
}

// The kernel keeps the times of regular files, and sends both after each unlink, link and rename:
// these set the change time here, too, by the same clock, so as a rule there is nothing to do.
bool FileSystemImpl::HasTimesOfChange(Inode& inode, const SetAttributes& request) {
  if (request.atime || request.atime_now || request.mtime_now || !request.ctime) return false;
  ReaderLock lock(inode.lock);
  const Attributes stored = AttributesOf(inode.disk, 0);
  if (request.ctime != stored.ctime || request.mtime.value_or(stored.mtime) != stored.mtime) {
    return false;
  }
  // One that is to be stored yet gives way to what is set.
  MutexLock pending(inode.writeback_lock);
  return !request.mtime || !inode.pending_mtime;
}

StatusOr<Attributes> FileSystemImpl::SetAttributesOf(InodeNumber ino,
                                                     const SetAttributes& request) {
  PBFS_RETURN_IF_ERROR(CheckWritable());
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  bool capability = false;
  {
    ReaderLock lock(inode->lock);
    if (request.of_writes && IsImmutable(inode->disk)) {
      return AttributesLocked(*inode);
    }
    PBFS_RETURN_IF_ERROR(CheckAttributeChange(inode->disk, request));
    capability = (request.uid || request.gid || request.size_bytes || request.kill_suidgid) &&
                 HasCapability(inode->disk);
  }
  if (request.size_bytes) {
    PBFS_RETURN_IF_ERROR(SetSize(inode, *request.size_bytes));
  }
  const bool times_only =
      !request.mode && !request.uid && !request.gid && !request.kill_suidgid && !capability;
  const bool has_times =
      request.atime || request.mtime || request.ctime || request.atime_now || request.mtime_now;
  if (times_only && !has_times) return AttributesOfInode(*inode);
  if (times_only && HasTimesOfChange(*inode, request)) return AttributesOfInode(*inode);
  PBFS_RETURN_IF_ERROR(Run(kChanging, [&](Operation& operation) -> Status {
    DiskInode& disk = operation.Edit(inode);
    PBFS_RETURN_IF_ERROR(CheckAttributeChange(disk, request));
    if (times_only) operation.SetTimesOnly();
    const Time now = CurrentTime();
    if (request.kill_suidgid && !S_ISDIR(disk.mode)) ClearSuidgid(disk, request.kill_setgid);
    if (capability) PBFS_RETURN_IF_ERROR(DropCapability(operation, disk));
    if (request.mode) {
      disk.mode = (disk.mode & S_IFMT) | (*request.mode & 07777);
      PBFS_RETURN_IF_ERROR(UpdateAccessAcl(operation, disk));
    }
    if (request.uid) disk.uid = *request.uid;
    if (request.gid) disk.gid = *request.gid;
    if (request.atime || request.atime_now) {
      const Time time = request.atime_now ? now : *request.atime;
      disk.atime_seconds = time.seconds;
      disk.atime_nanoseconds = time.nanoseconds;
      operation.TakeAccessTime(inode);
    }
    if (request.mtime || request.mtime_now) {
      const Time time = request.mtime_now ? now : *request.mtime;
      disk.mtime_seconds = time.seconds;
      disk.mtime_nanoseconds = time.nanoseconds;
      operation.TakeWriteTime(inode);
    }
    const Time changed = request.ctime ? *request.ctime : now;
    SetTimes(disk, changed, /*modified=*/false);
    return OkStatus();
  }));
  return AttributesOfInode(*inode);
}

Status FileSystemImpl::KillPrivileges(const InodeRef& inode, const WriteFlags& flags) {
  {
    ReaderLock lock(inode->lock);
    const bool set_id = flags.kill_suidgid && (inode->disk.mode & (S_ISUID | S_ISGID)) != 0;
    if (!set_id && !HasCapability(inode->disk)) return OkStatus();
  }
  return Run(kChanging, [&](Operation& operation) -> Status {
    DiskInode& disk = operation.Edit(inode);
    if (flags.kill_suidgid) ClearSuidgid(disk, flags.kill_setgid);
    return DropCapability(operation, disk);
  });
}

bool FileSystemImpl::HasCapability(DiskInode& disk) {
  if (!S_ISREG(disk.mode) || FormatOf(disk, Fork::kAttributes) == ForkFormat::kNone) return false;
  return Xattrs(reader_, space_, hash_, disk).Get(kCapabilityXattr).ok();
}

Status FileSystemImpl::DropCapability(Operation& operation, DiskInode& disk) {
  if (!HasCapability(disk)) return OkStatus();
  return Xattrs(reader_, space_, hash_, disk).Remove(operation.transaction(), kCapabilityXattr);
}

StatusOr<std::string> FileSystemImpl::GetXattr(InodeNumber ino, std::string_view name) {
  PBFS_RETURN_IF_ERROR(CheckXattrName(name));
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  ReaderLock lock(inode->lock);
  return Xattrs(reader_, space_, hash_, inode->disk).Get(name);
}

StatusOr<std::vector<std::string>> FileSystemImpl::ListXattr(InodeNumber ino) {
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  ReaderLock lock(inode->lock);
  return Xattrs(reader_, space_, hash_, inode->disk).List();
}

Status FileSystemImpl::SetXattr(InodeNumber ino, std::string_view name, std::string_view value,
                                int flags) {
  PBFS_RETURN_IF_ERROR(CheckXattrName(name));
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  if (IsAclXattr(name)) return SetAcl(inode, name, value, flags);
  return Run(kSettingXattr, [&](Operation& operation) -> Status {
    DiskInode& disk = operation.Touch(inode, /*modified=*/false);
    PBFS_RETURN_IF_ERROR(CheckChange(disk));
    return Xattrs(reader_, space_, hash_, disk)
        .Set(operation.transaction(), name, value, flags & kXattrFlags);
  });
}

Status FileSystemImpl::RemoveXattr(InodeNumber ino, std::string_view name) {
  PBFS_RETURN_IF_ERROR(CheckXattrName(name));
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, GetInode(ino));
  return Run(kRemovingXattr, [&](Operation& operation) -> Status {
    DiskInode& disk = operation.Touch(inode, /*modified=*/false);
    // The kernel takes capabilities away from a file that is appended to.
    if (name != kCapabilityXattr || IsImmutable(disk)) PBFS_RETURN_IF_ERROR(CheckChange(disk));
    const Status removed =
        Xattrs(reader_, space_, hash_, disk).Remove(operation.transaction(), name);
    // To take away a list that is not there is no error, unlike any other attribute.
    return IsAclXattr(name) && ErrnoOf(removed) == ENODATA ? OkStatus() : removed;
  });
}

}  // namespace pbfs
