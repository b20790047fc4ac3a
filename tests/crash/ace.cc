// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/ace.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/crash/ace_ops.h"

namespace pbfs {
namespace {

using Need = AceOp::Need;
using What = AceOp::Need::What;

// Blocks 0 and 2 are written; the end lies within the latter, with garbage behind it.
constexpr uint64_t kPreparedBytes = 10'000;

// Puts a workload together: keeps track of the names, and of what earlier operations changed, so
// that what an operation needs can be prepared or has to be made on the way.
class Builder {
 public:
  void Add(const AceChoice& choice) {
    for (const Need& need : choice.op->needs) Satisfy(need);
    for (const Step& step : choice.op->steps) Append(step);
    for (const Need& need : choice.persist_needs) Satisfy(need);
    for (const Step& step : choice.persist) Append(step);
  }

  std::vector<Step> Take() {
    std::vector<Step> all = std::move(prepared_);
    // Durable, so that the blocks are on the device when the ends are cut off.
    all.push_back({StepKind::kSync});
    for (const std::string& file : prepared_files_) {
      all.push_back({StepKind::kTruncate, file, "", kPreparedBytes});
    }
    all.push_back({StepKind::kRecord});
    all.insert(all.end(), steps_.begin(), steps_.end());
    return all;
  }

 private:
  enum class Type : uint8_t { kFile, kDirectory, kOther };
  struct Node {
    Type type;
    bool prepared;
    uint64_t xattr_bytes = 0;
    bool xattr_changed = false;
  };

  static std::string ParentOf(const std::string& path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash);
  }
  static bool IsBelow(const std::string& path, const std::string& directory) {
    return absl::StartsWith(path, directory + "/");
  }

  // No earlier operation has changed the name, or one above it.
  bool CanPrepare(const std::string& path) const {
    return std::none_of(moved_.begin(), moved_.end(), [&](const std::string& moved) {
      return path == moved || IsBelow(path, moved);
    });
  }
  bool Has(const std::string& path, Type type) const {
    const auto at = names_.find(path);
    return at != names_.end() && nodes_[at->second].type == type;
  }

  // A step of the sequence.
  void Append(const Step& step) {
    steps_.push_back(step);
    Apply(step, /*prepared=*/false);
    for (const std::string& name : ChangedNames(step)) moved_.insert(name);
  }
  void Prepare(const Step& step) {
    prepared_.push_back(step);
    Apply(step, /*prepared=*/true);
  }

  static std::vector<std::string> ChangedNames(const Step& step) {
    switch (step.kind) {
      case StepKind::kCreate:
      case StepKind::kMkdir:
      case StepKind::kMknod:
      case StepKind::kSymlink:
      case StepKind::kUnlink:
      case StepKind::kRmdir:
        return {step.path};
      case StepKind::kLink:
        return {step.other};
      case StepKind::kRename:
      case StepKind::kExchange:
      case StepKind::kWhiteout:
        return {step.path, step.other};
      default:
        return {};
    }
  }

  void Apply(const Step& step, bool prepared) {
    switch (step.kind) {
      case StepKind::kCreate:
        return MakeNode(step.path, Type::kFile, prepared);
      case StepKind::kMkdir:
        return MakeNode(step.path, Type::kDirectory, prepared);
      case StepKind::kMknod:
      case StepKind::kSymlink:
        return MakeNode(step.path, Type::kOther, prepared);
      case StepKind::kLink:
        // Of a file without a name, or of one with.
        if (absl::StartsWith(step.path, "@")) return MakeNode(step.other, Type::kFile, prepared);
        names_[step.other] = names_.at(step.path);
        return;
      case StepKind::kUnlink:
      case StepKind::kRmdir:
        names_.erase(step.path);
        return;
      case StepKind::kRename:
      case StepKind::kExchange:
        return Move(step.path, step.other, step.kind == StepKind::kExchange);
      case StepKind::kWhiteout:
        Move(step.path, step.other, /*exchange=*/false);
        return MakeNode(step.path, Type::kOther, prepared);
      case StepKind::kSetXattr:
      case StepKind::kRemoveXattr: {
        Node& node = nodes_[names_.at(step.path)];
        node.xattr_bytes = step.kind == StepKind::kSetXattr ? step.a : 0;
        node.xattr_changed |= !prepared;
        return;
      }
      default:
        return;
    }
  }

  void MakeNode(const std::string& path, Type type, bool prepared) {
    names_[path] = nodes_.size();
    nodes_.push_back({type, prepared});
  }

