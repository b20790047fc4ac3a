// SPDX-License-Identifier: Apache-2.0
// Small transactions: into the open checkpoint, and on to the (memory) device.
#include "fs/log.h"

#include <benchmark/benchmark.h>

#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "bench/micro/metadata.h"

namespace pbfs::micro {
namespace {

constexpr size_t kThreadsMax = 4;
constexpr size_t kBlocksMax = 8;

// With a few blocks for each thread. Each is a tree of one record: what is written back is
// verified.
struct LogStage : Metadata {
  LogStage() {
    const std::array<uint8_t, 16> value = {};
    auto transaction = Begin();
    for (size_t i = 0; i < kThreadsMax * kBlocksMax; ++i) {
      TreeRoot root = {};
      Tree tree(reader, space, /*owner=*/i, root);
      Require(tree.Insert(*transaction, 0, value));
      blocks.push_back(Require(reader.Read(root.block, kMagicTree, i)));
    }
    Require(transaction->Commit());
  }

  // Changes a word of `count` blocks of the thread's. The end of a node is the record's value.
  Lsn Change(int thread, size_t count, uint64_t word) {
    auto transaction = Begin();
    for (size_t i = 0; i < count; ++i) {
      std::byte* data = transaction->Modify(blocks[static_cast<size_t>(thread) * kBlocksMax + i]);
      std::memcpy(data + kBlockBytes - sizeof(word), &word, sizeof(word));
    }
    return Require(transaction->Commit());
  }

  std::vector<BlockRef> blocks;
};

// Of all threads of a benchmark.
std::unique_ptr<LogStage> g_stage;

void Start(const benchmark::State&) { g_stage = std::make_unique<LogStage>(); }
void Stop(const benchmark::State&) {
  Require(g_stage->log.Stop());
  g_stage.reset();
}

void Commit(benchmark::State& state) {
  const auto count = static_cast<size_t>(state.range(0));
  uint64_t word = 0;
  for (auto _ : state) g_stage->Change(state.thread_index(), count, ++word);
}

// Each is durable before the next begins; threads that wait at one time share a checkpoint.
void CommitAndForce(benchmark::State& state) {
  const uint64_t checkpoints = g_stage->log.stats().checkpoints;
  uint64_t word = 0;
  for (auto _ : state) {
    Require(g_stage->log.Force(g_stage->Change(state.thread_index(), 2, ++word)));
  }
  if (state.thread_index() != 0) return;
  const auto commits = static_cast<double>(state.iterations()) * state.threads();
  const auto made = static_cast<double>(g_stage->log.stats().checkpoints - checkpoints);
  state.counters["commits_per_checkpoint"] = commits / made;
}

BENCHMARK(Commit)
    ->Name("log/commit")
    ->ArgName("blocks")
    ->Arg(1)
    ->Arg(4)
    ->Setup(Start)
    ->Teardown(Stop)
    ->UseRealTime()
    ->Threads(1)
    ->Threads(2);
BENCHMARK(CommitAndForce)
    ->Name("log/commit_and_force")
    ->Setup(Start)
    ->Teardown(Stop)
    ->UseRealTime()
    ->Threads(1)
    ->Threads(2)
    ->Threads(4);

}  // namespace
}  // namespace pbfs::micro
