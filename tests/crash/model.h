// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "fs/filesystem.h"

namespace pbfs {

struct Times {
  Time atime, mtime, ctime;
  friend bool operator==(const Times&, const Times&) = default;
};

// What a filesystem shows: everything a program could read.
struct ObservedNode {
  uint32_t mode = 0;
  uint32_t nlink = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t generation = 0;
  uint32_t flags = 0;
  uint32_t project = 0;
  Times times;
  Time btime;
  uint64_t blocks_512 = 0;
  uint64_t size_bytes = 0;
  std::string bytes;  // Regular files that are not opaque.
  std::string target;
  std::map<std::string, std::string> xattrs;
  std::map<std::string, InodeNumber> entries;
  friend bool operator==(const ObservedNode&, const ObservedNode&) = default;
};
struct Observed {
  InodeNumber root = 0;
  std::map<InodeNumber, ObservedNode> nodes;
  friend bool operator==(const Observed&, const Observed&) = default;
};

// Files whose names start with this are there to fill space: their contents are not looked at.
inline constexpr char kOpaquePrefix[] = "fill";

// Walks everything from the root. What a directory says about itself ("." and "..", types, names
// that are found) must be consistent, and a file have blocks for its bytes; else EUCLEAN.
StatusOr<Observed> Observe(FileSystem& filesystem);

// What a sequence of operations did, and which states a crash may leave: the oracle.
//
// Metadata operations are ordered: after a crash the names, links, modes, targets and xattrs are
// exactly those after the first k operations, for some k that covers every acknowledged fsync and
// sync. File data lags behind: each byte holds what some write put there since the last
// acknowledged fsync (or zero, if it was never synced), sizes follow the data, and no byte that a
// truncation cut off comes back.
//
// Times come with the metadata operation that sets them. Those of a write to an open file (not from
// the kernel's page cache) are lazy: stored at some time after it, by the next fsync at the latest,
// modification and change time together.
class Model {
 public:
  using FileId = uint32_t;
  static constexpr FileId kRoot = 0;

  struct Node {
    uint32_t mode = 0;
    uint32_t nlink = 0;
    uint32_t uid = 0;
    uint32_t gid = 0;
    bool opaque = false;
    bool foreign = false;    // The directory of another model.
    bool temporary = false;  // Without a name so far, and may get one.
    uint32_t generation = 0;
    uint32_t flags = 0;
    uint32_t project = 0;
    Time btime;
    std::string target;
    std::map<std::string, FileId> entries;
    std::map<std::string, std::shared_ptr<const std::string>> xattrs;
  };
  using Tree = std::map<FileId, Node>;

  Model() : Model(Attributes{}) {}
  explicit Model(const Attributes& root) { SetRoot(root); }
  // Its root directory, empty, before the first operation.
  void SetRoot(const Attributes& attributes);

  // --- Recording. An operation is Begin(), the changes to tree() and contents, End().
  // Returns the operation's number, from 1.
  uint32_t Begin();
  Tree& tree() {
    tree_changed_ = true;
    return tree_;
  }
  const Tree& tree() const { return tree_; }
  FileId NewFile() { return next_id_++; }
  FileId newest_file() const { return next_id_ - 1; }
  // The newest contents of a regular file.
  const std::string& Bytes(FileId file) const;
  // `resized`: by truncate, not by a write.
  void SetBytes(FileId file, std::string bytes, bool resized);
  // The running operation changed this inode: an fsync of it covers the operation. `times_only`: an
  // fdatasync does not.
  void Touch(FileId file, bool times_only = false) {
    touched_[file] = op_;
    if (!times_only) data_touched_[file] = op_;
  }
  // The times after the running operation. Not lazy: it has set the change time, and if so the
  // modification time.
  void AddTimes(FileId file, const Times& times, bool modified, bool lazy);
  const Times& TimesOf(FileId file) const { return times_.at(file).back().times; }
  // Somebody else changes the inode's times all the while.
  void IgnoreTimes(FileId file) { times_ignored_.insert(file); }
  bool IgnoresTimes(FileId file) const { return times_ignored_.contains(file); }
  void End();

