// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <memory>

#include "fs/make_filesystem.h"
#include "io/memory_device.h"
#include "tests/support/fs_client.h"

namespace pbfs {

// A filesystem on a memory device, made and mounted.
class FsFixture : public ::testing::Test {
 protected:
  void MakeAndMount(uint64_t size_bytes = 64 << 20, MountOptions options = SmallCache()) {
    device_ = std::make_unique<MemoryDevice>(size_bytes);
    const auto made = MakeFilesystem(*device_, {});
    ASSERT_TRUE(made.ok()) << made.status();
    Mount(options);
  }
  void Mount(MountOptions options = SmallCache()) {
    auto mounted = FileSystem::Mount(*device_, options);
    ASSERT_TRUE(mounted.ok()) << mounted.status();
    fs_ = *std::move(mounted);
    client_ = std::make_unique<FsClient>(*fs_);
  }
  void Unmount() {
    ASSERT_TRUE(fs_->Unmount().ok());
    fs_.reset();
  }
  // As if the server was killed: nothing more is written, what was written stays.
  void Kill() { fs_.reset(); }
  // As if the power went: unflushed writes are lost or torn too.
  void CutPower(uint64_t seed) {
    fs_.reset();
    device_->PowerCut(seed, 500);
  }
  static MountOptions SmallCache() {
    MountOptions options;
    options.cache_bytes = 16 << 20;
    return options;
  }
  InodeNumber root() const { return fs_->root(); }

  std::unique_ptr<MemoryDevice> device_;
  std::unique_ptr<FileSystem> fs_;
  std::unique_ptr<FsClient> client_;
};

}  // namespace pbfs
