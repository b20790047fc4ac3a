// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/faults.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/simulation/scheduler.h"
#include "base/thread.h"
#include "fs/checker.h"
#include "tests/crash/judge.h"
#include "tests/crash/session.h"

namespace pbfs {
namespace {

using Action = FaultDevice::Action;
using simulation::Scheduler;

constexpr std::array<IoOp, 3> kOps = {IoOp::kRead, IoOp::kWrite, IoOp::kFlush};
// How late a late request is. Not longer: time hardly moves while a workload keeps a thread busy.
constexpr std::chrono::milliseconds kLate(30);

const char* NameOf(FaultStage stage) {
  switch (stage) {
    case FaultStage::kMounting:
      return "mounting";
    case FaultStage::kRunning:
      return "running";
    case FaultStage::kUnmounting:
      return "unmounting";
    case FaultStage::kRecovering:
      return "recovering";
    case FaultStage::kChecking:
      return "checking";
  }
  return "?";
}

const char* NameOf(IoOp op) {
  return op == IoOp::kRead ? "read" : op == IoOp::kWrite ? "write" : "flush";
}

const char* NameOf(Action action) {
  switch (action) {
    case Action::kFail:
      return "fails";
    case Action::kFailDone:
      return "is done and fails";
    case Action::kHold:
      return "begins late";
    case Action::kHoldCompletion:
      return "ends late";
  }
  return "?";
}

bool IsLate(const FaultPoint& point) {
  return point.action == Action::kHold || point.action == Action::kHoldCompletion;
}

FaultDevice::Rule RuleOf(const FaultPoint& point) {
  FaultDevice::Rule rule;
  rule.op = point.op;
  rule.nth = point.nth;
  rule.from_then_on = point.from_then_on;
  rule.bad_block = point.bad_block;
  rule.action = point.action;
  rule.error = point.error;
  return rule;
}

using Counts = std::array<uint64_t, kOps.size()>;
Counts CountsOf(const FaultDevice& device) {
  Counts counts;
  for (size_t i = 0; i < kOps.size(); ++i) counts[i] = device.count(kOps[i]);
  return counts;
}

// What a power cut at the end of a workload leaves, and what must be found there.
struct Ending {
  std::unique_ptr<Session> session;  // Without a filesystem; has the model.
  std::unique_ptr<Recording> recording;
  std::string problem;
};

// Lets late requests go, again and again, for as long as it lives.
class Releaser {
 public:
  explicit Releaser(FaultDevice& device)
      : device_(device), thread_([this] {
          while (!stopping_) {
            SleepFor(kLate);
            device_.Release();
          }
        }) {}
  ~Releaser() {
    stopping_ = true;
    thread_.join();
  }

 private:
  FaultDevice& device_;
  std::atomic<bool> stopping_{false};
  Thread thread_;
};

// A workload with at most one fault in a stage of the session.
class FaultRun {
 public:
  FaultRun(const Workload& workload, const FaultPoint* point)
      : workload_(workload), point_(point) {}

  // In a simulation. Empty, or what is wrong.
  std::string Run();
  bool hit() const { return hit_; }
  const std::array<Counts, 3>& counts() const { return counts_; }

 private:
  void EnterPhase(Session::Phase phase, FaultDevice& device);
  void EndPhase(const FaultDevice& device);
  void AfterWorkload();
  void TrySyncsAgain();
  void RepairFiles();
  void UnmountAndCheck();
  void CheckFailures();
  void CheckFailure(const Session::Failure& failure, bool first);
  void Judge();
  void Wrong(const std::string& what) {
    if (problem_.empty()) problem_ = what;
  }

