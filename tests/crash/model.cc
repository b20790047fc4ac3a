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

Status Inconsistent(InodeNumber ino, std::string_view what) {
  return ErrnoError(EUCLEAN, absl::StrCat("inode ", ino, ": ", std::string(what)));
}

// Walks a filesystem.
class Observer {
 public:
  Observer(FileSystem& filesystem, Observed& observed) : fs_(filesystem), observed_(observed) {}

  Status Inode(InodeNumber ino, InodeNumber parent, bool opaque) {
    ObservedNode& node = observed_.nodes[ino];
    Attributes attributes;
    PBFS_ASSIGN_OR_RETURN(attributes, fs_.GetAttributes(ino));
    node.mode = attributes.mode;
    node.nlink = attributes.nlink;
    node.uid = attributes.uid;
    node.gid = attributes.gid;
    node.generation = attributes.generation;
    node.flags = attributes.flags;
    node.project = attributes.project;
    node.times = {attributes.atime, attributes.mtime, attributes.ctime};
    node.btime = attributes.btime;
    node.blocks_512 = attributes.blocks_512;
    std::vector<std::string> names;
    PBFS_ASSIGN_OR_RETURN(names, fs_.ListXattr(ino));
    for (const std::string& name : names) {
      PBFS_ASSIGN_OR_RETURN(node.xattrs[name], fs_.GetXattr(ino, name));
    }
    if (S_ISLNK(node.mode)) {
      PBFS_ASSIGN_OR_RETURN(node.target, fs_.ReadLink(ino));
      if (node.target.size() != attributes.size_bytes)
        return Inconsistent(ino, "size of a symlink");
    } else if (S_ISREG(node.mode)) {
      node.size_bytes = attributes.size_bytes;
      if (opaque) return OkStatus();
      PBFS_ASSIGN_OR_RETURN(node.bytes, FsClient(fs_).Read(ino, 0, attributes.size_bytes));
      return CheckBlocks(ino, node);
    } else if (S_ISDIR(node.mode)) {
      return Directory(ino, parent);
    }
    return OkStatus();
  }

 private:
  // What is not zero lies in a block.
  static Status CheckBlocks(InodeNumber ino, const ObservedNode& node) {
    if (node.blocks_512 % (kBlockBytes / 512) != 0) return Inconsistent(ino, "part of a block");
    uint64_t blocks = 0;
    for (size_t at = 0; at < node.bytes.size(); at += kBlockBytes) {
      const size_t end = std::min<size_t>(node.bytes.size(), at + kBlockBytes);
      blocks += node.bytes.find_first_not_of('\0', at) < end ? 1 : 0;
    }
    if (node.blocks_512 < blocks * (kBlockBytes / 512)) {
      return Inconsistent(
          ino, absl::StrCat(blocks, " blocks hold data, st_blocks is ", node.blocks_512));
    }
    return OkStatus();
  }

  Status CheckDots(InodeNumber ino, InodeNumber parent,
                   const std::map<std::string, InodeNumber>& dots) {
    for (const auto& [name, expected] :
         std::initializer_list<std::pair<std::string, InodeNumber>>{{".", ino}, {"..", parent}}) {
      std::optional<Attributes> found;
      PBFS_ASSIGN_OR_RETURN(found, fs_.Lookup(ino, name));
      if (!found || found->ino != expected) return Inconsistent(ino, "lookup of " + name);
      const auto listed = dots.find(name);
      if (listed == dots.end() || listed->second != expected) {
        return Inconsistent(ino, "readdir of " + name);
      }
    }
    return OkStatus();
  }

  Status Directory(InodeNumber ino, InodeNumber parent) {
    struct Entry {
      InodeNumber ino;
      uint8_t type;
    };
    std::map<std::string, Entry> entries;
    std::map<std::string, InodeNumber> dots;
    bool twice = false;
    PBFS_RETURN_IF_ERROR(fs_.ReadDir(ino, 0, [&](const DirEntry& entry) {
      if (entry.name == "." || entry.name == "..") {
        twice |= !dots.emplace(entry.name, entry.ino).second;
      } else {
        twice |= !entries.emplace(entry.name, Entry{entry.ino, entry.type}).second;
      }
      return true;
    }));
    if (twice) return Inconsistent(ino, "readdir gave a name twice");
    PBFS_RETURN_IF_ERROR(CheckDots(ino, parent, dots));
    for (const auto& [name, entry] : entries) {
      std::optional<Attributes> found;
      PBFS_ASSIGN_OR_RETURN(found, fs_.Lookup(ino, name));
      if (!found || found->ino != entry.ino || (found->mode & S_IFMT) >> 12 != entry.type) {
        return Inconsistent(ino, absl::StrCat("lookup of \"", name, "\" differs from readdir"));
      }
      // The reference of the lookup is left for unmount.
      if (!observed_.nodes.contains(entry.ino)) {
        PBFS_RETURN_IF_ERROR(Inode(entry.ino, ino, absl::StartsWith(name, kOpaquePrefix)));
      }
      observed_.nodes[ino].entries[name] = entry.ino;
    }
    return OkStatus();
  }

