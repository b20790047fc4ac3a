// SPDX-License-Identifier: Apache-2.0
#include "fs/space.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cache/block_cache.h"
#include "cache/page_cache.h"
#include "fs/log.h"
#include "fs/make_filesystem.h"
#include "gtest/gtest.h"
#include "io/memory_device.h"

namespace pbfs {
namespace {

Superblock MakeOn(BlockDevice& device) {
  MakeOptions options;
  options.discard = false;
  auto made = MakeFilesystem(device, options);
  EXPECT_TRUE(made.ok()) << made.status();
  return *made;
}

// Three groups, the last one short, beside a plain list of which blocks are claimed.
class SpaceTest : public testing::Test {
 protected:
  SpaceTest() { EXPECT_TRUE(space_.Load().ok()); }

  void Claimed(const BlockRun& run, bool claimed) {
    for (uint32_t i = 0; i < run.length; ++i) {
      ASSERT_NE(used_[run.block + i], claimed) << "block " << run.block + i;
      used_[run.block + i] = claimed;
    }
  }
  // All that can be had, in pieces of `length`.
  std::vector<BlockRun> ClaimAll(uint32_t length) {
    std::vector<BlockRun> runs;
    for (;;) {
      const StatusOr<BlockRun> run = space_.Claim(0, length);
      if (!run.ok()) break;
      Claimed(*run, true);
      runs.push_back(*run);
    }
    return runs;
  }
  uint32_t LongestIn(uint32_t ag) const {
    uint32_t longest = 0;
    uint32_t length = 0;
    const BlockNumber end = std::min<BlockNumber>(AgStart(ag) + kAgBlocks, used_.size());
    for (BlockNumber block = AgStart(ag); block < end; ++block) {
      length = used_[block] ? 0 : length + 1;
      longest = std::max(longest, length);
    }
    return longest;
  }

