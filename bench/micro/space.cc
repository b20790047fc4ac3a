// SPDX-License-Identifier: Apache-2.0
// The allocator: claims, which only memory knows, and what a transaction allocates and frees.
#include "fs/space.h"

#include <benchmark/benchmark.h>

#include <memory>
#include <vector>

#include "bench/micro/metadata.h"

namespace pbfs::micro {
namespace {

// Takes everything, and gives every other run of `hole` blocks back.
void Fragment(SpaceManager& space, uint32_t hole) {
  std::vector<BlockRun> back;
  for (bool keep = true;; keep = !keep) {
    const StatusOr<BlockRun> run = space.Claim(0, hole);
    if (!run.ok()) break;
    if (!keep) back.push_back(*run);
  }
  for (const BlockRun& run : back) space.Unclaim(run);
}

void ClaimAndUnclaim(benchmark::State& state, SpaceManager& space, uint32_t wanted) {
  uint64_t got = 0;
  for (auto _ : state) {
    const BlockRun run = Require(space.Claim(0, wanted));
    got += run.length;
    space.Unclaim(run);
  }
  state.counters["got"] = static_cast<double>(got) / static_cast<double>(state.iterations());
}

// All is free.
void ClaimContiguous(benchmark::State& state) {
  Metadata metadata;
  ClaimAndUnclaim(state, metadata.space, static_cast<uint32_t>(state.range(0)));
}

// Half of it is, in runs of one length.
void ClaimFragmented(benchmark::State& state) {
  Metadata metadata;
  Fragment(metadata.space, static_cast<uint32_t>(state.range(0)));
  ClaimAndUnclaim(state, metadata.space, static_cast<uint32_t>(state.range(1)));
}

// A transaction that allocates a run, and one that frees it.
void AllocateAndFree(benchmark::State& state) {
  Metadata metadata;
  const auto wanted = static_cast<uint32_t>(state.range(0));
  uint64_t freed_blocks = 0;
  for (auto _ : state) {
    auto allocating = metadata.Begin();
    const BlockRun run = Require(metadata.space.Allocate(*allocating, 0, wanted));
    Require(allocating->Commit());
    allocating.reset();
    auto freeing = metadata.Begin();
    Require(metadata.space.Free(*freeing, run));
    Require(freeing->Commit());
    freeing.reset();
    // What is freed can be allocated again once that is durable.
    freed_blocks += run.length;
    if (freed_blocks < 100'000) continue;
    freed_blocks = 0;
    state.PauseTiming();
    Require(metadata.log.ForceAll());
    state.ResumeTiming();
  }
}

// The same for single blocks of metadata, `nodes` to a transaction.
void Nodes(benchmark::State& state) {
  Metadata metadata;
  const auto count = static_cast<size_t>(state.range(0));
  std::vector<BlockNumber> nodes(count);
  uint64_t freed_blocks = 0;
  while (state.KeepRunningBatch(static_cast<int64_t>(count))) {
    auto transaction = metadata.Begin();
    for (BlockNumber& node : nodes) {
      node = Require(metadata.space.AllocateNode(*transaction, 0));
    }
    for (const BlockNumber node : nodes) metadata.space.FreeNode(*transaction, node);
    Require(transaction->Commit());
    transaction.reset();
    freed_blocks += count;
    if (freed_blocks < 20'000) continue;
    freed_blocks = 0;
    state.PauseTiming();
    Require(metadata.log.ForceAll());
    state.ResumeTiming();
  }
}

BENCHMARK(ClaimContiguous)
    ->Name("space/claim_contiguous")
    ->ArgName("wanted")
    ->Arg(1)
    ->Arg(64)
    ->Arg(1024);
BENCHMARK(ClaimFragmented)
    ->Name("space/claim_fragmented")
    ->ArgNames({"run", "wanted"})
    ->Args({1, 1})
    ->Args({1, 64})
    ->Args({16, 16})
    ->Args({16, 64});
BENCHMARK(AllocateAndFree)->Name("space/allocate_and_free")->ArgName("wanted")->Arg(1)->Arg(256);
BENCHMARK(Nodes)->Name("space/nodes")->ArgName("nodes")->Arg(1)->Arg(16);

}  // namespace
}  // namespace pbfs::micro