  // What an fsync (of one file) or a sync promises, as of now; Acknowledge() once it returned.
  struct Promise {
    uint32_t op = 0;                    // Operations that must be there.
    std::map<FileId, size_t> versions;  // Contents that must be there.
    std::map<FileId, size_t> times;     // And lazy times.
  };
  Promise PromiseOf(FileId file, bool datasync) const;
  // Of what has ended.
  Promise PromiseOfAll() const;
  // Returns the number of acknowledged promises.
  size_t Acknowledge(const Promise& promise);

  uint32_t op() const { return op_; }
  uint32_t ended() const { return in_op_ ? op_ - 1 : op_; }

  // --- Judging

  // Where in the sequence a state may be: the newest operation that fits, or what is wrong.
  struct Fit {
    std::optional<uint32_t> op;
    std::string problem;
  };
  // The model's root is the inode `root` of `observed`. At most `op_max` operations are there; the
  // first `acks` promises were acknowledged.
  Fit NewestFit(const Observed& observed, InodeNumber root, uint32_t op_max, size_t acks) const;
  // Empty if the live filesystem shows everything that was done. Else what is wrong.
  std::string ExplainLive(const Observed& observed, InodeNumber root) const;
  // Both for the plain case: one model, from the filesystem's root. Empty, or what is wrong.
  std::string Explain(const Observed& observed, uint32_t ops_begun, size_t acks) const {
    return NewestFit(observed, observed.root, ops_begun, acks).problem;
  }
  std::string ExplainLive(const Observed& observed) const {
    return ExplainLive(observed, observed.root);
  }

 private:
  struct Version {
    uint32_t op;
    bool resized;
    std::shared_ptr<const std::string> bytes;
    uint64_t size() const { return bytes->size(); }
  };
  using Versions = std::vector<Version>;
  struct TimesVersion {
    uint32_t op;
    Times times;
    bool modified;
    bool lazy;
  };
  // What a state is compared with, and what was found of it.
  struct Comparison {
    const Observed& observed;
    const uint32_t op;
    const Promise& promise;
    std::map<FileId, InodeNumber> seen = {};
  };

  std::string ExplainAt(const Observed& observed, InodeNumber root, uint32_t op,
                        const Promise& promise) const;
  std::string ExplainNode(Comparison& comparison, FileId id, InodeNumber ino,
                          const std::string& path) const;
  std::string ExplainXattrs(const Node& node, const ObservedNode& found) const;
  std::string ExplainTimes(const Comparison& comparison, FileId id,
                           const ObservedNode& found) const;
  static bool GrewNotSince(const Versions& versions, size_t version, uint32_t op);
  std::string ExplainBytes(const Versions& versions, const std::string& bytes, uint32_t op,
                           size_t oldest) const;
  std::string ExplainVersion(const Versions& versions, const std::string& bytes, size_t version,
                             size_t oldest) const;

  Tree tree_;
  bool tree_changed_ = true;
  FileId next_id_ = kRoot + 1;
  uint32_t op_ = 0;
  std::vector<std::shared_ptr<const Tree>> trees_;  // After operation i; 0: at the start.
  bool in_op_ = false;
  std::map<FileId, Versions> versions_;
  std::map<FileId, std::vector<TimesVersion>> times_;
  std::set<FileId> times_ignored_;
  std::map<FileId, uint32_t> touched_;       // Newest operation that changed the inode.
  std::map<FileId, uint32_t> data_touched_;  // And not only its times.
  std::vector<Promise> promises_;            // Each with all before it.
};

// Bytes of a write: every file and every write has its own, and every offset.
std::string PatternOf(Model::FileId file, uint32_t write, uint64_t offset_bytes,
                      size_t length_bytes);
// Letters, for names and targets.
std::string LettersOf(uint64_t seed, size_t length_bytes);

}  // namespace pbfs
