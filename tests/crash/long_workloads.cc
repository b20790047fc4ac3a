// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/crash/workloads.h"

namespace pbfs {
namespace {

constexpr std::chrono::milliseconds kHeldWait(1000);
// With one more block changed, a checkpoint of the smallest log takes no more transactions.
constexpr uint64_t kOpenBlocksFull = (kLogBlocksMin - kLogAnchorBlocks) / 8 - kTransactionBlocksMax;

std::string Numbered(const char* prefix, size_t number) { return absl::StrCat(prefix, number); }

// Cuts while a checkpoint is being written, with metadata writeback asked for.
void LateLogWrite(Session& s) {
  s.Create("old");
  s.Record();
  s.Mkdir("d");
  s.Create("d/a");
  s.Write("d/a", 0, 20'000);
  s.hold().Hold(HoldDevice::kLogWrite);
  const auto pending = s.FsyncStart("d/a");
  s.hold().WaitUntilHeld(1, kHeldWait);
  s.Press();
  s.hold().Release();
  s.Await(*pending);
  s.Unlink("old");
  s.Sync();
}

// Metadata writes are under way for long, while further checkpoints become durable.
void LateMetadataWrite(Session& s) {
  s.Record();
  s.Create("a");
  s.Write("a", 0, 5000);
  s.Fsync("a");
  s.hold().Hold(HoldDevice::kMetadataWrite);
  s.Press();
  s.hold().WaitUntilHeld(1, kHeldWait);
  s.Mkdir("d");
  s.Fsync("d");
  s.Symlink("x", "d/l");
  s.Fsync("d/l");
  s.hold().Release();
  s.Create("d/c");
  s.Sync();
}

// Blocks that are changed again between their writeback and the flush that covers it.
void HotBlocks(Session& s) {
  s.Create("w");
  s.Write("w", 0, 4096);
  s.Record();
  for (size_t i = 0; i < 5; ++i) {
    s.Create(Numbered("a", i));
    s.Fsync(Numbered("a", i));
    s.Press();
    s.Create(Numbered("b", i));
    s.Write("w", 100 * i, 100, /*from_page_cache=*/true);
    s.Fsync("w", /*datasync=*/true);  // Flushes, and commits nothing.
    s.Create(Numbered("c", i));
    s.Fsync(Numbered("c", i));
  }
  s.Press();
  s.Create("end");
  s.Fsync("end");
}

// Data is under way for long, while checkpoints become durable.
void LateDataWrite(Session& s) {
  s.Create("old");
  s.Write("old", 0, 4096);
  s.Record();
  s.Create("a");
  s.Write("a", 0, 20'000);
  s.Append("old", 9000);
  s.hold().Hold(HoldDevice::kDataWrite);
  const auto a = s.FsyncStart("a");
  const auto old = s.FsyncStart("old");
  s.hold().WaitUntilHeld(2, kHeldWait);
  s.Create("c");
  s.Fsync("c");
  s.hold().Release();
  s.Await(*a);
  s.Await(*old);
}

// Two files that grow at the same place of the device.
void TwoGrowingFiles(Session& s) {
  s.Create("b");
  s.Write("b", 0, 4096);
  s.Sync();
  s.Create("a");
  s.Record();
  s.Write("a", 0, 16'384);
  s.hold().Hold(HoldDevice::kDataWrite);
  const auto a = s.FsyncStart("a");
  s.hold().WaitUntilHeld(1, kHeldWait);
  s.Append("b", 8192);
  const auto b = s.FsyncStart("b");
  s.hold().WaitUntilHeld(2, kHeldWait);
  s.hold().Release();
  s.Await(*b);
  s.Await(*a);
  s.Append("a", 5000);
  s.Append("b", 5000);
  s.Sync();
}

// An almost full device: what is freed is needed at once.
void FreedDataIsNeeded(Session& s) {
  s.Create("keep");
  s.Write("keep", 0, 400 * kBlockBytes);
  s.Fill(90);
  s.Record();
  s.Truncate("keep", 10'000);
  s.Create("new");
  s.Write("new", 0, 300 * kBlockBytes);
  s.Fsync("new");
  s.Truncate("new", 0);
  s.Append("keep", 290 * kBlockBytes);
  s.Sync();
}

// Metadata blocks become data blocks while the log still has their images; and the other way.
void MetadataBecomesData(Session& s) {
  s.Create("x");
  s.Create("new");
  s.Fill(150);
  s.Record();
  for (size_t i = 0; i < 4; ++i) s.SetXattr("x", Numbered("user.", i), 50'000);
  s.Fsync("x");
  for (size_t i = 0; i < 4; ++i) s.RemoveXattr("x", Numbered("user.", i));
  s.Fsync("x");
  s.Write("new", 0, (s.FreeBlocks() - 10) * kBlockBytes);
  s.Fsync("new");
  s.Truncate("new", 0);
  s.Fsync("new");
  for (size_t i = 0; i < 4; ++i) s.SetXattr("x", Numbered("user.", i), 40'000);
  s.Fsync("x");
}

// Large attributes fill the log several times over.
void LogWraps(Session& s) {
  s.Create("x");
  s.Create("y");
  s.Record();
  for (size_t i = 0; i < 240; ++i) {
    s.SetXattr(i % 3 == 0 ? "y" : "x", Numbered("user.", i % 5), 30'000 + 100 * i);
    if (i % 4 == 0) s.Fsync("x");
    if (i % 60 == 30) s.Write("y", 5000 * i, 3000);
  }
  s.Sync();
}

void ManyFiles(Session& s) {
  s.Mkdir("d");
  s.Record();
  for (size_t i = 0; i < 90; ++i) {
    const std::string name = absl::StrCat("d/a-name-of-some-length-", i);
    s.Create(name);
    if (i % 3 == 0) s.Write(name, 0, 100 * i + 1);
    if (i == 40) s.Sync();
  }
  s.Fsync("d");
  s.Press();
  for (size_t i = 0; i < 90; i += 2) s.Unlink(absl::StrCat("d/a-name-of-some-length-", i));
  s.Sync();
  for (size_t i = 1; i < 90; i += 2) s.Unlink(absl::StrCat("d/a-name-of-some-length-", i));
  s.Rmdir("d");
  s.Sync();
}

// A large file in many pieces shrinks step by step while others commit and metadata is written.
void ChainedTruncate(Session& s) {
  s.Create("a");
  for (size_t i = 0; i < 300; ++i) s.Write("a", 8192 * i, 3000);
  s.Create("b");
  s.Record();
  s.StartCommitting();
  s.Truncate("a", 20'000);
  s.Press();
  s.Append("b", 6000);
  s.Fsync("b");
  s.Unlink("a");
  s.Press();
  s.Sync();
  s.StopCommitting();
}

// A file in many pieces reaches the disk in several transactions, and the checkpoint has no room
// left for the last of them.
void ChainedGrowth(Session& s) {
  for (size_t i = 0; i < 100; ++i) s.Create(Numbered("f", i));
  s.Mkdir("d");
  s.Record();
  s.Create("a");
  for (size_t i = 0; i < 40; ++i) s.Write("a", 8192 * i, 3000);
  for (size_t i = 0; s.DirtyMetadata() < kOpenBlocksFull - 10; ++i) {
    s.Symlink(std::string(500, 'x'), Numbered("d/", i));  // Takes a block of its own.
  }
  // Each of these touches one more block, or none.
  for (size_t i = 0; s.DirtyMetadata() < kOpenBlocksFull && i < 100; ++i) {
    s.Chmod(Numbered("f", i), 0600);
  }
  s.Focus();
  s.Fsync("a");
}

// Overwriting in place races with commits of others.
void OverwriteDuringCommits(Session& s) {
  s.Create("a");
  s.Create("b");
  s.Write("a", 0, 16'384);
  s.Record();
  for (uint32_t i = 0; i < 6; ++i) {
    s.Append("a", 4096);
    s.Chmod("b", 0600 + i);
    s.hold().Hold(HoldDevice::kDataWrite);
    const auto a = s.FsyncStart("a", /*datasync=*/true);
    s.hold().WaitUntilHeld(1, kHeldWait);
    s.hold().Release();
    const auto b = s.FsyncStart("b");
    s.Write("a", 4096 * i, 4096, /*from_page_cache=*/true);
    const auto again = s.FsyncStart("a", /*datasync=*/true);
    s.Await(*a);
    s.Await(*again);
    s.Await(*b);
  }
}

}  // namespace

const Workload& WorkloadNamed(std::string_view name) {
  for (const auto* workloads : {&SmallWorkloads(), &LongWorkloads(), &SpecialWorkloads()}) {
    for (const Workload& workload : *workloads) {
      if (workload.name == name) return workload;
    }
  }
  PBFS_CHECK(false);
}

const std::vector<Workload>& LongWorkloads() {
  static const auto& workloads = *new std::vector<Workload>{
      {"LateLogWrite", LateLogWrite},
      {"LateMetadataWrite", LateMetadataWrite},
      {"HotBlocks", HotBlocks},
      {"LateDataWrite", LateDataWrite},
      {"TwoGrowingFiles", TwoGrowingFiles},
      {"FreedDataIsNeeded", FreedDataIsNeeded},
      {"MetadataBecomesData", MetadataBecomesData},
      {"LogWraps", LogWraps},
      {"ManyFiles", ManyFiles},
      {"ChainedTruncate", ChainedTruncate},
      {"ChainedGrowth", ChainedGrowth},
      {"OverwriteDuringCommits", OverwriteDuringCommits},
  };
  return workloads;
}

}  // namespace pbfs
