// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/model.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "tests/support/fs_client.h"

namespace pbfs {
namespace {

Status ObserveInode(FileSystem& filesystem, InodeNumber ino, bool opaque, Observed& observed);

Status ObserveDirectory(FileSystem& filesystem, InodeNumber ino, Observed& observed) {
  std::map<std::string, InodeNumber> entries;
  bool twice = false;
  PBFS_RETURN_IF_ERROR(filesystem.ReadDir(ino, 0, [&](const DirEntry& entry) {
    if (entry.name == "." || entry.name == "..") return true;
    twice |= !entries.emplace(entry.name, entry.ino).second;
    return true;
  }));
  if (twice) return ErrnoError(EUCLEAN, absl::StrCat("inode ", ino, ": readdir gave a name twice"));
  for (const auto& [name, child] : entries) {
    std::optional<Attributes> found;
    PBFS_ASSIGN_OR_RETURN(found, filesystem.Lookup(ino, name));
    if (!found || found->ino != child) {
      return ErrnoError(
          EUCLEAN, absl::StrCat("inode ", ino, ": lookup of \"", name, "\" differs from readdir"));
    }
    // The reference of the lookup is left for unmount.
    if (!observed.nodes.contains(child)) {
      PBFS_RETURN_IF_ERROR(
          ObserveInode(filesystem, child, absl::StartsWith(name, kOpaquePrefix), observed));
    }
  }
  observed.nodes[ino].entries = std::move(entries);
  return OkStatus();
}

Status ObserveInode(FileSystem& filesystem, InodeNumber ino, bool opaque, Observed& observed) {
  ObservedNode& node = observed.nodes[ino];
  Attributes attributes;
  PBFS_ASSIGN_OR_RETURN(attributes, filesystem.GetAttributes(ino));
  node.mode = attributes.mode;
  node.nlink = attributes.nlink;
  std::vector<std::string> names;
  PBFS_ASSIGN_OR_RETURN(names, filesystem.ListXattr(ino));
  for (const std::string& name : names) {
    PBFS_ASSIGN_OR_RETURN(node.xattrs[name], filesystem.GetXattr(ino, name));
  }
  if (S_ISLNK(node.mode)) {
    PBFS_ASSIGN_OR_RETURN(node.target, filesystem.ReadLink(ino));
  } else if (S_ISREG(node.mode)) {
    node.size_bytes = attributes.size_bytes;
    if (opaque) return OkStatus();
    PBFS_ASSIGN_OR_RETURN(node.bytes, FsClient(filesystem).Read(ino, 0, attributes.size_bytes));
  } else if (S_ISDIR(node.mode)) {
    return ObserveDirectory(filesystem, ino, observed);
  }
  return OkStatus();
}

char ByteOf(const std::string& bytes, uint64_t index) {
  return index < bytes.size() ? bytes[index] : '\0';
}

}  // namespace

StatusOr<Observed> Observe(FileSystem& filesystem) {
  Observed observed;
  observed.root = filesystem.root();
  PBFS_RETURN_IF_ERROR(ObserveInode(filesystem, observed.root, false, observed));
  return observed;
}

std::string PatternOf(Model::FileId file, uint32_t write, uint64_t offset_bytes,
                      size_t length_bytes) {
  std::string bytes(length_bytes, '\0');
  const uint64_t seed = Random(uint64_t{file} << 32 | write).Next();
  size_t at = 0;
  while (at < length_bytes) {
    const uint64_t word = (offset_bytes + at) / 8;
    const uint64_t value = Random(seed ^ word).Next();
    const size_t within = (offset_bytes + at) % 8;
    const size_t count = std::min(length_bytes - at, 8 - within);
    std::memcpy(bytes.data() + at, reinterpret_cast<const char*>(&value) + within, count);
    at += count;
  }
  return bytes;
}

// ---- Recording ----------------------------------------------------------------------------------

Model::Model(uint32_t root_mode) {
  Node& root = tree_[kRoot];
  root.mode = root_mode;
  root.nlink = 2;
  trees_.push_back(std::make_shared<Tree>(tree_));
  tree_changed_ = false;
  promises_.push_back({});
}

uint32_t Model::Begin() { return ++op_; }

void Model::End() {
  trees_.push_back(tree_changed_ ? std::make_shared<Tree>(tree_) : trees_.back());
  tree_changed_ = false;
  PBFS_CHECK(trees_.size() == op_ + 1);
}

const std::string& Model::Bytes(FileId file) const { return *versions_.at(file).back().bytes; }

void Model::SetBytes(FileId file, std::string bytes, bool resized) {
  versions_[file].push_back({op_, resized, std::make_shared<std::string>(std::move(bytes))});
  // A write alone changes no metadata that an fsync would have to take along.
  if (resized) Touch(file);
}

Model::Promise Model::PromiseOf(FileId file) const {
  Promise promise;
  const auto touched = touched_.find(file);
  if (touched != touched_.end()) promise.op = touched->second;
  const auto versions = versions_.find(file);
  if (versions != versions_.end()) promise.versions[file] = versions->second.size() - 1;
  return promise;
}

Model::Promise Model::PromiseOfAll() const {
  Promise promise;
  promise.op = op_;
  for (const auto& [file, versions] : versions_) promise.versions[file] = versions.size() - 1;
  return promise;
}

size_t Model::Acknowledge(const Promise& promise) {
  Promise all = promises_.back();
  all.op = std::max(all.op, promise.op);
  for (const auto& [file, version] : promise.versions) {
    size_t& oldest = all.versions[file];
    oldest = std::max(oldest, version);
  }
  promises_.push_back(std::move(all));
  return promises_.size() - 1;
}

// ---- Judging ------------------------------------------------------------------------------------

std::string Model::Explain(const Observed& observed, uint32_t ops_begun, size_t acks) const {
  const Promise& promise = promises_.at(acks);
  std::string first;
  std::string last;
  for (uint32_t op = ops_begun;; --op) {
    last = ExplainAt(observed, op, promise);
    if (last.empty()) return "";
    if (first.empty()) first = last;
    if (op <= promise.op) break;
  }
  return absl::StrCat("no state after operations ", promise.op, "..", ops_begun, " fits. As after ",
                      ops_begun, ": ", first, ". As after ", promise.op, ": ", last);
}

std::string Model::ExplainLive(const Observed& observed) const {
  return ExplainAt(observed, op_, PromiseOfAll());
}

std::string Model::ExplainAt(const Observed& observed, uint32_t op, const Promise& promise) const {
  const Tree& tree = *trees_.at(op);
  std::map<FileId, InodeNumber> seen;
  std::string problem = ExplainNode(observed, tree, kRoot, observed.root, "/", seen);
  if (!problem.empty()) return problem;
  for (const auto& [id, ino] : seen) {
    const Node& node = tree.at(id);
    if (!S_ISREG(node.mode) || node.opaque) continue;
    const auto oldest = promise.versions.find(id);
    problem = ExplainBytes(versions_.at(id), observed.nodes.at(ino).bytes, op,
                           oldest == promise.versions.end() ? 0 : oldest->second);
    if (!problem.empty()) return absl::StrCat("file ", id, " (inode ", ino, "): ", problem);
  }
  return "";
}

std::string Model::ExplainNode(const Observed& observed, const Tree& tree, FileId id,
                               InodeNumber ino, const std::string& path,
                               std::map<FileId, InodeNumber>& seen) const {
  const auto [known, added] = seen.emplace(id, ino);
  if (!added) {
    return known->second == ino ? "" : absl::StrCat(path, ": is not the same file as its link");
  }
  const Node& node = tree.at(id);
  const ObservedNode& found = observed.nodes.at(ino);
  if (found.mode != node.mode) {
    return absl::StrCat(path, ": mode is 0x", absl::Hex(found.mode), ", not 0x",
                        absl::Hex(node.mode));
  }
  if (found.nlink != node.nlink) {
    return absl::StrCat(path, ": nlink is ", found.nlink, ", not ", node.nlink);
  }
  if (found.target != node.target) return absl::StrCat(path, ": the symlink's target differs");
  if (found.xattrs.size() != node.xattrs.size()) {
    return absl::StrCat(path, ": ", found.xattrs.size(), " xattrs, not ", node.xattrs.size());
  }
  for (const auto& [name, value] : node.xattrs) {
    const auto at = found.xattrs.find(name);
    if (at == found.xattrs.end()) return absl::StrCat(path, ": xattr ", name, " is missing");
    if (at->second != *value) return absl::StrCat(path, ": xattr ", name, " differs");
  }
  for (const auto& [name, child] : found.entries) {
    if (!node.entries.contains(name)) return absl::StrCat(path, name, ": should not be there");
  }
  for (const auto& [name, child] : node.entries) {
    const auto at = found.entries.find(name);
    if (at == found.entries.end()) return absl::StrCat(path, name, ": is missing");
    std::string problem =
        ExplainNode(observed, tree, child, at->second, absl::StrCat(path, name, "/"), seen);
    if (!problem.empty()) return problem;
  }
  return "";
}

// The versions after `op` up to `version` are writes that left the size alone.
bool Model::GrewNotSince(const Versions& versions, size_t version, uint32_t op) {
  for (size_t v = version; v > 0 && versions[v].op > op; --v) {
    if (versions[v].resized || versions[v].size() != versions[v - 1].size()) return false;
  }
  return true;
}

// Which version's size and metadata the state has; then whether the bytes go with it.
std::string Model::ExplainBytes(const Versions& versions, const std::string& bytes, uint32_t op,
                                size_t oldest) const {
  std::string problem = absl::StrCat("size ", bytes.size(), " was never to be seen");
  for (size_t version = versions.size(); version-- > oldest;) {
    const Version& candidate = versions[version];
    // Later operations than `op` are not there, but for writes within the file.
    if (candidate.op > op && !GrewNotSince(versions, version, op)) continue;
    // A large write may get on disk in parts, from its start on.
    const bool part = !candidate.resized && version > 0 && bytes.size() % 4096 == 0 &&
                      bytes.size() > versions[version - 1].size() &&
                      bytes.size() < candidate.size();
    bool fits = candidate.size() == bytes.size() || part;
    // Truncations up to `op` are there, so nothing older than them is, unless it was so short (on
    // disk) that they did not matter.
    for (size_t later = version + 1; later < versions.size() && versions[later].op <= op; ++later) {
      if (!versions[later].resized) continue;
      fits &= versions[later].size() <= versions[later - 1].size() &&
              versions[later].size() >= bytes.size();
    }
    if (!fits) continue;
    problem = ExplainVersion(versions, bytes, version, oldest);
    if (problem.empty()) return "";
  }
  return problem;
}

std::string Model::ExplainVersion(const Versions& versions, const std::string& bytes,
                                  size_t version, size_t oldest) const {
  const std::string& expected = *versions[version].bytes;
  for (uint64_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] == expected[i]) continue;
    // What was there when this byte last came to be, or was synced, and what came later; up to the
    // next truncation that cuts it off.
    bool allowed = false;
    for (size_t v = version;; --v) {
      allowed |= bytes[i] == ByteOf(*versions[v].bytes, i);
      if (v == oldest || versions[v].size() <= i) break;
    }
    for (size_t v = version + 1; v < versions.size() && versions[v].size() > i; ++v) {
      allowed |= bytes[i] == ByteOf(*versions[v].bytes, i);
    }
    if (allowed) continue;
    return absl::StrCat("byte ", i, " of ", bytes.size(), " is 0x",
                        absl::Hex(static_cast<uint8_t>(bytes[i])), ", never written there (as ",
                        "version ", version, " of ", oldest, "..", versions.size() - 1, ")");
  }
  return "";
}

}  // namespace pbfs
