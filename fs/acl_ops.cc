// SPDX-License-Identifier: Apache-2.0
// Access control lists of inodes: extended attributes that go together with the mode.
#include <sys/stat.h>
#include <sys/xattr.h>

#include "absl/strings/str_cat.h"
#include "fs/acl.h"
#include "fs/filesystem_impl.h"
#include "fs/inode_flags.h"

namespace pbfs {
namespace {

constexpr OperationRunner::Needs kSettingAcl{.space_blocks = 40};

}  // namespace

StatusOr<Acl> FileSystemImpl::GetAcl(DiskInode& disk, std::string_view name) {
  if (FormatOf(disk, Fork::kAttributes) == ForkFormat::kNone) return Acl();
  const auto value = Xattrs(reader_, space_, hash_, disk).Get(name);
  if (!value.ok()) {
    if (ErrnoOf(value.status()) == ENODATA) return Acl();
    return value.status();
  }
  StatusOr<Acl> acl = ParseAcl(*value);
  if (acl.ok() && !acl->empty()) return acl;
  return CorruptionError(absl::StrCat("inode ", disk.ino, ": ",
                                      absl::string_view(name.data(), name.size()),
                                      " is not a legal ACL"));
}

Status FileSystemImpl::PutAcl(Operation& operation, DiskInode& disk, std::string_view name,
                              const Acl& acl) {
  Xattrs xattrs(reader_, space_, hash_, disk);
  if (!acl.empty()) return xattrs.Set(operation.transaction(), name, AclBytes(acl), 0);
  const Status removed = xattrs.Remove(operation.transaction(), name);
  return ErrnoOf(removed) == ENODATA ? OkStatus() : removed;
}

Status FileSystemImpl::SetAcl(const InodeRef& inode, std::string_view name, std::string_view value,
                              int flags) {
  Acl acl;
  PBFS_ASSIGN_OR_RETURN(acl, ParseAcl(value));
  return Run(kSettingAcl, [&](Operation& operation) -> Status {
    DiskInode& disk = operation.Touch(inode, /*modified=*/false);
    PBFS_RETURN_IF_ERROR(CheckChange(disk));
    if (S_ISLNK(disk.mode)) return ErrnoError(EOPNOTSUPP, "a symbolic link has no ACL");
    const auto old = Xattrs(reader_, space_, hash_, disk).Get(name);
    if (!old.ok() && ErrnoOf(old.status()) != ENODATA) return old.status();
    if (old.ok() && (flags & XATTR_CREATE) != 0) return ErrnoError(EEXIST, "the ACL exists");
    if (!old.ok() && (flags & XATTR_REPLACE) != 0) return ErrnoError(ENODATA, "no such ACL");
    if (name == kAclDefaultXattr) {
      if (!S_ISDIR(disk.mode)) return ErrnoError(EACCES, "only directories have a default ACL");
      return PutAcl(operation, disk, name, acl);
    }
    if (acl.empty()) return PutAcl(operation, disk, name, acl);
    disk.mode = ModeWithAcl(acl, disk.mode);
    if ((flags & kXattrKillSetgid) != 0) disk.mode &= ~uint32_t{S_ISGID};
    return PutAcl(operation, disk, name, IsModeOnly(acl) ? Acl() : acl);
  });
}

Status FileSystemImpl::UpdateAccessAcl(Operation& operation, DiskInode& disk) {
  Acl acl;
  PBFS_ASSIGN_OR_RETURN(acl, GetAcl(disk, kAclAccessXattr));
  if (acl.empty()) return OkStatus();
  ApplyMode(acl, disk.mode);
  return PutAcl(operation, disk, kAclAccessXattr, acl);
}

Status FileSystemImpl::InheritAcls(Operation& operation, const DiskInode& parent,
                                   const NewInode& request, DiskInode& disk) {
  Acl inherited;
  if (!request.no_acls && FormatOf(parent, Fork::kAttributes) != ForkFormat::kNone) {
    DiskInode copy = parent;  // Xattrs does not change it here.
    PBFS_ASSIGN_OR_RETURN(inherited, GetAcl(copy, kAclDefaultXattr));
  }
  if (inherited.empty()) {
    disk.mode &= ~(request.umask & 0777);
    return OkStatus();
  }
  if (S_ISDIR(disk.mode)) {
    PBFS_RETURN_IF_ERROR(PutAcl(operation, disk, kAclDefaultXattr, inherited));
  }
  disk.mode = InheritAcl(inherited, disk.mode);
  if (IsModeOnly(inherited)) return OkStatus();
  return PutAcl(operation, disk, kAclAccessXattr, inherited);
}

}  // namespace pbfs
