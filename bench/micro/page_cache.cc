// SPDX-License-Identifier: Apache-2.0
// The pages of files and their frames.
#include "cache/page_cache.h"

#include <benchmark/benchmark.h>

#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "cache/file_pages.h"

namespace pbfs::micro {
namespace {

constexpr size_t kFrames = 16384;

// A file with `count` clean pages.
class CachedFile {
 public:
  explicit CachedFile(size_t count) {
    for (size_t i = 0; i < count; ++i) file_.InsertClean(i, *pages_.Allocate(PageUse::kData));
  }
  PageCache& pages() { return pages_; }
  FilePages& file() { return file_; }

 private:
  PageCache pages_{kFrames * kPageBytes};
  FilePages file_{pages_, 1};
};

// A private frame, there and back.
void AllocateFrame(benchmark::State& state) {
  PageCache pages(kFrames * kPageBytes);
  for (auto _ : state) pages.Unpin(*pages.Allocate());
}

// Neighbouring pages of a file that has thousands.
void Hit(benchmark::State& state) {
  CachedFile cached(kFrames / 2);
  const auto count = static_cast<size_t>(state.range(0));
  Random random(1);
  std::vector<PageBuf*> found;
  for (auto _ : state) {
    found.clear();
    cached.file().Lookup(random.Below(kFrames / 2 - count), count, found);
    for (PageBuf* page : found) cached.pages().Unpin(*page);
  }
}

// Every new page puts an old one out.
void InsertAndEvict(benchmark::State& state) {
  CachedFile cached(kFrames);
  uint64_t index = kFrames;
  for (auto _ : state) {
    cached.file().InsertClean(index++, *cached.pages().Allocate(PageUse::kData));
  }
  PBFS_CHECK(cached.pages().stats().evictions >= static_cast<uint64_t>(state.iterations()));
}

// A WRITE of whole pages that are cached already: the frames it came in take their place.
void Overwrite(benchmark::State& state) {
  CachedFile cached(kFrames / 4);
  Random random(1);
  for (auto _ : state) {
    PageBuf* frame = cached.pages().Allocate(PageUse::kData);
    cached.file().InsertDirty(random.Below(kFrames / 4), *frame, PagePromise::kNone, 1);
  }
}

// One that covers a part of its page.
void OverwritePart(benchmark::State& state) {
  CachedFile cached(kFrames / 4);
  Random random(1);
  std::string bytes(512, 'x');
  const LogicalBuffer source(bytes.data(), bytes.size());
  for (auto _ : state) {
    PageBuf* spare = cached.pages().Allocate(PageUse::kData);
    cached.file().WritePartial(random.Below(kFrames / 4), 1024, source, 0, bytes.size(),
                               PagePromise::kNone, *spare, 1);
  }
}

// The pages of a round, by page: dirtied, collected, written. The device is left out.
void Round(benchmark::State& state) {
  const auto count = static_cast<size_t>(state.range(0));
  CachedFile cached(kFrames / 4);
  std::vector<FilePages::DirtyPage> round;
  while (state.KeepRunningBatch(static_cast<int64_t>(count))) {
    for (size_t i = 0; i < count; ++i) {
      PageBuf* frame = cached.pages().Allocate(PageUse::kData);
      cached.file().InsertDirty(i, *frame, PagePromise::kNone, 1);
    }
    round.clear();
    cached.file().CollectDirty(0, UINT64_MAX, count, round);
    for (const FilePages::DirtyPage& page : round) cached.file().EndWriteback(page, 0);
  }
}

BENCHMARK(AllocateFrame)->Name("page_cache/allocate_frame");
BENCHMARK(Hit)->Name("page_cache/hit")->ArgName("pages")->Arg(1)->Arg(32);
BENCHMARK(InsertAndEvict)->Name("page_cache/insert_and_evict");
BENCHMARK(Overwrite)->Name("page_cache/overwrite");
BENCHMARK(OverwritePart)->Name("page_cache/overwrite_part");
BENCHMARK(Round)->Name("page_cache/round")->ArgName("pages")->Arg(1)->Arg(256);

}  // namespace
}  // namespace pbfs::micro
