// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/awake_processors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <thread>

namespace pbfs::fuse {
namespace {

constexpr char kDevice[] = "/dev/cpu_dma_latency";

// What all who asked leave: microseconds.
int32_t AllowedLatency() {
  const int fd = open(kDevice, O_RDONLY | O_CLOEXEC);
  int32_t latency = -1;
  EXPECT_EQ(read(fd, &latency, sizeof(latency)), static_cast<ssize_t>(sizeof(latency)));
  close(fd);
  return latency;
}

// A busy machine may take the processor away for so long that requests are not close.
bool BecomesAwake(AwakeProcessors& processors) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    for (int i = 0; i < 100; ++i) processors.NoteRequest();
    if (AllowedLatency() == 0) return true;
  }
  return false;
}

class AwakeProcessorsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (access(kDevice, R_OK | W_OK) != 0) GTEST_SKIP() << "may not use " << kDevice;
    if (sysconf(_SC_NPROCESSORS_ONLN) > AwakeProcessors::kProcessorsMax) {
      GTEST_SKIP() << "more than " << AwakeProcessors::kProcessorsMax << " processors";
    }
    if (AllowedLatency() == 0) GTEST_SKIP() << "another program keeps the processors awake";
  }
};

TEST_F(AwakeProcessorsTest, AwakeWhileRequestsAreCloseOnly) {
  AwakeProcessors processors;
  EXPECT_NE(AllowedLatency(), 0);
  EXPECT_TRUE(BecomesAwake(processors));
  for (int waited_ms = 0; AllowedLatency() == 0 && waited_ms < 5000; waited_ms += 10) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_NE(AllowedLatency(), 0);
  for (int i = 0; i < 20; ++i) {
    processors.NoteRequest();
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    EXPECT_NE(AllowedLatency(), 0);
  }
}

TEST_F(AwakeProcessorsTest, EndsInTheMiddle) {
  for (int round = 0; round < 20; ++round) {
    std::optional<AwakeProcessors> processors(std::in_place);
    EXPECT_TRUE(BecomesAwake(*processors));
    processors.reset();
    EXPECT_NE(AllowedLatency(), 0);
  }
}

}  // namespace
}  // namespace pbfs::fuse