  FileSystem& fs_;
  Observed& observed_;
};

std::string ToText(Time time) { return absl::StrCat(time.seconds, ".", time.nanoseconds); }
std::string ToText(const Times& times) {
  return absl::StrCat("a ", ToText(times.atime), " m ", ToText(times.mtime), " c ",
                      ToText(times.ctime));
}

char ByteOf(const std::string& bytes, uint64_t index) {
  return index < bytes.size() ? bytes[index] : '\0';
}

}  // namespace

StatusOr<Observed> Observe(FileSystem& filesystem) {
  Observed observed;
  observed.root = filesystem.root();
  PBFS_RETURN_IF_ERROR(
      Observer(filesystem, observed).Inode(observed.root, observed.root, /*opaque=*/false));
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

std::string LettersOf(uint64_t seed, size_t length_bytes) {
  Random random(seed);
  std::string letters(length_bytes, '\0');
  for (char& letter : letters) letter = static_cast<char>('a' + random.Below(26));
  return letters;
}

// ---- Recording ----------------------------------------------------------------------------------

void Model::SetRoot(const Attributes& attributes) {
  PBFS_CHECK(op_ == 0);
  Node& root = tree_[kRoot];
  root.mode = attributes.mode;
  root.nlink = attributes.nlink;
  root.uid = attributes.uid;
  root.gid = attributes.gid;
  root.generation = attributes.generation;
  root.btime = attributes.btime;
  times_[kRoot] = {
      {0, {attributes.atime, attributes.mtime, attributes.ctime}, /*modified=*/true, false}};
  trees_ = {std::make_shared<Tree>(tree_)};
  tree_changed_ = false;
  promises_ = {{}};
}

uint32_t Model::Begin() {
  in_op_ = true;
  return ++op_;
}

void Model::End() {
  trees_.push_back(tree_changed_ ? std::make_shared<Tree>(tree_) : trees_.back());
  tree_changed_ = false;
  PBFS_CHECK(trees_.size() == op_ + 1);
  in_op_ = false;
}

void Model::AddTimes(FileId file, const Times& times, bool modified, bool lazy) {
  times_[file].push_back({op_, times, modified, lazy});
  // An fsync has it stored, and so all that was before in the log.
  if (lazy) touched_[file] = op_;
}

const std::string& Model::Bytes(FileId file) const { return *versions_.at(file).back().bytes; }

void Model::SetBytes(FileId file, std::string bytes, bool resized) {
  versions_[file].push_back({op_, resized, std::make_shared<std::string>(std::move(bytes))});
  // A write alone changes no metadata that an fsync would have to take along.
  if (resized) Touch(file);
}

Model::Promise Model::PromiseOf(FileId file, bool datasync) const {
  Promise promise;
  const auto& all = datasync ? data_touched_ : touched_;
  const auto touched = all.find(file);
  if (touched != all.end()) promise.op = touched->second;
  const auto versions = versions_.find(file);
  if (versions != versions_.end()) promise.versions[file] = versions->second.size() - 1;
  const auto times = times_.find(file);
  if (!datasync && times != times_.end()) promise.times[file] = times->second.size() - 1;
  return promise;
}

Model::Promise Model::PromiseOfAll() const {
  Promise promise;
  promise.op = ended();
  for (const auto& [file, versions] : versions_) promise.versions[file] = versions.size() - 1;
  for (const auto& [file, times] : times_) promise.times[file] = times.size() - 1;
  return promise;
}

size_t Model::Acknowledge(const Promise& promise) {
  Promise all = promises_.back();
  all.op = std::max(all.op, promise.op);
  for (const auto& [file, version] : promise.versions) {
    size_t& oldest = all.versions[file];
    oldest = std::max(oldest, version);
  }
  for (const auto& [file, times] : promise.times) {
    size_t& oldest = all.times[file];
    oldest = std::max(oldest, times);
  }
  promises_.push_back(std::move(all));
  return promises_.size() - 1;
}

// ---- Judging ------------------------------------------------------------------------------------

Model::Fit Model::NewestFit(const Observed& observed, InodeNumber root, uint32_t op_max,
                            size_t acks) const {
  const Promise& promise = promises_.at(acks);
  std::string first;
  std::string last;
  for (uint32_t op = op_max; op >= promise.op; --op) {
    last = ExplainAt(observed, root, op, promise);
    if (last.empty()) return {op, ""};
    if (first.empty()) first = last;
    if (op == 0) break;
  }
  return {std::nullopt,
          absl::StrCat("no state after operations ", promise.op, "..", op_max, " fits. As after ",
                       op_max, ": ", first, ". As after ", promise.op, ": ", last)};
}

std::string Model::ExplainLive(const Observed& observed, InodeNumber root) const {
  return ExplainAt(observed, root, op_, PromiseOfAll());
}

std::string Model::ExplainAt(const Observed& observed, InodeNumber root, uint32_t op,
                             const Promise& promise) const {
  Comparison comparison{observed, op, promise};
  std::string problem = ExplainNode(comparison, kRoot, root, "/");
  if (!problem.empty()) return problem;
  const Tree& tree = *trees_.at(op);
  for (const auto& [id, ino] : comparison.seen) {
    const Node& node = tree.at(id);
    if (!S_ISREG(node.mode) || node.opaque) continue;
    const auto oldest = promise.versions.find(id);
    problem = ExplainBytes(versions_.at(id), observed.nodes.at(ino).bytes, op,
                           oldest == promise.versions.end() ? 0 : oldest->second);
    if (!problem.empty()) return absl::StrCat("file ", id, " (inode ", ino, "): ", problem);
  }
  return "";
}

std::string Model::ExplainNode(Comparison& comparison, FileId id, InodeNumber ino,
                               const std::string& path) const {
  const auto [known, added] = comparison.seen.emplace(id, ino);
  if (!added) {
    return known->second == ino ? "" : absl::StrCat(path, ": is not the same file as its link");
  }
  const Node& node = trees_.at(comparison.op)->at(id);
  if (node.foreign) return "";
  const ObservedNode& found = comparison.observed.nodes.at(ino);
  if (found.mode != node.mode) {
    return absl::StrCat(path, ": mode is 0x", absl::Hex(found.mode), ", not 0x",
                        absl::Hex(node.mode));
  }
  if (found.nlink != node.nlink) {
    return absl::StrCat(path, ": nlink is ", found.nlink, ", not ", node.nlink);
  }
  if (found.uid != node.uid || found.gid != node.gid) {
    return absl::StrCat(path, ": owner is ", found.uid, ":", found.gid, ", not ", node.uid, ":",
                        node.gid);
  }
  if (found.flags != node.flags || found.project != node.project) {
    return absl::StrCat(path, ": flags are 0x", absl::Hex(found.flags), ", not 0x",
                        absl::Hex(node.flags), ", project ", found.project, ", not ", node.project);
  }
  if (found.target != node.target) return absl::StrCat(path, ": the symlink's target differs");
  std::string problem = ExplainXattrs(node, found);
  if (problem.empty()) problem = ExplainTimes(comparison, id, found);
  if (!problem.empty()) return absl::StrCat(path, ": ", problem);
  for (const auto& [name, child] : found.entries) {
    if (!node.entries.contains(name)) return absl::StrCat(path, name, ": should not be there");
  }
  for (const auto& [name, child] : node.entries) {
    const auto at = found.entries.find(name);
    if (at == found.entries.end()) return absl::StrCat(path, name, ": is missing");
    problem = ExplainNode(comparison, child, at->second, absl::StrCat(path, name, "/"));
    if (!problem.empty()) return problem;
  }
  return "";
}

std::string Model::ExplainXattrs(const Node& node, const ObservedNode& found) const {
  if (found.xattrs.size() != node.xattrs.size()) {
    return absl::StrCat(found.xattrs.size(), " xattrs, not ", node.xattrs.size());
  }
  for (const auto& [name, value] : node.xattrs) {
    const auto at = found.xattrs.find(name);
    if (at == found.xattrs.end()) return absl::StrCat("xattr ", name, " is missing");
    if (at->second != *value) return absl::StrCat("xattr ", name, " differs");
  }
  return "";
}

// The operations up to comparison.op are there, and with them the times that they set. Of the lazy
// ones since the modification time was last set, any may have been the last that was stored; not
// one that is older than what was promised.
std::string Model::ExplainTimes(const Comparison& comparison, FileId id,
                                const ObservedNode& found) const {
  const Node& node = trees_.at(comparison.op)->at(id);
  const auto series = times_.find(id);
  if (series == times_.end() || times_ignored_.contains(id)) return "";
  if (found.btime != node.btime) return "the time of birth changed";
  if (found.generation != node.generation) return "the generation changed";
  const std::vector<TimesVersion>& versions = series->second;
  const TimesVersion* changed = nullptr;
  const TimesVersion* modified = nullptr;
  for (const TimesVersion& version : versions) {
    if (version.op > comparison.op) break;
    if (version.lazy) continue;
    changed = &version;
    if (version.modified) modified = &version;
  }
  if (changed == nullptr || modified == nullptr) return "it has no times yet";
  const auto promised = comparison.promise.times.find(id);
  const TimesVersion* const oldest =
      promised == comparison.promise.times.end() ? nullptr : &versions[promised->second];
  Times expected{changed->times.atime, modified->times.mtime, changed->times.ctime};
  bool fits = found.times == expected;
  for (const TimesVersion* lazy = modified + 1;
       lazy <= &versions.back() && lazy->op <= comparison.op; ++lazy) {
    if (!lazy->lazy) continue;
    // So everything before is replaced for certain.
    if (oldest != nullptr && lazy <= oldest) fits = false;
    expected.mtime = lazy->times.mtime;
    expected.ctime = lazy > changed ? lazy->times.ctime : changed->times.ctime;
    fits |= found.times == expected;
  }
  if (fits) return "";
  return absl::StrCat("times are ", ToText(found.times), ", not ", ToText(expected),
                      " or those of an unsynced write before");
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
