// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache/block_cache.h"
#include "cache/page_cache.h"
#include "fs/log.h"
#include "fs/make_filesystem.h"
#include "fs/space.h"
#include "fs/transaction.h"
#include "fs/tree.h"
#include "io/memory_device.h"

namespace pbfs::micro {

// A benchmark whose work fails would measure nothing.
inline void Require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "micro: %s\n", status.ToString().c_str());
  std::exit(1);
}
template <typename T>
T Require(StatusOr<T> result) {
  Require(result.status());
  return *std::move(result);
}

inline Superblock MakeOn(BlockDevice& device) {
  MakeOptions options;
  options.discard = false;
  return Require(MakeFilesystem(device, options));
}

// What lies below the inodes of a mounted filesystem, on a memory device: put together as
// FileSystem::Mount() does it.
struct Metadata {
  Metadata()
      : superblock(MakeOn(device)),
        reader{cache, superblock},
        space(reader),
        log(device, superblock, cache, pages, LogOptions()) {
    Require(space.Load());
    Require(log.Start(/*anchor_generation=*/1, /*first_sequence=*/1));
  }

  std::unique_ptr<Transaction> Begin() { return Require(log.Begin()); }

  Log::Options LogOptions() {
    Log::Options options;
    options.log = [](const std::string& line) {
      std::fprintf(stderr, "micro: %s\n", line.c_str());
      std::exit(1);
    };
    options.release_freed = [this](const std::vector<Transaction::Freed>& freed) {
      space.ReleaseFreed(freed);
    };
    return options;
  }

  // Two whole groups.
  MemoryDevice device{2 * uint64_t{kAgBlocks} * kBlockBytes};
  const Superblock superblock;
  PageCache pages{size_t{256} << 20};
  BlockCache cache{pages, device};
  const MetaReader reader;
  SpaceManager space;
  Log log;
};

}  // namespace pbfs::micro
