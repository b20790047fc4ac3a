// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "tests/crash/workloads.h"

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE (1 << 1)
#endif

namespace pbfs {
namespace {

constexpr std::chrono::milliseconds kHeldWait(1000);

std::string Numbered(const char* prefix, size_t number) { return absl::StrCat(prefix, number); }

// Writes and creations until nothing fits any more; then room is made, and used.
void FullDevice(Session& s) {
  s.Mkdir("d");
  s.Create("a");
  s.Write("a", 0, 100'000);
  s.Fill(60);
  s.AllowNoSpace();
  s.Record();
  const auto fill_up = [&s](size_t round) {
    for (size_t i = 0; i < 12; ++i) {
      const std::string name = absl::StrCat("d/", round, "-", i);
      s.Create(name);
      if (!s.Exists(name)) continue;
      s.Write(name, 0, 25'000);
      s.SetXattr(name, "user.a", 5000);
      if (i % 4 == 0) s.Fsync(name);
    }
  };
  fill_up(0);
  s.Sync();
  s.Truncate("a", 1000);
  for (size_t i = 0; i < 12; i += 2) {
    const std::string name = absl::StrCat("d/0-", i);
    if (s.Exists(name)) s.Unlink(name);
  }
  fill_up(1);
  s.Append("a", 90'000);
  s.Sync();
}

// Metadata is not written back, so the log fills up and operations wait for it.
void FullLog(Session& s) {
  s.Create("x");
  s.Create("y");
  s.Write("y", 0, 5000);
  s.Record();
  s.hold().Hold(HoldDevice::kMetadataWrite);
  const auto change = [&s] {
    for (size_t i = 0; i < 150; ++i) {
      s.SetXattr("x", Numbered("user.", i % 4), 40'000 + 10 * i);
      if (i % 20 == 5) s.Append("y", 3000);
      if (i % 8 == 0) s.Fsync(i % 16 == 0 ? "x" : "y");
    }
  };
  const auto let_go = [&s] {
    s.hold().WaitUntilHeld(1, 20 * kHeldWait);
    SleepFor(std::chrono::milliseconds(200));
    s.hold().Release();
  };
  s.RunConcurrently({change, let_go});
  s.Sync();
}

// While one checkpoint is being written the next fills, and somebody waits for each.
void PipelinedCheckpoints(Session& s) {
  for (size_t i = 0; i < 4; ++i) s.Create(Numbered("f", i));
  s.Record();
  std::vector<std::unique_ptr<Client::PendingSync>> pending;
  for (size_t i = 0; i < 6; ++i) {
    s.hold().Hold(HoldDevice::kLogWrite);
    s.Append(Numbered("f", i % 4), 3000);
    pending.push_back(s.FsyncStart(Numbered("f", i % 4)));
    s.hold().WaitUntilHeld(1, kHeldWait);
    s.Rename(Numbered("f", i % 4), "moved");
    s.Create(Numbered("g", i));
    pending.push_back(s.FsyncStart(Numbered("g", i)));
    s.Rename("moved", Numbered("f", i % 4));
    s.Chmod(Numbered("g", i), 0600);
    pending.push_back(s.FsyncStart(Numbered("g", i), /*datasync=*/true));
    s.hold().Release();
    if (i % 2 == 0) continue;
    for (const auto& sync : pending) s.Await(*sync);
    pending.clear();
  }
}

// Files without names are written, cut and synced; then they are closed.
void UsedWhileUnlinked(Session& s) {
  for (const char* name : {"a", "b", "c"}) {
    s.Create(name);
    s.Write(name, 0, 9000);
  }
  s.Record();
  s.Open("a");
  s.Unlink("a");
  s.Append("@a", 20'000);
  s.Fsync("@a");
  s.Truncate("@a", 100);
  s.SetXattr("@a", "user.a", 6000);
  s.Open("b");
  s.Rename("c", "b");
  s.Write("@b", 3000, 10'000);
  s.Fsync("b");
  s.Create("a");
  s.Write("a", 0, 7000);
  s.Close("@a");
  s.Fsync("a");
  s.Truncate("@b", 50'000);
  s.Sync();
  s.Close("@b");
  s.Append("b", 9000);
  s.Sync();
}

// Names go round: files, and directories with what is in them.
void RenameLoops(Session& s) {
  for (const char* name : {"a", "b", "c"}) {
    s.Create(name);
    s.Write(name, 0, 3000);
  }
  for (const char* name : {"d", "e", "d/sub", "e/sub"}) s.Mkdir(name);
  s.Create("d/sub/x");
  s.Record();
  for (size_t i = 0; i < 6; ++i) {
    s.Rename("a", "t");
    s.Rename("b", "a");
    s.Rename("c", "b");
    if (i % 2 == 0) s.Fsync("t");
    s.Rename("t", "c");
    s.Append("c", 1000);
    s.Rename("d", "e", RENAME_EXCHANGE);
    s.Rename("d/sub", "turn");
    s.Rename("e/sub", "d/sub");
    if (i % 3 == 0) s.Fsync("turn");
    s.Rename("turn", "e/sub");
  }
  s.Fsync("c");
}

void DirectoryGrowsAndShrinks(Session& s) {
  constexpr size_t kNames = 260;
  const auto name = [](size_t i) { return absl::StrCat("d/", LettersOf(i, 20 + i % 90)); };
  s.Mkdir("d");
  s.Record();
  for (const size_t most : {size_t{14}, kNames}) {
    for (size_t i = 0; i < most; ++i) {
      s.Create(name(i), i % 7 == 3 ? S_IFIFO | 0600 : S_IFREG | 0644);
      if (i % 60 == 10) s.Fsync("d");
    }
    s.Press();
    for (size_t i = 0; i < most; ++i) {
      s.Unlink(name(most - 1 - i));
      if (i % 60 == 20) s.Fsync("d");
    }
    s.Sync();
  }
  s.Rmdir("d");
  s.Sync();
}

void GrowingXattrs(Session& s) {
  s.Create("a");
  s.Mkdir("d");
  s.Record();
  for (size_t bytes = 10; bytes <= 60'000; bytes *= 3) {
    s.SetXattr("a", "user.a", bytes);
    s.SetXattr("d", Numbered("user.", bytes), bytes / 3);
    s.Fsync("a");
  }
  s.Press();
  for (size_t bytes = 60'000; bytes >= 10; bytes /= 4) {
    s.SetXattr("a", "user.a", bytes);
    s.SetXattr("a", "user.b", 60'000 - bytes);
    s.Fsync("d");
  }
  s.RemoveXattr("a", "user.b");
  s.RemoveXattr("a", "user.a");
  s.Sync();
}

// Every way to raise a size over a block that holds garbage behind the end.
void GarbageTails(Session& s) {
  for (size_t i = 0; i < 6; ++i) {
    s.Create(Numbered("f", i));
    s.Write(Numbered("f", i), 0, 8192);
  }
  s.Sync();
  for (size_t i = 0; i < 6; ++i) s.Truncate(Numbered("f", i), 4096 + 100 * i);
  s.Record();
  s.Truncate("f0", 6000);
  s.Fsync("f0");
  s.Append("f1", 10);
  s.Fsync("f1", /*datasync=*/true);
  s.Write("f2", 30'000, 100, /*from_page_cache=*/true);
  s.Fsync("f2");
  s.WriteSync("f3", 6000, 100);
  s.WriteBuffered("f4", 8192, 4096);
  s.Write("f5", 4096, 50);
  s.Truncate("f5", 20'000);
  s.Sync();
  s.Truncate("f0", 4100);
  s.Truncate("f0", 7000);
  s.Append("f0", 3000);
  s.Sync();
}

// A file in hundreds of pieces: it lies in the gaps that others left.
void HugeTruncate(Session& s) {
  constexpr size_t kPieces = 300;
  for (const char* name : {"huge", "other"}) s.Create(name);
  s.Mkdir("d");
  for (size_t i = 0; i < 2 * kPieces + 20; ++i) {
    s.Create(Numbered("d/", i));
    s.Write(Numbered("d/", i), 0, 4096);
  }
  s.Sync();
  s.Fill(30);
  for (size_t i = 0; i < 2 * kPieces; i += 2) s.Unlink(Numbered("d/", i));
  s.Sync();
  s.Write("huge", 0, kPieces * 4096);
  s.Fsync("huge");
  s.Record();
  s.StartCommitting();
  s.Truncate("huge", 900'000);
  s.Press();
  s.Truncate("huge", 5000);
  s.Append("other", 60'000);
  s.Fsync("other");
  s.Append("huge", 200'000);
  s.Press();
  s.Fsync("huge");
  s.Open("huge");
  s.Unlink("huge");
  s.Truncate("@huge", 10);
  s.StopCommitting();
  s.Close("@huge");
  s.Sync();
}

// Space first, then data in parts of it, then holes.
void Preallocate(Session& s) {
  s.Create("a");
  s.Create("b");
  s.Record();
  s.Fallocate("a", 0, 0, 40'000);
  s.Fsync("a");
  s.Write("a", 9000, 10'000);
  s.Fsync("a", /*datasync=*/true);
  s.Fallocate("b", FALLOC_FL_KEEP_SIZE, 0, 100'000);
  s.Write("b", 0, 5000);
  s.Sync();
  s.Fallocate("a", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10'000, 20'000);
  s.Append("b", 20'000);
  s.Fsync("a");
  s.Fallocate("b", FALLOC_FL_ZERO_RANGE, 3000, 30'000);
  s.Write("b", 12'288, 4096);
  s.Truncate("b", 50'000);
  s.Fsync("b");
  s.Truncate("a", 15'000);
  s.Append("a", 30'000);
  s.Sync();
}

// Data is under way to unwritten space, while checkpoints become durable.
void LateWriteToPreallocated(Session& s) {
  s.Create("a");
  s.Fallocate("a", 0, 0, 50'000);
  s.Create("old");
  s.Write("old", 0, 30'000);
  s.Record();
  s.Fallocate("old", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 4096, 20'000);
  s.Sync();
  s.Write("a", 10'000, 20'000);
  s.Write("old", 9000, 10'000);
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

// Data that was promised its space goes there when there is no other.
void PreallocateThenFill(Session& s) {
  s.Create("a");
  s.Fallocate("a", 0, 0, 400'000);
  s.Write("a", 0, 20'000);
  s.Create("b");
  s.Write("b", 0, 100'000);
  const std::string last = absl::StrCat(kOpaquePrefix, "-last");
  s.Create(last);
  s.Fill(60);
  // So that not even one more block and what its map may need is free.
  while (s.FreeBlocks() > 5 && !s.Broken()) {
    s.Append(last, 4096);
    s.Sync();
  }
  s.Record();
  // Not one of these may meet ENOSPC.
  for (size_t i = 0; i < 40; ++i) s.Write("a", 50'000 + i * 8500, 3000);
  s.Fsync("a");
  s.Write("a", 0, 300'000);
  s.Fallocate("b", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 5000, 50'000);
  s.Sync();
  s.Fallocate("b", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10'000, 60'000);
  s.Fsync("b");
  s.Write("b", 20'000, 9000);
  s.Fsync("b");
}

// A file with an extent tree, in which ranges change in many steps.
void RangesOfFragments(Session& s) {
  s.Create("a");
  for (size_t i = 0; i < 60; ++i) s.Write("a", i * 8192, 4096);
  s.Sync();
  s.Record();
  s.Fallocate("a", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 50'000, 150'000);
  s.Fsync("a");
  s.Fallocate("a", FALLOC_FL_ZERO_RANGE, 250'000, 150'000);
  s.Press();
  s.Write("a", 300'000, 20'000);
  s.Fsync("a");
  s.Fallocate("a", 0, 0, 600'000);
  s.Write("a", 100'000, 3000);
  s.Sync();
  s.Fallocate("a", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 600'000);
  s.Append("a", 9000);
  s.Fsync("a");
}

// Four clients at the same time.
void FourWriters(Session& s) {
  std::vector<std::function<void()>> functions;
  for (size_t i = 0; i < 4; ++i) {
    Client& client = s.AddClient(Numbered("w", i));
    client.Create("old");
    client.Write("old", 0, 9000);
    functions.push_back([&client, i] {
      for (size_t round = 0; round < 5; ++round) {
        client.Create("new");
        client.Append("new", 5000 + 1000 * i);
        if (i % 2 == 0) client.Fsync("new");
        client.Rename("new", "old");
        client.Truncate("old", 3000 + 700 * i);
        client.Append("old", 4000);
        client.Fsync(round % 2 == 0 ? "/" : "old");
      }
      if (i == 3) client.Sync();
    });
  }
  s.Record();
  s.RunConcurrently(functions);
}

}  // namespace

const std::vector<Workload>& SpecialWorkloads() {
  static const auto& workloads = *new std::vector<Workload>{
      {"FullDevice", FullDevice},
      {"FullLog", FullLog},
      {"PipelinedCheckpoints", PipelinedCheckpoints},
      {"UsedWhileUnlinked", UsedWhileUnlinked},
      {"RenameLoops", RenameLoops},
      {"DirectoryGrowsAndShrinks", DirectoryGrowsAndShrinks},
      {"GrowingXattrs", GrowingXattrs},
      {"GarbageTails", GarbageTails},
      {"HugeTruncate", HugeTruncate},
      {"Preallocate", Preallocate},
      {"LateWriteToPreallocated", LateWriteToPreallocated},
      {"PreallocateThenFill", PreallocateThenFill},
      {"RangesOfFragments", RangesOfFragments},
      {"FourWriters", FourWriters},
  };
  return workloads;
}

}  // namespace pbfs
