// SPDX-License-Identifier: Apache-2.0
// Metadata blocks by number.
#include "cache/block_cache.h"

#include <benchmark/benchmark.h>

#include <memory>

#include "base/random.h"
#include "bench/micro/metadata.h"

namespace pbfs::micro {
namespace {

constexpr size_t kFrames = 4096;
constexpr uint64_t kCachedBlocks = kFrames / 2;
constexpr uint64_t kDeviceBlocks = 4 * kFrames;

struct Cache {
  Cache() {
    for (uint64_t block = 0; block < kCachedBlocks; ++block) Read(block);
  }
  BlockRef Read(uint64_t block) {
    return Require(blocks.Read(
        block, [](const std::byte*, uint64_t, const void*) { return OkStatus(); }, nullptr));
  }

  MemoryDevice device{kDeviceBlocks * kPageBytes};
  PageCache pages{kFrames * kPageBytes};
  BlockCache blocks{pages, device};
};

// Of all threads of a benchmark.
std::unique_ptr<Cache> g_cache;

void Start(const benchmark::State&) { g_cache = std::make_unique<Cache>(); }
void Stop(const benchmark::State&) { g_cache.reset(); }

void Hit(benchmark::State& state) {
  Random random(static_cast<uint64_t>(state.thread_index()));
  for (auto _ : state) benchmark::DoNotOptimize(g_cache->Read(random.Below(kCachedBlocks)).data());
}

// What all lookups have in common: the root of a tree.
void HitOneBlock(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(g_cache->Read(7).data());
}

// Reads from the memory device, and puts another block out.
void Miss(benchmark::State& state) {
  uint64_t block = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(g_cache->Read(block).data());
    block = (block + 1) % kDeviceBlocks;
  }
}

BENCHMARK(Hit)->Name("block_cache/hit")->Setup(Start)->Teardown(Stop)->Threads(1)->Threads(2);
BENCHMARK(HitOneBlock)
    ->Name("block_cache/hit_one_block")
    ->Setup(Start)
    ->Teardown(Stop)
    ->Threads(1)
    ->Threads(2);
BENCHMARK(Miss)->Name("block_cache/miss")->Setup(Start)->Teardown(Stop);

}  // namespace
}  // namespace pbfs::micro
