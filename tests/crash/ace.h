// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "tests/crash/step.h"
#include "tests/crash/workloads.h"

namespace pbfs {

// Bounded exhaustive workloads, after the published description of ACE (Mohan, Martinez,
// Ponnapalli, Raju, Chidambaram: "Finding Crash-Consistency Bugs with Bounded Black-Box Crash
// Testing", OSDI 2018): every sequence of so many operations on a small set of names, each followed
// by each call that makes something durable. What an operation needs is there before, durable, or
// made just before the operation where an earlier one of the sequence stands in the way.
//
// Workloads are numbered, and each is made from its number. The first operation is one of each
// class that renaming the names leaves alike; those that follow are all there are.
uint64_t SeqCount(int length);
// REQUIRES: number < SeqCount(length).
Workload SeqWorkload(int length, uint64_t number);

}  // namespace pbfs
