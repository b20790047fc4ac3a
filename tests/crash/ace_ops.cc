// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/ace_ops.h"

#include <algorithm>
#include <array>
#include <set>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace pbfs {
namespace {

using Need = AceOp::Need;
using What = AceOp::Need::What;

constexpr std::array<const char*, 6> kFiles = {"foo", "bar", "A/foo", "A/bar", "B/foo", "B/bar"};
// Where data, attributes and owners are changed: same file, sibling, other directories.
constexpr std::array<const char*, 4> kDataFiles = {"foo", "bar", "A/foo", "B/foo"};
constexpr std::array<const char*, 3> kDirectories = {"A", "B", "A/C"};

constexpr uint64_t kSmallXattr = 20;
constexpr uint64_t kLargeXattr = 5000;
constexpr uint64_t kShortTarget = 10;
constexpr uint64_t kLongTarget = 3000;

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "/" : path.substr(0, slash);
}

std::vector<std::string> ParentsOf(const std::string& a, const std::string& b) {
  std::vector<std::string> parents = {ParentOf(a)};
  if (ParentOf(b) != parents[0]) parents.push_back(ParentOf(b));
  return parents;
}

// Collects the operations.
struct Ops {
  std::vector<AceOp> ops;

  // One step on an inode that is there before and after.
  void OnInode(const Step& step, What what) {
    ops.push_back({{{what, step.path}}, {step}, {step.path}, {ParentOf(step.path)}});
  }
  void Making(const Step& step) {
    ops.push_back({{{What::kNothing, step.path}}, {step}, {step.path}, {ParentOf(step.path)}});
  }
};

void AddCreations(Ops& to) {
  for (const char* file : kFiles) to.Making({StepKind::kCreate, file});
  for (const char* file : {"foo", "A/foo"}) to.Making({StepKind::kMknod, file});
  for (const char* directory : kDirectories) to.Making({StepKind::kMkdir, directory});
  for (const char* file : kDataFiles) to.Making({StepKind::kSymlink, file, "", kShortTarget});
  for (const char* file : {"foo", "A/foo"}) {
    to.Making({StepKind::kSymlink, file, "", kLongTarget});
  }
  for (const std::string from : kFiles) {
    for (const std::string name : kFiles) {
      if (name == from) continue;
      to.ops.push_back({{{What::kFile, from}, {What::kNothing, name}},
                        {{StepKind::kLink, from, name}},
                        {name},
                        ParentsOf(from, name)});
    }
  }
}

void AddRemovals(Ops& to) {
  for (const std::string file : kFiles) {
    to.ops.push_back({{{What::kFile, file}}, {{StepKind::kUnlink, file}}, {}, {ParentOf(file)}});
  }
  // Still open; written afterwards.
  for (const std::string file : kDataFiles) {
    to.ops.push_back({{{What::kFile, file}},
                      {{StepKind::kOpen, file},
                       {StepKind::kUnlink, file},
                       {StepKind::kDirect, "@" + file, "", Step::kAtEnd, 3000}},
                      {"@" + file},
                      {ParentOf(file)}});
  }
  // With another name.
  for (const auto& [file, link] : std::vector<std::pair<std::string, std::string>>{
           {"foo", "bar"}, {"foo", "A/foo"}, {"A/foo", "foo"}, {"A/foo", "B/bar"}}) {
    to.ops.push_back({{{What::kFile, file}, {What::kLink, link, file}},
                      {{StepKind::kUnlink, file}},
                      {link},
                      {ParentOf(file)}});
  }
  for (const std::string directory : kDirectories) {
    to.ops.push_back({{{What::kEmptyDirectory, directory}},
                      {{StepKind::kRmdir, directory}},
                      {},
                      {ParentOf(directory)}});
  }
}

void AddFileRenames(Ops& to) {
  for (const std::string from : kFiles) {
    for (const std::string name : kFiles) {
      if (name == from) continue;
      for (const What target : {What::kNothing, What::kFile}) {
        to.ops.push_back({{{What::kFile, from}, {target, name}},
                          {{StepKind::kRename, from, name}},
                          {name},
                          ParentsOf(from, name)});
      }
      if (from > name) continue;
      to.ops.push_back({{{What::kFile, from}, {What::kFile, name}},
                        {{StepKind::kExchange, from, name}},
                        {from, name},
                        ParentsOf(from, name)});
    }
  }
  // Two names of one file.
  for (const std::string name : {"bar", "A/foo"}) {
    to.ops.push_back({{{What::kFile, "foo"}, {What::kLink, name, "foo"}},
                      {{StepKind::kRename, "foo", name}},
                      {name},
                      ParentsOf("foo", name)});
  }
}

