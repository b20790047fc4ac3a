// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/random_steps.h"

#include <algorithm>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "tests/crash/model.h"

namespace pbfs {
namespace {

enum class Theme : uint8_t {
  kMixed,
  kSizes,
  kNames,
  kXattrs,
  kDirectories,
  kOpenFiles,
  kNearlyFull,
  kTiny,
};
constexpr Theme kThemes[] = {Theme::kMixed,      Theme::kSizes,       Theme::kNames,
                             Theme::kXattrs,     Theme::kDirectories, Theme::kOpenFiles,
                             Theme::kNearlyFull, Theme::kTiny};

// How often an operation is chosen.
struct Weight {
  StepKind kind;
  uint32_t usual;
  uint32_t sizes, names, xattrs, open_files;  // In these themes.
};
constexpr Weight kWeights[] = {
    {StepKind::kCreate, 8, 3, 8, 4, 8},         {StepKind::kMkdir, 3, 0, 4, 1, 1},
    {StepKind::kMknod, 1, 0, 1, 0, 0},          {StepKind::kSymlink, 2, 0, 3, 0, 0},
    {StepKind::kLink, 4, 1, 12, 1, 4},          {StepKind::kUnlink, 5, 1, 6, 2, 14},
    {StepKind::kRmdir, 2, 0, 3, 1, 1},          {StepKind::kRename, 6, 1, 24, 1, 6},
    {StepKind::kExchange, 2, 0, 8, 0, 2},       {StepKind::kOpen, 2, 0, 1, 0, 14},
    {StepKind::kClose, 2, 0, 1, 0, 6},          {StepKind::kTruncate, 7, 24, 1, 1, 8},
    {StepKind::kWrite, 6, 10, 2, 2, 6},         {StepKind::kDirect, 6, 16, 2, 2, 8},
    {StepKind::kMmapWrite, 4, 6, 1, 1, 4},      {StepKind::kSyncWrite, 3, 6, 1, 1, 3},
    {StepKind::kAllocate, 3, 6, 1, 1, 3},       {StepKind::kAllocateKeep, 3, 6, 1, 1, 2},
    {StepKind::kPunch, 4, 10, 1, 1, 4},         {StepKind::kZeroRange, 2, 6, 1, 1, 2},
    {StepKind::kZeroRangeKeep, 1, 3, 0, 0, 1},  {StepKind::kCopy, 4, 8, 1, 0, 4},
    {StepKind::kChmod, 3, 1, 1, 2, 2},          {StepKind::kChown, 2, 1, 1, 1, 1},
    {StepKind::kSetTimes, 3, 2, 1, 1, 2},       {StepKind::kSetXattr, 4, 1, 1, 30, 2},
    {StepKind::kWhiteout, 1, 0, 4, 0, 1},       {StepKind::kTmpfile, 2, 1, 2, 1, 8},
    {StepKind::kSetAcl, 3, 0, 1, 10, 1},        {StepKind::kSetDefaultAcl, 2, 0, 2, 4, 1},
    {StepKind::kSetFlags, 3, 1, 2, 2, 4},       {StepKind::kRemoveXattr, 2, 0, 0, 10, 1},
    {StepKind::kFsync, 6, 8, 6, 8, 6},          {StepKind::kFdatasync, 4, 6, 2, 3, 4},
    {StepKind::kSync, 2, 1, 2, 2, 2},           {StepKind::kFsyncStart, 3, 3, 2, 2, 2},
    {StepKind::kFdatasyncStart, 2, 2, 1, 1, 1}, {StepKind::kAwait, 4, 4, 2, 2, 2},
    {StepKind::kRemount, 1, 1, 1, 1, 2},
};

uint32_t WeightIn(const Weight& weight, Theme theme) {
  switch (theme) {
    case Theme::kSizes:
      return weight.sizes;
    case Theme::kNames:
      return weight.names;
    case Theme::kXattrs:
      return weight.xattrs;
    case Theme::kOpenFiles:
      return weight.open_files;
    default:
      return weight.usual;
  }
}

// Makes up steps of one client. Knows roughly which names there are.
class Generator {
 public:
  Generator(Theme theme, uint32_t client, Random& random, std::vector<Step>& steps)
      : theme_(theme), client_(client), random_(random), steps_(steps) {}

