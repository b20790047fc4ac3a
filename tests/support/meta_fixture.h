// SPDX-License-Identifier: Apache-2.0
// What tests of metadata structures need: a filesystem made on a memory device, its cache and log,
// and a node space that notices leaks and double frees.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "cache/block_cache.h"
#include "cache/page_cache.h"
#include "fs/log.h"
#include "fs/make_filesystem.h"
#include "fs/transaction.h"
#include "fs/tree.h"
#include "fs/tree_node.h"
#include "fs/verify.h"
#include "gtest/gtest.h"
#include "io/memory_device.h"

namespace pbfs {

inline testing::AssertionResult IsOkPredicate(const char* expression, const Status& status) {
  if (status.ok()) return testing::AssertionSuccess();
  return testing::AssertionFailure() << expression << " is " << status.ToString();
}
#define PBFS_EXPECT_OK(expr) EXPECT_PRED_FORMAT1(::pbfs::IsOkPredicate, expr)

// Hands out new block numbers, never the same twice. Knows which are in use.
class CountingNodeSpace : public NodeSpace {
 public:
  explicit CountingNodeSpace(BlockNumber first, BlockNumber end) : next_(first), end_(end) {}

  StatusOr<BlockNumber> AllocateNode(Transaction& transaction, BlockNumber) override {
    if (forced_ != 0) return std::exchange(forced_, 0);
    if (allocations_left_ == 0 || next_ == end_) return ErrnoError(ENOSPC, "no more nodes");
    --allocations_left_;
    const BlockNumber block = next_++;
    EXPECT_TRUE(live_.insert(block).second);
    transaction.OnAbort([this, block] { live_.erase(block); });
    return block;
  }
  void FreeNode(Transaction& transaction, BlockNumber block) override {
    const bool in_use = live_.erase(block) != 0;
    EXPECT_TRUE(in_use || damaged_) << "block " << block << " freed but not in use";
    ++frees_;
    transaction.Cancel(block);
    if (in_use) transaction.OnAbort([this, block] { live_.insert(block); });
  }

  const std::set<BlockNumber>& live() const { return live_; }
  uint64_t frees() const { return frees_; }
  // Lets that many more allocations succeed.
  void LimitAllocations(uint64_t count) { allocations_left_ = count; }
  // Blocks that are not in use may be freed: trees are damaged on purpose.
  void TolerateDamage() { damaged_ = true; }
  // What the next allocation returns, as damaged free space would.
  void ForceNext(BlockNumber block) { forced_ = block; }

 private:
  BlockNumber next_;
  const BlockNumber end_;
  uint64_t allocations_left_ = UINT64_MAX;
  BlockNumber forced_ = 0;
  bool damaged_ = false;
  uint64_t frees_ = 0;
  std::set<BlockNumber> live_;
};

// Changes a few places of `data` to values that are likely to hurt.
inline void Mutilate(std::mt19937_64& random, uint8_t* data, size_t length) {
  for (uint64_t n = 1 + random() % 3; n > 0; --n) {
    // Heads matter most.
    const size_t offset = random() % (random() % 2 == 0 ? std::min<size_t>(length, 128) : length);
    const uint64_t values[] = {0, 1, random() % 256, UINT64_MAX, random(), kBlockBytes};
    const uint64_t value = values[random() % 6];
    const size_t bytes = std::min<size_t>(size_t{1} << random() % 4, length - offset);
    std::memcpy(data + offset, &value, bytes);
  }
}

// What can go wrong with one tree, checked node by node.
struct TreeShape {
  std::set<BlockNumber> blocks;
  uint64_t leaves = 0;
  uint64_t records = 0;
  uint64_t leaf_bytes = 0;  // Slots and values.
};

class MetaFixture : public testing::Test {
 public:
  static constexpr uint64_t kDeviceBytes = uint64_t{512} << 20;

  MetaFixture()
      : device_(kDeviceBytes),
        superblock_(Make(device_)),
        pages_(size_t{160} << 20),
        cache_(std::make_unique<BlockCache>(pages_, device_)),
        reader_{*cache_, superblock_},
        space_(superblock_.log_start + superblock_.log_blocks, superblock_.total_blocks - 1) {
    StartLog(/*generation=*/1, /*first_sequence=*/1);
  }
  ~MetaFixture() override {
    if (log_ != nullptr) {
      PBFS_EXPECT_OK(log_->Stop());
    }
  }

