// SPDX-License-Identifier: Apache-2.0
// FITRIM and -o discard: what the device is told, and that no block in use is ever among it.
#include <atomic>
#include <thread>

#include "fs/checker.h"
#include "fs/label.h"
#include "tests/support/fs_fixture.h"

namespace pbfs {
namespace {

// Counts discarded bytes; may be slow. What is discarded reads as zeroes below.
class DiscardCounter : public BlockDevice {
 public:
  explicit DiscardCounter(BlockDevice& below) : below_(below) {}
  const Geometry& geometry() const override { return below_.geometry(); }
  void Submit(IoRequest& request) override {
    if (request.op == IoOp::kDiscard) {
      bytes += request.length_bytes;
      std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
    }
    below_.Submit(request);
  }
  std::atomic<uint64_t> bytes{0};
  std::atomic<int> delay_ms{0};

 private:
  BlockDevice& below_;
};

class DiscardsTest : public FsFixture {
 protected:
  void Begin(bool discard) {
    device_ = std::make_unique<MemoryDevice>(64 << 20);
    ASSERT_TRUE(MakeFilesystem(*device_, {}).ok());
    counter_ = std::make_unique<DiscardCounter>(*device_);
    MountOptions options = SmallCache();
    options.discard = discard;
    auto mounted = FileSystem::Mount(*counter_, options);
    ASSERT_TRUE(mounted.ok()) << mounted.status();
    fs_ = *std::move(mounted);
    client_ = std::make_unique<FsClient>(*fs_);
  }
  uint64_t FreeBytes() { return fs_->StatFs()->blocks_free * kBlockBytes; }
  void TearDown() override { fs_.reset(); }

