// SPDX-License-Identifier: Apache-2.0
// Requests that libfuse 3.14 does not know: parsed and answered here.
#include <fcntl.h>
#include <linux/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>

#include "fs/fuse/handlers.h"

namespace pbfs::fuse {
namespace {

template <typename T>
bool Covers(const Request& request) {
  return request.size_bytes >= sizeof(fuse_in_header) + sizeof(T);
}

StatxTime StatxTimeOf(const Time& time) {
  return {.seconds = time.seconds, .nanoseconds = time.nanoseconds, .zero = 0};
}

StatxOut StatxOutOf(const Attributes& attributes) {
  StatxOut out = {};
  out.attr_valid = static_cast<uint64_t>(AttributesValidSeconds(attributes));
  StatxBody& body = out.body;
  body.mask = STATX_BASIC_STATS | STATX_BTIME;
  body.block_bytes = kBlockBytes;
  body.attributes_mask = STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_NODUMP;
  // FS_IMMUTABLE_FL and so on have the same bits there.
  static_assert(STATX_ATTR_IMMUTABLE == 0x10 && STATX_ATTR_APPEND == 0x20 &&
                STATX_ATTR_NODUMP == 0x40);
  body.attributes = attributes.flags & body.attributes_mask;
  body.nlink = attributes.nlink;
  body.uid = attributes.uid;
  body.gid = attributes.gid;
  body.mode = static_cast<uint16_t>(attributes.mode);
  body.ino = attributes.ino;
  body.size_bytes = attributes.size_bytes;
  body.blocks_512 = attributes.blocks_512;
  body.atime = StatxTimeOf(attributes.atime);
  body.btime = StatxTimeOf(attributes.btime);
  body.ctime = StatxTimeOf(attributes.ctime);
  body.mtime = StatxTimeOf(attributes.mtime);
  body.rdev_major = major(attributes.rdev);
  body.rdev_minor = minor(attributes.rdev);
  return out;
}

fuse_attr AttrOf(const Attributes& attributes) {
  fuse_attr attr = {};
  attr.ino = attributes.ino;
  attr.size = attributes.size_bytes;
  attr.blocks = attributes.blocks_512;
  attr.atime = static_cast<uint64_t>(attributes.atime.seconds);
  attr.mtime = static_cast<uint64_t>(attributes.mtime.seconds);
  attr.ctime = static_cast<uint64_t>(attributes.ctime.seconds);
  attr.atimensec = attributes.atime.nanoseconds;
  attr.mtimensec = attributes.mtime.nanoseconds;
  attr.ctimensec = attributes.ctime.nanoseconds;
  attr.mode = attributes.mode;
  attr.nlink = attributes.nlink;
  attr.uid = attributes.uid;
  attr.gid = attributes.gid;
  attr.rdev = attributes.rdev;
  attr.blksize = kBlockBytes;
  return attr;
}

}  // namespace

void HandleStatx(Session& session, const Request& request) {
  const uint64_t unique = request.header().unique;
  if (!Covers<StatxIn>(request)) return session.SendError(unique, EINVAL);
  const auto found = session.fs().GetAttributes(session.InodeOf(request.header().nodeid));
  if (!found.ok()) return session.SendError(unique, ErrnoOf(found.status()));
  const StatxOut out = StatxOutOf(*found);
  session.SendReply(unique, &out, sizeof(out));
}

// Its name is of no use: the kernel makes one up.
void HandleTmpfile(Session& session, const Request& request) {
  const fuse_in_header& header = request.header();
  if (!Covers<fuse_create_in>(request)) return session.SendError(header.unique, EINVAL);
  const auto& body = request.body<fuse_create_in>();
  NewInode inode;
  inode.mode = S_IFREG | (body.mode & 07777);
  inode.uid = header.uid;
  inode.gid = header.gid;
  inode.umask = body.umask;
  inode.no_acls = !session.acls();
  const auto made = session.fs().CreateTemporary(session.InodeOf(header.nodeid), inode);
  if (!made.ok()) return session.SendError(header.unique, ErrnoOf(made.status()));
  struct {
    fuse_entry_out entry;
    fuse_open_out file;
  } out = {};
  out.entry.nodeid = session.NodeIdOf(made->ino);
  out.entry.generation = made->generation;
  out.entry.entry_valid = static_cast<uint64_t>(kForeverSeconds);
  out.entry.attr_valid = static_cast<uint64_t>(AttributesValidSeconds(*made));
  out.entry.attr = AttrOf(*made);
  out.file.open_flags = FOPEN_KEEP_CACHE;
  if ((made->flags & kInodeSync) != 0) {
    out.file.open_flags |= FOPEN_DIRECT_IO;
    session.NoteDirectOpen();
  }
  if (session.SendReply(header.unique, &out, sizeof(out)) != 0) session.fs().Forget(made->ino, 1);
}

}  // namespace pbfs::fuse
