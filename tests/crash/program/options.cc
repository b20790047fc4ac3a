// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/program/options.h"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/crash/families.h"
#include "tests/crash/rule_names.h"

namespace pbfs {
namespace {

Status ParseCases(const std::string& text, CrashsimOptions& options) {
  const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits('-', 1));
  uint64_t first = 0;
  uint64_t last = 0;
  if (!absl::SimpleAtoi(parts.front(), &first) || !absl::SimpleAtoi(parts.back(), &last) ||
      last < first) {
    return ErrnoError(EINVAL, absl::StrCat("--cases wants N or FIRST-LAST, not '", text, "'"));
  }
  options.first = first;
  options.last = last;
  return OkStatus();
}

Status Check(CrashsimOptions& options, const std::string& cases, const std::string& rule) {
  if (!cases.empty()) PBFS_RETURN_IF_ERROR(ParseCases(cases, options));
  for (const std::string& name : options.families) {
    if (FamilyNamed(name) == nullptr) {
      return ErrnoError(EINVAL, absl::StrCat("there is no family '", name, "': see --list"));
    }
  }
  if (!rule.empty()) {
    const std::optional<Rule> found = RuleNamed(rule);
    if (!found) return ErrnoError(EINVAL, absl::StrCat("there is no rule '", rule, "'"));
    options.trial.disabled_rules = static_cast<uint32_t>(*found);
  }
  if (!options.keep.empty() && !std::filesystem::is_directory(options.keep)) {
    return ErrnoError(ENOTDIR, absl::StrCat(options.keep, ": no directory to keep states in"));
  }
  if (options.what == CrashsimOptions::What::kSum && options.journal.empty()) {
    return ErrnoError(EINVAL, "--sum wants --journal FILE");
  }
  if (options.what == CrashsimOptions::What::kShow &&
      (options.families.size() != 1 || !options.first)) {
    return ErrnoError(EINVAL, "--show wants one family and --cases");
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::optional<CrashsimOptions>> ParseCrashsimOptions(int argc, char** argv) {
  CLI::App app(
      "Runs workloads on pbfs, cuts the power at every point in many ways, recovers, checks and "
      "compares with what had been made durable.",
      "pbfs-crashsim");
  CrashsimOptions options;
  std::string cases, rule;
  bool list = false, show = false, rules = false, sum = false;
  uint64_t seconds = 0;
  options.jobs = std::max(1u, std::thread::hardware_concurrency());
  app.set_version_flag("-V,--version", "pbfs-crashsim " PBFS_VERSION);
  app.add_option("FAMILY", options.families, "Families of workloads (default: all)");
  app.add_option("-c,--cases", cases, "Numbers of workloads in the family: N or FIRST-LAST");
  app.add_flag("--shuffle", options.shuffle,
               "Number them in a fixed random order: a range samples");
  app.add_option("-s,--seed", options.seed, "Decides schedules and choices (default 1)");
  app.add_option("--states", options.trial.limits.cuts_max, "Most crash states of a workload");
  app.add_option("--recoveries", options.trial.recovery_states,
                 "Crash states of a workload whose recovery is cut, too");
  app.add_option("-j,--jobs", options.jobs, "Workloads at a time (default: processors)")
      ->check(CLI::Range(1, 1024));
  app.add_option("-t,--time", seconds, "Stop after so many seconds");
  app.add_option("-k,--keep", options.keep, "Directory for failing states: image and description");
  app.add_option("--faults", options.fault_stride,
                 "Faults instead of power cuts: every N-th request fails, is late (1: every one)");
  app.add_option("--journal", options.journal,
                 "Append what was done to this file, and leave out what it has");
  app.add_option("--note", options.note, "Goes into the journal");
  app.add_option("--rule-off", rule, "Switch an ordering rule off (a violation is expected)");
  app.add_flag("--rules", rules, "Switch off each rule in turn: that must be noticed");
  app.add_flag("--smoke", options.smoke, "A sample of everything, for every test run");
  app.add_flag("--list", list, "Print the families");
  app.add_flag("--show", show, "Print the workloads, run nothing");
  app.add_flag("--sum", sum, "Print the totals of the journal");
  app.add_flag("--json", options.json, "Results as JSON");
  app.add_flag("-q,--quiet", options.quiet, "No progress bar");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    app.exit(success);
    return std::optional<CrashsimOptions>();
  } catch (const CLI::ParseError& error) {
    return ErrnoError(EINVAL, std::string(error.what()) + "\nTry: pbfs-crashsim --help");
  }
  using What = CrashsimOptions::What;
  options.what = list    ? What::kList
                 : show  ? What::kShow
                 : rules ? What::kRules
                 : sum   ? What::kSum
                         : What::kRun;
  options.time_max = std::chrono::seconds(seconds);
  PBFS_RETURN_IF_ERROR(Check(options, cases, rule));
  return std::make_optional(std::move(options));
}

}  // namespace pbfs