  // What is there before.
  void Prepare() {
    for (const char* directory : {"d", "e", "d/sub"}) Add({StepKind::kMkdir, directory});
    const uint64_t files = random_.Below(5);
    for (uint64_t i = 0; i < files; ++i) {
      const std::string path = NewPath();
      Add({StepKind::kCreate, path});
      Add({StepKind::kDirect, path, "", 0, Length()});
    }
  }

  void Next() {
    if (theme_ == Theme::kDirectories && random_.OneIn(4)) return ManyNames();
    uint32_t sum = 0;
    for (const Weight& weight : kWeights) sum += WeightIn(weight, theme_);
    uint64_t draw = random_.Below(sum);
    for (const Weight& weight : kWeights) {
      if (draw < WeightIn(weight, theme_)) return Make(weight.kind);
      draw -= WeightIn(weight, theme_);
    }
  }

 private:
  void Add(Step step) {
    step.client = client_;
    switch (step.kind) {
      case StepKind::kCreate:
      case StepKind::kSymlink:
      case StepKind::kMknod:
        files_.insert(step.path);
        break;
      case StepKind::kMkdir:
        directories_.insert(step.path);
        break;
      case StepKind::kLink:
        files_.insert(step.other);
        break;
      case StepKind::kUnlink:
        files_.erase(step.path);
        break;
      case StepKind::kRmdir:
        directories_.erase(step.path);
        break;
      case StepKind::kTmpfile:
        handles_.insert("@" + step.path);
        break;
      case StepKind::kWhiteout:
        if (files_.contains(step.path)) files_.insert(step.other);
        break;
      case StepKind::kRename:
        Move(files_, step.path, step.other);
        Move(directories_, step.path, step.other);
        break;
      case StepKind::kOpen:
        handles_.insert("@" + step.path);
        break;
      case StepKind::kClose:
        handles_.erase(step.path);
        break;
      default:
        break;
    }
    steps_.push_back(std::move(step));
  }

  static void Move(std::set<std::string>& names, const std::string& from, const std::string& to) {
    std::set<std::string> moved;
    for (const std::string& name : names) {
      const bool moves = name == from || absl::StartsWith(name, from + "/");
      moved.insert(moves ? to + name.substr(from.size()) : name);
    }
    names = std::move(moved);
  }

  std::string OneOf(const std::set<std::string>& names, const std::string& otherwise) {
    if (names.empty()) return otherwise;
    return *std::next(names.begin(), static_cast<ptrdiff_t>(random_.Below(names.size())));
  }
  std::string Directory() { return OneOf(directories_, "d"); }
  std::string NewPath() {
    const std::string name = absl::StrCat("f", random_.Below(5));
    return random_.OneIn(2) ? name : absl::StrCat(Directory(), "/", name);
  }
  // What data and attributes are changed of: often an open file.
  std::string File() {
    const uint64_t one_in = theme_ == Theme::kOpenFiles ? 2 : 6;
    if (!handles_.empty() && random_.OneIn(one_in)) return OneOf(handles_, "");
    return OneOf(files_, "f0");
  }
  std::string Any() {
    if (random_.OneIn(12)) return "/";
    return random_.OneIn(5) ? Directory() : File();
  }

