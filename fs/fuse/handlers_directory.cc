// SPDX-License-Identifier: Apache-2.0
// READDIR and READDIRPLUS.
#include <dirent.h>

#include <string>
#include <vector>

#include "fs/fuse/handlers.h"

namespace pbfs::fuse {
namespace {

struct Entry {
  InodeNumber ino;
  uint64_t cookie;
  uint8_t type;
  std::string name;
};

size_t EntryBytes(fuse_req_t request, const char* name, bool plus) {
  return plus ? fuse_add_direntry_plus(request, nullptr, 0, name, nullptr, 0)
              : fuse_add_direntry(request, nullptr, 0, name, nullptr, 0);
}

// The entries behind `after` that fit into a reply of `size` bytes. Copied: the filesystem is asked
// about each afterwards, not inside the visit.
StatusOr<std::vector<Entry>> CollectEntries(fuse_req_t request, InodeNumber directory,
                                            uint64_t after, size_t size, bool plus) {
  std::vector<Entry> entries;
  size_t used = 0;
  const Status status =
      SessionOf(request).fs().ReadDir(directory, after, [&](const DirEntry& visited) {
        Entry entry = {visited.ino, visited.cookie, visited.type, std::string(visited.name)};
        used += EntryBytes(request, entry.name.c_str(), plus);
        if (used > size) return false;
        entries.push_back(std::move(entry));
        return true;
      });
  if (!status.ok()) return status;
  return entries;
}

// What READDIRPLUS says about an entry. nodeid 0 where no reference goes with it: "." and ".." (the
// kernel would not count one), and names whose inode went away or cannot be read.
fuse_entry_param Describe(Session& session, const Entry& entry) {
  if (entry.name != "." && entry.name != "..") {
    const auto attributes = session.fs().Reference(entry.ino);
    if (attributes.ok() && attributes->has_value()) return EntryOf(session, **attributes);
  }
  fuse_entry_param bare = {};
  bare.attr.st_ino = entry.ino;
  bare.attr.st_mode = DTTOIF(static_cast<mode_t>(entry.type));
  return bare;
}

}  // namespace

void HandleReadDir(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
                   fuse_file_info*) {
  const auto entries = CollectEntries(request, SessionOf(request).InodeOf(nodeid),
                                      static_cast<uint64_t>(offset), size, false);
  if (!entries.ok()) return ReplyStatus(request, entries.status());
  std::vector<char> reply(size);
  size_t used = 0;
  for (const Entry& entry : *entries) {
    struct stat values = {};
    values.st_ino = entry.ino;
    values.st_mode = DTTOIF(static_cast<mode_t>(entry.type));
    used += fuse_add_direntry(request, reply.data() + used, size - used, entry.name.c_str(),
                              &values, static_cast<off_t>(entry.cookie));
  }
  fuse_reply_buf(request, reply.data(), used);
}

void HandleReadDirPlus(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
                       fuse_file_info*) {
  Session& session = SessionOf(request);
  const auto entries =
      CollectEntries(request, session.InodeOf(nodeid), static_cast<uint64_t>(offset), size, true);
  if (!entries.ok()) return ReplyStatus(request, entries.status());
  std::vector<InodeNumber> listed;
  for (const Entry& entry : *entries) listed.push_back(entry.ino);
  session.fs().ReadInodesAhead(listed);
  std::vector<char> reply(size);
  std::vector<InodeNumber> referenced;
  size_t used = 0;
  for (const Entry& entry : *entries) {
    const fuse_entry_param described = Describe(session, entry);
    if (described.ino != 0) referenced.push_back(session.InodeOf(described.ino));
    used += fuse_add_direntry_plus(request, reply.data() + used, size - used, entry.name.c_str(),
                                   &described, static_cast<off_t>(entry.cookie));
  }
  if (fuse_reply_buf(request, reply.data(), used) == 0) return;
  for (const InodeNumber ino : referenced) session.fs().Forget(ino, 1);
}

}  // namespace pbfs::fuse
