// SPDX-License-Identifier: Apache-2.0
// Names: lookup, creation, removal, renaming.
#include <stdio.h>
#include <unistd.h>

#include <cerrno>

#include "fs/fuse/handlers.h"

namespace pbfs::fuse {
namespace {

void ReplyNoEntry(fuse_req_t request) {
  fuse_entry_param entry = {};
  entry.entry_timeout = kForeverSeconds;
  fuse_reply_entry(request, &entry);
}

// Hands out an inode and the reference that the filesystem call took; takes the reference back when
// the kernel does not get it.
void ReplyEntry(fuse_req_t request, const Attributes& attributes) {
  Session& session = SessionOf(request);
  const fuse_entry_param entry = EntryOf(session, attributes);
  if (fuse_reply_entry(request, &entry) != 0) session.fs().Forget(attributes.ino, 1);
}

NewInode NewInodeFor(fuse_req_t request, mode_t type, mode_t mode) {
  const fuse_ctx* context = fuse_req_ctx(request);
  return {.mode = type | (mode & ~static_cast<mode_t>(S_IFMT)),
          .uid = context->uid,
          .gid = context->gid,
          .rdev = 0,
          .symlink_target = {},
          .umask = context->umask,
          .no_acls = !SessionOf(request).acls()};
}

// Answers an operation that changed names in `directory`.
void ReplyChange(fuse_req_t request, InodeNumber directory, const Status& status) {
  if (!status.ok()) return ReplyStatus(request, status);
  Session& session = SessionOf(request);
  AfterSync(session, SyncsNames(session, directory), directory,
            [request](const Status& synced) { ReplyStatus(request, synced); });
}

// The same for one that made a name; `reply(attributes)` answers.
template <typename Reply>
void ReplyNew(fuse_req_t request, InodeNumber directory, const StatusOr<Attributes>& created,
              Reply reply) {
  if (!created.ok()) return ReplyStatus(request, created.status());
  Session& session = SessionOf(request);
  AfterSync(session, SyncsNames(session, directory), directory,
            [&session, request, reply, attributes = *created](const Status& synced) {
              if (synced.ok()) return reply(attributes);
              session.fs().Forget(attributes.ino, 1);
              ReplyStatus(request, synced);
            });
}

void Create(fuse_req_t request, fuse_ino_t parent, const char* name, const NewInode& inode) {
  Session& session = SessionOf(request);
  const InodeNumber directory = session.InodeOf(parent);
  ReplyNew(request, directory, session.fs().Create(directory, name, inode),
           [request](const Attributes& attributes) { ReplyEntry(request, attributes); });
}

}  // namespace

void HandleLookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  Session& session = SessionOf(request);
  const auto found = session.fs().Lookup(session.InodeOf(parent), name);
  if (!found.ok()) return ReplyStatus(request, found.status());
  if (!found->has_value()) return ReplyNoEntry(request);
  ReplyEntry(request, **found);
}

void HandleForget(fuse_req_t request, fuse_ino_t nodeid, uint64_t count) {
  fuse_forget_data forget = {.ino = nodeid, .nlookup = count};
  HandleForgetMany(request, 1, &forget);
}

void HandleForgetMany(fuse_req_t request, size_t count, fuse_forget_data* forgets) {
  FileSystem& fs = SessionOf(request).fs();
  for (size_t i = 0; i < count; ++i) {
    if (forgets[i].ino == kRootNodeId) continue;
    SessionOf(request).kernel_view().Forget(forgets[i].ino);
    fs.Forget(forgets[i].ino, forgets[i].nlookup);
  }
  fuse_reply_none(request);
}

void HandleMknod(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev) {
  NewInode inode = NewInodeFor(request, mode & S_IFMT, mode);
  inode.rdev = static_cast<uint32_t>(rdev);
  Create(request, parent, name, inode);
}

void HandleMkdir(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode) {
  Create(request, parent, name, NewInodeFor(request, S_IFDIR, mode));
}

void HandleSymlink(fuse_req_t request, const char* target, fuse_ino_t parent, const char* name) {
  NewInode inode = NewInodeFor(request, S_IFLNK, 0777);
  inode.symlink_target = target;
  Create(request, parent, name, inode);
}

void HandleCreate(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode,
                  fuse_file_info*) {
  Session& session = SessionOf(request);
  const InodeNumber directory = session.InodeOf(parent);
  ReplyNew(request, directory,
           session.fs().Create(directory, name, NewInodeFor(request, S_IFREG, mode)),
           [&session, request](const Attributes& attributes) {
             const fuse_entry_param entry = EntryOf(session, attributes);
             fuse_file_info file = {};
             file.keep_cache = 1;
             file.direct_io = (attributes.flags & kInodeSync) != 0 ? 1 : 0;
             if (file.direct_io != 0) session.NoteDirectOpen();
             if (fuse_reply_create(request, &entry, &file) == 0) return;
             session.fs().Forget(attributes.ino, 1);
           });
}

void HandleLink(fuse_req_t request, fuse_ino_t nodeid, fuse_ino_t new_parent, const char* name) {
  Session& session = SessionOf(request);
  const InodeNumber directory = session.InodeOf(new_parent);
  ReplyNew(request, directory, session.fs().Link(session.InodeOf(nodeid), directory, name),
           [request](const Attributes& attributes) { ReplyEntry(request, attributes); });
}

void HandleUnlink(fuse_req_t request, fuse_ino_t parent, const char* name) {
  Session& session = SessionOf(request);
  const InodeNumber directory = session.InodeOf(parent);
  ReplyChange(request, directory, session.fs().Unlink(directory, name));
}

void HandleRmdir(fuse_req_t request, fuse_ino_t parent, const char* name) {
  Session& session = SessionOf(request);
  const InodeNumber directory = session.InodeOf(parent);
  ReplyChange(request, directory, session.fs().Rmdir(directory, name));
}

void HandleRename(fuse_req_t request, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
                  const char* new_name, unsigned flags) {
  Session& session = SessionOf(request);
  const fuse_ctx* context = fuse_req_ctx(request);
  const InodeNumber from = session.InodeOf(parent);
  const InodeNumber to = session.InodeOf(new_parent);
  const Status status = session.fs().Rename(from, name, to, new_name, flags,
                                            {.uid = context->uid, .gid = context->gid});
  // One transaction changed both.
  ReplyChange(request, SyncsNames(session, from) ? from : to, status);
}

void HandleReadLink(fuse_req_t request, fuse_ino_t nodeid) {
  Session& session = SessionOf(request);
  const auto target = session.fs().ReadLink(session.InodeOf(nodeid));
  if (!target.ok()) return ReplyStatus(request, target.status());
  fuse_reply_readlink(request, target->c_str());
}

}  // namespace pbfs::fuse