  std::unique_ptr<DiscardCounter> counter_;
};

TEST_F(DiscardsTest, TrimTellsOfAllFreeSpaceAndOfNoOther) {
  Begin(false);
  const InodeNumber file = *client_->Create(root(), "file");
  const std::string content(5 << 20, 'c');
  ASSERT_TRUE(client_->Write(file, 0, content).ok());
  ASSERT_TRUE(client_->Sync().ok());
  const auto trimmed = fs_->Trim(0, UINT64_MAX, 0);
  ASSERT_TRUE(trimmed.ok()) << trimmed.status();
  EXPECT_EQ(*trimmed, counter_->bytes);
  EXPECT_EQ(*trimmed, FreeBytes());
  ASSERT_TRUE(fs_->Unmount().ok());
  fs_.reset();
  EXPECT_TRUE(CheckFilesystem(*device_, {})->problems.empty());
  Mount();
  EXPECT_EQ(*client_->Read(*client_->Find(root(), "file"), 0, content.size()), content);
}

TEST_F(DiscardsTest, TrimHonoursRangeAndMinimum) {
  Begin(false);
  EXPECT_EQ(ErrnoOf(fs_->Trim(64 << 20, 1 << 20, 0).status()), EINVAL);
  EXPECT_EQ(ErrnoOf(fs_->Trim(0, 512, 0).status()), EINVAL);
  EXPECT_EQ(ErrnoOf(fs_->Trim(0, UINT64_MAX, uint64_t{2} << 30).status()), EINVAL);
  EXPECT_LE(*fs_->Trim(32 << 20, 8 << 20, 0), 8u << 20);
  EXPECT_EQ(*fs_->Trim(0, UINT64_MAX, 512 << 20), 0u);
  ASSERT_TRUE(fs_->Remount(true).ok());
  EXPECT_EQ(ErrnoOf(fs_->Trim(0, UINT64_MAX, 0).status()), EROFS);
}

TEST_F(DiscardsTest, FreedSpaceIsDiscardedWhenThatIsDurable) {
  Begin(true);
  const InodeNumber file = *client_->Create(root(), "file");
  ASSERT_TRUE(client_->Write(file, 0, std::string(8 << 20, 'c')).ok());
  ASSERT_TRUE(client_->Sync().ok());
  EXPECT_EQ(counter_->bytes, 0u);
  ASSERT_TRUE(client_->Truncate(file, 0).ok());
  EXPECT_EQ(counter_->bytes, 0u);
  ASSERT_TRUE(client_->Sync().ok());
  for (int i = 0; i < 1000 && counter_->bytes < 8u << 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_GE(counter_->bytes, 8u << 20);
}

// What is free but being discarded is worth a wait, no ENOSPC.
TEST_F(DiscardsTest, AFullFilesystemIsRefilledWhileDiscardsAreSlow) {
  Begin(true);
  counter_->delay_ms = 20;
  for (int round = 0; round < 4; ++round) {
    const InodeNumber file = *client_->Create(root(), "file");
    uint64_t size = 0;
    while (client_->Write(file, size, std::string(1 << 20, 'c')).ok()) size += 1 << 20;
    EXPECT_GT(size, 40u << 20) << round;
    EXPECT_TRUE(client_->Fsync(file).ok()) << round;
    ASSERT_TRUE(fs_->Unlink(root(), "file").ok());
    fs_->Forget(file, 1);
  }
  ASSERT_TRUE(fs_->Unmount().ok());
  fs_.reset();
  EXPECT_TRUE(CheckFilesystem(*device_, {})->problems.empty());
}

// Discards that were stopped leave nobody waiting for them.
TEST_F(DiscardsTest, AFullFilesystemSaysSoAfterRemounts) {
  Begin(true);
  counter_->delay_ms = 5;
  for (int round = 0; round < 3; ++round) {
    const InodeNumber file = *client_->Create(root(), "file");
    ASSERT_TRUE(client_->Write(file, 0, std::string(8 << 20, 'c')).ok());
    ASSERT_TRUE(client_->Fsync(file).ok());
    ASSERT_TRUE(fs_->Unlink(root(), "file").ok());
    fs_->Forget(file, 1);
    ASSERT_TRUE(fs_->Remount(true).ok());
    ASSERT_TRUE(fs_->Remount(false).ok());
  }
  const InodeNumber file = *client_->Create(root(), "file");
  uint64_t size = 0;
  Status status;
  while ((status = client_->Write(file, size, std::string(1 << 20, 'c'))).ok()) size += 1 << 20;
  EXPECT_EQ(ErrnoOf(status), ENOSPC);
  EXPECT_TRUE(client_->Fsync(file).ok());
}

TEST_F(DiscardsTest, TrimUnderLoadLosesNothing) {
  Begin(true);
  std::atomic<bool> stop{false};
  std::thread trimmer([&] {
    while (!stop) (void)fs_->Trim(0, UINT64_MAX, 0);
  });
  for (int i = 0; i < 200; ++i) {
    const std::string name = "f" + std::to_string(i % 20);
    if (i >= 20) {
      const InodeNumber old = *client_->Find(root(), name);
      const std::string content = *client_->Read(old, 0, 1 << 20);
      EXPECT_EQ(content, std::string(300'000, static_cast<char>('a' + (i - 20) % 26)));
      ASSERT_TRUE(fs_->Unlink(root(), name).ok());
      fs_->Forget(old, 2);
    }
    const InodeNumber file = *client_->Create(root(), name);
    ASSERT_TRUE(
        client_->Write(file, 0, std::string(300'000, static_cast<char>('a' + i % 26))).ok());
    if (i % 3 == 0) ASSERT_TRUE(client_->Sync().ok());
  }
  stop = true;
  trimmer.join();
  ASSERT_TRUE(fs_->Unmount().ok());
  fs_.reset();
  EXPECT_TRUE(CheckFilesystem(*device_, {})->problems.empty());
}

TEST_F(DiscardsTest, TheLabelIsChangedInAllCopies) {
  Begin(false);
  EXPECT_EQ(fs_->Label(), "");
  ASSERT_TRUE(fs_->SetLabel("a name").ok());
  EXPECT_EQ(fs_->Label(), "a name");
  EXPECT_EQ(ErrnoOf(fs_->SetLabel(std::string(65, 'x'))), EINVAL);
  const Superblock superblock = fs_->superblock();
  EXPECT_EQ(LabelOf(*ReadSuperblock(*device_, 0)), "a name");
  for (const BlockNumber copy : SuperblockCopies(superblock)) {
    EXPECT_EQ(LabelOf(*ReadSuperblock(*device_, copy)), "a name") << copy;
  }
  ASSERT_TRUE(fs_->SetLabel(std::string(64, 'y')).ok());
  fs_.reset();
  Mount();
  EXPECT_EQ(fs_->Label(), std::string(64, 'y'));
}

}  // namespace
}  // namespace pbfs