  MemoryDevice device_{(2 * uint64_t{kAgBlocks} + 5000) * kBlockBytes};
  const Superblock superblock_ = MakeOn(device_);
  PageCache pages_{32 << 20};
  BlockCache cache_{pages_, device_};
  const MetaReader reader_{cache_, superblock_};
  SpaceManager space_{reader_};
  std::vector<bool> used_ = std::vector<bool>(superblock_.total_blocks, false);
};

TEST_F(SpaceTest, AClaimIsAsLongAsAnyFreeRunOfItsGroup) {
  std::mt19937 random(1);
  std::vector<BlockRun> runs = ClaimAll(40);
  // From here on used_ says of every block whether it is taken.
  used_.assign(used_.size(), true);
  std::shuffle(runs.begin(), runs.end(), random);
  for (int step = 0; step < 4000; ++step) {
    if (random() % 3 != 0 && !runs.empty()) {
      space_.Unclaim(runs.back());
      Claimed(runs.back(), false);
      runs.pop_back();
      continue;
    }
    const auto wanted = static_cast<uint32_t>(1 + random() % 200);
    const BlockNumber goal = random() % 2 == 0 ? 0 : random() % used_.size();
    std::vector<uint32_t> longest;
    for (uint32_t ag = 0; ag < space_.ag_count(); ++ag) longest.push_back(LongestIn(ag));
    const StatusOr<BlockRun> run = space_.Claim(goal, wanted);
    if (!run.ok()) continue;
    const uint32_t best = *std::max_element(longest.begin(), longest.end());
    ASSERT_EQ(run->length, std::min(wanted, best)) << "step " << step;
    Claimed(*run, true);
    runs.insert(runs.begin(), *run);
  }
}

TEST_F(SpaceTest, ARunAroundTheGoalIsTakenWhole) {
  ClaimAll(1);
  const BlockRun hole = {AgStart(1) + 70'000, 100};
  space_.Unclaim(hole);
  const StatusOr<BlockRun> run = space_.Claim(hole.block + 50, hole.length);
  ASSERT_TRUE(run.ok());
  EXPECT_EQ(run->block, hole.block);
  EXPECT_EQ(run->length, hole.length);
}

TEST_F(SpaceTest, AFragmentedGroupIsLeftForOneWithLongRuns) {
  // The first group: every other block. The others: as they were.
  std::vector<BlockRun> runs = ClaimAll(1);
  BlockNumber other = 0;
  for (const BlockRun& run : runs) {
    if (AgOf(run.block) == 0 ? run.block % 2 == 0 : true) space_.Unclaim(run);
    if (AgOf(run.block) == 1) other = run.block;
  }
  ASSERT_NE(other, 0u);
  const StatusOr<BlockRun> run = space_.Claim(AgStart(0) + 1000, 64);
  ASSERT_TRUE(run.ok());
  EXPECT_EQ(run->length, 64u);
  EXPECT_NE(AgOf(run->block), 0u);
  // A single block is found where it was asked for.
  const StatusOr<BlockRun> single = space_.Claim(AgStart(0) + 100'000, 1);
  ASSERT_TRUE(single.ok());
  EXPECT_EQ(AgOf(single->block), 0u);
}

// Nine groups of which two are to be in memory, with a log.
class SpaceGroupsTest : public testing::Test {
 protected:
  SpaceGroupsTest() {
    EXPECT_TRUE(space_.Load().ok());
    Log::Options options;
    options.log = [](const std::string& line) { ADD_FAILURE() << line; };
    options.release_freed = [this](const std::vector<Transaction::Freed>& freed) {
      {
        const std::lock_guard lock(mutex_);
        for (const Transaction::Freed& run : freed) Take({run.block, run.length}, false);
      }
      space_.ReleaseFreed(freed);
    };
    log_ = std::make_unique<Log>(device_, superblock_, cache_, pages_, std::move(options));
    EXPECT_TRUE(log_->Start(1, 1).ok());
  }
  ~SpaceGroupsTest() override { EXPECT_TRUE(log_->Stop().ok()); }

  void Take(const BlockRun& run, bool taken) {
    for (uint32_t i = 0; i < run.length; ++i) {
      EXPECT_NE(taken_[run.block + i], taken) << "block " << run.block + i;
      taken_[run.block + i] = taken;
    }
  }
  // Nobody else has any of it.
  BlockRun Claim(std::mt19937& random) {
    const BlockNumber goal = random() % superblock_.total_blocks;
    const auto wanted = static_cast<uint32_t>(1 + random() % 50);
    const StatusOr<BlockRun> run = space_.Claim(goal, wanted);
    EXPECT_TRUE(run.ok()) << run.status();
    const std::lock_guard lock(mutex_);
    Take(*run, true);
    return *run;
  }
  void Unclaim(const BlockRun& run) {
    {
      const std::lock_guard lock(mutex_);
      Take(run, false);
    }
    space_.Unclaim(run);
  }

  MemoryDevice device_{9 * uint64_t{kAgBlocks} * kBlockBytes};
  const Superblock superblock_ = MakeOn(device_);
  PageCache pages_{32 << 20};
  BlockCache cache_{pages_, device_};
  const MetaReader reader_{cache_, superblock_};
  SpaceManager space_{reader_, /*loaded_groups_max=*/2};
  std::mutex mutex_;
  std::vector<bool> taken_ = std::vector<bool>(superblock_.total_blocks, false);
  std::unique_ptr<Log> log_;
};

TEST_F(SpaceGroupsTest, AGroupStaysWhileMemoryKnowsMoreThanTheDisk) {
  std::vector<BlockRun> runs;
  for (uint32_t ag = 0; ag < 9; ++ag) runs.push_back(*space_.Claim(AgStart(ag) + 60'000, 100));
  EXPECT_EQ(space_.loaded_groups(), 9u);
  for (const BlockRun& run : runs) {
    const StatusOr<BlockRun> other = space_.Claim(run.block, 100);
    ASSERT_TRUE(other.ok());
    EXPECT_EQ(other->block, run.block + 100);
    space_.Unclaim(*other);
    space_.Unclaim(run);
  }
  (void)*space_.Claim(AgStart(3) + 60'000, 1);
  EXPECT_LE(space_.loaded_groups(), 3u);
}

// Not even the group that is tried first.
TEST_F(SpaceGroupsTest, AGroupWithADamagedBitmapIsLeftAlone) {
  const BlockRun run = *space_.Claim(AgStart(1) + 60'000, 100);
  auto transaction = log_->Begin();
  ASSERT_TRUE(transaction.ok());
  ASSERT_TRUE(space_.CommitClaim(**transaction, run).ok());
  ASSERT_TRUE((*transaction)->Commit().ok());
  ASSERT_TRUE(log_->ForceAll().ok());
  SpaceManager other(reader_);
  std::string said;
  other.SetReport([&said](const std::string& line) { said += line; });
  ASSERT_TRUE(other.Load().ok());
  const uint64_t available = other.available_blocks();
  {
    // The table says one less than the bitmap has.
    auto damaging = log_->Begin();
    ASSERT_TRUE(damaging.ok());
    BlockRef table;
    table = *reader_.Read(superblock_.ag_table_start, kMagicAgTable, kOwnerFilesystem);
    --(*damaging)->ModifyAs<AgTableBlock>(table)->entries[1].free_blocks;
    ASSERT_TRUE((*damaging)->Commit().ok());
  }
  SpaceManager damaged(reader_);
  damaged.SetReport([&said](const std::string& line) { said += line; });
  ASSERT_TRUE(damaged.Load().ok());
  for (int i = 0; i < 2; ++i) {
    const StatusOr<BlockRun> elsewhere = damaged.Claim(AgStart(1) + 60'000, 100);
    ASSERT_TRUE(elsewhere.ok()) << elsewhere.status();
    EXPECT_NE(AgOf(elsewhere->block), 1u);
  }
  EXPECT_NE(said.find("group 1 is not used"), std::string::npos) << said;
  // Nobody is promised what is free there.
  EXPECT_LT(damaged.available_blocks(), available - kAgBlocks / 2);
}

// Claims come and go beside transactions that commit and abort: whatever is unloaded meanwhile
// comes back as it was.
TEST_F(SpaceGroupsTest, WhatIsUnloadedBesideOtherThreadsComesBackAsItWas) {
  const uint64_t before = space_.available_blocks();
  std::atomic<bool> stop{false};
  std::thread beside([&] {
    std::mt19937 random(2);
    while (!stop) {
      const BlockRun run = Claim(random);
      std::this_thread::yield();
      Unclaim(run);
    }
  });
  std::mt19937 random(1);
  std::vector<BlockRun> allocated;
  for (int step = 0; step < 1500; ++step) {
    const BlockRun run = Claim(random);
    auto transaction = log_->Begin();
    ASSERT_TRUE(transaction.ok());
    ASSERT_TRUE(space_.CommitClaim(**transaction, run).ok());
    std::optional<BlockRun> freed;
    if (!allocated.empty() && random() % 2 == 0) {
      freed = allocated[random() % allocated.size()];
      ASSERT_TRUE(space_.Free(**transaction, *freed).ok());
    }
    if (random() % 3 == 0) {
      transaction->reset();  // Aborts.
      Unclaim(run);
    } else {
      ASSERT_TRUE((*transaction)->Commit().ok());
      allocated.push_back(run);
      if (freed) {
        std::erase_if(allocated, [&](const BlockRun& a) { return a.block == freed->block; });
      }
    }
    if (step % 100 == 0) ASSERT_TRUE(log_->ForceAll().ok());
  }
  stop = true;
  beside.join();
  ASSERT_TRUE(log_->ForceAll().ok());
  (void)Claim(random);
  EXPECT_LE(space_.loaded_groups(), 4u);
  SpaceManager again(reader_, 1);
  ASSERT_TRUE(again.Load().ok());
  uint64_t blocks = 0;
  for (const BlockRun& run : allocated) blocks += run.length;
  EXPECT_EQ(again.available_blocks(), before - blocks);
}

}  // namespace
}  // namespace pbfs