  void Move(const std::string& from, const std::string& to, bool exchange) {
    if (!exchange && names_.contains(to) && names_.at(from) == names_.at(to)) return;
    std::map<std::string, size_t> moved;
    for (auto at = names_.begin(); at != names_.end();) {
      const bool is_from = at->first == from || IsBelow(at->first, from);
      const bool is_to = at->first == to || IsBelow(at->first, to);
      if (is_from) {
        moved[to + at->first.substr(from.size())] = at->second;
      } else if (is_to && exchange) {
        moved[from + at->first.substr(to.size())] = at->second;
      }
      at = is_from || is_to ? names_.erase(at) : std::next(at);
    }
    names_.merge(moved);
  }

  // In the sequence: from the lowest names up.
  void RemoveBelow(const std::string& directory) {
    std::vector<std::string> below;
    for (const auto& [name, node] : names_) {
      if (IsBelow(name, directory)) below.push_back(name);
    }
    for (auto name = below.rbegin(); name != below.rend(); ++name) RemoveName(*name);
  }
  void RemoveName(const std::string& path) {
    Append({Has(path, Type::kDirectory) ? StepKind::kRmdir : StepKind::kUnlink, path});
  }
  void Remove(const std::string& path) {
    if (!names_.contains(path)) return;
    RemoveBelow(path);
    RemoveName(path);
  }

  void EnsureParent(const std::string& path) {
    const std::string parent = ParentOf(path);
    if (!parent.empty()) Ensure(parent, Type::kDirectory);
  }

  void Ensure(const std::string& path, Type type) {
    if (Has(path, type)) return;
    EnsureParent(path);
    Remove(path);
    const StepKind kind = type == Type::kFile ? StepKind::kCreate : StepKind::kMkdir;
    if (!CanPrepare(path)) {
      Append({kind, path});
      if (type == Type::kFile) Append({StepKind::kDirect, path, "", 0, 5000});
      return;
    }
    Prepare({kind, path});
    if (type != Type::kFile) return;
    Prepare({StepKind::kDirect, path, "", 0, 4096});
    Prepare({StepKind::kDirect, path, "", 8192, 4096});
    prepared_files_.push_back(path);
  }

  void EnsureXattr(const Need& need) {
    const Node& node = nodes_[names_.at(need.path)];
    if (node.xattr_bytes == need.bytes) return;
    const Step step{StepKind::kSetXattr, need.path, kAceXattr, need.bytes};
    if (node.prepared && !node.xattr_changed && CanPrepare(need.path)) {
      Prepare(step);
    } else {
      Append(step);
    }
  }

  void EnsureLink(const Need& need) {
    const auto at = names_.find(need.path);
    if (at != names_.end() && at->second == names_.at(need.of)) return;
    EnsureParent(need.path);
    Remove(need.path);
    const Step step{StepKind::kLink, need.of, need.path};
    if (CanPrepare(need.path) && CanPrepare(need.of) && nodes_[names_.at(need.of)].prepared) {
      Prepare(step);
    } else {
      Append(step);
    }
  }

  void Satisfy(const Need& need) {
    switch (need.what) {
      case What::kNothing:
        EnsureParent(need.path);
        return Remove(need.path);
      case What::kFile:
        return Ensure(need.path, Type::kFile);
      case What::kDirectory:
        return Ensure(need.path, Type::kDirectory);
      case What::kEmptyDirectory:
        Ensure(need.path, Type::kDirectory);
        return RemoveBelow(need.path);
      case What::kXattr:
        return EnsureXattr(need);
      case What::kLink:
        return EnsureLink(need);
    }
  }

  std::map<std::string, size_t> names_;  // Index in nodes_.
  std::vector<Node> nodes_;
  std::set<std::string> moved_;  // Names that the sequence made, moved or removed.
  std::vector<Step> prepared_;
  std::vector<std::string> prepared_files_;
  std::vector<Step> steps_;
};

}  // namespace

uint64_t SeqCount(int length) {
  PBFS_CHECK(length >= 1);
  uint64_t count = AceFirstChoices().size();
  for (int i = 1; i < length; ++i) count *= AceChoices().size();
  return count;
}

Workload SeqWorkload(int length, uint64_t number) {
  PBFS_CHECK(number < SeqCount(length));
  const std::vector<AceChoice>& all = AceChoices();
  std::vector<const AceChoice*> choices(static_cast<size_t>(length));
  uint64_t rest = number;
  for (size_t i = choices.size(); i-- > 1; rest /= all.size()) choices[i] = &all[rest % all.size()];
  choices[0] = &AceFirstChoices()[rest];
  Builder builder;
  for (const AceChoice* choice : choices) builder.Add(*choice);
  Workload workload;
  workload.steps = builder.Take();
  workload.name = absl::StrCat("seq-", length, " ", number, ": ", ToText(workload.steps));
  workload.run = [steps = workload.steps](Session& session) { RunSteps(session, steps); };
  return workload;
}

}  // namespace pbfs
