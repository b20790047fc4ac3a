// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/event.h"
#include "fs/filesystem.h"
#include "tests/crash/model.h"

namespace pbfs {

class Session;

// Somebody who works below one directory of a Session's filesystem, and the model of what they did.
// An operation that fails on this sound device, or that leaves other attributes than it should, is
// noted as a problem of the session; after that nothing more is done.
//
// Paths are relative to that directory: "a", "d/e"; "/" is the directory itself. Clients hold one
// reference on each file, given back when its last name goes, unless it is open. Each belongs to
// one thread; different clients may run at the same time.
class Client {
 public:
  Client(Session& session, size_t number) : session_(session), number_(number) {}
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void Create(std::string_view path, uint32_t mode = S_IFREG | 0644, std::string_view target = {});
  void Mkdir(std::string_view path) { Create(path, S_IFDIR | 0755); }
  void Symlink(std::string_view target, std::string_view path) {
    Create(path, S_IFLNK | 0777, target);
  }
  // With a made-up target of so many bytes.
  void MakeSymlink(std::string_view path, size_t bytes);
  // A file without a name, made in the directory: open as "@" + path from here on.
  void Temporary(std::string_view path);
  void Link(std::string_view from, std::string_view to);
  void Unlink(std::string_view path, bool keep_open = false);
  void Rmdir(std::string_view path);
  void Rename(std::string_view from, std::string_view to, unsigned flags = 0);
  // Keeps an inode open: "@" + path names it from here on, whatever happens to the path. A file
  // that was open under that name before is closed.
  void Open(std::string_view path);
  void Close(std::string_view handle);

  void Chmod(std::string_view path, uint32_t mode);
  void Chown(std::string_view path, uint32_t uid, uint32_t gid);
  // utimensat(2).
  void SetTimes(std::string_view path, Time atime, Time mtime);
  // Values are made up. `bytes` up to 65536.
  void SetXattr(std::string_view path, const std::string& name, size_t bytes);
  void RemoveXattr(std::string_view path, const std::string& name);
  // An ACL with so many users and these permissions: the access list, or a default one.
  void SetAcl(std::string_view path, uint32_t mode, size_t users, bool is_default = false);
  void RemoveAcl(std::string_view path, bool is_default = false);
  void SetFlags(std::string_view path, uint32_t flags, uint32_t project);
  // From the kernel's page cache: no times are changed. Long writes are several operations.
  void Write(std::string_view path, uint64_t offset, size_t length, bool from_page_cache = false);
  void WriteSync(std::string_view path, uint64_t offset, size_t length);  // O_DSYNC.
  // As the kernel does for write(2) with its cache: data without times, then the times.
  void WriteBuffered(std::string_view path, uint64_t offset, size_t length);
  void Append(std::string_view path, size_t length);
  void Truncate(std::string_view path, uint64_t size);
  void Fallocate(std::string_view path, int mode, uint64_t offset, uint64_t length);

  // copy_file_range(2) between two files, at the same offset. An operation for each part that is
  // data, or a hole.
  void Copy(std::string_view from, std::string_view to, uint64_t offset, uint64_t length);

  void Fsync(std::string_view path, bool datasync = false);
  // Of the whole filesystem: what all clients have done.
  void Sync();
  // An fsync that may wait for held requests; it counts as acknowledged by Await().
  struct PendingSync {
    bool begun = true;
    Event done;
    Status status;
    Model::Promise promise;
    Model::FileId file = Model::kRoot;
    uint64_t rewrites = 0;  // Of the file, when it began.
  };
  std::unique_ptr<PendingSync> FsyncStart(std::string_view path, bool datasync = false);
  void Await(PendingSync& pending);

  bool Exists(std::string_view path) const { return NodeAt(path) != nullptr; }
  // What the model has there; nullptr: no such name.
  const Model::Node* NodeAt(std::string_view path) const;
  uint64_t Size(std::string_view path);
  // One of its names; "" if it has none.
  std::string PathOf(Model::FileId id) const;
  const Model& model() const { return model_; }
  size_t number() const { return number_; }