void AddDirectoryRenames(Ops& to) {
  for (const auto& [from, name] : std::vector<std::pair<std::string, std::string>>{
           {"A", "B"}, {"B", "A"}, {"A/C", "B"}, {"B", "A/C"}}) {
    for (const What target : {What::kNothing, What::kEmptyDirectory}) {
      for (const bool full : {false, true}) {
        std::vector<Need> needs = {{What::kDirectory, from}};
        if (full) needs.push_back({What::kFile, from + "/foo"});
        needs.push_back({target, name});
        to.ops.push_back({needs, {{StepKind::kRename, from, name}}, {name}, ParentsOf(from, name)});
      }
    }
  }
  for (const auto& [a, b] :
       std::vector<std::pair<std::string, std::string>>{{"A", "B"}, {"A/C", "B"}}) {
    to.ops.push_back({{{What::kDirectory, a}, {What::kDirectory, b}},
                      {{StepKind::kExchange, a, b}},
                      {a, b},
                      ParentsOf(a, b)});
  }
  for (const auto& [file, directory] :
       std::vector<std::pair<std::string, std::string>>{{"foo", "A"},
                                                        {"foo", "B"},
                                                        {"A/foo", "B"},
                                                        {"B/foo", "A"},
                                                        {"foo", "A/C"},
                                                        {"B/foo", "A/C"}}) {
    to.ops.push_back({{{What::kFile, file}, {What::kDirectory, directory}},
                      {{StepKind::kExchange, file, directory}},
                      {file, directory},
                      ParentsOf(file, directory)});
  }
}

