// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/crash/families.h"
#include "tests/crash/program/options.h"
#include "tests/crash/program/totals.h"

namespace pbfs {

// Runs workloads of families in child processes, reports as they end. Ctrl-C ends it early; what is
// finished counts. Single thread.
class Campaign {
 public:
  // Borrowed; they may change between calls.
  explicit Campaign(const CrashsimOptions& options);

  // Workloads [first, last] of the family. False: out of time, or interrupted.
  bool Run(const Family& family, uint64_t first, uint64_t last);
  const std::map<std::string, Totals>& totals() const { return totals_; }

 private:
  // Workloads that are entered into the journal together.
  static constexpr uint64_t kChunk = 200;
  bool RunChunk(const Family& family, uint64_t first, uint64_t last);
  std::string RunJob(const Family& family, uint64_t number, uint64_t piece) const;
  bool InJournal(const Family& family, uint64_t first, uint64_t last) const;
  // Where its totals are added up.
  std::string RowOf(const Family& family) const;
  uint64_t NumberOf(const Family& family, uint64_t index) const;
  TrialOptions TrialOf(const Family& family, uint64_t number) const;
  void Ended(const Family& family, uint64_t number, const std::string& result,
             const std::string& death, Totals& totals);
  void ReportViolation(const Family& family, uint64_t number, const std::string& text);
  void Keep(const Family& family, uint64_t number);
  bool MustStop() const;

  const CrashsimOptions& options_;
  const int64_t end_ns_;
  std::vector<JournalEntry> journal_;
  std::map<std::string, Totals> totals_;
  uint64_t kept_ = 0;
};

// Switches each rule off in turn and looks for a violation. Returns how many were not missed.
int RunWithoutRules(const CrashsimOptions& options);

// "0.1": the version of the format on disk.
std::string FormatVersion();

}  // namespace pbfs