  // Sizes near the borders of blocks, or anything.
  uint64_t Length() {
    const uint64_t most = theme_ == Theme::kTiny ? 5000 : 20'000;
    if (random_.OneIn(3)) return 4096 * (1 + random_.Below(most / 4096)) - 1 + random_.Below(3);
    return 1 + random_.Below(most);
  }
  uint64_t Offset() {
    if (random_.OneIn(3)) return Step::kAtEnd;
    if (random_.OneIn(2)) return 4096 * random_.Below(14);
    return random_.Below(60'000);
  }
  uint64_t Size() {
    if (random_.OneIn(8)) return 0;
    return random_.OneIn(2) ? Length() : random_.Below(70'000);
  }
  std::string Xattr() { return absl::StrCat("user.", random_.Below(6)); }
  uint64_t XattrBytes() {
    const uint64_t most[] = {30, 300, 4000, 40'000};
    return random_.Below(most[random_.Below(theme_ == Theme::kTiny ? 2 : 4)]);
  }

  void Make(StepKind kind) {
    switch (kind) {
      case StepKind::kMkdir:
        return Add({kind, random_.OneIn(2) ? absl::StrCat("n", random_.Below(3))
                                           : absl::StrCat(Directory(), "/n", random_.Below(2))});
      case StepKind::kSymlink:
        return Add({kind, NewPath(), "", 1 + random_.Below(random_.OneIn(3) ? 3000 : 100)});
      case StepKind::kCreate:
      case StepKind::kMknod:
      case StepKind::kTmpfile:
        return Add({kind, NewPath()});
      case StepKind::kLink:
        return Add({kind, File(), NewPath()});
      case StepKind::kUnlink:
      case StepKind::kOpen:
        return Add({kind, OneOf(files_, "f0")});
      case StepKind::kRmdir:
        return Add({kind, Directory()});
      case StepKind::kRename:
        if (random_.OneIn(4)) {
          return Add({kind, Directory(), absl::StrCat(Directory(), "/m", random_.Below(2))});
        }
        [[fallthrough]];
      case StepKind::kWhiteout:
        return Add({kind, OneOf(files_, "f0"), random_.OneIn(3) ? OneOf(files_, "f1") : NewPath()});
      case StepKind::kExchange:
        return Add({kind, random_.OneIn(4) ? Directory() : OneOf(files_, "f0"),
                    random_.OneIn(4) ? Directory() : OneOf(files_, "f1")});
      case StepKind::kClose:
        return Add({kind, OneOf(handles_, "@f0")});
      case StepKind::kTruncate:
        return Add({kind, File(), "", Size()});
      case StepKind::kWrite:
      case StepKind::kDirect:
      case StepKind::kMmapWrite:
      case StepKind::kSyncWrite:
      case StepKind::kAllocate:
      case StepKind::kAllocateKeep:
      case StepKind::kPunch:
      case StepKind::kZeroRange:
      case StepKind::kZeroRangeKeep:
        return Add({kind, File(), "", Offset(), Length()});
      case StepKind::kRemount:
        // Nothing else may run beside it.
        if (client_ == 0) Add({kind});
        return;
      case StepKind::kCopy:
        return Add({kind, File(), File(), Offset(), Length()});
      default:
        return MakeOther(kind);
    }
  }

  std::string AclName() {
    return random_.OneIn(2) ? "system.posix_acl_access" : "system.posix_acl_default";
  }
  uint64_t Users() {
    const uint64_t most[] = {2, 6, 40, 500};
    return random_.Below(most[random_.Below(theme_ == Theme::kTiny ? 2 : 4)]);
  }
  // Sync, immutable, append-only, no dump, no atime.
  uint64_t Flags() { return random_.Below(32) << 3; }

  void MakeOther(StepKind kind) {
    switch (kind) {
      case StepKind::kChmod:
        return Add({kind, Any(), "", 0600 + random_.Below(64)});
      case StepKind::kChown:
        return Add({kind, Any(), "", random_.Below(70'000), random_.Below(70'000)});
      case StepKind::kSetTimes:
        return Add({kind, Any(), "", random_.Below(uint64_t{1} << 34) - (uint64_t{1} << 33),
                    random_.Below(1'000'000'000)});
      case StepKind::kSetXattr:
        return Add({kind, random_.OneIn(5) ? Directory() : File(), Xattr(), XattrBytes()});
      case StepKind::kRemoveXattr:
        if (random_.OneIn(4)) return Add({kind, Any(), AclName()});
        return Add({kind, random_.OneIn(5) ? Directory() : File(), Xattr()});
      case StepKind::kSetAcl:
        return Add({kind, Any(), "", random_.Below(512), Users()});
      case StepKind::kSetDefaultAcl:
        return Add({kind, random_.OneIn(4) ? "/" : Directory(), "", random_.Below(512), Users()});
      case StepKind::kSetFlags:
        // What guards an inode is mostly taken off again.
        Add({kind, Any(), "", Flags(), random_.Below(3)});
        if (!random_.OneIn(4)) Add({kind, steps_.back().path, "", Flags() & 0xc0});
        return;
      case StepKind::kFsync:
      case StepKind::kFdatasync:
      case StepKind::kFsyncStart:
      case StepKind::kFdatasyncStart:
        return Add({kind, Any()});
      default:
        return Add({kind});
    }
  }

  // A directory from a few names to many, or back.
  void ManyNames() {
    const std::string directory = Directory();
    const uint64_t bytes = 10 + random_.Below(60);
    const uint64_t count = 4 + random_.Below(20);
    const bool grow = random_.OneIn(2);
    for (uint64_t i = 0; i < count; ++i) {
      const std::string path = absl::StrCat(directory, "/", LettersOf(i, bytes % 40 + 10));
      if (grow) {
        Add({StepKind::kCreate, path});
      } else {
        Add({StepKind::kUnlink, OneOf(files_, path)});
      }
      if (random_.OneIn(10)) Add({StepKind::kFsync, directory});
    }
  }

  const Theme theme_;
  const uint32_t client_;
  Random& random_;
  std::vector<Step>& steps_;
  std::set<std::string> files_;
  std::set<std::string> directories_;
  std::set<std::string> handles_;
};

uint64_t CountOf(Theme theme, Random& random) {
  if (theme == Theme::kTiny) return 5 + random.Below(6);
  // As often few as many.
  const uint64_t most[] = {12, 40, 100, 200};
  return 5 + random.Below(most[random.Below(4)] - 4);
}

}  // namespace

std::vector<Step> RandomSteps(uint64_t seed) {
  Random random(seed * 0x9e3779b97f4a7c15 + 1);
  const Theme theme = kThemes[random.Below(std::size(kThemes))];
  const uint64_t count = CountOf(theme, random);
  const uint32_t clients = random.OneIn(2) ? 1 : 2 + static_cast<uint32_t>(random.Below(3));
  std::vector<Step> steps;
  std::vector<Generator> generators;
  for (uint32_t i = 0; i < clients; ++i) {
    generators.emplace_back(theme, clients == 1 ? 0 : i + 1, random, steps);
    generators.back().Prepare();
  }
  if (theme == Theme::kNearlyFull) {
    steps.push_back({.kind = StepKind::kFill, .a = 40 + random.Below(400)});
  }
  steps.push_back({StepKind::kRecord});
  if (random.OneIn(2)) {
    steps.push_back({.kind = StepKind::kDelays, .a = random.Next(), .b = 1 + random.Below(400)});
  }
  const size_t first = steps.size();
  while (steps.size() - first < count) {
    if (random.OneIn(25)) {
      steps.push_back({random.OneIn(2) ? StepKind::kPress : StepKind::kSync});
    } else {
      generators[random.Below(clients)].Next();
    }
  }
  return steps;
}

Workload RandomWorkload(uint64_t seed) {
  Workload workload;
  workload.name = absl::StrCat("random ", seed);
  workload.steps = RandomSteps(seed);
  workload.run = [steps = workload.steps](Session& session) { RunSteps(session, steps); };
  return workload;
}

}  // namespace pbfs
