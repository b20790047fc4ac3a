// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/handlers.h"

#include <algorithm>
#include <vector>

namespace pbfs::fuse {
namespace {

// Kernel requests that may be in the background at once (readahead, writeback, async direct I/O).
constexpr unsigned kBackgroundMax = 4096;

// Supplementary groups that are looked at.
constexpr int kGroupsMax = 4096;

timespec TimespecOf(const Time& time) {
  return {.tv_sec = time.seconds, .tv_nsec = static_cast<long>(time.nanoseconds)};
}

void Init(void* session, fuse_conn_info* connection) {
  static_cast<Session*>(session)->Negotiate(*connection);
}

}  // namespace

// Not wanted, each for a reason: ATOMIC_O_TRUNC (opens are not sent, so the truncation would be
// lost), HANDLE_KILLPRIV (its V2 is patched in), AUTO_INVAL_DATA (nobody else changes files),
// SPLICE_* (we receive ourselves), POSIX_LOCKS and FLOCK_LOCKS (the kernel's own do).
void Session::Negotiate(fuse_conn_info& connection) {
  unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS |
                    FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_EXPORT_SUPPORT |
                    FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_IOCTL_DIR;
  if (options_.writeback_cache) wanted |= FUSE_CAP_WRITEBACK_CACHE;
  // Both or neither: the umask is ours to apply, as a default ACL may take its place.
  constexpr unsigned kAclCaps = FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;
  acls_ = options_.acls && (connection.capable & kAclCaps) == kAclCaps;
  if (acls_) wanted |= kAclCaps;
  connection.want = connection.capable & wanted;
  connection.max_write = kWriteBytesMax;
  connection.max_background = kBackgroundMax;
  connection.congestion_threshold = kBackgroundMax;
  connection.time_gran = 1;
}

fuse_lowlevel_ops MakeOperations() {
  fuse_lowlevel_ops operations = {};
  operations.init = Init;
  operations.lookup = HandleLookup;
  operations.forget = HandleForget;
  operations.forget_multi = HandleForgetMany;
  operations.getattr = HandleGetAttr;
  operations.setattr = HandleSetAttr;
  operations.readlink = HandleReadLink;
  operations.mknod = HandleMknod;
  operations.mkdir = HandleMkdir;
  operations.unlink = HandleUnlink;
  operations.rmdir = HandleRmdir;
  operations.symlink = HandleSymlink;
  operations.rename = HandleRename;
  operations.link = HandleLink;
  operations.open = HandleOpen;
  operations.read = HandleRead;
  operations.write_buf = HandleWrite;
  operations.fsync = HandleFsync;
  operations.opendir = HandleOpenDir;
  operations.readdir = HandleReadDir;
  operations.readdirplus = HandleReadDirPlus;
  operations.fsyncdir = HandleFsync;
  operations.statfs = HandleStatFs;
  operations.getxattr = HandleGetXattr;
  operations.listxattr = HandleListXattr;
  operations.removexattr = HandleRemoveXattr;
  operations.create = HandleCreate;
  operations.ioctl = HandleIoctl;
  operations.lseek = HandleLseek;
  operations.fallocate = HandleFallocate;
  operations.copy_file_range = HandleCopyFileRange;
  operations.bmap = HandleBmap;
  return operations;
}

struct stat StatOf(const Attributes& attributes) {
  struct stat result = {};
  result.st_ino = attributes.ino;
  result.st_mode = attributes.mode;
  result.st_nlink = attributes.nlink;
  result.st_uid = attributes.uid;
  result.st_gid = attributes.gid;
  result.st_rdev = attributes.rdev;
  result.st_size = static_cast<off_t>(attributes.size_bytes);
  result.st_blksize = kBlockBytes;
  result.st_blocks = static_cast<blkcnt_t>(attributes.blocks_512);
  result.st_atim = TimespecOf(attributes.atime);
  result.st_mtim = TimespecOf(attributes.mtime);
  result.st_ctim = TimespecOf(attributes.ctime);
  return result;
}

bool CallerLosesSetgid(fuse_req_t request, InodeNumber ino) {
  const fuse_ctx* context = fuse_req_ctx(request);
  if (context->uid == 0) return false;
  const auto attributes = SessionOf(request).fs().GetAttributes(ino);
  if (!attributes.ok() || (attributes->mode & (S_ISGID | S_IXGRP)) != S_ISGID) return false;
  if (attributes->gid == context->gid) return false;
  // The caller waits for us, so its groups stay as they are.
  std::vector<gid_t> groups(kGroupsMax);
  const int count = fuse_req_getgroups(request, kGroupsMax, groups.data());
  if (count < 0 || count > kGroupsMax) return true;
  return std::find(groups.begin(), groups.begin() + count, attributes->gid) ==
         groups.begin() + count;
}

double AttributesValidSeconds(const Attributes& attributes) {
  const bool set_id = S_ISREG(attributes.mode) && (attributes.mode & (S_ISUID | S_ISGID)) != 0;
  return set_id ? 0 : kForeverSeconds;
}

fuse_entry_param EntryOf(Session& session, const Attributes& attributes) {
  fuse_entry_param entry = {};
  entry.ino = session.NodeIdOf(attributes.ino);
  entry.generation = attributes.generation;
  entry.attr = StatOf(attributes);
  entry.attr_timeout = AttributesValidSeconds(attributes);
  entry.entry_timeout = kForeverSeconds;
  return entry;
}

}  // namespace pbfs::fuse
