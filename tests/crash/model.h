// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fs/filesystem.h"

namespace pbfs {

// What a filesystem shows: everything a program could read.
struct ObservedNode {
  uint32_t mode = 0;
  uint32_t nlink = 0;
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

// Walks everything from the root.
StatusOr<Observed> Observe(FileSystem& filesystem);

// What a sequence of operations did, and which states a crash may leave: the oracle.
//
// Metadata operations are ordered: after a crash the names, links, modes, targets and xattrs are
// exactly those after the first k operations, for some k that covers every acknowledged fsync and
// sync. File data lags behind: each byte holds what some write put there since the last
// acknowledged fsync (or zero, if it was never synced), sizes follow the data, and no byte that a
// truncation cut off comes back.
class Model {
 public:
  using FileId = uint32_t;
  static constexpr FileId kRoot = 0;

  struct Node {
    uint32_t mode = 0;
    uint32_t nlink = 0;
    bool opaque = false;
    std::string target;
    std::map<std::string, FileId> entries;
    std::map<std::string, std::shared_ptr<const std::string>> xattrs;
  };
  using Tree = std::map<FileId, Node>;

  explicit Model(uint32_t root_mode);

  // --- Recording. An operation is Begin(), the changes to tree() and contents, End().
  // Returns the operation's number, from 1.
  uint32_t Begin();
  Tree& tree() {
    tree_changed_ = true;
    return tree_;
  }
  const Tree& tree() const { return tree_; }
  FileId NewFile() { return next_id_++; }
  // The newest contents of a regular file.
  const std::string& Bytes(FileId file) const;
  // `resized`: by truncate, not by a write.
  void SetBytes(FileId file, std::string bytes, bool resized);
  // The running operation changed this inode: an fsync of it covers the operation.
  void Touch(FileId file) { touched_[file] = op_; }
  void End();

  // What an fsync (of one file) or a sync promises, as of now; Acknowledge() once it returned.
  struct Promise {
    uint32_t op = 0;                    // Operations that must be there.
    std::map<FileId, size_t> versions;  // Contents that must be there.
  };
  Promise PromiseOf(FileId file) const;
  Promise PromiseOfAll() const;
  // Returns the number of acknowledged promises.
  size_t Acknowledge(const Promise& promise);

  uint32_t op() const { return op_; }

  // --- Judging

  // Empty if `observed` may be what a crash left: at most `ops_begun` operations had begun,
  // the first `acks` promises were acknowledged. Else what is wrong.
  std::string Explain(const Observed& observed, uint32_t ops_begun, size_t acks) const;
  // The same for a live filesystem: everything is there.
  std::string ExplainLive(const Observed& observed) const;

 private:
  struct Version {
    uint32_t op;
    bool resized;
    std::shared_ptr<const std::string> bytes;
    uint64_t size() const { return bytes->size(); }
  };
  using Versions = std::vector<Version>;

  std::string ExplainAt(const Observed& observed, uint32_t op, const Promise& promise) const;
  std::string ExplainNode(const Observed& observed, const Tree& tree, FileId id, InodeNumber ino,
                          const std::string& path, std::map<FileId, InodeNumber>& seen) const;
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
  std::map<FileId, Versions> versions_;
  std::map<FileId, uint32_t> touched_;  // Newest operation that changed the inode.
  std::vector<Promise> promises_;       // Each with all before it.
};

// Bytes of a write: every file and every write has its own, and every offset.
std::string PatternOf(Model::FileId file, uint32_t write, uint64_t offset_bytes,
                      size_t length_bytes);

}  // namespace pbfs
