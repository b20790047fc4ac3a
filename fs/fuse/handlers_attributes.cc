// SPDX-License-Identifier: Apache-2.0
// Attributes, extended attributes, statfs.
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "absl/strings/match.h"
#include "fs/fuse/handlers.h"

namespace pbfs::fuse {
namespace {

constexpr unsigned kNameBytesMax = 255;

Time TimeOf(const timespec& time) {
  return {.seconds = time.tv_sec, .nanoseconds = static_cast<uint32_t>(time.tv_nsec)};
}

void ReplyAttributes(fuse_req_t request, const StatusOr<Attributes>& attributes) {
  if (!attributes.ok()) return ReplyStatus(request, attributes.status());
  const struct stat values = StatOf(*attributes);
  fuse_reply_attr(request, &values, AttributesValidSeconds(*attributes));
}

// A change of owner takes away the right to run as the old one, but a directory's setgid bit means
// something else and stays.
bool ChownKillsSuid(Session& session, InodeNumber ino) {
  const auto attributes = session.fs().GetAttributes(ino);
  return attributes.ok() && !S_ISDIR(attributes->mode);
}

SetAttributes SetAttributesFrom(const struct stat& values, int which) {
  SetAttributes result;
  if (which & FUSE_SET_ATTR_MODE) result.mode = values.st_mode;
  if (which & FUSE_SET_ATTR_UID) result.uid = values.st_uid;
  if (which & FUSE_SET_ATTR_GID) result.gid = values.st_gid;
  if (which & FUSE_SET_ATTR_SIZE) result.size_bytes = static_cast<uint64_t>(values.st_size);
  result.atime_now = (which & FUSE_SET_ATTR_ATIME_NOW) != 0;
  result.mtime_now = (which & FUSE_SET_ATTR_MTIME_NOW) != 0;
  if ((which & FUSE_SET_ATTR_ATIME) && !result.atime_now) result.atime = TimeOf(values.st_atim);
  if ((which & FUSE_SET_ATTR_MTIME) && !result.mtime_now) result.mtime = TimeOf(values.st_mtim);
  if (which & FUSE_SET_ATTR_CTIME) result.ctime = TimeOf(values.st_ctim);
  return result;
}

// The kernel asks for the size first (size 0), then for the bytes.
void ReplyXattr(fuse_req_t request, const std::string& value, size_t size) {
  if (size == 0) {
    fuse_reply_xattr(request, value.size());
  } else if (value.size() > size) {
    fuse_reply_err(request, ERANGE);
  } else {
    fuse_reply_buf(request, value.data(), value.size());
  }
}

// What pbfsctl reads of and sets on the root, instead of an ioctl: root and whoever runs the server
// may. No listing shows them.
constexpr std::string_view kStatsXattr = "pbfs.stats";
constexpr std::string_view kSyncXattr = "pbfs.sync";

bool MayControl(uint32_t uid) { return uid == 0 || uid == geteuid(); }

// For root alone. The kernel checks that itself, but not in a list.
bool IsTrusted(std::string_view name) {
  return absl::StartsWith({name.data(), name.size()}, "trusted.");
}

// ACLs that the kernel does not obey are not shown or changed.
bool IsUnsupportedXattr(const Session& session, std::string_view name) {
  return !session.acls() && absl::StartsWith({name.data(), name.size()}, "system.");
}

}  // namespace

void HandleGetAttr(fuse_req_t request, fuse_ino_t nodeid, fuse_file_info* file) {
  Session& session = SessionOf(request);
  const InodeNumber ino = session.InodeOf(nodeid);
  // With a file it is no stat(2): a write(2) is about to be collected by the kernel, or it looks
  // for the end of file. Without an error here a program that fills the filesystem would never end.
  const auto full = file != nullptr ? session.kernel_view().Full(nodeid) : std::nullopt;
  session.kernel_view().ForgetWritten(nodeid);
  if (!full) return ReplyAttributes(request, session.fs().GetAttributes(ino));
  session.helper().Queue(
      [&session, request, nodeid, ino, bytes = *full, token = session.NewToken()] {
        if (!session.must_not_wait_for_kernel()) session.CollectDirtyPages(nodeid);
        const auto attributes = session.fs().GetAttributes(ino);
        if (attributes.ok() && !session.fs().AwaitAvailable(bytes)) {
          return ReplyStatus(request, ErrnoError(ENOSPC, ""));
        }
        session.kernel_view().ForgetFull(nodeid);
        ReplyAttributes(request, attributes);
      });
}

void HandleSetAttr(fuse_req_t request, fuse_ino_t nodeid, struct stat* values, int which,
                   fuse_file_info* file) {
  Session& session = SessionOf(request);
  const InodeNumber ino = session.InodeOf(nodeid);
  SetAttributes change = SetAttributesFrom(*values, which);
  // Nobody sets times alone through an open file but the kernel, for writes that it collected.
  change.of_writes = file != nullptr && change.mtime && change.ctime && !change.size_bytes;
  // libfuse lets this bit pass: it knows it as FUSE_SET_ATTR_KILL_SUID.
  change.kill_suidgid = (which & FATTR_KILL_SUIDGID) != 0;
  if (change.uid || change.gid) change.kill_suidgid |= ChownKillsSuid(session, ino);
  if (change.kill_suidgid) change.kill_setgid = CallerLosesSetgid(request, ino);
  const auto changed = session.fs().SetAttributesOf(ino, change);
  AfterSync(session, changed.ok() && SyncsChanges(session, ino), ino,
            [request, changed](const Status& synced) {
              if (!synced.ok()) return ReplyStatus(request, synced);
              ReplyAttributes(request, changed);
            });
}

namespace {

struct SetXattrArguments {
  std::string_view name;
  std::string_view value;
  int flags;
};

std::optional<SetXattrArguments> ParseSetXattr(const Session& session, const Request& request) {
  // Without SETXATTR_EXT the kernel sends the short form of the struct.
  const size_t body_bytes =
      session.long_setxattr() ? sizeof(fuse_setxattr_in) : FUSE_COMPAT_SETXATTR_IN_SIZE;
  const size_t text_offset = sizeof(fuse_in_header) + body_bytes;
  if (request.size_bytes < text_offset) return std::nullopt;
  fuse_setxattr_in body = {};
  std::memcpy(&body, request.bytes() + sizeof(fuse_in_header), body_bytes);
  const auto* text = reinterpret_cast<const char*>(request.bytes()) + text_offset;
  const std::string_view rest(text, request.size_bytes - text_offset);
  const size_t name_end = rest.find('\0');
  if (name_end == std::string_view::npos || rest.size() - name_end - 1 < body.size) {
    return std::nullopt;
  }
  int flags = static_cast<int>(body.flags & (XATTR_CREATE | XATTR_REPLACE));
  if (body.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID) flags |= kXattrKillSetgid;
  return SetXattrArguments{rest.substr(0, name_end), rest.substr(name_end + 1, body.size), flags};
}

bool NamesSync(const Request& request, const SetXattrArguments& arguments) {
  return request.header().nodeid == kRootNodeId && arguments.name == kSyncXattr;
}

}  // namespace

bool IsSyncCommand(const Session& session, const Request& request) {
  const auto arguments = ParseSetXattr(session, request);
  return arguments && NamesSync(request, *arguments) && MayControl(request.header().uid);
}

void HandleSetXattr(Session& session, const Request& request) {
  const fuse_in_header& header = request.header();
  const auto arguments = ParseSetXattr(session, request);
  if (!arguments) return session.SendError(header.unique, EINVAL);
  if (NamesSync(request, *arguments)) return session.SendError(header.unique, EPERM);
  if (IsUnsupportedXattr(session, arguments->name)) {
    return session.SendError(header.unique, EOPNOTSUPP);
  }
  const InodeNumber ino = session.InodeOf(header.nodeid);
  const Status status =
      session.fs().SetXattr(ino, arguments->name, arguments->value, arguments->flags);
  if (!status.ok()) return session.SendError(header.unique, ErrnoOf(status));
  AfterSync(session, SyncsChanges(session, ino), ino,
            [&session, unique = header.unique](const Status& synced) {
              session.SendError(unique, ErrnoOf(synced));
            });
}

void HandleGetXattr(fuse_req_t request, fuse_ino_t nodeid, const char* name, size_t size) {
  Session& session = SessionOf(request);
  if (nodeid == kRootNodeId && name == kStatsXattr) {
    if (!MayControl(fuse_req_ctx(request)->uid)) return ReplyStatus(request, ErrnoError(EPERM, ""));
    return ReplyXattr(request, session.StatsJson(), size);
  }
  if (IsUnsupportedXattr(session, name)) {
    fuse_reply_err(request, EOPNOTSUPP);
    return;
  }
  const auto value = session.fs().GetXattr(session.InodeOf(nodeid), name);
  if (!value.ok()) return ReplyStatus(request, value.status());
  ReplyXattr(request, *value, size);
}

void HandleListXattr(fuse_req_t request, fuse_ino_t nodeid, size_t size) {
  Session& session = SessionOf(request);
  const auto names = session.fs().ListXattr(session.InodeOf(nodeid));
  if (!names.ok()) return ReplyStatus(request, names.status());
  const bool root = fuse_req_ctx(request)->uid == 0;
  std::string list;
  for (const std::string& name : *names) {
    if (IsUnsupportedXattr(session, name) || (IsTrusted(name) && !root)) continue;
    list.append(name).push_back('\0');
  }
  ReplyXattr(request, list, size);
}

void HandleRemoveXattr(fuse_req_t request, fuse_ino_t nodeid, const char* name) {
  Session& session = SessionOf(request);
  if (IsUnsupportedXattr(session, name)) {
    fuse_reply_err(request, EOPNOTSUPP);
    return;
  }
  const InodeNumber ino = session.InodeOf(nodeid);
  ReplyChanged(request, ino, session.fs().RemoveXattr(ino, name));
}

void HandleStatFs(fuse_req_t request, fuse_ino_t) {
  const auto found = SessionOf(request).fs().StatFs();
  if (!found.ok()) return ReplyStatus(request, found.status());
  const SpaceStats& space = *found;
  struct statvfs values = {};
  values.f_bsize = kBlockBytes;
  values.f_frsize = kBlockBytes;
  values.f_blocks = space.blocks_total;
  values.f_bfree = space.blocks_free;
  values.f_bavail = space.blocks_available;
  values.f_files = space.inodes_total;
  values.f_ffree = space.inodes_free;
  values.f_namemax = kNameBytesMax;
  fuse_reply_statfs(request, &values);
}

}  // namespace pbfs::fuse