 protected:
  // After a mount: takes a reference on everything. Open files without a name are gone.
  void LookUp(InodeNumber root);
  InodeNumber root_inode() const { return inodes_.at(Model::kRoot); }
  void IgnoreRootTimes() { model_.IgnoreTimes(Model::kRoot); }
  // The directory belongs to another client from here on.
  void GiveAway(std::string_view path);

 private:
  friend class Session;
  struct Place {  // A name in its directory.
    Model::FileId dir;
    std::string name;
    Model::FileId id;  // kRoot: no such name.
  };
  // What the running operation does to the times of an inode.
  struct Change {
    bool changed = false;   // ctime is now.
    bool modified = false;  // mtime is now.
    bool lazy = false;
    bool times_only = false;
    // Or they are given.
    std::optional<Time> atime = {}, mtime = {}, ctime = {};
  };
  static Change Changed() { return {.changed = true}; }
  static Change Modified() { return {.changed = true, .modified = true}; }

  FileSystem& fs();
  bool Broken();
  // In a session that accepts failures: the name is not there, or nothing can be there, because an
  // operation before has failed.
  bool Lacks(std::string_view path);
  bool LacksParent(std::string_view path);
  bool IsSync(Model::FileId id);
  // An operation has put other bytes into the file.
  void NoteRewritten(Model::FileId id);
  bool Shows(Model::FileId id, uint64_t offset, const std::string& bytes);
  Place Find(std::string_view path) const;
  Model::Node& NodeOf(Model::FileId id) { return model_.tree().at(id); }
  const Model::Node& NodeOf(Model::FileId id) const { return model_.tree().at(id); }
  InodeNumber InodeOf(Model::FileId id) const { return inodes_.at(id); }
  // Patterns tell files of different clients apart.
  Model::FileId PatternIdOf(Model::FileId id) const {
    return id + (static_cast<Model::FileId>(number_) << 24);
  }
  void LookUpAll(Model::FileId dir);
  bool IsOpen(Model::FileId id) const;

  // An operation is Begin(), the call, and with the session's models locked: the changes to the
  // model, Note() for each inode it touches, End().
  void Begin();
  void Note(Model::FileId id, const Change& change) { noted_[id] = change; }
  void End(const Status& status, std::string_view what);
  void Check(Model::FileId id, const Change& change, std::string_view what);
  std::string CheckAttributes(Model::FileId id, const Attributes& found) const;
  std::string CheckTimes(const Change& change, const Times& before, const Times& after) const;

  void AddNew(const Place& place, const Attributes& made, std::string_view target);
  void DropName(Model::FileId id, bool keep_open);
  void RenameInModel(const Place& source, const Place& target, unsigned flags);
  Status AddWhiteout(const Place& place);
  // What a new node has from its directory.
  void Inherit(const Model::Node& parent, Model::Node& node) const;
  void ApplyModeToAcl(Model::Node& node) const;
  void ChangeAttributes(std::string_view path, const SetAttributes& request, std::string_view what);
  void DoWrite(std::string_view path, uint64_t offset, size_t length, const WriteFlags& flags);
  Status CallWrite(InodeNumber ino, uint64_t offset, const std::string& bytes,
                   const WriteFlags& flags, bool hand_over);
  // One operation; returns how many bytes, 0: no more.
  uint64_t CopyPart(const FileRange& from, Model::FileId source, Model::FileId target);
  // What is left of the file's bytes when zeroing the range failed on the way.
  std::string HalfZeroed(Model::FileId id, uint64_t offset, uint64_t length);
  void Acknowledge(const Status& status, const Model::Promise& promise, std::string_view what);

  Session& session_;
  const size_t number_;
  Model model_;
  std::map<Model::FileId, InodeNumber> inodes_;
  std::map<Model::FileId, uint32_t> writes_;
  std::map<Model::FileId, uint64_t> rewrites_;
  std::map<std::string, Model::FileId, std::less<>> handles_;
  std::map<Model::FileId, Change> noted_;
  Time began_;  // The running operation.
};

}  // namespace pbfs
