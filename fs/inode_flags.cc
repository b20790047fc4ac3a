// SPDX-License-Identifier: Apache-2.0
#include "fs/inode_flags.h"

namespace pbfs {
namespace {

Status Refused(const DiskInode& inode) {
  return ErrnoError(EPERM,
                    IsImmutable(inode) ? "the inode is immutable" : "the inode is append-only");
}

}  // namespace

Status CheckChange(const DiskInode& inode) {
  return IsGuarded(inode) ? Refused(inode) : OkStatus();
}

Status CheckNewNames(const DiskInode& directory) {
  return IsImmutable(directory) ? Refused(directory) : OkStatus();
}

Status CheckRemoval(const DiskInode& directory, const DiskInode& inode) {
  PBFS_RETURN_IF_ERROR(CheckChange(directory));
  return CheckChange(inode);
}

Status CheckProject(const DiskInode& directory, const DiskInode& inode) {
  if ((directory.flags & kInodeProjectInherit) == 0 || directory.project == inode.project) {
    return OkStatus();
  }
  return ErrnoError(EXDEV, "the directory belongs to another project");
}

// Times are set for two reasons. Somebody asks for it: that is refused, but for the present time of
// an append-only inode. Or the kernel stores those of writes that it has collected: a modification
// time alone, together with the change time. On an immutable inode they must be older than the
// flag.
Status CheckAttributeChange(const DiskInode& inode, const SetAttributes& request) {
  if (!IsGuarded(inode)) return OkStatus();
  if (request.mode || request.uid || request.gid || request.size_bytes) return Refused(inode);
  const bool atime_given = request.atime && !request.atime_now;
  const bool mtime_given = request.mtime && !request.mtime_now;
  if (atime_given || (mtime_given && !request.ctime)) return Refused(inode);
  if (!IsImmutable(inode)) return OkStatus();
  const bool atime_set = request.atime || request.atime_now;
  if (atime_set || request.mtime_now || request.kill_suidgid) return Refused(inode);
  const Time changed = {inode.ctime_seconds, inode.ctime_nanoseconds};
  if (request.ctime && *request.ctime > changed) return Refused(inode);
  return OkStatus();
}

}  // namespace pbfs
