// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/event.h"
#include "fs/filesystem.h"

namespace pbfs {

// Blocking, path-free calls on a FileSystem, for tests. Borrowed.
class FsClient {
 public:
  explicit FsClient(FileSystem& filesystem) : fs_(filesystem) {}

  StatusOr<InodeNumber> Create(InodeNumber dir, std::string_view name,
                               uint32_t mode = S_IFREG | 0644, std::string_view target = {}) {
    NewInode request;
    request.mode = mode;
    request.symlink_target = target;
    StatusOr<Attributes> made = fs_.Create(dir, name, request);
    if (!made.ok()) return made.status();
    return made->ino;
  }
  StatusOr<InodeNumber> Mkdir(InodeNumber dir, std::string_view name) {
    return Create(dir, name, S_IFDIR | 0755);
  }
  // 0: no such name.
  StatusOr<InodeNumber> Find(InodeNumber dir, std::string_view name) {
    StatusOr<std::optional<Attributes>> found = fs_.Lookup(dir, name);
    if (!found.ok()) return found.status();
    return *found ? (*found)->ino : InodeNumber{0};
  }
  Status Write(InodeNumber ino, uint64_t offset, std::string_view bytes, WriteFlags flags = {}) {
    std::string copy(bytes);
    WritePayload payload;
    payload.data.Append(copy.data(), copy.size());
    Event done;
    Status result;
    fs_.Write(ino, offset, payload, flags, [&](const Status& status) {
      result = status;
      done.Set();
    });
    done.Wait();
    return result;
  }
  StatusOr<std::string> Read(InodeNumber ino, uint64_t offset, size_t length,
                             ReadPipe* pipe = nullptr) {
    Event done;
    Status result;
    std::string bytes;
    fs_.Read(ino, offset, length, false, pipe,
             [&](const Status& status, const LogicalBuffer& data, PageHold) {
               result = status;
               bytes.resize(data.size_bytes());
               data.CopyTo(0, bytes.data(), bytes.size());
               done.Set();
             });
    done.Wait();
    if (!result.ok()) return result;
    return bytes;
  }
  Status Fsync(InodeNumber ino, bool datasync = false) {
    Event done;
    Status result;
    fs_.Fsync(ino, datasync, [&](const Status& status) {
      result = status;
      done.Set();
    });
    done.Wait();
    return result;
  }
  Status Sync() {
    Event done;
    Status result;
    fs_.SyncAll([&](const Status& status) {
      result = status;
      done.Set();
    });
    done.Wait();
    return result;
  }
  Status Truncate(InodeNumber ino, uint64_t size) {
    SetAttributes request;
    request.size_bytes = size;
    return fs_.SetAttributesOf(ino, request).status();
  }
  Status Fallocate(InodeNumber ino, int mode, uint64_t offset, uint64_t length) {
    return fs_.Fallocate(ino, mode, offset, length, {});
  }
  StatusOr<std::vector<std::string>> List(InodeNumber dir) {
    std::vector<std::string> names;
    const Status status = fs_.ReadDir(dir, 0, [&](const DirEntry& entry) {
      if (entry.name != "." && entry.name != "..") names.emplace_back(entry.name);
      return true;
    });
    if (!status.ok()) return status;
    return names;
  }

 private:
  FileSystem& fs_;
};

}  // namespace pbfs
