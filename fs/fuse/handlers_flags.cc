// SPDX-License-Identifier: Apache-2.0
// Flags and project ids of inodes.
#include <linux/fs.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "fs/fuse/handlers.h"

namespace pbfs::fuse {
namespace {

static_assert(kInodeSync == FS_SYNC_FL && kInodeImmutable == FS_IMMUTABLE_FL &&
              kInodeAppendOnly == FS_APPEND_FL && kInodeNoDump == FS_NODUMP_FL &&
              kInodeNoAtime == FS_NOATIME_FL && kInodeDirSync == FS_DIRSYNC_FL &&
              kInodeProjectInherit == FS_PROJINHERIT_FL);
static_assert(sizeof(fsxattr) == 28);

// The same flags by their names in struct fsxattr, which has none for dirsync.
struct FlagPair {
  uint32_t flag;
  uint32_t xflag;
};
constexpr FlagPair kFlagPairs[] = {
    {kInodeSync, FS_XFLAG_SYNC},         {kInodeImmutable, FS_XFLAG_IMMUTABLE},
    {kInodeAppendOnly, FS_XFLAG_APPEND}, {kInodeNoDump, FS_XFLAG_NODUMP},
    {kInodeNoAtime, FS_XFLAG_NOATIME},   {kInodeProjectInherit, FS_XFLAG_PROJINHERIT}};

uint32_t XflagsOf(uint32_t flags) {
  uint32_t xflags = 0;
  for (const FlagPair& pair : kFlagPairs) xflags |= (flags & pair.flag) != 0 ? pair.xflag : 0;
  return xflags;
}

StatusOr<uint32_t> FlagsOfXflags(uint32_t xflags) {
  uint32_t flags = 0;
  for (const FlagPair& pair : kFlagPairs) {
    if ((xflags & pair.xflag) != 0) flags |= pair.flag;
    xflags &= ~pair.xflag;
  }
  // Only shown.
  xflags &= ~FS_XFLAG_HASATTR;
  if (xflags != 0) return ErrnoError(EOPNOTSUPP, "unknown inode flags");
  return flags;
}

// What an ioctl wants to have.
struct FlagChange {
  uint32_t flags = 0;
  std::optional<uint32_t> project;
};

StatusOr<FlagChange> ParseFlagChange(unsigned command, const void* in, size_t in_size) {
  FlagChange change;
  if (command == FS_IOC_SETFLAGS) {
    if (in_size < sizeof(change.flags)) return ErrnoError(EINVAL, "short argument");
    std::memcpy(&change.flags, in, sizeof(change.flags));
    return change;
  }
  fsxattr wanted;
  if (in_size < sizeof(wanted)) return ErrnoError(EINVAL, "short argument");
  std::memcpy(&wanted, in, sizeof(wanted));
  PBFS_ASSIGN_OR_RETURN(change.flags, FlagsOfXflags(wanted.fsx_xflags));
  change.project = wanted.fsx_projid;
  return change;
}

// The kernel has looked at this, too, but only since Linux 5.13.
Status MaySetFlags(uint32_t uid, const Attributes& attributes, const FlagChange& change) {
  const bool guards = ((attributes.flags ^ change.flags) & kInodeGuards) != 0;
  if (uid == 0 || (uid == attributes.uid && !guards)) return OkStatus();
  return ErrnoError(EPERM, "not permitted to set inode flags");
}

// On the helper thread: the kernel's dirty pages are from before the flags, and its attributes are
// out of date afterwards.
void ApplyFlags(fuse_req_t request, fuse_ino_t nodeid, uint32_t uid, FlagChange change) {
  Session& session = SessionOf(request);
  const InodeNumber ino = session.InodeOf(nodeid);
  const auto found = session.fs().GetAttributes(ino);
  if (!found.ok()) return ReplyStatus(request, found.status());
  // What struct fsxattr cannot say stays.
  if (change.project) change.flags |= found->flags & kInodeDirSync;
  const Status may_set = MaySetFlags(uid, *found, change);
  if (!may_set.ok()) return ReplyStatus(request, may_set);
  const uint32_t watched = change.flags & ~found->flags & kInodeWatched;
  if (watched != 0 && S_ISREG(found->mode)) session.CollectDirtyPages(nodeid);
  const bool asks_on_open = (change.flags & kInodeWatched) == 0 || session.NoteWatched();
  if (!asks_on_open && (watched & kInodeSync) != 0) {
    // Its writes would be collected as any other's. Others are watched well enough without OPENs.
    return ReplyStatus(request, ErrnoError(EOPNOTSUPP, "the kernel leaves out OPENs already"));
  }
  const Status status = session.fs().SetFlags(ino, change.flags, change.project);
  if (!status.ok()) return ReplyStatus(request, status);
  session.DropKernelAttributes(nodeid);
  AfterSync(session, SyncsChanges(session, ino), ino, [request](const Status& synced) {
    if (!synced.ok()) return ReplyStatus(request, synced);
    fuse_reply_ioctl(request, 0, nullptr, 0);
  });
}

}  // namespace

void HandleGetFlags(fuse_req_t request, fuse_ino_t nodeid, unsigned command, size_t out_size) {
  Session& session = SessionOf(request);
  const auto found = session.fs().GetAttributes(session.InodeOf(nodeid));
  if (!found.ok()) return ReplyStatus(request, found.status());
  fsxattr extended = {};
  extended.fsx_xflags = XflagsOf(found->flags);
  extended.fsx_projid = found->project;
  const bool plain = command == FS_IOC_GETFLAGS;
  const void* out = plain ? static_cast<const void*>(&found->flags) : &extended;
  if (out_size != (plain ? sizeof(found->flags) : sizeof(extended))) {
    return ReplyStatus(request, ErrnoError(EINVAL, "bad size"));
  }
  fuse_reply_ioctl(request, 0, out, out_size);
}

void HandleSetFlags(fuse_req_t request, fuse_ino_t nodeid, unsigned command, const void* in,
                    size_t in_size) {
  const auto change = ParseFlagChange(command, in, in_size);
  if (!change.ok()) return ReplyStatus(request, change.status());
  Session& session = SessionOf(request);
  session.helper().Queue(
      [request, nodeid, uid = fuse_req_ctx(request)->uid, change = *change,
       token = session.NewToken()] { ApplyFlags(request, nodeid, uid, change); });
}

}  // namespace pbfs::fuse
