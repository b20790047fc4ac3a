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
  violations += other.violations;
  digest ^= other.digest;
}

void to_json(json& json, const Totals& totals) {
  json = {{"workloads", totals.workloads},   {"states", totals.states},
          {"recoveries", totals.recoveries}, {"writes", totals.writes},
          {"switches", totals.switches},     {"violations", totals.violations},
          {"digest", totals.digest}};
}

void from_json(const json& json, Totals& totals) {
  totals = {json.at("workloads"), json.at("states"),     json.at("recoveries"), json.at("writes"),
            json.at("switches"),  json.at("violations"), json.at("digest")};
}

std::vector<JournalEntry> ReadJournal(const std::string& path) {
  std::vector<JournalEntry> entries;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const json parsed = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (parsed.is_discarded()) continue;
    entries.push_back({parsed.value("family", ""), parsed.value("shuffle", false),
                       parsed.value("seed", uint64_t{0}), parsed.value("first", uint64_t{0}),
                       parsed.value("last", uint64_t{0}), parsed.value("states_max", size_t{0}),
                       parsed.value("format", ""), parsed.value("note", ""), parsed.at("totals")});
  }
  return entries;
}

bool AppendToJournal(const std::string& path, const JournalEntry& entry) {
  const std::string line = json{{"family", entry.family}, {"shuffle", entry.shuffle},
                                {"seed", entry.seed},     {"first", entry.first},
                                {"last", entry.last},     {"note", entry.note},
                                {"format", entry.format}, {"states_max", entry.states_max},
                                {"totals", entry.totals}}
                               .dump() +
                           "\n";
  const int fd = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  const bool written = write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  return close(fd) == 0 && written;
}

std::string TableOf(const std::map<std::string, Totals>& totals) {
  std::string table =
      absl::StrFormat("%-10s %10s %13s %14s %10s %12s %10s\n", "", "workloads", "crash states",
                      "of recoveries", "writes", "switches", "violations");
  for (const auto& [name, total] : totals) {
    absl::StrAppendFormat(&table, "%-10s %10u %13u %14u %10u %12u %10u\n", name, total.workloads,
                          total.states, total.recoveries, total.writes, total.switches,
                          total.violations);
  }
  return table;
}

}  // namespace pbfs
