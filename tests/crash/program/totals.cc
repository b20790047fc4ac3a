// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/program/totals.h"

#include <fcntl.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace pbfs {

using nlohmann::json;

void Totals::Add(const Totals& other) {
  workloads += other.workloads;
  states += other.states;
  recoveries += other.recoveries;
  writes += other.writes;
  switches += other.switches;
  fault_points += other.fault_points;
  violations += other.violations;
  digest ^= other.digest;
}

std::vector<JournalEntry> ReadJournal(const std::string& path) {
  std::vector<JournalEntry> entries;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    try {
      entries.push_back(json::parse(line).get<JournalEntry>());
    } catch (const json::exception&) {
      continue;
    }
  }
  return entries;
}

bool AppendToJournal(const std::string& path, const JournalEntry& entry) {
  const std::string line = json(entry).dump() + "\n";
  const int fd = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  const bool written = write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  return close(fd) == 0 && written;
}

std::string TableOf(const std::map<std::string, Totals>& totals) {
  static constexpr char kHead[] = "%-15s %9s %13s %14s %10s %12s %13s %10s\n";
  static constexpr char kLine[] = "%-15s %9u %13u %14u %10u %12u %13u %10u\n";
  std::string table = absl::StrFormat(kHead, "", "workloads", "crash states", "of recoveries",
                                      "writes", "switches", "fault points", "violations");
  for (const auto& [name, total] : totals) {
    absl::StrAppendFormat(&table, kLine, name, total.workloads, total.states, total.recoveries,
                          total.writes, total.switches, total.fault_points, total.violations);
  }
  return table;
}

}  // namespace pbfs
