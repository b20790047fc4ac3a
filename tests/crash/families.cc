// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/families.h"

#include "base/random.h"
#include "tests/crash/ace.h"
#include "tests/crash/random_steps.h"

namespace pbfs {
namespace {

const std::vector<Workload>& NamedWorkloads() {
  static const auto& all = *new std::vector<Workload>([] {
    std::vector<Workload> workloads = SmallWorkloads();
    for (const auto* more : {&LongWorkloads(), &SpecialWorkloads()}) {
      workloads.insert(workloads.end(), more->begin(), more->end());
    }
    return workloads;
  }());
  return all;
}

}  // namespace

const std::vector<Family>& Families() {
  static const auto& families = *new std::vector<Family>{
      {"named", "written by hand, each opens the window of some rule", NamedWorkloads().size(),
       [](uint64_t number) { return NamedWorkloads()[number]; }},
      {"seq-1", "every operation with every persistence call", SeqCount(1),
       [](uint64_t number) { return SeqWorkload(1, number); }},
      {"seq-2", "every two operations, each with every persistence call", SeqCount(2),
       [](uint64_t number) { return SeqWorkload(2, number); }},
      {"random", "5 to 200 operations of 1 to 4 clients, by number", UINT64_MAX, RandomWorkload},
  };
  return families;
}

const Family* FamilyNamed(const std::string& name) {
  for (const Family& family : Families()) {
    if (family.name == name) return &family;
  }
  return nullptr;
}

uint64_t SeedOf(const Family& family, uint64_t number, uint64_t run_seed) {
  uint64_t seed = Random(run_seed).Next();
  for (const char c : family.name) seed = Random(seed ^ static_cast<uint8_t>(c)).Next();
  return Random(seed ^ number).Next();
}

}  // namespace pbfs
