// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/judge.h"

#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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
  auto mounted = FileSystem::Mount(device, Quiet());
  if (!mounted.ok()) return absl::StrCat("mount: ", mounted.status().ToString());
  filesystem = *std::move(mounted);
  auto seen = Observe(*filesystem);
  if (!seen.ok()) return absl::StrCat("reading: ", seen.status().ToString());
  observed = *std::move(seen);
  return "";
}

}  // namespace

std::string JudgeState(Image& image, const Model& model, const Bounds& bounds, bool grow_files,
                       Observed* seen) {
  ImageDevice device(image);
  std::unique_ptr<FileSystem> filesystem;
  Observed observed;
  std::string problem = MountAndObserve(device, filesystem, observed);
  if (!problem.empty()) return problem;
  const RulesOn rules_on;
  problem = model.Explain(observed, bounds.ops_begun, bounds.acks);
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

namespace {

Bounds BoundsOf(const CrashStates& states, const Cut& cut) {
  Bounds bounds{0, 0};
  for (const uint64_t mark : states.MarksBefore(cut.position)) {
    if (mark % 2 == 0) {
      bounds.ops_begun = static_cast<uint32_t>(mark / 2);
    } else {
      bounds.acks = mark / 2;
    }
  }
  return bounds;
}

}  // namespace

Outcome JudgeRecording(const Recording& recording, const Model& model, CrashStates::Limits limits,
                       uint64_t seed, size_t violations_max) {
  Random random(seed);
  limits.first_position = recording.first_position;
  CrashStates states(recording.base, recording.io);
  Outcome outcome;
  for (const Cut& cut : states.Enumerate(limits, random)) {
    Image image = states.Build(cut);
    const bool grow = ++outcome.states % kGrowEvery == 0;
    const std::string problem = JudgeState(image, model, BoundsOf(states, cut), grow);
    if (problem.empty()) continue;
    outcome.violations.push_back(absl::StrCat(states.Describe(cut), ": ", problem));
    if (outcome.violations.size() == violations_max) break;
  }
  return outcome;
}

Outcome JudgeRecoveries(const Recording& recording, const Model& model, size_t states_max,
                        size_t cuts_each, uint64_t seed, size_t violations_max) {
  Random random(seed);
  CrashStates states(recording.base, recording.io);
  Outcome outcome;
  for (const Cut& cut : states.Enumerate(
           {.cuts_max = states_max, .first_position = recording.first_position}, random)) {
    const Image crashed = states.Build(cut);
    Image recovered = crashed.Fork();
    Observed expected;
    std::vector<RecordedIo> recovery;
    std::string problem;
    {
      ImageDevice below(recovered);
      RecordingDevice recorder(below);
      std::unique_ptr<FileSystem> filesystem;
      problem = MountAndObserve(recorder, filesystem, expected);
      filesystem.reset();
      recovery = recorder.TakeRecording();
    }
    if (!problem.empty()) {
      outcome.violations.push_back(absl::StrCat(states.Describe(cut), ": ", problem));
      return outcome;
    }
    CrashStates cut_recoveries(crashed, recovery);
    for (const Cut& second : cut_recoveries.Enumerate({.cuts_max = cuts_each}, random)) {
      Image image = cut_recoveries.Build(second);
      ++outcome.states;
      Observed seen;
      problem = JudgeState(image, model, BoundsOf(states, cut), false, &seen);
      if (problem.empty() && !(seen == expected)) problem = "differs from an uncut recovery";
      if (problem.empty()) continue;
      outcome.violations.push_back(absl::StrCat(states.Describe(cut), "; recovery ",
                                                cut_recoveries.Describe(second), ": ", problem));
      if (outcome.violations.size() == violations_max) return outcome;
    }
  }
  return outcome;
}

}  // namespace pbfs
