// SPDX-License-Identifier: Apache-2.0
// The B+tree by itself, with records as large as those of extents, and the map of extents over it.
#include "fs/tree.h"

#include <benchmark/benchmark.h>
#include <sys/stat.h>

#include <array>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "bench/micro/metadata.h"
#include "fs/extent_map.h"
#include "fs/fork.h"

namespace pbfs::micro {
namespace {

// Records of a tree of so many levels. 0: none, the extents lie in the inode.
constexpr uint64_t kRecords[] = {10, 100, 5'000, 100'000};
// Changes to a transaction.
constexpr uint64_t kBatch = 16;

// 0, 2, 4 ... in random order, so that nodes are as full as they are in use; odd keys are free.
std::vector<uint64_t> EvenKeys(uint64_t count) {
  std::vector<uint64_t> keys(count);
  for (uint64_t i = 0; i < count; ++i) keys[i] = 2 * i;
  Random random(1);
  for (uint64_t i = count; i > 1; --i) std::swap(keys[i - 1], keys[random.Below(i)]);
  return keys;
}

Metadata& SharedMetadata() {
  static auto& metadata = *new Metadata;  // Its threads run until the process ends.
  return metadata;
}

// Calls `insert(transaction, key)` for all of them.
template <typename Insert>
void InsertAll(const std::vector<uint64_t>& keys, const Insert& insert) {
  std::unique_ptr<Transaction> transaction;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (transaction == nullptr) transaction = SharedMetadata().Begin();
    insert(*transaction, keys[i]);
    if ((i + 1) % kBatch != 0 && i + 1 != keys.size()) continue;
    Require(transaction->Commit());
    transaction.reset();
  }
}

// A tree of `levels` levels.
struct FullTree {
  explicit FullTree(uint64_t levels) : owner(1'000'000 + levels), records(kRecords[levels]) {
    Tree tree = Open();
    InsertAll(EvenKeys(records), [&tree, this](Transaction& transaction, uint64_t key) {
      Require(tree.Insert(transaction, key, value));
    });
    PBFS_CHECK(root.level + 1u == levels);
  }
  Tree Open() { return Tree(SharedMetadata().reader, SharedMetadata().space, owner, root); }

  const uint64_t owner;
  const uint64_t records;
  const std::array<uint8_t, 16> value = {};
  TreeRoot root = {};
};

// A file whose extents make a tree of `levels` levels; each is a block, behind it comes a hole.
struct FullFile {
  explicit FullFile(uint64_t levels) : records(kRecords[levels]) {
    inode.ino = 2'000'000 + levels;
    inode.mode = S_IFREG | 0644;
    ExtentMap map = Open();
    InsertAll(EvenKeys(records), [&map](Transaction& transaction, uint64_t file_block) {
      Require(map.Insert(transaction, ExtentAt(file_block)));
    });
    PBFS_CHECK(levels == 0 ? FormatOf(inode, Fork::kData) == ForkFormat::kInline
                           : GetTreeRoot(inode, Fork::kData).level + 1u == levels);
  }
  ExtentMap Open() { return ExtentMap(SharedMetadata().reader, SharedMetadata().space, inode); }
  // None goes on where another ends.
  static Extent ExtentAt(uint64_t file_block) { return {file_block, 1000 + 2 * file_block, 1}; }

  const uint64_t records;
  DiskInode inode = {};
};

// Made once: benchmarks leave them as they found them.
template <typename Made>
Made& MadeOf(const benchmark::State& state) {
  static auto& all = *new std::map<int64_t, std::unique_ptr<Made>>;
  std::unique_ptr<Made>& made = all[state.range(0)];
  if (made == nullptr) made = std::make_unique<Made>(static_cast<uint64_t>(state.range(0)));
  return *made;
}

void TreeFind(benchmark::State& state) {
  auto& full = MadeOf<FullTree>(state);
  const Tree tree = full.Open();
  Random random(1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(Require(tree.Find(2 * random.Below(full.records))));
  }
}

// By record, in a scan of the whole tree.
void TreeScan(benchmark::State& state) {
  auto& full = MadeOf<FullTree>(state);
  const Tree tree = full.Open();
  while (state.KeepRunningBatch(static_cast<int64_t>(full.records))) {
    uint64_t sum = 0;
    Require(tree.Scan(0, [&sum](uint64_t key, std::span<const uint8_t>) {
      sum += key;
      return true;
    }));
    benchmark::DoNotOptimize(sum);
  }
}

// At a random place. The copies of blocks that a transaction makes before it changes them count,
// the commit does not.
void TreeInsert(benchmark::State& state) {
  auto& full = MadeOf<FullTree>(state);
  Random random(1);
  while (state.KeepRunningBatch(kBatch)) {
    state.PauseTiming();
    const TreeRoot before = full.root;
    auto transaction = SharedMetadata().Begin();
    state.ResumeTiming();
    Tree tree = full.Open();
    for (uint64_t i = 0; i < kBatch; ++i) {
      Require(tree.Put(*transaction, 2 * random.Below(full.records) + 1, full.value));
    }
    state.PauseTiming();
    transaction.reset();
    full.root = before;
    state.ResumeTiming();
  }
}

void ExtentLookup(benchmark::State& state) {
  auto& full = MadeOf<FullFile>(state);
  const ExtentMap map = full.Open();
  Random random(1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(Require(map.Lookup(2 * random.Below(full.records), 1)));
  }
}

// In holes that lie one behind the other, as a round of writeback fills them.
void ExtentInsert(benchmark::State& state) {
  auto& full = MadeOf<FullFile>(state);
  constexpr uint64_t kExtents = kExtentsPerTransaction;
  Random random(1);
  while (state.KeepRunningBatch(kExtents)) {
    state.PauseTiming();
    const DiskInode before = full.inode;
    auto transaction = SharedMetadata().Begin();
    const uint64_t first = random.Below(full.records - kExtents);
    state.ResumeTiming();
    ExtentMap map = full.Open();
    for (uint64_t i = 0; i < kExtents; ++i) {
      Require(map.Insert(*transaction, FullFile::ExtentAt(2 * (first + i) + 1)));
    }
    state.PauseTiming();
    transaction.reset();
    full.inode = before;
    state.ResumeTiming();
  }
}

BENCHMARK(TreeFind)->Name("tree/find")->ArgName("levels")->DenseRange(1, 3);
BENCHMARK(TreeScan)->Name("tree/scan")->ArgName("levels")->DenseRange(1, 3);
BENCHMARK(TreeInsert)->Name("tree/insert")->ArgName("levels")->DenseRange(1, 3);
BENCHMARK(ExtentLookup)->Name("extent_map/lookup")->ArgName("levels")->DenseRange(0, 3);
BENCHMARK(ExtentInsert)->Name("extent_map/insert")->ArgName("levels")->DenseRange(0, 3);

}  // namespace
}  // namespace pbfs::micro
