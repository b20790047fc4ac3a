// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/step.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE (1 << 1)
#define RENAME_WHITEOUT (1 << 2)
#endif

namespace pbfs {
namespace {

constexpr int64_t kDaySeconds = 86400;

// How the rest of a step is printed.
enum class Shape : uint8_t {
  kPlain,
  kPath,
  kPaths,
  kPathNumber,
  kRange,
  kPathsRange,
  kNumber,
  kXattr,
  kOwner
};
struct KindInfo {
  const char* name;
  Shape shape;
};

const char* RangeName(StepKind kind) {
  switch (kind) {
    case StepKind::kWrite:
      return "write";
    case StepKind::kDirect:
      return "direct-write";
    case StepKind::kMmapWrite:
      return "mmap-write";
    case StepKind::kSyncWrite:
      return "dsync-write";
    case StepKind::kAllocate:
      return "allocate";
    case StepKind::kAllocateKeep:
      return "allocate-keep-size";
    case StepKind::kPunch:
      return "punch";
    case StepKind::kZeroRange:
      return "zero-range";
    case StepKind::kZeroRangeKeep:
      return "zero-range-keep-size";
    default:
      return "?";
  }
}

KindInfo AttributeInfoOf(StepKind kind) {
  switch (kind) {
    case StepKind::kChmod:
      return {"chmod", Shape::kPathNumber};
    case StepKind::kChown:
      return {"chown", Shape::kOwner};
    case StepKind::kSetTimes:
      return {"utimes", Shape::kOwner};
    case StepKind::kSetXattr:
      return {"setxattr", Shape::kXattr};
    case StepKind::kRemoveXattr:
      return {"removexattr", Shape::kPaths};
    case StepKind::kSetAcl:
      return {"setfacl", Shape::kOwner};
    case StepKind::kSetDefaultAcl:
      return {"setfacl-default", Shape::kOwner};
    case StepKind::kSetFlags:
      return {"chattr", Shape::kOwner};
    default:
      return {"?", Shape::kPlain};
  }
}

KindInfo InfoOf(StepKind kind) {
  switch (kind) {
    case StepKind::kRecord:
      return {"record", Shape::kPlain};
    case StepKind::kFill:
      return {"fill", Shape::kNumber};
    case StepKind::kDelays:
      return {"delays", Shape::kOwner};
    case StepKind::kPress:
      return {"press", Shape::kPlain};
    case StepKind::kCreate:
      return {"creat", Shape::kPath};
    case StepKind::kMkdir:
      return {"mkdir", Shape::kPath};
    case StepKind::kMknod:
      return {"mknod", Shape::kPath};
    case StepKind::kSymlink:
      return {"symlink", Shape::kPathNumber};
    case StepKind::kLink:
      return {"link", Shape::kPaths};
    case StepKind::kUnlink:
      return {"unlink", Shape::kPath};
    case StepKind::kRmdir:
      return {"rmdir", Shape::kPath};
    case StepKind::kRename:
      return {"rename", Shape::kPaths};
    case StepKind::kExchange:
      return {"exchange", Shape::kPaths};
    case StepKind::kWhiteout:
      return {"rename-whiteout", Shape::kPaths};
    case StepKind::kTmpfile:
      return {"tmpfile", Shape::kPath};
    case StepKind::kOpen:
      return {"open", Shape::kPath};
    case StepKind::kClose:
      return {"close", Shape::kPath};
    case StepKind::kTruncate:
      return {"truncate", Shape::kPathNumber};
    case StepKind::kWrite:
    case StepKind::kDirect:
    case StepKind::kMmapWrite:
    case StepKind::kSyncWrite:
    case StepKind::kAllocate:
    case StepKind::kAllocateKeep:
    case StepKind::kPunch:
    case StepKind::kZeroRange:
    case StepKind::kZeroRangeKeep:
      return {RangeName(kind), Shape::kRange};
    case StepKind::kCopy:
      return {"copy", Shape::kPathsRange};
    case StepKind::kRemount:
      return {"remount", Shape::kPlain};
    case StepKind::kFsync:
      return {"fsync", Shape::kPath};
    case StepKind::kFdatasync:
      return {"fdatasync", Shape::kPath};
    case StepKind::kSync:
      return {"sync", Shape::kPlain};
    case StepKind::kFsyncStart:
      return {"start-fsync", Shape::kPath};
    case StepKind::kFdatasyncStart:
      return {"start-fdatasync", Shape::kPath};
    case StepKind::kAwait:
      return {"await", Shape::kPlain};
    default:
      return AttributeInfoOf(kind);
  }
}

bool IsBelow(const std::string& path, const std::string& directory) {
  return absl::StartsWith(path, directory + "/");
}

// Runs steps of one client one by one, with what lasts from one to the next.
class Runner {
 public:
  Runner(Session& session, Client& client) : session_(session), s_(client) {}
  ~Runner() { AwaitAll(); }

