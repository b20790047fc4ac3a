// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/program/campaign.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "fs/format.h"
#include "tests/crash/children.h"
#include "tests/crash/faults.h"
#include "tests/crash/minimise.h"
#include "tests/crash/rule_names.h"
#include "tools/common/terminal.h"

namespace pbfs {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kTrialMax(600);
constexpr std::chrono::seconds kMinimiseMax(120);
constexpr uint64_t kMinimisedMax = 5;
// A workload has thousands of fault points: jobs take a part of them each.
constexpr uint64_t kPieces = 8;
// Far from any number of a family: a step that has no common divisor with its count is looked for.
constexpr uint64_t kShuffleStep = 0x9e3779b97f4a7c15;

volatile sig_atomic_t g_interrupted = 0;

uint64_t GreatestCommonDivisor(uint64_t a, uint64_t b) {
  while (b != 0) {
    const uint64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

std::string ToText(const Totals& totals, const std::vector<std::string>& violations) {
  json text = totals;
  text["text"] = violations;
  return text.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string RunAsJob(const Workload& workload, const TrialOptions& options) {
  const TrialResult result = RunTrial(workload, options);
  Totals totals;
  totals.workloads = 1;
  totals.states = result.states;
  totals.recoveries = result.recoveries;
  totals.writes = result.writes;
  totals.switches = result.switches;
  totals.violations = result.violations.size();
  totals.digest = result.digest;
  return ToText(totals, result.violations);
}

// Of the fault points of a workload, one of kPieces parts.
std::string RunFaultsAsJob(const Workload& workload, uint64_t seed, uint64_t stride,
                           uint64_t piece) {
  const FaultResult result =
      RunFaults(workload, {.seed = seed, .stride = stride * kPieces, .offset = piece * stride});
  Totals totals;
  totals.workloads = piece == 0 ? 1 : 0;
  totals.fault_points = result.points;
  totals.violations = result.violations.size();
  return ToText(totals, result.violations);
}

}  // namespace

std::string FormatVersion() { return absl::StrCat(kVersionMajor, ".", kVersionMinor); }

Campaign::Campaign(const CrashsimOptions& options)
    : options_(options),
      end_ns_(options.time_max.count() == 0
                  ? INT64_MAX
                  : NowNs() + std::chrono::nanoseconds(options.time_max).count()) {
  if (!options.journal.empty()) journal_ = ReadJournal(options.journal);
  struct sigaction action {};
  action.sa_handler = [](int) { g_interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool Campaign::MustStop() const { return g_interrupted != 0 || NowNs() > end_ns_; }

std::string Campaign::RowOf(const Family& family) const {
  return absl::StrCat(family.name, options_.fault_stride == 0 ? "" : ", faults");
}

bool Campaign::InJournal(const Family& family, uint64_t first, uint64_t last) const {
  return std::any_of(journal_.begin(), journal_.end(), [&](const JournalEntry& entry) {
    return entry.family == family.name && entry.shuffle == options_.shuffle &&
           entry.seed == options_.seed && entry.fault_stride == options_.fault_stride &&
           entry.states_max == options_.trial.limits.cuts_max && entry.first <= first &&
           last <= entry.last;
  });
}

bool Campaign::Run(const Family& family, uint64_t first, uint64_t last) {
  totals_[RowOf(family)];
  last = std::min(last, family.count - 1);
  for (uint64_t at = first; at <= last;) {
    // On the same borders whatever the range, so that what was done is found again.
    const uint64_t end = std::min(last, at / kChunk * kChunk + kChunk - 1);
    if (!InJournal(family, at, end) && !RunChunk(family, at, end)) return false;
    at = end + 1;
  }
  return true;
}

uint64_t Campaign::NumberOf(const Family& family, uint64_t index) const {
  if (!options_.shuffle) return index;
  uint64_t step = kShuffleStep % family.count;
  while (GreatestCommonDivisor(step, family.count) != 1) ++step;
  return static_cast<uint64_t>(static_cast<unsigned __int128>(index) * step % family.count);
}

TrialOptions Campaign::TrialOf(const Family& family, uint64_t number) const {
  TrialOptions trial = options_.trial;
  trial.seed = SeedOf(family, number, options_.seed);
  return trial;
}

std::string Campaign::RunJob(const Family& family, uint64_t number, uint64_t piece) const {
  const TrialOptions trial = TrialOf(family, number);
  if (options_.fault_stride == 0) return RunAsJob(family.make(number), trial);
  return RunFaultsAsJob(family.make(number), trial.seed, options_.fault_stride, piece);
}

bool Campaign::RunChunk(const Family& family, uint64_t first, uint64_t last) {
  ProgressBar bar(options_.quiet ? -1 : STDERR_FILENO, family.name);
  Children children(options_.jobs, kTrialMax);
  Totals totals;
  std::cout.flush();
  const uint64_t pieces = options_.fault_stride == 0 ? 1 : kPieces;
  const uint64_t end = (last + 1) * pieces;
  for (uint64_t next = first * pieces; next < end || children.running() > 0;) {
    if (MustStop()) return false;
    if (next < end && !children.full()) {
      const uint64_t number = NumberOf(family, next / pieces);
      const uint64_t piece = next++ % pieces;
      children.Start(number, [&] { return RunJob(family, number, piece); });
      continue;
    }
    const auto ended = children.Wait(std::chrono::milliseconds(200));
    if (ended) Ended(family, ended->id, ended->result, ended->death, totals);
    bar.Update(next - children.running() - first * pieces, end - first * pieces);
  }
  totals_[RowOf(family)].Add(totals);
  if (options_.journal.empty()) return true;
  const JournalEntry entry{family.name,
                           options_.shuffle,
                           options_.seed,
                           first,
                           last,
                           options_.trial.limits.cuts_max,
                           options_.fault_stride,
                           FormatVersion(),
                           options_.note,
                           totals};
  if (!AppendToJournal(options_.journal, entry)) {
    std::cerr << options_.journal << ": " << std::strerror(errno) << "\n";
    return false;
  }
  return true;
}

void Campaign::Ended(const Family& family, uint64_t number, const std::string& result,
                     const std::string& death, Totals& totals) {
  if (!death.empty()) {
    Totals lost;
    lost.workloads = lost.violations = 1;
    totals.Add(lost);
    ReportViolation(family, number, death);
    return;
  }
  const json text = json::parse(result);
  totals.Add(text.get<Totals>());
  for (const json& violation : text["text"]) ReportViolation(family, number, violation);
}

void Campaign::ReportViolation(const Family& family, uint64_t number, const std::string& text) {
  const Workload workload = family.make(number);
  std::cout << "VIOLATION in " << family.name << " " << number << ", seed " << options_.seed << " ("
            << workload.name << "):\n  " << text << "\n";
  if (!options_.keep.empty() && options_.fault_stride == 0 && kept_++ < kMinimisedMax)
    Keep(family, number);
  std::cout.flush();
}

void Campaign::Keep(const Family& family, uint64_t number) {
  const std::string path = absl::StrCat(options_.keep, "/", family.name, "-", number);
  std::cout.flush();
  const Minimised least =
      Minimise(family.make(number), TrialOf(family, number), path + ".img", kMinimiseMax);
  const std::string text =
      absl::StrCat(least.steps, "\n", least.violation, "\n", least.cut, "\n", least.writes);
  std::ofstream(path + ".txt") << text;
  std::cout << "  reduced to: " << least.steps << "\n  " << least.violation << "\n  kept as "
            << path << ".txt" << (least.cut.empty() ? "" : " and .img") << "\n";
}

// ---- Rules --------------------------------------------------------------------------------------

namespace {

constexpr uint64_t kRuleRunsMax = 30;

// The number of crash states until the rule was missed; nullopt: it was not.
std::optional<std::string> MissRule(const NamedRule& rule, TrialOptions trial, uint64_t* states) {
  trial.disabled_rules = static_cast<uint32_t>(rule.rule);
  trial.recovery_states = 4;
  for (uint64_t run = 0; run < kRuleRunsMax; ++run) {
    for (const char* name : rule.workloads) {
      trial.seed = Random(run).Next();
      const auto ended =
          RunInChild([&] { return RunAsJob(WorkloadNamed(name), trial); }, kTrialMax);
      if (!ended.death.empty()) return ended.death;
      const json text = json::parse(ended.result);
      *states += text["states"].get<uint64_t>();
      if (!text["text"].empty()) return text["text"].front();
    }
  }
  return std::nullopt;
}

}  // namespace

int RunWithoutRules(const CrashsimOptions& options) {
  int not_missed = 0;
  std::cout << "rule off               crash states until a violation\n";
  for (const NamedRule& rule : NamedRules()) {
    uint64_t states = 0;
    std::cout.flush();
    const auto missed = MissRule(rule, options.trial, &states);
    const std::string what = missed ? missed->substr(0, missed->find('\n')) : "NOT NOTICED";
    std::cout << absl::StrFormat("%-22s %8u  %s\n", rule.name, states, what.substr(0, 200));
    not_missed += missed ? 0 : 1;
  }
  return not_missed;
}

}  // namespace pbfs
