// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/awake_processors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <thread>

namespace pbfs::fuse {
namespace {

// A file in the place of the kernel's device: other programs ask that for something, too.
class AwakeProcessorsTest : public testing::Test {
 protected:
  AwakeProcessorsTest() { EXPECT_GE(file_, 0); }
  ~AwakeProcessorsTest() override {
    close(file_);
    unlink(path_);
  }
  void SetUp() override {
    if (sysconf(_SC_NPROCESSORS_ONLN) > AwakeProcessors::kProcessorsMax) {
      GTEST_SKIP() << "more than " << AwakeProcessors::kProcessorsMax << " processors";
    }
  }

  // What was asked for last: microseconds. -1: nothing was.
  int32_t Asked() const {
    int32_t latency = -1;
    return pread(file_, &latency, sizeof(latency), 0) == sizeof(latency) ? latency : -1;
  }
  // A busy machine may take the processor away for so long that requests are not close.
  bool BecomesAwake(AwakeProcessors& processors) {
    for (int attempt = 0; attempt < 100; ++attempt) {
      for (int i = 0; i < 100; ++i) processors.NoteRequest();
      if (Asked() == 0) return true;
    }
    return false;
  }

  char path_[32] = "/tmp/awake-test-XXXXXX";
  const int file_ = mkstemp(path_);
};

TEST_F(AwakeProcessorsTest, AwakeWhileRequestsAreCloseOnly) {
  AwakeProcessors processors(path_);
  EXPECT_EQ(Asked(), -1);
  EXPECT_TRUE(BecomesAwake(processors));
  for (int waited_ms = 0; Asked() == 0 && waited_ms < 5000; waited_ms += 10) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_NE(Asked(), 0);
  for (int i = 0; i < 20; ++i) {
    processors.NoteRequest();
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    EXPECT_NE(Asked(), 0);
  }
}

TEST_F(AwakeProcessorsTest, EndsInTheMiddle) {
  for (int round = 0; round < 20; ++round) {
    ASSERT_EQ(ftruncate(file_, 0), 0);
    std::optional<AwakeProcessors> processors(std::in_place, path_);
    EXPECT_TRUE(BecomesAwake(*processors));
  }
}

}  // namespace
}  // namespace pbfs::fuse
