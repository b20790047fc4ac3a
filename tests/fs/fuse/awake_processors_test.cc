// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/awake_processors.h"

#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <optional>
#include <thread>

namespace pbfs::fuse {
namespace {

// Processor time of this process, in seconds.
double Used() {
  timespec used = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
}

TEST(AwakeProcessorsTest, SleepsWhenRequestsEndOrAreRare) {
  AwakeProcessors processors(2);
  for (int i = 0; i < 1000; ++i) processors.NoteRequest();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = Used();
  for (int i = 0; i < 100; ++i) {
    processors.NoteRequest();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_LT(Used() - before, 0.1);  // Of the 0.2 s or more that passed, on each processor.
}

TEST(AwakeProcessorsTest, EndsInTheMiddle) {
  for (int round = 0; round < 20; ++round) {
    std::optional<AwakeProcessors> processors(std::in_place, 2);
    for (int i = 0; i < 100; ++i) processors->NoteRequest();
  }
}

TEST(AwakeProcessorsTest, NotOnLargeMachines) {
  AwakeProcessors processors(AwakeProcessors::kProcessorsMax + 1);
  for (int i = 0; i < 100; ++i) processors.NoteRequest();
}

}  // namespace
}  // namespace pbfs::fuse