  const Workload& workload_;
  const FaultPoint* const point_;
  std::unique_ptr<Session> session_;
  std::optional<Releaser> releaser_;
  std::optional<Session::Phase> phase_;
  Counts begun_{};
  std::array<Counts, 3> counts_{};
  bool hit_ = false;
  std::optional<uint64_t> free_blocks_;  // After a good unmount.
  std::string problem_;
};

void FaultRun::EndPhase(const FaultDevice& device) {
  if (!phase_) return;
  const Counts now = CountsOf(device);
  for (size_t i = 0; i < now.size(); ++i) {
    counts_[static_cast<size_t>(*phase_)][i] = now[i] - begun_[i];
    if (point_ == nullptr || static_cast<size_t>(point_->stage) != static_cast<size_t>(*phase_)) {
      continue;
    }
    hit_ |= kOps[i] == point_->op && now[i] - begun_[i] >= point_->nth;
  }
}

void FaultRun::EnterPhase(Session::Phase phase, FaultDevice& device) {
  EndPhase(device);
  phase_ = phase;
  begun_ = CountsOf(device);
  if (point_ == nullptr || static_cast<size_t>(point_->stage) != static_cast<size_t>(phase)) return;
  device.AddRule(RuleOf(*point_));
  if (IsLate(*point_)) releaser_.emplace(device);
}

std::string FaultRun::Run() {
  Session::Options options;
  options.accept_failures = true;
  options.on_phase = [this](Session::Phase phase, FaultDevice& device) {
    EnterPhase(phase, device);
  };
  session_ = std::make_unique<Session>(options);
  bool mounted = true;
  try {
    workload_.run(*session_);
  } catch (const Session::SessionEnded&) {
    mounted = false;
  }
  if (mounted) {
    AfterWorkload();
    UnmountAndCheck();
  }
  EndPhase(session_->faults());
  releaser_.reset();
  CheckFailures();
  for (const std::string& problem : session_->problems()) Wrong(problem);
  const std::unique_ptr<Recording> recording = session_->Finish();  // Has blocks of the image.
  if (problem_.empty()) Judge();
  session_.reset();
  return problem_;
}

void FaultRun::AfterWorkload() {
  session_->StopCommitting();
  session_->hold().DelayAtRandom(0, std::chrono::microseconds(0));
  session_->hold().Release();
  if (point_ == nullptr || point_->stage != FaultStage::kRunning) return;
  if (!IsLate(*point_)) session_->faults().Heal();
  session_->CheckLive();
  TrySyncsAgain();
  RepairFiles();
  session_->CheckLive();
}

// The device works again, but nothing was written anew.
void FaultRun::TrySyncsAgain() {
  const bool must_fail = point_->op == IoOp::kWrite || session_->filesystem().read_only();
  for (const auto& failed : std::set(session_->failed_syncs())) {
    Client& client = session_->client(failed.first);
    const std::string path = client.PathOf(failed.second);
    if (path.empty()) continue;
    client.Fsync(path);
    if (must_fail && !session_->failed_syncs().contains(failed)) {
      Wrong(absl::StrCat("\"", path, "\": an fsync succeeds after one that failed"));
    }
  }
}

void FaultRun::RepairFiles() {
  if (session_->filesystem().read_only()) return;
  bool truncate = false;
  for (const auto& failed : std::set(session_->failed_syncs())) {
    Client& client = session_->client(failed.first);
    const std::string path = client.PathOf(failed.second);
    if (path.empty() || !S_ISREG(client.model().tree().at(failed.second).mode)) continue;
    truncate = !truncate;
    if (truncate) {
      client.Truncate(path, 0);
    } else {
      client.Write(path, 0, std::max<uint64_t>(client.Size(path), 1));
    }
    client.Fsync(path);
    if (!session_->failed_syncs().contains(failed)) continue;
    Wrong(absl::StrCat("\"", path, "\": fsync fails though the file was ",
                       truncate ? "truncated" : "written anew"));
  }
}

void FaultRun::UnmountAndCheck() {
  // Every other run ends as with a killed server.
  if (point_ != nullptr && point_->stage == FaultStage::kRunning && point_->nth % 2 == 0) return;
  const Status status = session_->Unmount();
  session_->faults().Heal();
  if (!status.ok()) return;
  FileSystem& filesystem = session_->filesystem();
  PageCache& pages = filesystem.page_cache();
  pages.CheckInvariants();
  free_blocks_ = filesystem.StatFs()->blocks_free;
  if (pages.dirty_pages.load() != 0 || pages.error_pages.load() != 0) {
    Wrong(absl::StrCat("after unmounting ", pages.dirty_pages.load(), " pages are dirty, ",
                       pages.error_pages.load(), " of them with an error"));
  }
  if (session_->DirtyMetadata() != 0) Wrong("after unmounting metadata is dirty");
}

void FaultRun::CheckFailures() {
  if (point_ == nullptr || IsLate(*point_)) {
    for (const Session::Failure& failure : session_->failures()) {
      Wrong(absl::StrCat(failure.what, ": ", failure.status.ToString()));
    }
    return;
  }
  for (const Session::Failure& failure : session_->failures()) {
    CheckFailure(failure, &failure == &session_->failures().front());
    if (failure.read_only &&
        !absl::StrContains(session_->Log(), "the filesystem is read-only now")) {
      Wrong("it has become read-only, and the log does not say why");
    }
  }
  // What a tool says is in the status, what the server's log has is in both.
  bool named = session_->failures().empty() || absl::StrContains(session_->Log(), "image: ");
  for (const Session::Failure& failure : session_->failures()) {
    named |= absl::StrContains(failure.status.message(), "image: ");
  }
  if (!named) Wrong("something failed, and nothing names the device");
}

void FaultRun::CheckFailure(const Session::Failure& failure, bool first) {
  const int error = ErrnoOf(failure.status);
  bool right = error == EIO || error == point_->error;
  right |= error == EROFS && failure.read_only;
  // What follows from an operation that was left out.
  for (const int other : {EEXIST, ENOENT, ENOTEMPTY, EISDIR, ENOTDIR, ENODATA}) {
    right |= error == other && !first;
  }
  right |= error == ENOSPC && !first && session_->FreeBlocks() < 64;
  if (!right) Wrong(absl::StrCat("wrong error: ", failure.what, ": ", failure.status.ToString()));
}

void FaultRun::Judge() {
  Image image = session_->image().Fork();
  if (free_blocks_) {
    ImageDevice device(image);
    auto mounted = FileSystem::Mount(device, {});
    if (!mounted.ok()) return Wrong(absl::StrCat("mount: ", mounted.status().ToString()));
    const uint64_t free = (*mounted)->StatFs()->blocks_free;
    // A deleted file that could not be freed is left to the next mount.
    if (free != *free_blocks_ && !absl::StrContains(session_->Log(), ": freeing: ")) {
      Wrong(absl::StrCat("before the unmount ", *free_blocks_, " blocks were free, now ", free));
    }
    if (!(*mounted)->Unmount().ok()) Wrong("a second unmount fails");
  }
  Wrong(JudgeState(image, session_->oracle(), session_->bounds(), false));
}

// ---- Recovery and fsck --------------------------------------------------------------------------

Ending RunToTheEnd(const Workload& workload) {
  Ending ending;
  ending.session = std::make_unique<Session>(Session::Options{});
  workload.run(*ending.session);
  ending.recording = ending.session->Finish();
  ending.problem = absl::StrJoin(ending.session->problems(), "; ");
  return ending;
}

// As the next mount leaves it.
void MakeClean(Image& image) {
  ImageDevice device(image);
  auto mounted = FileSystem::Mount(device, {});
  if (mounted.ok()) (*mounted)->Unmount().IgnoreError();
}

std::string MountWithFault(Image& image, const FaultPoint& point, bool* hit) {
  ImageDevice below(image);
  FaultDevice device(below);
  device.AddRule(RuleOf(point));
  std::optional<Releaser> releaser;
  if (IsLate(point)) releaser.emplace(device);
  auto mounted = FileSystem::Mount(device, {});
  *hit = device.count(point.op) >= point.nth;
  device.Heal();
  if (mounted.ok()) {
    const Status status = (*mounted)->Unmount();
    // A write that failed during the mount may show only now.
    return status.ok() || ErrnoOf(status) == EIO ? ""
                                                 : absl::StrCat("unmount: ", status.ToString());
  }
  if (IsLate(point)) return absl::StrCat("mount: ", mounted.status().ToString());
  const int error = ErrnoOf(mounted.status());
  if (error != EIO && error != point.error) {
    return absl::StrCat("wrong error: mount: ", mounted.status().ToString());
  }
  if (!absl::StrContains(mounted.status().message(), "image: ")) {
    return absl::StrCat("the message does not name the device: ", mounted.status().ToString());
  }
  return "";
}

std::string RecoverWithFault(const Workload& workload, const FaultPoint& point, bool* hit) {
  const Ending ending = RunToTheEnd(workload);
  if (!ending.problem.empty()) return ending.problem;
  const Session& session = *ending.session;
  Observed expected;
  Observed seen;
  Image sound = session.image().Fork();
  std::string problem = JudgeState(sound, session.oracle(), session.bounds(), false, &expected);
  if (!problem.empty()) return absl::StrCat("without a fault: ", problem);
  Image image = session.image().Fork();
  problem = MountWithFault(image, point, hit);
  if (!problem.empty()) return problem;
  problem = JudgeState(image, session.oracle(), session.bounds(), false, &seen);
  if (problem.empty() && !(seen == expected)) problem = "differs from a recovery without a fault";
  return problem;
}

std::string CheckWithFault(const Workload& workload, const FaultPoint& point, bool* hit) {
  const Ending ending = RunToTheEnd(workload);
  if (!ending.problem.empty()) return ending.problem;
  for (const bool dirty : {true, false}) {
    Image image = ending.session->image().Fork();
    if (!dirty) MakeClean(image);
    ImageDevice below(image);
    FaultDevice device(below);
    device.AddRule(RuleOf(point));
    std::optional<Releaser> releaser;
    if (IsLate(point)) releaser.emplace(device);
    const auto report = dirty ? CheckReplayed(device) : CheckFilesystem(device);
    const bool reached = device.count(point.op) >= point.nth;
    *hit |= reached;
    const bool clean = report.ok() && report->clean();
    if (IsLate(point) && !clean) return "a late read makes it fail";
    // One read that fails may be of something that is read again, or that has a copy.
    if (reached && clean && point.from_then_on) return "finds it clean though it cannot be read";
    if (!report.ok() && ErrnoOf(report.status()) != EIO) {
      return absl::StrCat("wrong error: ", report.status().ToString());
    }
    if (report.ok() && !clean && report->io_error_count == 0) {
      return absl::StrCat("takes what cannot be read for damage: ",
                          absl::StrJoin(report->problems, "; "));
    }
  }
  return "";
}

void AddPoints(FaultStage stage, const Counts& counts, std::vector<FaultPoint>& points) {
  for (size_t i = 0; i < kOps.size(); ++i) {
    for (uint64_t nth = 1; nth <= counts[i]; ++nth) {
      const IoOp op = kOps[i];
      points.push_back({stage, op, nth, false, Action::kFail, EIO});
      points.push_back({stage, op, nth, true, Action::kFail, EIO});
      points.push_back({stage, op, nth, false, Action::kHold, 0});
      if (op != IoOp::kFlush) points.push_back({stage, op, nth, false, Action::kFail, EIO, true});
      if (op == IoOp::kRead) continue;
      points.push_back({stage, op, nth, false, Action::kFailDone, EIO});
      points.push_back({stage, op, nth, false, Action::kHoldCompletion, 0});
      if (op == IoOp::kFlush) continue;
      points.push_back({stage, op, nth, false, Action::kFail, ENOSPC});
      points.push_back({stage, op, nth, true, Action::kFail, ENOSPC});
      points.push_back({stage, op, nth, false, Action::kFail, ENOSPC, true});
    }
  }
}

// Requests of a recovery and of the checks.
std::array<Counts, 2> CountAfterwards(const Workload& workload) {
  const Ending ending = RunToTheEnd(workload);
  std::array<Counts, 2> counts{};
  {
    Image image = ending.session->image().Fork();
    ImageDevice below(image);
    FaultDevice device(below);
    auto mounted = FileSystem::Mount(device, {});
    counts[0] = CountsOf(device);
  }
  Image image = ending.session->image().Fork();
  ImageDevice below(image);
  FaultDevice device(below);
  if (CheckReplayed(device).ok()) counts[1] = CountsOf(device);
  return counts;
}

std::string RunOne(const Workload& workload, const FaultPoint& point, uint64_t seed, bool* hit) {
  std::string problem;
  FreshFilesystem();
  Scheduler(Scheduler::OptionsOf(seed)).Run([&] {
    if (point.stage == FaultStage::kRecovering) {
      problem = RecoverWithFault(workload, point, hit);
    } else if (point.stage == FaultStage::kChecking) {
      problem = CheckWithFault(workload, point, hit);
    } else {
      FaultRun run(workload, &point);
      problem = run.Run();
      *hit = run.hit();
    }
  });
  return problem;
}

}  // namespace

std::string FaultPoint::Text() const {
  const char* const others = from_then_on ? " and all after it "
                             : bad_block  ? " and its block "
                                          : " ";
  std::string text =
      absl::StrCat(NameOf(stage), ": ", NameOf(op), " ", nth, others, NameOf(action));
  if (error != 0) absl::StrAppend(&text, " with ", error == ENOSPC ? "ENOSPC" : "EIO");
  return text;
}

std::string FaultResult::Text() const {
  return absl::StrCat(points, " faults, ", hits, " of them reached\n",
                      absl::StrJoin(violations, "\n"));
}

std::vector<FaultPoint> ListFaultPoints(const Workload& workload, uint64_t seed) {
  std::vector<FaultPoint> points;
  FreshFilesystem();
  Scheduler(Scheduler::OptionsOf(seed)).Run([&] {
    FaultRun run(workload, nullptr);
    run.Run();
    AddPoints(FaultStage::kMounting, run.counts()[0], points);
    AddPoints(FaultStage::kRunning, run.counts()[1], points);
    AddPoints(FaultStage::kUnmounting, run.counts()[2], points);
    const std::array<Counts, 2> afterwards = CountAfterwards(workload);
    AddPoints(FaultStage::kRecovering, afterwards[0], points);
    AddPoints(FaultStage::kChecking, {afterwards[1][0], 0, 0}, points);
  });
  return points;
}

FaultResult RunFaults(const Workload& workload, const FaultOptions& options) {
  FaultResult result;
  const std::vector<FaultPoint> points = ListFaultPoints(workload, options.seed);
  for (uint64_t i = options.offset; i < points.size(); i += options.stride) {
    if (options.on_point) options.on_point(points[i]);
    bool hit = false;
    const std::string problem = RunOne(workload, points[i], options.seed, &hit);
    ++result.points;
    result.hits += hit ? 1 : 0;
    if (problem.empty()) continue;
    result.violations.push_back(absl::StrCat("workload ", workload.name, ", seed ", options.seed,
                                             ", point ", i, ": ", points[i].Text(), ": ", problem));
    if (result.violations.size() == options.violations_max) break;
  }
  return result;
}

std::string RunFault(const Workload& workload, const FaultPoint& point, uint64_t seed) {
  bool hit = false;
  return RunOne(workload, point, seed, &hit);
}

}  // namespace pbfs
