// SPDX-License-Identifier: Apache-2.0
// pbfs-crashsim: see docs/man/pbfs-crashsim.8. Exit codes: 0 no violation, 1 some, 2 usage or
// system error.
#include <malloc.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "absl/strings/str_format.h"
#include "tests/crash/program/campaign.h"
#include "tests/crash/session.h"
#include "tests/crash/step.h"

namespace pbfs {
namespace {

constexpr uint64_t kRandomByDefault = 1000;

// Addresses decide the order of hash tables: with chosen ones a seed gives the same run each time.
void FixAddresses(char** argv) {
  const int now = personality(0xffffffff);
  if (now < 0 || (now & ADDR_NO_RANDOMIZE) != 0) return;
  if (personality(static_cast<unsigned long>(now) | ADDR_NO_RANDOMIZE) < 0) return;
  execv("/proc/self/exe", argv);
}

// Each state mounts a filesystem: what it frees is used again at once.
void KeepMemory() {
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  mallopt(M_MMAP_THRESHOLD, 64 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
}

void List() {
  for (const Family& family : Families()) {
    const std::string count =
        family.count == UINT64_MAX ? "endless" : absl::StrFormat("%u", family.count);
    std::cout << absl::StrFormat("%-8s %10s  %s\n", family.name, count, family.what);
  }
}

void Show(const CrashsimOptions& options) {
  const Family& family = *FamilyNamed(options.families.front());
  for (uint64_t number = *options.first; number <= std::min(*options.last, family.count - 1);
       ++number) {
    std::cout << family.name << " " << number << ": " << family.make(number).name << "\n";
    for (const Step& step : family.make(number).steps) std::cout << "  " << ToText(step) << "\n";
  }
}

int Print(const CrashsimOptions& options, const std::map<std::string, Totals>& totals) {
  Totals all;
  for (const auto& [name, total] : totals) all.Add(total);
  if (options.json) {
    std::cout << nlohmann::json{{"families", totals},
                                {"all", all},
                                {"format", FormatVersion()},
                                {"seed", options.seed}}
                     .dump(2)
              << "\n";
  } else {
    std::cout << TableOf(totals)
              << absl::StrFormat(
                     "seed %u, format %s: %u workloads, %u crash states, %u fault points, "
                     "%u schedules, %u violations (digest %016x)\n",
                     options.seed, FormatVersion(), all.workloads, all.states, all.fault_points,
                     all.schedules(), all.violations, all.digest);
  }
  return all.violations == 0 ? 0 : 1;
}

int Sum(const CrashsimOptions& options) {
  std::map<std::string, Totals> totals;
  for (const JournalEntry& entry : ReadJournal(options.journal)) {
    totals[entry.family + (entry.fault_stride == 0 ? "" : ", faults")].Add(entry.totals);
  }
  return Print(options, totals);
}

bool RunFamily(Campaign& campaign, const CrashsimOptions& options, const Family& family) {
  const uint64_t all = family.count == UINT64_MAX ? kRandomByDefault : family.count;
  return campaign.Run(family, options.first.value_or(0), options.last.value_or(all - 1));
}

// A sample of everything, in a minute or two on two processors.
int RunSmoke(CrashsimOptions& options) {
  struct Part {
    const char* family;
    uint64_t first, last;
    size_t states;
    uint64_t fault_stride;
  };
  static constexpr Part kParts[] = {
      {"named", 0, UINT64_MAX, 25, 0}, {"seq-1", 0, UINT64_MAX, 10, 0}, {"seq-2", 0, 299, 20, 0},
      {"random", 0, 99, 60, 0},        {"random", 0, 15, 0, 61},        {"seq-1", 0, 39, 0, 11},
  };
  const TrialOptions trial = options.trial;
  Campaign campaign(options);
  bool whole = true;
  for (const Part& part : kParts) {
    const Family& family = *FamilyNamed(part.family);
    // All of a family in its order; of others a sample.
    options.shuffle = part.last != UINT64_MAX && family.count != UINT64_MAX;
    options.trial.limits.cuts_max = part.states;
    options.fault_stride = part.fault_stride;
    whole = whole && campaign.Run(family, part.first, part.last);
  }
  if (!whole) std::cout << "stopped early\n";
  const int violations = Print(options, campaign.totals());
  options.trial = trial;
  return violations + (whole ? 0 : 1) + RunWithoutRules(options) == 0 ? 0 : 1;
}

int Run(CrashsimOptions& options) {
  Campaign campaign(options);
  bool whole = true;
  for (const Family& family : Families()) {
    const auto& wanted = options.families;
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), family.name) == wanted.end()) {
      continue;
    }
    whole = whole && RunFamily(campaign, options, family);
  }
  if (!whole) std::cout << "stopped early: what is finished counts\n";
  return Print(options, campaign.totals());
}

int Main(int argc, char** argv) {
  auto parsed = ParseCrashsimOptions(argc, argv);
  if (!parsed.ok()) {
    std::cerr << "pbfs-crashsim: " << parsed.status().message() << "\n";
    return 2;
  }
  if (!*parsed) return 0;
  CrashsimOptions& options = **parsed;
  FreshFilesystem();
  switch (options.what) {
    case CrashsimOptions::What::kList:
      List();
      return 0;
    case CrashsimOptions::What::kShow:
      Show(options);
      return 0;
    case CrashsimOptions::What::kSum:
      return Sum(options);
    case CrashsimOptions::What::kRules:
      return RunWithoutRules(options) == 0 ? 0 : 1;
    case CrashsimOptions::What::kRun:
      return options.smoke ? RunSmoke(options) : Run(options);
  }
  return 2;
}

}  // namespace
}  // namespace pbfs

int main(int argc, char** argv) {
  pbfs::FixAddresses(argv);
  pbfs::KeepMemory();
  return pbfs::Main(argc, argv);
}