 protected:
  static Superblock Make(BlockDevice& device) {
    MakeOptions options;
    options.discard = false;
    options.log_bytes = 16 << 20;
    auto made = MakeFilesystem(device, options);
    PBFS_CHECK(made.ok());
    return *made;
  }
  void StartLog(uint64_t generation, uint64_t first_sequence) {
    Log::Options options;
    options.log = [](const std::string& line) { ADD_FAILURE() << line; };
    options.release_freed = [](const std::vector<Transaction::Freed>&) {};
    log_ = std::make_unique<Log>(device_, superblock_, *cache_, pages_, std::move(options));
    PBFS_EXPECT_OK(log_->Start(generation, first_sequence));
  }
  // Writes everything back and forgets it, so that all that follows is read from the device.
  void Remount() {
    PBFS_EXPECT_OK(log_->Stop());
    const Lsn next = log_->open_sequence();
    log_.reset();
    cache_.reset();
    cache_ = std::make_unique<BlockCache>(pages_, device_);
    generation_ += 2;
    // MetaReader holds a reference: build a new one in its place.
    std::destroy_at(&reader_);
    std::construct_at(&reader_, MetaReader{*cache_, superblock_});
    StartLog(generation_, next);
  }
  std::unique_ptr<Transaction> Begin() {
    auto transaction = log_->Begin();
    PBFS_CHECK(transaction.ok());
    return *std::move(transaction);
  }
  // Runs `change` in a transaction; commits it if it succeeds.
  Status Commit(const std::function<Status(Transaction&)>& change) {
    std::unique_ptr<Transaction> transaction = Begin();
    PBFS_RETURN_IF_ERROR(change(*transaction));
    return transaction->Commit().status();
  }

  // Changes a block on the device behind everyone's back (after Remount, or before it was cached),
  // and gives it a valid crc.
  void Damage(BlockNumber block, const std::function<void(std::byte* data)>& change) {
    alignas(kBlockBytes) std::byte data[kBlockBytes];
    PBFS_CHECK(ReadSync(device_, block * kBlockBytes, data, kBlockBytes) == 0);
    change(data);
    StampBlock(data, reinterpret_cast<const BlockHeader*>(data)->lsn);
    PBFS_CHECK(WriteSync(device_, block * kBlockBytes, data, kBlockBytes) == 0);
    cache_->Invalidate(block);
  }

  // Visits all nodes and checks what Tree promises; adds their blocks to `shape`.
  void CheckTree(uint64_t owner, TreeRoot root, TreeShape& shape, bool root_may_be_thin = false) {
    const Tree tree(reader_, space_, owner, root);
    std::optional<uint64_t> last_leaf_key;
    PBFS_EXPECT_OK(tree.VisitNodes([&](BlockNumber block, const TreeNodeHeader& node) {
      const auto* data = reinterpret_cast<const std::byte*>(&node);
      EXPECT_TRUE(shape.blocks.insert(block).second) << "block " << block << " is in two places";
      EXPECT_EQ(space_.live().count(block), 1u) << "block " << block << " is not allocated";
      EXPECT_EQ(node.header.owner, owner);
      EXPECT_TRUE(block != root.block || node.level == 0 || node.count > 1 || root_may_be_thin);
      if (node.level == 0) {
        ++shape.leaves;
        shape.records += node.count;
        shape.leaf_bytes += LeafUsed(data);
        EXPECT_TRUE(!last_leaf_key || NodeKey(data, 0) > *last_leaf_key);
        last_leaf_key = NodeKey(data, node.count - 1u);
      }
      return VerifyTreeNode(data, block);
    }));
  }

  MemoryDevice device_;
  const Superblock superblock_;
  PageCache pages_;
  std::unique_ptr<BlockCache> cache_;
  MetaReader reader_;
  CountingNodeSpace space_;
  std::unique_ptr<Log> log_;
  uint64_t generation_ = 1;
};

}  // namespace pbfs
