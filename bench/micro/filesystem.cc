// SPDX-License-Identifier: Apache-2.0
// Names, through the interface that the FUSE bridge uses. The device is memory, so what is measured
// is the server's own work.
#include "fs/filesystem.h"

#include <benchmark/benchmark.h>
#include <sys/stat.h>

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "bench/micro/metadata.h"

namespace pbfs::micro {
namespace {

std::string NameOf(uint64_t number) { return absl::StrCat("file-", number); }

class Mounted {
 public:
  Mounted() {
    MakeOn(device_);
    MountOptions options;
    options.log = [](const std::string& line) {
      std::fprintf(stderr, "micro: %s\n", line.c_str());
    };
    fs_ = Require(FileSystem::Mount(device_, options));
  }
  ~Mounted() { Require(fs_->Unmount()); }

  FileSystem& fs() { return *fs_; }
  // Without a reference on it: the root keeps it.
  InodeNumber Make(InodeNumber dir, const std::string& name, uint32_t mode) {
    NewInode request;
    request.mode = mode;
    const InodeNumber ino = Require(fs_->Create(dir, name, request)).ino;
    if (!S_ISDIR(mode)) fs_->Forget(ino, 1);
    return ino;
  }

 private:
  MemoryDevice device_{uint64_t{2} << 30};
  std::unique_ptr<FileSystem> fs_;
};

// Of all threads of a benchmark.
std::unique_ptr<Mounted> g_mounted;

void Start(const benchmark::State&) { g_mounted = std::make_unique<Mounted>(); }
void Stop(const benchmark::State&) { g_mounted.reset(); }

// Directories that benchmarks only read, by the number of their files; made once.
struct Populated {
  InodeNumber DirectoryOf(uint64_t count) {
    InodeNumber& dir = directories[count];
    if (dir != 0) return dir;
    dir = mounted.Make(mounted.fs().root(), absl::StrCat("with-", count), S_IFDIR | 0755);
    for (uint64_t i = 0; i < count; ++i) mounted.Make(dir, NameOf(i), S_IFREG | 0644);
    return dir;
  }
  Mounted mounted;
  std::map<uint64_t, InodeNumber> directories;
};

Populated& SharedPopulated() {
  static auto& populated = *new Populated;  // Its threads run until the process ends.
  return populated;
}

// Each thread in a directory of its own, which grows.
void Create(benchmark::State& state) {
  const InodeNumber dir = g_mounted->Make(
      g_mounted->fs().root(), NameOf(static_cast<uint64_t>(state.thread_index())), S_IFDIR | 0755);
  uint64_t number = 0;
  for (auto _ : state) g_mounted->Make(dir, NameOf(number++), S_IFREG | 0644);
}

void CreateAndUnlink(benchmark::State& state) {
  FileSystem& fs = g_mounted->fs();
  uint64_t number = 0;
  for (auto _ : state) {
    const std::string name = NameOf(number++);
    g_mounted->Make(fs.root(), name, S_IFREG | 0644);
    Require(fs.Unlink(fs.root(), name));
  }
}

// With the FORGET that gives the reference back.
void Lookup(benchmark::State& state) {
  const auto count = static_cast<uint64_t>(state.range(0));
  FileSystem& fs = SharedPopulated().mounted.fs();
  const InodeNumber dir = SharedPopulated().DirectoryOf(count);
  Random random(1);
  for (auto _ : state) {
    fs.Forget(Require(fs.Lookup(dir, NameOf(random.Below(count))))->ino, 1);
  }
}

void LookupOfNone(benchmark::State& state) {
  const auto count = static_cast<uint64_t>(state.range(0));
  FileSystem& fs = SharedPopulated().mounted.fs();
  const InodeNumber dir = SharedPopulated().DirectoryOf(count);
  Random random(1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(Require(fs.Lookup(dir, NameOf(count + random.Below(count)))));
  }
}

// By entry. A READDIR of the kernel takes some hundred, then goes on where it ended.
void ReadDir(benchmark::State& state) {
  constexpr uint64_t kEntriesMax = 256;
  const auto count = static_cast<uint64_t>(state.range(0));
  FileSystem& fs = SharedPopulated().mounted.fs();
  const InodeNumber dir = SharedPopulated().DirectoryOf(count);
  while (state.KeepRunningBatch(static_cast<int64_t>(count))) {
    uint64_t after = 0;
    uint64_t taken = 0;
    do {
      taken = 0;
      Require(fs.ReadDir(dir, after, [&](const DirEntry& entry) {
        if (taken == kEntriesMax) return false;
        after = entry.cookie;
        ++taken;
        return true;
      }));
    } while (taken > 0);
  }
}

BENCHMARK(Create)
    ->Name("filesystem/create")
    ->Setup(Start)
    ->Teardown(Stop)
    ->UseRealTime()
    ->Threads(1)
    ->Threads(2);
BENCHMARK(CreateAndUnlink)->Name("filesystem/create_and_unlink")->Setup(Start)->Teardown(Stop);
BENCHMARK(Lookup)->Name("filesystem/lookup")->ArgName("names")->Arg(10)->Arg(1000)->Arg(100'000);
BENCHMARK(LookupOfNone)->Name("filesystem/lookup_of_none")->ArgName("names")->Arg(1000);
BENCHMARK(ReadDir)->Name("filesystem/readdir")->ArgName("names")->Arg(10)->Arg(1000)->Arg(100'000);

}  // namespace
}  // namespace pbfs::micro
