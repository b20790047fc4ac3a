// SPDX-License-Identifier: Apache-2.0
// Clients: names and attributes. Data and persistence are in client_data.cc.
#include "tests/crash/client.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "fs/acl.h"
#include "fs/inode.h"
#include "tests/crash/session.h"

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE (1 << 1)
#define RENAME_WHITEOUT (1 << 2)
#endif

namespace pbfs {
namespace {

Times TimesOf(const Attributes& attributes) {
  return {attributes.atime, attributes.mtime, attributes.ctime};
}
std::string ToText(Time time) { return absl::StrCat(time.seconds, ".", time.nanoseconds); }

}  // namespace

FileSystem& Client::fs() { return session_.filesystem(); }
bool Client::Broken() { return session_.Broken(); }

// ---- Paths --------------------------------------------------------------------------------------

Client::Place Client::Find(std::string_view path) const {
  Place place{Model::kRoot, "", Model::kRoot};
  if (path == "/") return place;
  if (path.starts_with('@')) {
    const auto handle = handles_.find(path);
    if (handle != handles_.end()) place.id = handle->second;
    return place;
  }
  bool first = true;
  for (const auto part : absl::StrSplit(absl::string_view(path.data(), path.size()), '/')) {
    if (!first) {
      PBFS_CHECK(place.id != Model::kRoot);
      place.dir = place.id;
    }
    first = false;
    place.name = std::string(part);
    const auto& entries = NodeOf(place.dir).entries;
    const auto found = entries.find(place.name);
    place.id = found == entries.end() ? Model::kRoot : found->second;
  }
  return place;
}

const Model::Node* Client::NodeAt(std::string_view path) const {
  if (path == "/") return &NodeOf(Model::kRoot);
  if (path.starts_with('@')) {
    const auto handle = handles_.find(path);
    return handle == handles_.end() ? nullptr : &NodeOf(handle->second);
  }
  const Model::Node* node = &NodeOf(Model::kRoot);
  for (const auto part : absl::StrSplit(absl::string_view(path.data(), path.size()), '/')) {
    const auto found = node->entries.find(std::string(part));
    if (found == node->entries.end()) return nullptr;
    node = &NodeOf(found->second);
  }
  return node;
}

bool Client::LacksParent(std::string_view path) {
  if (Broken()) return true;
  const size_t slash = path.find_last_of('/');
  if (!session_.accepts_failures() || slash == std::string_view::npos || slash == 0) return false;
  const Model::Node* parent = path.starts_with('@') ? nullptr : NodeAt(path.substr(0, slash));
  return !path.starts_with('@') && parent == nullptr;
}

bool Client::Lacks(std::string_view path) {
  return LacksParent(path) || (session_.accepts_failures() && !Exists(path));
}

std::string Client::PathOf(Model::FileId id) const {
  if (id == Model::kRoot) return "/";
  std::vector<std::pair<Model::FileId, std::string>> dirs = {{Model::kRoot, ""}};
  while (!dirs.empty()) {
    const auto [dir, path] = dirs.back();
    dirs.pop_back();
    for (const auto& [name, child] : NodeOf(dir).entries) {
      if (child == id) return path + name;
      const Model::Node& node = NodeOf(child);
      if (S_ISDIR(node.mode) && !node.foreign) dirs.emplace_back(child, path + name + "/");
    }
  }
  return "";
}

uint64_t Client::Size(std::string_view path) {
  return Lacks(path) ? 0 : model_.Bytes(Find(path).id).size();
}

void Client::LookUp(InodeNumber root) {
  inodes_ = {{Model::kRoot, root}};
  LookUpAll(Model::kRoot);
  std::erase_if(handles_, [&](const auto& handle) { return !inodes_.contains(handle.second); });
}

void Client::LookUpAll(Model::FileId dir) {
  for (const auto& [name, id] : std::as_const(*this).NodeOf(dir).entries) {
    auto found = fs().Lookup(inodes_.at(dir), name);
    PBFS_CHECK(found.ok() && *found);
    if (!inodes_.emplace(id, (*found)->ino).second) fs().Forget((*found)->ino, 1);
    if (S_ISDIR(std::as_const(*this).NodeOf(id).mode) && !std::as_const(*this).NodeOf(id).foreign)
      LookUpAll(id);
  }
}

void Client::GiveAway(std::string_view path) {
  Begin();
  MutexLock lock(session_.models_mutex());
  NodeOf(Find(path).id).foreign = true;
  End(OkStatus(), "giving a directory away");
}

// ---- What an operation is made of ---------------------------------------------------------------

void Client::Begin() {
  noted_.clear();
  session_.MarkBegin(*this);
  began_ = CurrentTime();
}

void Client::End(const Status& status, std::string_view what) {
  if (!status.ok() && !session_.MayFail(status)) {
    session_.Failed(status, absl::StrCat("client ", number_, ", operation ", model_.op(), ", ",
                                         std::string(what)));
  }
  if (status.ok()) {
    for (const auto& [id, change] : noted_) Check(id, change, what);
  }
  session_.MarkEnd(*this);
}

// Compares an inode that the running operation touched with what it should be, and tells the model
// its new times.
void Client::Check(Model::FileId id, const Change& change, std::string_view what) {
  if (!change.lazy && (change.changed || change.ctime)) model_.Touch(id, change.times_only);
  if (std::as_const(*this).NodeOf(id).nlink == 0 && !IsOpen(id)) return;
  const auto found = fs().GetAttributes(InodeOf(id));
  if (!found.ok()) {
    return session_.Problem(absl::StrCat(std::string(what), ": ", found.status().ToString()));
  }
  std::string problem = CheckAttributes(id, *found);
  if (problem.empty() && !model_.IgnoresTimes(id))
    problem = CheckTimes(change, model_.TimesOf(id), TimesOf(*found));
  if (!problem.empty()) {
    session_.Problem(absl::StrCat("client ", number_, ", operation ", model_.op(), ", ",
                                  std::string(what), ": inode ", found->ino, ": ", problem));
  }
  if (!change.changed && !change.ctime) return;
  model_.AddTimes(id, TimesOf(*found), change.modified || change.mtime, change.lazy);
}

std::string Client::CheckAttributes(Model::FileId id, const Attributes& found) const {
  const Model::Node& node = NodeOf(id);
  if (found.mode != node.mode) return absl::StrCat("mode is ", found.mode);
  if (found.nlink != node.nlink) return absl::StrCat("nlink is ", found.nlink);
  if (found.uid != node.uid || found.gid != node.gid) return "owner differs";
  if (found.generation != node.generation) return "generation differs";
  if (found.flags != node.flags || found.project != node.project) return "flags differ";
  if (found.btime != node.btime) return "time of birth differs";
  if (S_ISREG(node.mode) && found.size_bytes != model_.Bytes(id).size()) {
    return absl::StrCat("size is ", found.size_bytes, ", not ", model_.Bytes(id).size());
  }
  return "";
}

std::string Client::CheckTimes(const Change& change, const Times& before,
                               const Times& after) const {
  const Time now = CurrentTime();
  const auto check = [&](std::string_view name, bool set, const std::optional<Time>& given,
                         Time old, Time found) -> std::string {
    const bool fits = given ? found == *given
                      : set ? began_ <= found && found <= now
                            : found == old;
    if (fits) return "";
    return absl::StrCat(
        std::string(name), " is ", ToText(found), "; before ", ToText(old),
        given ? ", set to " + ToText(*given)
        : set ? absl::StrCat(", should be within ", ToText(began_), " and ", ToText(now))
              : ", should not change");
  };
  std::string problem = check("atime", false, change.atime, before.atime, after.atime);
  if (problem.empty()) {
    problem = check("mtime", change.modified, change.mtime, before.mtime, after.mtime);
  }
  if (problem.empty()) {
    problem = check("ctime", change.changed, change.ctime, before.ctime, after.ctime);
  }
  return problem;
}

// ---- Names --------------------------------------------------------------------------------------

void Client::AddNew(const Place& place, const Attributes& made, std::string_view target) {
  const Model::FileId id = model_.NewFile();
  inodes_[id] = made.ino;
  Model::Node& node = model_.tree()[id];
  node.mode = made.mode;
  node.nlink = S_ISDIR(made.mode) ? 2 : 1;
  Inherit(NodeOf(place.dir), node);
  node.generation = made.generation;
  node.btime = made.btime;
  node.target = std::string(target);
  node.opaque = absl::StartsWith(place.name, kOpaquePrefix);
  NodeOf(place.dir).entries[place.name] = id;
  if (S_ISDIR(made.mode)) ++NodeOf(place.dir).nlink;
  if (S_ISREG(made.mode)) model_.SetBytes(id, "", /*resized=*/true);
  // All times are that of birth, which is now.
  if (made.btime < began_ || CurrentTime() < made.btime) session_.Problem("wrong time of birth");
  model_.AddTimes(id, TimesOf(made), /*modified=*/true, /*lazy=*/false);
  Note(id, {.times_only = true, .atime = made.btime, .mtime = made.btime, .ctime = made.btime});
  model_.Touch(id);
  Note(place.dir, Modified());
}

void Client::Create(std::string_view path, uint32_t mode, std::string_view target) {
  if (LacksParent(path) || (session_.accepts_failures() && Exists(path))) return;
  const Place place = Find(path);
  PBFS_CHECK(place.id == Model::kRoot);
  Begin();
  NewInode request;
  request.mode = mode;
  request.symlink_target = target;
  const auto made = fs().Create(InodeOf(place.dir), place.name, request);
  MutexLock lock(session_.models_mutex());
  if (made.ok()) {
    Attributes expected = *made;
    expected.mode = mode;
    AddNew(place, expected, target);
    if (model_.tree().at(model_.newest_file()).mode != made->mode) {
      session_.Problem("create: wrong mode");
    }
  }
  End(made.status(), "create");
}

void Client::Inherit(const Model::Node& parent, Model::Node& node) const {
  const bool flagged = S_ISREG(node.mode) || S_ISDIR(node.mode);
  if (flagged) node.flags = parent.flags & kInodeFlagsInherited;
  if (!S_ISDIR(node.mode)) node.flags &= ~kInodeDirectoryFlags;
  if ((parent.flags & kInodeProjectInherit) != 0) node.project = parent.project;
  const auto given = parent.xattrs.find(std::string(kAclDefaultXattr));
  if (given == parent.xattrs.end() || S_ISLNK(node.mode)) return;
  if (S_ISDIR(node.mode)) node.xattrs.insert(*given);
  Acl acl = *ParseAcl(*given->second);
  node.mode = InheritAcl(acl, node.mode);
  node.xattrs[std::string(kAclAccessXattr)] = std::make_shared<std::string>(AclBytes(acl));
}

void Client::Temporary(std::string_view path) {
  if (LacksParent(path)) return;
  const std::string handle = absl::StrCat("@", std::string(path));
  if (handles_.contains(handle)) Close(handle);
  const Place place = Find(path);
  Begin();
  NewInode request;
  request.mode = S_IFREG | 0600;
  const auto made = fs().CreateTemporary(InodeOf(place.dir), request);
  MutexLock lock(session_.models_mutex());
  if (made.ok()) {
    Attributes expected = *made;
    expected.mode = request.mode;
    AddNew({place.dir, "", Model::kRoot}, expected, "");
    NodeOf(place.dir).entries.erase("");
    const Model::FileId id = model_.newest_file();
    NodeOf(id).nlink = 0;
    NodeOf(id).temporary = true;
    handles_[handle] = id;
    noted_.erase(place.dir);
  }
  End(made.status(), "tmpfile");
}

void Client::MakeSymlink(std::string_view path, size_t bytes) {
  Symlink(LettersOf(PatternIdOf(model_.op()), bytes), path);
}

void Client::Link(std::string_view from, std::string_view to) {
  if (Lacks(from) || LacksParent(to)) return;
  const Place source = Find(from);
  const Place target = Find(to);
  Begin();
  const auto linked = fs().Link(InodeOf(source.id), InodeOf(target.dir), target.name);
  MutexLock lock(session_.models_mutex());
  if (linked.ok()) {
    fs().Forget(linked->ino, 1);
    NodeOf(target.dir).entries[target.name] = source.id;
    ++NodeOf(source.id).nlink;
    NodeOf(source.id).temporary = false;
    Note(source.id, Changed());
    Note(target.dir, Modified());
  }
  End(linked.status(), "link");
}

// A name of `id` is gone already.
void Client::DropName(Model::FileId id, bool keep_open) {
  Model::Node& node = NodeOf(id);
  node.nlink -= S_ISDIR(node.mode) ? 2 : 1;
  Note(id, Changed());
  if (node.nlink > 0 || keep_open || IsOpen(id)) return;
  fs().Forget(InodeOf(id), 1);
}

void Client::Unlink(std::string_view path, bool keep_open) {
  if (Lacks(path)) return;
  const Place place = Find(path);
  Begin();
  const Status status = fs().Unlink(InodeOf(place.dir), place.name);
  MutexLock lock(session_.models_mutex());
  if (status.ok()) {
    NodeOf(place.dir).entries.erase(place.name);
    Note(place.dir, Modified());
    DropName(place.id, keep_open);
  }
  End(status, "unlink");
}

void Client::Rmdir(std::string_view path) {
  if (Lacks(path)) return;
  const Place place = Find(path);
  Begin();
  const Status status = fs().Rmdir(InodeOf(place.dir), place.name);
  MutexLock lock(session_.models_mutex());
  if (status.ok()) {
    NodeOf(place.dir).entries.erase(place.name);
    --NodeOf(place.dir).nlink;
    Note(place.dir, Modified());
    DropName(place.id, false);
  }
  End(status, "rmdir");
}

void Client::Rename(std::string_view from, std::string_view to, unsigned flags) {
  if (Lacks(from) || LacksParent(to)) return;
  const Place source = Find(from);
  const Place target = Find(to);
  Begin();
  Status status =
      fs().Rename(InodeOf(source.dir), source.name, InodeOf(target.dir), target.name, flags);
  MutexLock lock(session_.models_mutex());
  if (status.ok() && source.id == target.id) {
    // POSIX: two names of one file stay as they are.
    for (const Model::FileId id : {source.dir, target.dir, source.id}) Note(id, {});
  } else if (status.ok()) {
    RenameInModel(source, target, flags);
    if ((flags & RENAME_WHITEOUT) != 0) status.Update(AddWhiteout(source));
  }
  End(status, "rename");
}

// What the rename has left: looked up, as nobody has a reference on it yet.
Status Client::AddWhiteout(const Place& place) {
  const auto found = fs().Lookup(InodeOf(place.dir), place.name);
  if (!found.ok()) return found.status();
  if (!found->has_value() || (*found)->mode != S_IFCHR || (*found)->rdev != 0) {
    session_.Problem("rename: no whiteout");
    return OkStatus();
  }
  AddNew(place, **found, "");
  return OkStatus();
}

void Client::RenameInModel(const Place& source, const Place& target, unsigned flags) {
  const bool exchange = (flags & RENAME_EXCHANGE) != 0;
  const bool replaces = target.id != Model::kRoot && !exchange;
  const auto move = [&](Model::FileId id, Model::FileId out, Model::FileId in) {
    Note(id, Changed());
    if (!S_ISDIR(NodeOf(id).mode)) return;
    --NodeOf(out).nlink;
    ++NodeOf(in).nlink;
  };
  NodeOf(source.dir).entries.erase(source.name);
  if (exchange) NodeOf(source.dir).entries[source.name] = target.id;
  NodeOf(target.dir).entries[target.name] = source.id;
  move(source.id, source.dir, target.dir);
  if (exchange) move(target.id, target.dir, source.dir);
  if (replaces && S_ISDIR(NodeOf(target.id).mode)) --NodeOf(target.dir).nlink;
  if (replaces) DropName(target.id, false);
  Note(source.dir, Modified());
  Note(target.dir, Modified());
}

// ---- Open files ---------------------------------------------------------------------------------

bool Client::IsOpen(Model::FileId id) const {
  return std::any_of(handles_.begin(), handles_.end(),
                     [id](const auto& handle) { return handle.second == id; });
}

void Client::Open(std::string_view path) {
  if (Lacks(path)) return;
  const Place place = Find(path);
  PBFS_CHECK(place.id != Model::kRoot);
  const std::string handle = absl::StrCat("@", std::string(path));
  if (handles_.contains(handle)) Close(handle);
  handles_[handle] = place.id;
}

void Client::Close(std::string_view handle) {
  if (Lacks(handle)) return;
  const auto at = handles_.find(handle);
  PBFS_CHECK(at != handles_.end());
  const Model::FileId id = at->second;
  handles_.erase(at);
  if (std::as_const(*this).NodeOf(id).nlink == 0 && !IsOpen(id)) fs().Forget(InodeOf(id), 1);
}

// ---- Attributes ---------------------------------------------------------------------------------

void Client::ChangeAttributes(std::string_view path, const SetAttributes& request,
                              std::string_view what) {
  if (Lacks(path)) return;
  const Place place = Find(path);
  Begin();
  const auto set = fs().SetAttributesOf(InodeOf(place.id), request);
  MutexLock lock(session_.models_mutex());
  if (set.ok()) {
    const bool times_only = !request.mode && !request.uid && !request.gid;
    if (!times_only) {
      Model::Node& node = NodeOf(place.id);
      if (request.mode) node.mode = (node.mode & S_IFMT) | *request.mode;
      if (request.mode) ApplyModeToAcl(node);
      if (request.uid) node.uid = *request.uid;
      if (request.gid) node.gid = *request.gid;
    }
    Note(place.id, {.changed = true,
                    .times_only = times_only,
                    .atime = request.atime,
                    .mtime = request.mtime,
                    .ctime = request.ctime});
  }
  End(set.status(), what);
}

void Client::ApplyModeToAcl(Model::Node& node) const {
  const auto at = node.xattrs.find(std::string(kAclAccessXattr));
  if (at == node.xattrs.end()) return;
  Acl acl = *ParseAcl(*at->second);
  ApplyMode(acl, node.mode);
  at->second = std::make_shared<std::string>(AclBytes(acl));
}

void Client::Chmod(std::string_view path, uint32_t mode) {
  SetAttributes request;
  request.mode = mode;
  ChangeAttributes(path, request, "chmod");
}

void Client::Chown(std::string_view path, uint32_t uid, uint32_t gid) {
  SetAttributes request;
  request.uid = uid;
  request.gid = gid;
  ChangeAttributes(path, request, "chown");
}

void Client::SetTimes(std::string_view path, Time atime, Time mtime) {
  SetAttributes request;
  request.atime = atime;
  request.mtime = mtime;
  ChangeAttributes(path, request, "utimes");
}

void Client::SetXattr(std::string_view path, const std::string& name, size_t bytes) {
  if (Lacks(path)) return;
  const Place place = Find(path);
  Begin();
  std::string value = PatternOf(PatternIdOf(place.id), 0x80000000u + model_.op(), 0, bytes);
  const Status status = fs().SetXattr(InodeOf(place.id), name, value, 0);
  MutexLock lock(session_.models_mutex());
  if (status.ok()) {
    NodeOf(place.id).xattrs[name] = std::make_shared<std::string>(std::move(value));
    Note(place.id, Changed());
  }
  End(status, "setxattr");
}

void Client::RemoveXattr(std::string_view path, const std::string& name) {
  if (Lacks(path)) return;
  const Place place = Find(path);
  Begin();
  const Status status = fs().RemoveXattr(InodeOf(place.id), name);
  MutexLock lock(session_.models_mutex());
  if (status.ok()) {
    NodeOf(place.id).xattrs.erase(name);
    Note(place.id, Changed());
  }
  End(status, "removexattr");
}

void Client::SetAcl(std::string_view path, uint32_t mode, size_t users, bool is_default) {
  if (Lacks(path)) return;
  const Place place = Find(path);
  Begin();
  Acl acl = {{AclTag::kOwner, static_cast<uint16_t>(mode >> 6 & 7)},
             {AclTag::kOwningGroup, 5},
             {AclTag::kMask, static_cast<uint16_t>(mode >> 3 & 7)},
             {AclTag::kOther, static_cast<uint16_t>(mode & 7)}};
  for (size_t i = 0; i < users; ++i) {
    acl.insert(acl.begin() + 1, {AclTag::kUser, 6, static_cast<uint32_t>(model_.op() * 1000 + i)});
  }
  const std::string name(is_default ? kAclDefaultXattr : kAclAccessXattr);
  std::string value = AclBytes(acl);
  const Status status = fs().SetXattr(InodeOf(place.id), name, value, 0);
  MutexLock lock(session_.models_mutex());
  if (status.ok()) {
    Model::Node& node = NodeOf(place.id);
    node.xattrs[name] = std::make_shared<std::string>(std::move(value));
    if (!is_default) node.mode = (node.mode & ~0777u) | (mode & 0777);
    Note(place.id, Changed());
  }
  End(status, "setfacl");
}

void Client::RemoveAcl(std::string_view path, bool is_default) {
  RemoveXattr(path, std::string(is_default ? kAclDefaultXattr : kAclAccessXattr));
}

void Client::SetFlags(std::string_view path, uint32_t flags, uint32_t project) {
  if (Lacks(path)) return;
  const Place place = Find(path);
  Begin();
  const Status status = fs().SetFlags(InodeOf(place.id), flags, project);
  MutexLock lock(session_.models_mutex());
  if (status.ok()) {
    Model::Node& node = NodeOf(place.id);
    node.flags = S_ISDIR(node.mode) ? flags : flags & ~kInodeDirectoryFlags;
    node.project = project;
    Note(place.id, Changed());
  }
  End(status, "chattr");
}

}  // namespace pbfs