  // False: it does not apply.
  bool Run(const Step& step) {
    const bool applies = Applies(step);
    if (applies) Do(step);
    return applies;
  }
  void AwaitAll() {
    for (const auto& sync : pending_) s_.Await(*sync);
    pending_.clear();
  }

 private:
  bool Is(const std::string& path, uint32_t type) const {
    const Model::Node* const node = s_.NodeAt(path);
    return node != nullptr && (node->mode & S_IFMT) == type;
  }
  bool IsEmpty(const std::string& path) const {
    return Is(path, S_IFDIR) && s_.NodeAt(path)->entries.empty();
  }
  // A name, not a file that is open or the root.
  bool IsName(const std::string& path) const { return s_.Exists(path) && IsFree(path); }
  static bool IsFree(const std::string& path) {
    return !path.empty() && path != "/" && path[0] != '@';
  }
  bool CanBeMade(const std::string& path) const {
    return IsFree(path) && s_.NodeAt(path) == nullptr && HasParent(path);
  }
  bool HasParent(const std::string& path) const {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos || Is(path.substr(0, slash), S_IFDIR);
  }

  bool RenameApplies(const Step& step) const {
    if (!IsName(step.path) || IsBelow(step.other, step.path)) return false;
    if (step.kind == StepKind::kExchange) {
      return IsName(step.other) && !IsBelow(step.path, step.other);
    }
    if (CanBeMade(step.other)) return true;
    if (!IsName(step.other) || IsBelow(step.path, step.other)) return false;
    return Is(step.path, S_IFDIR) ? IsEmpty(step.other) : !Is(step.other, S_IFDIR);
  }

  // It, or its directory, takes no change.
  bool IsGuarded(const std::string& path) const {
    const auto has_flag = [this](const std::string& at) {
      const Model::Node* const node = s_.NodeAt(at);
      return node != nullptr && (node->flags & kInodeGuards) != 0;
    };
    if (path.empty()) return false;
    const size_t slash = path.rfind('/');
    const bool below = IsFree(path) && slash != std::string::npos;
    return has_flag(path) || has_flag(below ? path.substr(0, slash) : "/");
  }
  bool IsRefused(const Step& step) const {
    switch (step.kind) {
      case StepKind::kSetFlags:
      case StepKind::kOpen:
      case StepKind::kClose:
      case StepKind::kFsync:
      case StepKind::kFdatasync:
      case StepKind::kFsyncStart:
      case StepKind::kFdatasyncStart:
        return false;
      case StepKind::kCopy:
        return IsGuarded(step.other);
      default:
        return IsGuarded(step.path) || IsGuarded(step.other);
    }
  }

  bool Applies(const Step& step) const;
  bool AttributeStepApplies(const Step& step) const;
  void Do(const Step& step);
  void DoAttributes(const Step& step);
  void DoWrite(const Step& step);
  void DoFallocate(const Step& step);
  void DoSetTimes(const Step& step);
  void AwaitNewest();

