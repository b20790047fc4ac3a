// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "fs/checker.h"
#include "fs/make_filesystem.h"
#include "io/fault_device.h"
#include "io/memory_device.h"
#include "io/recording_device.h"
#include "tests/support/fs_client.h"

namespace pbfs {

// A mounted filesystem whose device can be made to fail, and whose writes are recorded. Nothing is
// committed by age.
class FaultFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(MakeFilesystem(memory_, {}).ok());
    Mount();
  }
  void Mount(size_t cache_bytes = 16 << 20) {
    MountOptions options;
    options.cache_bytes = cache_bytes;
    options.commit_interval_ns = int64_t{3600} * 1'000'000'000;
    options.log = [this](const std::string& line) {
      const std::lock_guard lock(log_mutex_);
      log_.push_back(line);
    };
    auto mounted = FileSystem::Mount(recorder_, options);
    ASSERT_TRUE(mounted.ok()) << mounted.status();
    fs_ = *std::move(mounted);
    client_ = std::make_unique<FsClient>(*fs_);
  }
  // The server dies, the device loses what was not flushed.
  void CutPowerAndMount() {
    fs_.reset();
    memory_.PowerCut(1, 0);
    device_.SetDecide(nullptr);
    Mount();
  }
  std::string Log() {
    const std::lock_guard lock(log_mutex_);
    return absl::StrJoin(log_, "\n");
  }
  void ExpectClean() {
    ASSERT_TRUE(fs_->Unmount().ok());
    fs_.reset();
    const auto report = CheckFilesystem(memory_);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->clean()) << absl::StrJoin(report->problems, "\n");
  }

  MemoryDevice memory_{64 << 20};
  FaultDevice device_{memory_};
  RecordingDevice recorder_{device_};
  std::mutex log_mutex_;
  std::vector<std::string> log_;
  std::unique_ptr<FileSystem> fs_;
  std::unique_ptr<FsClient> client_;
};

}  // namespace pbfs
