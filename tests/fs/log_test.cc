// SPDX-License-Identifier: Apache-2.0
#include "fs/log.h"

#include <atomic>
#include <thread>

#include "base/event.h"
#include "cache/block_cache.h"
#include "cache/page_cache.h"
#include "fs/make_filesystem.h"
#include "fs/recovery.h"
#include "fs/transaction.h"
#include "fs/tree.h"
#include "gtest/gtest.h"
#include "io/fault_device.h"
#include "io/memory_device.h"

namespace pbfs {
namespace {

// The smallest log, on a device that can be made to fail.
class LogTest : public testing::Test {
 protected:
  LogTest() {
    Log::Options options;
    options.log = [this](const std::string& line) { said_ += line; };
    options.release_freed = [](const std::vector<Transaction::Freed>&) {};
    log_ = std::make_unique<Log>(device_, superblock_, cache_, pages_, std::move(options));
    EXPECT_TRUE(log_->Start(/*generation=*/1, /*first_sequence=*/1).ok());
  }
  static Superblock MakeOn(BlockDevice& device) {
    MakeOptions options;
    options.log_bytes = uint64_t{kLogBlocksMin} * kBlockBytes;
    const auto made = MakeFilesystem(device, options);
    EXPECT_TRUE(made.ok()) << made.status();
    return *made;
  }
  // Each commits a change and waits until it is durable.
  Status ChangeState() {
    return Change<StateBlock>(superblock_.state_block, kMagicState,
                              [](StateBlock& state) { ++state.watched_inodes; });
  }
  Status ChangeGroups() {
    return Change<AgTableBlock>(superblock_.ag_table_start, kMagicAgTable,
                                [](AgTableBlock& table) { table.entries[0].free_blocks ^= 1; });
  }
  template <typename T>
  Status Change(BlockNumber block, uint32_t magic, const std::function<void(T&)>& change) {
    std::unique_ptr<Transaction> transaction;
    PBFS_ASSIGN_OR_RETURN(transaction, log_->Begin());
    BlockRef ref;
    PBFS_ASSIGN_OR_RETURN(ref, reader_.Read(block, magic, kOwnerFilesystem));
    change(*transaction->ModifyAs<T>(ref));
    PBFS_RETURN_IF_ERROR(transaction->Commit().status());
    transaction.reset();
    return log_->ForceAll();
  }
  void AwaitWriteback() {
    const uint64_t written = log_->stats().metadata_writes;
    log_->RequestWriteback();
    while (log_->stats().metadata_writes == written) std::this_thread::yield();
  }

  MemoryDevice memory_{64 << 20};
  const Superblock superblock_ = MakeOn(memory_);
  FaultDevice device_{memory_};
  PageCache pages_{16 << 20};
  BlockCache cache_{pages_, device_};
  const MetaReader reader_{cache_, superblock_};
  std::string said_;
  std::unique_ptr<Log> log_;
};

// Somebody's flush of file data has what was written back, so the tail stays where it is: the log
// fills up, and waits.
TEST_F(LogTest, AFlushThatNeverEndsDoesNotFillTheLogWithHeaders) {
  ASSERT_TRUE(ChangeState().ok());
  AwaitWriteback();
  device_.AddRule({.op = IoOp::kFlush, .nth = 1, .action = FaultDevice::Action::kHold});
  Event flushed;
  log_->FlushAsync([&flushed](const Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    flushed.Set();
  });
  while (device_.held_count() == 0) std::this_thread::yield();
  std::atomic<bool> stop{false};
  std::thread others([&] {
    while (!stop) ASSERT_TRUE(ChangeGroups().ok());
  });
  constexpr uint64_t kEnough = 3 * uint64_t{kLogBlocksMin};
  while (log_->stats().space_waits == 0 && log_->stats().checkpoints < kEnough) {
    std::this_thread::yield();
  }
  EXPECT_GT(log_->stats().space_waits, 0u);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  stop = true;
  device_.Release();
  flushed.Wait();
  others.join();
  EXPECT_TRUE(log_->Stop().ok());
  EXPECT_EQ(said_, "");
}

// It would make all that is in the log unusable.
TEST_F(LogTest, WhatRecoveryWouldRefuseDoesNotBecomeDurable) {
  ASSERT_TRUE(ChangeState().ok());
  const Status status = Change<AgTableBlock>(
      superblock_.ag_table_start, kMagicAgTable,
      [](AgTableBlock& table) { table.entries[0].free_inodes = table.entries[0].inode_slots + 1; });
  EXPECT_EQ(ErrnoOf(status), EIO) << status;
  EXPECT_NE(said_.find("refused to log bad metadata"), std::string::npos) << said_;
  EXPECT_NE(said_.find("free_inodes"), std::string::npos) << said_;
  EXPECT_FALSE(log_->Stop().ok());
  const auto replayed = ReplayLog(memory_, superblock_);
  ASSERT_TRUE(replayed.ok()) << replayed.status();
  EXPECT_TRUE(replayed->replayed);
}

}  // namespace
}  // namespace pbfs
