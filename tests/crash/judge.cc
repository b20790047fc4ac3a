// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/judge.h"

#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/simulation/scheduler.h"
#include "fs/checker.h"
#include "fs/rules.h"
#include "io/recording_device.h"
#include "tests/support/fs_client.h"

namespace pbfs {
namespace {

constexpr uint64_t kGrowBytes = 9000;
constexpr size_t kGrowFilesMax = 4;
// Of the states of a workload, one in so many gets its files grown, too.
constexpr size_t kGrowEvery = 3;

MountOptions Quiet() {
  MountOptions options;
  options.cache_bytes = PageCache::kFramesMin * kPageBytes;
  options.commit_interval_ns = int64_t{3600} * 1'000'000'000;
  return options;
}

// A rule that is off while a workload ran and while its log is replayed is on again for what
// follows: unmounting does not work without some.
class RulesOn {
 public:
#ifdef PBFS_SIMULATION
  RulesOn() : disabled_(g_disabled_rules) { g_disabled_rules = 0; }
  ~RulesOn() { g_disabled_rules = disabled_; }

 private:
  const uint32_t disabled_;
#endif
};

// Raises sizes: what appears behind the old end must be zeros.
std::string GrowFiles(FileSystem& filesystem, const Observed& observed) {
  FsClient client(filesystem);
  size_t count = 0;
  for (const auto& [ino, node] : observed.nodes) {
    if (!S_ISREG(node.mode) || node.bytes.size() != node.size_bytes) continue;
    const auto attributes = filesystem.GetAttributes(ino);
    if (attributes.ok() && attributes->blocks_512 == 0) continue;  // Has nothing to show.
    if (++count > kGrowFilesMax) break;
    if ((node.flags & kInodeGuards) != 0) {
      const Status freed = filesystem.SetFlags(ino, 0, {});
      if (!freed.ok()) return absl::StrCat("inode ", ino, ": its flags: ", freed.ToString());
    }
    const uint64_t size = node.size_bytes + kGrowBytes;
    if (const Status grown = client.Truncate(ino, size); !grown.ok()) {
      return absl::StrCat("inode ", ino, ": growing it: ", grown.ToString());
    }
    const auto bytes = client.Read(ino, 0, size);
    if (!bytes.ok()) return absl::StrCat("inode ", ino, ": ", bytes.status().ToString());
    for (uint64_t i = 0; i < size; ++i) {
      const char expected = i < node.size_bytes ? node.bytes[i] : '\0';
      if ((*bytes)[i] == expected) continue;
      return absl::StrCat("inode ", ino, ": byte ", i, " is 0x",
                          absl::Hex(static_cast<uint8_t>((*bytes)[i])), " after growing from ",
                          node.size_bytes, " to ", size, " bytes");
    }
  }
  return "";
}

std::string Check(BlockDevice& device) {
  const auto report = CheckFilesystem(device);
  if (!report.ok()) return absl::StrCat("checker: ", report.status().ToString());
  if (report->clean()) return "";
  return absl::StrCat("checker: ", absl::StrJoin(report->problems, "; "));
}

std::string MountAndObserve(BlockDevice& device, std::unique_ptr<FileSystem>& filesystem,
                            Observed& observed) {
  simulation::Scheduler::NoteProgress();
  auto mounted = FileSystem::Mount(device, Quiet());
  if (!mounted.ok()) return absl::StrCat("mount: ", mounted.status().ToString());
  filesystem = *std::move(mounted);
  auto seen = Observe(*filesystem);
  if (!seen.ok()) return absl::StrCat("reading: ", seen.status().ToString());
  observed = *std::move(seen);
  return "";
}

}  // namespace

std::string JudgeState(Image& image, const Oracle& oracle, const std::vector<Bounds>& bounds,
                       bool grow_files, Observed* seen) {
  ImageDevice device(image);
  std::unique_ptr<FileSystem> filesystem;
  Observed observed;
  std::string problem = MountAndObserve(device, filesystem, observed);
  if (!problem.empty()) return problem;
  const RulesOn rules_on;
  problem = oracle.Explain(observed, bounds);
  if (!problem.empty()) return problem;
  if (const Status unmounted = filesystem->Unmount(); !unmounted.ok()) {
    return absl::StrCat("unmount: ", unmounted.ToString());
  }
  filesystem.reset();
  problem = Check(device);
  if (problem.empty() && grow_files) {
    Observed again;
    problem = MountAndObserve(device, filesystem, again);
    if (problem.empty() && !(again == observed)) problem = "a second mount shows something else";
    if (problem.empty()) problem = GrowFiles(*filesystem, again);
    filesystem.reset();
  }
  if (seen != nullptr) *seen = std::move(observed);
  return problem;
}

std::string Outcome::Text() const {
  return absl::StrCat(states, " states\n", absl::StrJoin(violations, "\n"));
}

std::string JudgeCut(const CrashStates& states, const Cut& cut, Image& image, const Oracle& oracle,
                     bool grow_files) {
  return JudgeState(image, oracle, oracle.BoundsOf(states.MarksBefore(cut.position)), grow_files);
}

Outcome JudgeRecording(const Recording& recording, const Oracle& oracle, CrashStates::Limits limits,
                       uint64_t seed, size_t violations_max) {
  Random random(seed);
  limits.first_position = recording.first_position;
  CrashStates states(recording.base, recording.io);
  Outcome outcome;
  for (const Cut& cut : states.Enumerate(limits, random)) {
    Image image = states.Build(cut);
    const bool grow = ++outcome.states % kGrowEvery == 0;
    const std::string problem = JudgeCut(states, cut, image, oracle, grow);
    if (problem.empty()) continue;
    outcome.violations.push_back(absl::StrCat(states.Describe(cut), ": ", problem));
    if (outcome.violations.size() == 1) outcome.first_cut = cut;
    if (outcome.violations.size() == violations_max) break;
  }
  return outcome;
}

namespace {

// Cuts recoveries, and recoveries of these.
class RecoveryJudge {
 public:
  RecoveryJudge(const Oracle& oracle, const RecoveryLimits& limits, uint64_t seed,
                size_t violations_max)
      : oracle_(oracle), limits_(limits), random_(seed), violations_max_(violations_max) {}

