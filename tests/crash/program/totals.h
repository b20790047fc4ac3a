// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace pbfs {

// What runs added up to.
struct Totals {
  uint64_t workloads = 0;
  uint64_t states = 0;
  uint64_t recoveries = 0;  // Of the states: of recoveries that were cut.
  uint64_t writes = 0;
  uint64_t switches = 0;
  uint64_t fault_points = 0;
  uint64_t violations = 0;
  uint64_t digest = 0;  // Of all workloads, whatever their order.

  void Add(const Totals& other);
  // Runs on a schedule of their own: each workload, and each fault point.
  uint64_t schedules() const { return workloads + fault_points; }
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Totals, workloads, states, recoveries, writes, switches,
                                   fault_points, violations, digest)

// One line of a journal: a range of workloads of a family.
struct JournalEntry {
  std::string family;
  bool shuffle = false;
  uint64_t seed = 0;
  uint64_t first = 0;
  uint64_t last = 0;
  size_t states_max = 0;
  uint64_t fault_stride = 0;
  std::string format;
  std::string note;
  Totals totals;
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(JournalEntry, family, shuffle, seed, first, last, states_max,
                                   fault_stride, format, note, totals)

// The entries of a journal; none if there is no such file. A line that is cut off, or no entry, is
// left out.
std::vector<JournalEntry> ReadJournal(const std::string& path);
// False: it could not be written, errno says why.
bool AppendToJournal(const std::string& path, const JournalEntry& entry);

// A table with a line for each name.
std::string TableOf(const std::map<std::string, Totals>& totals);

}  // namespace pbfs