  Session& session_;
  Client& s_;
  std::vector<std::unique_ptr<Client::PendingSync>> pending_;
};

bool Runner::Applies(const Step& step) const {
  if (session_.Broken() || IsRefused(step)) return false;
  switch (step.kind) {
    case StepKind::kRecord:
    case StepKind::kFill:
    case StepKind::kDelays:
    case StepKind::kPress:
    case StepKind::kSync:
    case StepKind::kRemount:
      return true;
    case StepKind::kAwait:
      return !pending_.empty();
    case StepKind::kCreate:
    case StepKind::kMkdir:
    case StepKind::kMknod:
    case StepKind::kSymlink:
      return CanBeMade(step.path);
    case StepKind::kLink:
      return s_.Exists(step.path) && !Is(step.path, S_IFDIR) &&
             (s_.NodeAt(step.path)->nlink > 0 || s_.NodeAt(step.path)->temporary) &&
             CanBeMade(step.other);
    case StepKind::kTmpfile:
      return IsFree(step.path) && HasParent(step.path);
    case StepKind::kUnlink:
      return IsName(step.path) && !Is(step.path, S_IFDIR);
    case StepKind::kRmdir:
      return IsName(step.path) && IsEmpty(step.path);
    case StepKind::kRename:
    case StepKind::kExchange:
    case StepKind::kWhiteout:
      return RenameApplies(step);
    case StepKind::kOpen:
      return IsName(step.path);
    case StepKind::kClose:
      return s_.Exists(step.path) && !IsFree(step.path) && step.path != "/";
    case StepKind::kTruncate:
    case StepKind::kWrite:
    case StepKind::kDirect:
    case StepKind::kMmapWrite:
    case StepKind::kSyncWrite:
    case StepKind::kAllocate:
    case StepKind::kAllocateKeep:
    case StepKind::kPunch:
    case StepKind::kZeroRange:
    case StepKind::kZeroRangeKeep:
      return Is(step.path, S_IFREG);
    case StepKind::kCopy:
      return Is(step.path, S_IFREG) && Is(step.other, S_IFREG) &&
             s_.NodeAt(step.path) != s_.NodeAt(step.other);
    default:
      return s_.NodeAt(step.path) != nullptr && AttributeStepApplies(step);
  }
}

bool Runner::AttributeStepApplies(const Step& step) const {
  switch (step.kind) {
    case StepKind::kChmod:
      return !Is(step.path, S_IFLNK);
    case StepKind::kSetXattr:
    case StepKind::kSetAcl:
      return Is(step.path, S_IFREG) || Is(step.path, S_IFDIR);
    case StepKind::kSetFlags:
      // What is immutable stays as it is until it no longer is.
      return (Is(step.path, S_IFREG) || Is(step.path, S_IFDIR)) &&
             (s_.NodeAt(step.path)->flags & step.a & kInodeImmutable) == 0;
    case StepKind::kSetDefaultAcl:
      return Is(step.path, S_IFDIR);
    case StepKind::kRemoveXattr:
      return s_.NodeAt(step.path)->xattrs.contains(step.other);
    default:
      return true;
  }
}

void Runner::DoWrite(const Step& step) {
  const uint64_t offset = step.a == Step::kAtEnd ? s_.Size(step.path) : step.a;
  if (step.kind == StepKind::kSyncWrite) {
    s_.WriteSync(step.path, offset, step.b);
  } else if (step.kind == StepKind::kCopy) {
    s_.Copy(step.path, step.other, step.a == Step::kAtEnd ? 0 : step.a, step.b);
  } else if (step.kind == StepKind::kWrite) {
    s_.WriteBuffered(step.path, offset, step.b);
  } else {
    s_.Write(step.path, offset, step.b, /*from_page_cache=*/step.kind == StepKind::kMmapWrite);
  }
}

void Runner::DoFallocate(const Step& step) {
  const uint64_t offset = step.a == Step::kAtEnd ? s_.Size(step.path) : step.a;
  int mode = 0;
  if (step.kind == StepKind::kPunch) mode |= FALLOC_FL_PUNCH_HOLE;
  if (step.kind == StepKind::kZeroRange || step.kind == StepKind::kZeroRangeKeep) {
    mode |= FALLOC_FL_ZERO_RANGE;
  }
  if (step.kind != StepKind::kAllocate && step.kind != StepKind::kZeroRange) {
    mode |= FALLOC_FL_KEEP_SIZE;
  }
  s_.Fallocate(step.path, mode, offset, step.b);
}

void Runner::DoSetTimes(const Step& step) {
  const auto seconds = static_cast<int64_t>(step.a);
  const auto nanoseconds = static_cast<uint32_t>(step.b);
  s_.SetTimes(step.path, Time{seconds - kDaySeconds, nanoseconds}, Time{seconds, nanoseconds});
}

void Runner::AwaitNewest() {
  s_.Await(*pending_.back());
  pending_.pop_back();
}

void Runner::Do(const Step& step) {
  switch (step.kind) {
    case StepKind::kRecord:
      AwaitAll();
      return session_.Record();
    case StepKind::kFill:
      session_.Fill(step.a);
      return session_.AllowNoSpace();
    case StepKind::kDelays:
      return session_.hold().DelayAtRandom(step.a, std::chrono::microseconds(step.b));
    case StepKind::kPress:
      return session_.Press();
    case StepKind::kCreate:
      return s_.Create(step.path);
    case StepKind::kMkdir:
      return s_.Mkdir(step.path);
    case StepKind::kMknod:
      return s_.Create(step.path, S_IFIFO | 0600);
    case StepKind::kSymlink:
      return s_.MakeSymlink(step.path, step.a);
    case StepKind::kLink:
      return s_.Link(step.path, step.other);
    case StepKind::kUnlink:
      return s_.Unlink(step.path);
    case StepKind::kRmdir:
      return s_.Rmdir(step.path);
    case StepKind::kRename:
      return s_.Rename(step.path, step.other);
    case StepKind::kExchange:
      return s_.Rename(step.path, step.other, RENAME_EXCHANGE);
    case StepKind::kOpen:
      return s_.Open(step.path);
    case StepKind::kClose:
      return s_.Close(step.path);
    case StepKind::kTruncate:
      return s_.Truncate(step.path, step.a);
    case StepKind::kWrite:
    case StepKind::kDirect:
    case StepKind::kMmapWrite:
    case StepKind::kSyncWrite:
    case StepKind::kCopy:
      return DoWrite(step);
    case StepKind::kAllocate:
    case StepKind::kAllocateKeep:
    case StepKind::kPunch:
    case StepKind::kZeroRange:
    case StepKind::kZeroRangeKeep:
      return DoFallocate(step);
    case StepKind::kWhiteout:
      return s_.Rename(step.path, step.other, RENAME_WHITEOUT);
    case StepKind::kTmpfile:
      return s_.Temporary(step.path);
    case StepKind::kFsync:
    case StepKind::kFdatasync:
      return s_.Fsync(step.path, step.kind == StepKind::kFdatasync);
    case StepKind::kSync:
      return s_.Sync();
    case StepKind::kRemount:
      AwaitAll();
      return session_.Remount();
    case StepKind::kFsyncStart:
    case StepKind::kFdatasyncStart:
      pending_.push_back(s_.FsyncStart(step.path, step.kind == StepKind::kFdatasyncStart));
      return;
    case StepKind::kAwait:
      return AwaitNewest();
    default:
      return DoAttributes(step);
  }
}

void Runner::DoAttributes(const Step& step) {
  switch (step.kind) {
    case StepKind::kSetAcl:
    case StepKind::kSetDefaultAcl:
      return s_.SetAcl(step.path, static_cast<uint32_t>(step.a), step.b,
                       step.kind == StepKind::kSetDefaultAcl);
    case StepKind::kSetFlags:
      return s_.SetFlags(step.path, static_cast<uint32_t>(step.a), static_cast<uint32_t>(step.b));
    case StepKind::kChmod:
      return s_.Chmod(step.path, static_cast<uint32_t>(step.a));
    case StepKind::kChown:
      return s_.Chown(step.path, static_cast<uint32_t>(step.a), static_cast<uint32_t>(step.b));
    case StepKind::kSetTimes:
      return DoSetTimes(step);
    case StepKind::kSetXattr:
      return s_.SetXattr(step.path, step.other, step.a);
    case StepKind::kRemoveXattr:
      return s_.RemoveXattr(step.path, step.other);
    default:
      PBFS_CHECK(false);
  }
}

}  // namespace

std::string ToText(const Step& step) {
  const KindInfo info = InfoOf(step.kind);
  std::string text = info.name;
  if (step.client > 0) text = absl::StrCat("client ", step.client, ": ", text);
  if (!step.path.empty()) absl::StrAppend(&text, " ", step.path);
  switch (info.shape) {
    case Shape::kPlain:
    case Shape::kPath:
      break;
    case Shape::kPaths:
      absl::StrAppend(&text, " ", step.other);
      break;
    case Shape::kPathNumber:
    case Shape::kNumber:
      absl::StrAppend(&text, " ", step.a);
      break;
    case Shape::kPathsRange:
      absl::StrAppend(&text, " ", step.other, " ", step.a, "+", step.b);
      break;
    case Shape::kRange:
      absl::StrAppend(&text, " ", step.a == Step::kAtEnd ? "end" : absl::StrCat(step.a), "+",
                      step.b);
      break;
    case Shape::kXattr:
      absl::StrAppend(&text, " ", step.other, " ", step.a);
      break;
    case Shape::kOwner:
      absl::StrAppend(&text, " ", static_cast<int64_t>(step.a), " ", step.b);
      break;
  }
  return text;
}

std::string ToText(const std::vector<Step>& steps) {
  const auto record = std::find_if(steps.begin(), steps.end(),
                                   [](const Step& step) { return step.kind == StepKind::kRecord; });
  std::string text;
  for (auto at = record == steps.end() ? steps.begin() : record + 1; at != steps.end(); ++at) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", ToText(*at));
  }
  return text;
}