  bool full() const { return outcome_.violations.size() >= violations_max_; }

  void Judge(const CrashStates& states, const Cut& cut, const Image& crashed) {
    const std::string where = states.Describe(cut);
    bounds_ = oracle_.BoundsOf(states.MarksBefore(cut.position));
    Image recovered = crashed.Fork();
    std::vector<RecordedIo> recovery;
    const std::string problem = Recover(recovered, recovery, expected_);
    if (!problem.empty()) return Violation(absl::StrCat(where, ": ", problem));
    Cuts(where, crashed, recovery, {limits_.cuts, limits_.second_cuts});
  }
  Outcome Take() { return std::move(outcome_); }

 private:
  std::string Recover(Image& image, std::vector<RecordedIo>& recovery, Observed& seen) {
    ImageDevice below(image);
    RecordingDevice recorder(below);
    std::unique_ptr<FileSystem> filesystem;
    const std::string problem = MountAndObserve(recorder, filesystem, seen);
    filesystem.reset();
    recovery = recorder.TakeRecording();
    return problem;
  }

  // Cuts `recovery` of `crashed` at the first number of points, and what follows at the next.
  void Cuts(const std::string& where, const Image& crashed, const std::vector<RecordedIo>& recovery,
            std::vector<size_t> counts) {
    const size_t count = counts.front();
    counts.erase(counts.begin());
    CrashStates states(crashed, recovery);
    for (const Cut& cut : states.Enumerate({.cuts_max = count}, random_)) {
      const std::string here = absl::StrCat(where, "; recovery ", states.Describe(cut));
      const Image image = states.Build(cut);
      JudgeOne(here, image.Fork());
      if (!counts.empty() && counts.front() > 0 && !full()) {
        Image again = image.Fork();
        std::vector<RecordedIo> second;
        Observed seen;
        const std::string problem = Recover(again, second, seen);
        if (!problem.empty()) return Violation(absl::StrCat(here, ": ", problem));
        Cuts(here, image, second, counts);
      }
      if (full()) return;
    }
  }

  void JudgeOne(const std::string& where, Image image) {
    ++outcome_.states;
    Observed seen;
    std::string problem = JudgeState(image, oracle_, bounds_, false, &seen);
    if (problem.empty() && !(seen == expected_)) problem = "differs from an uncut recovery";
    if (!problem.empty()) Violation(absl::StrCat(where, ": ", problem));
  }

  void Violation(std::string text) { outcome_.violations.push_back(std::move(text)); }

  const Oracle& oracle_;
  const RecoveryLimits limits_;
  Random random_;
  const size_t violations_max_;
  std::vector<Bounds> bounds_;
  Observed expected_;
  Outcome outcome_;
};

}  // namespace

Outcome JudgeRecoveries(const Recording& recording, const Oracle& oracle,
                        const RecoveryLimits& limits, uint64_t seed, size_t violations_max) {
  Random random(seed);
  CrashStates states(recording.base, recording.io);
  RecoveryJudge judge(oracle, limits, random.Next(), violations_max);
  for (const Cut& cut : states.Enumerate(
           {.cuts_max = limits.states, .first_position = recording.first_position}, random)) {
    const Image crashed = states.Build(cut);
    judge.Judge(states, cut, crashed);
    if (judge.full()) break;
  }
  return judge.Take();
}

}  // namespace pbfs
