// SPDX-License-Identifier: Apache-2.0
// One thin handler per FUSE operation: decode, one filesystem call, one reply. libfuse calls them
// with the Session as user data; t_request is the raw request.
#pragma once

#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>
#include <sys/stat.h>

#include "fs/fuse/session.h"

namespace pbfs::fuse {

// What libfuse dispatches to. An operation that is not set is answered ENOSYS by libfuse, which
// makes the kernel stop asking and do without: ACCESS (default_permissions), FLUSH, POLL, locks.
fuse_lowlevel_ops MakeOperations();

// We are the only writer: what the kernel knows stays true.
inline constexpr double kForeverSeconds = 1e15;
// Except that a write takes away set-id bits (FUSE_WRITE_KILL_SUIDGID) and its answer does not say
// so.
double AttributesValidSeconds(const Attributes& attributes);

inline Session& SessionOf(fuse_req_t request) {
  return *static_cast<Session*>(fuse_req_userdata(request));
}
inline void ReplyStatus(fuse_req_t request, const Status& status) {
  fuse_reply_err(request, ErrnoOf(status));
}
// Whether what a change by the caller takes away includes the setgid bit of a file that its group
// may not execute, too: of files with other groups than the caller's.
bool CallerLosesSetgid(fuse_req_t request, InodeNumber ino);
struct stat StatOf(const Attributes& attributes);
fuse_entry_param EntryOf(Session& session, const Attributes& attributes);
// Calls `then(status)`: when the last change of `ino` is durable, if that is `wanted`, else at
// once.
template <typename Then>
void AfterSync(Session& session, bool wanted, InodeNumber ino, Then then) {
  if (!wanted) return then(OkStatus());
  session.fs().Fsync(ino, false,
                     [then, token = session.NewToken()](const Status& status) { then(status); });
}

// The inode's flags, where some inode has one that the kernel does not know; else 0.
inline uint32_t FlagsIfWatched(Session& session, InodeNumber ino) {
  if (!session.serves_open()) return 0;
  const auto attributes = session.fs().GetAttributes(ino);
  return attributes.ok() ? attributes->flags : 0;
}
// Whether a change of the inode, or of names in the directory, is to be durable when it is
// answered: as the mount's options or the inode's flags have it.
inline bool SyncsChanges(Session& session, InodeNumber ino) {
  return session.sync_attributes() || (FlagsIfWatched(session, ino) & kInodeSync) != 0;
}
inline bool SyncsNames(Session& session, InodeNumber directory) {
  return session.sync_names() ||
         (FlagsIfWatched(session, directory) & (kInodeSync | kInodeDirSync)) != 0;
}
// Answers a change of `ino` that has no other result.
inline void ReplyChanged(fuse_req_t request, InodeNumber ino, const Status& status) {
  if (!status.ok()) return ReplyStatus(request, status);
  Session& session = SessionOf(request);
  AfterSync(session, SyncsChanges(session, ino), ino,
            [request](const Status& synced) { ReplyStatus(request, synced); });
}

// handlers_names.cc
void HandleLookup(fuse_req_t request, fuse_ino_t parent, const char* name);
void HandleForget(fuse_req_t request, fuse_ino_t nodeid, uint64_t count);
void HandleForgetMany(fuse_req_t request, size_t count, fuse_forget_data* forgets);
void HandleMknod(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev);
void HandleMkdir(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode);
void HandleSymlink(fuse_req_t request, const char* target, fuse_ino_t parent, const char* name);
void HandleCreate(fuse_req_t request, fuse_ino_t parent, const char* name, mode_t mode,
                  fuse_file_info* file);
void HandleLink(fuse_req_t request, fuse_ino_t nodeid, fuse_ino_t new_parent, const char* name);
void HandleUnlink(fuse_req_t request, fuse_ino_t parent, const char* name);
void HandleRmdir(fuse_req_t request, fuse_ino_t parent, const char* name);
void HandleRename(fuse_req_t request, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
                  const char* new_name, unsigned flags);
void HandleReadLink(fuse_req_t request, fuse_ino_t nodeid);

// handlers_attributes.cc
void HandleGetAttr(fuse_req_t request, fuse_ino_t nodeid, fuse_file_info* file);
void HandleSetAttr(fuse_req_t request, fuse_ino_t nodeid, struct stat* values, int which,
                   fuse_file_info* file);
void HandleGetXattr(fuse_req_t request, fuse_ino_t nodeid, const char* name, size_t size);
void HandleListXattr(fuse_req_t request, fuse_ino_t nodeid, size_t size);
void HandleRemoveXattr(fuse_req_t request, fuse_ino_t nodeid, const char* name);
void HandleStatFs(fuse_req_t request, fuse_ino_t nodeid);
// Takes the raw request: libfuse 3.14.0 mistakes the place of the name.
void HandleSetXattr(Session& session, const Request& request);
// Such a request that asks, by a name of its own on the root, for everything to be made durable
// (pbfsctl sync), and may.
bool IsSyncCommand(const Session& session, const Request& request);

// handlers_data.cc
void HandleOpen(fuse_req_t request, fuse_ino_t nodeid, fuse_file_info* file);
void HandleOpenDir(fuse_req_t request, fuse_ino_t nodeid, fuse_file_info* file);
void HandleRead(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
                fuse_file_info* file);
void HandleWrite(fuse_req_t request, fuse_ino_t nodeid, fuse_bufvec* data, off_t offset,
                 fuse_file_info* file);
void HandleFsync(fuse_req_t request, fuse_ino_t nodeid, int datasync, fuse_file_info* file);
void HandleLseek(fuse_req_t request, fuse_ino_t nodeid, off_t offset, int whence,
                 fuse_file_info* file);
void HandleFallocate(fuse_req_t request, fuse_ino_t nodeid, int mode, off_t offset, off_t length,
                     fuse_file_info* file);
void HandleCopyFileRange(fuse_req_t request, fuse_ino_t from, off_t from_offset,
                         fuse_file_info* from_file, fuse_ino_t to, off_t to_offset,
                         fuse_file_info* to_file, size_t length, int flags);
// Of fuseblk alone.
void HandleBmap(fuse_req_t request, fuse_ino_t nodeid, size_t block_bytes, uint64_t index);

// handlers_directory.cc
void HandleReadDir(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
                   fuse_file_info* file);
void HandleReadDirPlus(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
                       fuse_file_info* file);

// handlers_raw.cc
void HandleStatx(Session& session, const Request& request);
void HandleTmpfile(Session& session, const Request& request);

// handlers_flags.cc
void HandleGetFlags(fuse_req_t request, fuse_ino_t nodeid, unsigned command, size_t out_size);
void HandleSetFlags(fuse_req_t request, fuse_ino_t nodeid, unsigned command, const void* in,
                    size_t in_size);

// handlers_ioctl.cc
void HandleIoctl(fuse_req_t request, fuse_ino_t nodeid, unsigned command, void* argument,
                 fuse_file_info* file, unsigned flags, const void* in, size_t in_size,
                 size_t out_size);

}  // namespace pbfs::fuse