void RunSteps(Session& session, const std::vector<Step>& steps, std::vector<Step>* skipped) {
  uint32_t last_client = 0;
  bool has_record = false;
  for (const Step& step : steps) {
    last_client = std::max(last_client, step.client);
    has_record |= step.kind == StepKind::kRecord;
  }
  struct Lane {
    std::unique_ptr<Runner> runner;
    std::vector<Step> steps;
    std::vector<Step> skipped;
  };
  std::vector<Lane> lanes(last_client + 1);
  lanes[0].runner = std::make_unique<Runner>(session, session);
  for (uint32_t i = 1; i <= last_client; ++i) {
    lanes[i].runner =
        std::make_unique<Runner>(session, session.AddClient(absl::StrCat("client", i)));
  }
  // The preparation in its order, the rest all at once.
  bool recorded = !has_record;
  if (recorded) session.Record();
  for (const Step& step : steps) {
    Lane& lane = lanes[step.client];
    if (recorded && last_client > 0) {
      lane.steps.push_back(step);
    } else if (!lane.runner->Run(step)) {
      lane.skipped.push_back(step);
    }
    recorded |= step.kind == StepKind::kRecord;
  }
  std::vector<std::function<void()>> functions;
  for (Lane& lane : lanes) {
    if (lane.steps.empty()) continue;
    functions.push_back([&lane] {
      for (const Step& step : lane.steps) {
        if (!lane.runner->Run(step)) lane.skipped.push_back(step);
      }
      lane.runner->AwaitAll();
    });
  }
  if (!functions.empty()) session.RunConcurrently(functions);
  for (const Lane& lane : lanes) {
    if (skipped != nullptr) {
      skipped->insert(skipped->end(), lane.skipped.begin(), lane.skipped.end());
    }
  }
}

}  // namespace pbfs