// fallocate(2) of all kinds: at the end, over it, within.
void AddRanges(Ops& to, const char* file) {
  const auto add = [&](StepKind kind, uint64_t offset, uint64_t length) {
    to.OnInode({kind, file, "", offset, length}, What::kFile);
  };
  for (const StepKind kind : {StepKind::kAllocate, StepKind::kAllocateKeep}) {
    add(kind, Step::kAtEnd, 5000);
    add(kind, 0, 20'480);
  }
  add(StepKind::kPunch, 0, 4096);
  add(StepKind::kPunch, 3000, 6000);
  for (const StepKind kind : {StepKind::kZeroRange, StepKind::kZeroRangeKeep}) {
    add(kind, 0, 8192);
    add(kind, 3000, 6000);
    add(kind, 8192, 9000);
  }
}

// copy_file_range(2) over data and holes of both, and past the end of the target.
void AddCopies(Ops& to) {
  struct Range {
    uint64_t offset;
    uint64_t length;
  };
  for (const auto& [from, target] :
       std::vector<std::pair<std::string, std::string>>{{"foo", "A/foo"}, {"A/foo", "foo"}}) {
    for (const Range& range : {Range{0, 20'000}, Range{4096, 4096}, Range{3000, 3000}}) {
      to.ops.push_back({{{What::kFile, from}, {What::kFile, target}},
                        {{StepKind::kCopy, from, target, range.offset, range.length}},
                        {target},
                        {ParentOf(target)}});
    }
    to.ops.push_back(
        {{{What::kFile, from}, {What::kFile, target}},
         {{StepKind::kTruncate, target, "", 2000}, {StepKind::kCopy, from, target, 0, 20'000}},
         {target},
         {ParentOf(target)}});
  }
}

// Files have 10000 bytes: blocks 0 and 2, a hole between, and garbage behind the end.
void AddData(Ops& to) {
  struct Range {
    uint64_t offset;
    uint64_t length;
  };
  const Range append{Step::kAtEnd, 1000};
  const Range aligned{0, 4096};
  const Range unaligned{3000, 500};
  const Range past_end{20'000, 1000};
  const Range into_hole{5000, 1000};
  const std::vector<std::pair<StepKind, std::vector<Range>>> writes = {
      {StepKind::kWrite, {append, aligned, unaligned, past_end, into_hole}},
      {StepKind::kDirect, {{12'288, 4096}, aligned, {20'480, 4096}, {4096, 4096}}},
      {StepKind::kMmapWrite, {aligned, unaligned, into_hole}},
      {StepKind::kSyncWrite, {append, aligned, unaligned, past_end, into_hole}},
  };
  for (const char* file : kDataFiles) {
    for (const auto& [kind, ranges] : writes) {
      for (const Range& range : ranges) {
        to.OnInode({kind, file, "", range.offset, range.length}, What::kFile);
      }
    }
    for (const uint64_t size : {0, 4096, 8500, 12'288, 30'000}) {
      to.OnInode({StepKind::kTruncate, file, "", size}, What::kFile);
    }
    AddRanges(to, file);
  }
}

void AddAttributes(Ops& to) {
  constexpr int64_t kBefore1970 = -1'000'000'000;
  constexpr int64_t kAfter2038 = 5'000'000'000;
  const auto add = [&](const std::string& path, What what) {
    to.OnInode({StepKind::kChmod, path, "", 0700}, what);
    to.OnInode({StepKind::kChown, path, "", 1000, 100}, what);
    for (const int64_t seconds : {kBefore1970, kAfter2038}) {
      to.OnInode({StepKind::kSetTimes, path, "", static_cast<uint64_t>(seconds), 999'999'999},
                 what);
    }
    for (const uint64_t bytes : {kSmallXattr, kLargeXattr}) {
      to.OnInode({StepKind::kSetXattr, path, kAceXattr, bytes}, what);
      for (const uint64_t before : {kSmallXattr, kLargeXattr}) {
        to.OnInode({StepKind::kSetXattr, path, kAceXattr, bytes}, what);
        to.ops.back().needs.push_back({What::kXattr, path, "", before});
      }
      to.OnInode({StepKind::kRemoveXattr, path, kAceXattr}, what);
      to.ops.back().needs.push_back({What::kXattr, path, "", bytes});
    }
  };
  for (const char* file : kDataFiles) add(file, What::kFile);
  for (const char* directory : {"A", "A/C"}) add(directory, What::kDirectory);
}

void AddNameless(Ops& to) {
  for (const std::string file : {"foo", "A/foo"}) {
    const Step make = {StepKind::kTmpfile, file};
    const Step write = {StepKind::kDirect, "@" + file, "", 0, 5000};
    to.ops.push_back({{}, {make, write}, {"@" + file}, {ParentOf(file)}});
    to.ops.push_back({{{What::kNothing, file}},
                      {make, write, {StepKind::kLink, "@" + file, file}},
                      {file},
                      {ParentOf(file)}});
    if (file != "foo") to.ops[to.ops.size() - 2].needs = {{What::kDirectory, "A"}};
  }
  for (const auto& [from, name, target] :
       std::vector<std::tuple<std::string, std::string, What>>{{"foo", "bar", What::kNothing},
                                                               {"foo", "A/foo", What::kFile},
                                                               {"A/foo", "foo", What::kNothing}}) {
    to.ops.push_back({{{What::kFile, from}, {target, name}},
                      {{StepKind::kWhiteout, from, name}},
                      {name, from},
                      ParentsOf(from, name)});
  }
}

// Both guard for a moment only, so that what follows is possible.
void AddListsAndFlags(Ops& to) {
  constexpr uint64_t kManyUsers = 100;
  for (const auto& [path, what] : std::vector<std::pair<std::string, What>>{
           {"foo", What::kFile}, {"A/foo", What::kFile}, {"A", What::kDirectory}}) {
    for (const uint64_t users : {uint64_t{1}, kManyUsers}) {
      to.OnInode({StepKind::kSetAcl, path, "", 0741, users}, what);
    }
    to.ops.push_back({{{what, path}},
                      {{StepKind::kSetAcl, path, "", 0741, 1}, {StepKind::kChmod, path, "", 0604}},
                      {path},
                      {ParentOf(path)}});
    for (const uint64_t guard : {kInodeImmutable, kInodeAppendOnly}) {
      to.ops.push_back({{{what, path}},
                        {{StepKind::kSetFlags, path, "", guard, 1},
                         {StepKind::kSetFlags, path, "", kInodeNoDump, 2}},
                        {path},
                        {ParentOf(path)}});
    }
  }
  for (const uint64_t users : {uint64_t{1}, kManyUsers}) {
    to.ops.push_back(
        {{{What::kDirectory, "A"}, {What::kNothing, "A/foo"}},
         {{StepKind::kSetDefaultAcl, "A", "", 0751, users}, {StepKind::kCreate, "A/foo"}},
         {"A/foo"},
         {"A"}});
  }
}

std::vector<AceOp> AllOps() {
  Ops all;
  AddCreations(all);
  AddRemovals(all);
  AddFileRenames(all);
  AddDirectoryRenames(all);
  AddData(all);
  AddCopies(all);
  AddAttributes(all);
  AddNameless(all);
  AddListsAndFlags(all);
  return std::move(all.ops);
}

bool Mentions(const AceOp& op, const std::string& path) {
  return std::any_of(op.needs.begin(), op.needs.end(), [&](const Need& need) {
    return need.path == path || absl::StartsWith(path, need.path + "/");
  });
}

// The persistence calls after one operation.
void AddChoices(const AceOp& op, std::vector<AceChoice>& to) {
  to.push_back({&op, {}, {}});
  to.push_back({&op, {{StepKind::kSync}}, {}});
  for (const std::string& file : op.files) {
    to.push_back({&op, {{StepKind::kFsync, file}}, {}});
    to.push_back({&op, {{StepKind::kFdatasync, file}}, {}});
  }
  for (const std::string& directory : op.directories) {
    to.push_back({&op, {{StepKind::kFsync, directory}}, {}});
  }
  // Another file, which has something to store.
  for (const std::string other : {"bar", "B/bar"}) {
    if (Mentions(op, other)) continue;
    to.push_back({&op,
                  {{StepKind::kDirect, other, "", Step::kAtEnd, 500}, {StepKind::kFsync, other}},
                  {{What::kFile, other}}});
    break;
  }
}

// Everything about a choice that matters, as text, with the names replaced.
std::string TextOf(const AceChoice& choice,
                   const std::vector<std::pair<std::string, std::string>>& names) {
  std::string text;
  const auto add = [&](const std::string& path) {
    std::string mapped = path;
    for (const auto& [from, to] : names) {
      const std::string plain = absl::StartsWith(path, "@") ? path.substr(1) : path;
      if (plain == from) mapped = absl::StrCat(plain == path ? "" : "@", to);
    }
    absl::StrAppend(&text, mapped, " ");
  };
  const auto add_need = [&](const Need& need) {
    absl::StrAppend(&text, static_cast<int>(need.what), " ", need.bytes, " ");
    add(need.path);
    add(need.of);
  };
  const auto add_step = [&](const Step& step) {
    absl::StrAppend(&text, "; ", static_cast<int>(step.kind), " ", step.a, " ", step.b, " ");
    add(step.path);
    add(step.other);
  };
  for (const Need& need : choice.op->needs) add_need(need);
  for (const Step& step : choice.op->steps) add_step(step);
  for (const Step& step : choice.persist) add_step(step);
  return text;
}

// Renamings of the names that leave a choice alike: foo and bar of one directory change places, and
// A and B do (where A/C is not meant).
std::string CanonicalTextOf(const AceChoice& choice) {
  std::string least;
  const bool has_c = TextOf(choice, {}).find("A/C") != std::string::npos;
  for (int swaps = 0; swaps < 16; ++swaps) {
    const bool swap_directories = (swaps & 8) != 0;
    if (swap_directories && has_c) continue;
    std::vector<std::pair<std::string, std::string>> names;
    for (int directory = 0; directory < 3; ++directory) {
      const std::array<std::string, 3> prefixes = {"", "A/", "B/"};
      const std::string from = prefixes[static_cast<size_t>(directory)];
      const size_t to_directory = swap_directories && directory > 0
                                      ? 3 - static_cast<size_t>(directory)
                                      : static_cast<size_t>(directory);
      const std::string to = prefixes[to_directory];
      const bool swap_files = (swaps & (1 << directory)) != 0;
      names.push_back({from + "foo", to + (swap_files ? "bar" : "foo")});
      names.push_back({from + "bar", to + (swap_files ? "foo" : "bar")});
    }
    if (swap_directories) {
      names.push_back({"A", "B"});
      names.push_back({"B", "A"});
    }
    std::string text = TextOf(choice, names);
    if (least.empty() || text < least) least = std::move(text);
  }
  return least;
}

}  // namespace

const std::vector<AceChoice>& AceChoices() {
  static const auto& ops = *new std::vector<AceOp>(AllOps());
  static const auto& choices = *new std::vector<AceChoice>([] {
    std::vector<AceChoice> all;
    for (const AceOp& op : ops) AddChoices(op, all);
    return all;
  }());
  return choices;
}

const std::vector<AceChoice>& AceFirstChoices() {
  static const auto& choices = *new std::vector<AceChoice>([] {
    std::vector<AceChoice> first;
    std::set<std::string> seen;
    for (const AceChoice& choice : AceChoices()) {
      if (seen.insert(CanonicalTextOf(choice)).second) first.push_back(choice);
    }
    return first;
  }());
  return choices;
}

}  // namespace pbfs
