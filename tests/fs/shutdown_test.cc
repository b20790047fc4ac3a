// SPDX-License-Identifier: Apache-2.0
// FileSystem::Shutdown: what it stops, what it keeps, and who must not hang.
#include <sys/xattr.h>

#include <atomic>
#include <chrono>
#include <random>
#include <thread>

#include "fs/checker.h"
#include "io/fault_device.h"
#include "tests/support/fs_fixture.h"

namespace pbfs {
namespace {

using std::chrono::milliseconds;

// Keeps flushes to itself while it is told to.
class FlushHolder : public BlockDevice {
 public:
  explicit FlushHolder(BlockDevice& below) : below_(below) {}
  const Geometry& geometry() const override { return below_.geometry(); }
  void Submit(IoRequest& request) override {
    {
      MutexLock lock(mutex_);
      if (holding_ && request.op == IoOp::kFlush) return held_.push_back(&request);
    }
    below_.Submit(request);
  }
  void Hold() {
    MutexLock lock(mutex_);
    holding_ = true;
  }
  void WaitUntilHeld() {
    for (;;) {
      {
        MutexLock lock(mutex_);
        if (!held_.empty()) return;
      }
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  void Release() {
    std::vector<IoRequest*> held;
    {
      MutexLock lock(mutex_);
      holding_ = false;
      held.swap(held_);
    }
    for (IoRequest* request : held) below_.Submit(*request);
  }

 private:
  BlockDevice& below_;
  Mutex mutex_;
  bool holding_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<IoRequest*> held_ ABSL_GUARDED_BY(mutex_);
};

class ShutdownTest : public FsFixture {
 protected:
  void MountOn(BlockDevice& device, MountOptions options = SmallCache()) {
    auto mounted = FileSystem::Mount(device, options);
    ASSERT_TRUE(mounted.ok()) << mounted.status();
    fs_ = *std::move(mounted);
    client_ = std::make_unique<FsClient>(*fs_);
  }
  std::string Contents(std::string_view name) {
    const auto ino = client_->Find(root(), name);
    if (!ino.ok() || *ino == 0) return "(none)";
    return client_->Read(*ino, 0, 1 << 20).value_or("(error)");
  }
  void ExpectClean() {
    const auto report = CheckFilesystem(*device_);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->clean());
  }
};

TEST_F(ShutdownTest, EachModeKeepsWhatItSays) {
  struct Case {
    ShutdownMode mode;
    const char* synced;
    const char* unsynced;
  };
  for (const Case& expected :
       {Case{ShutdownMode::kDefault, "old", "new"}, Case{ShutdownMode::kLogFlush, "old", ""},
        Case{ShutdownMode::kNoLogFlush, "old", "(none)"}}) {
    MakeAndMount();
    const auto synced = client_->Create(root(), "synced");
    ASSERT_TRUE(client_->Write(*synced, 0, "old").ok());
    ASSERT_TRUE(client_->Fsync(*synced).ok());
    const auto unsynced = client_->Create(root(), "unsynced");
    ASSERT_TRUE(client_->Write(*unsynced, 0, "new").ok());
    EXPECT_TRUE(fs_->Shutdown(expected.mode).ok());
    EXPECT_TRUE(fs_->Unmount().ok());
    CutPower(1);
    Mount();
    EXPECT_TRUE(fs_->mount_report().replayed);
    EXPECT_EQ(Contents("synced"), expected.synced);
    EXPECT_EQ(Contents("unsynced"), expected.unsynced);
    Unmount();
  }
}

TEST_F(ShutdownTest, EverythingFailsAfterwards) {
  MakeAndMount();
  const auto ino = client_->Create(root(), "f");
  ASSERT_TRUE(client_->Write(*ino, 0, "text").ok());
  ASSERT_TRUE(client_->Fsync(*ino).ok());
  ASSERT_TRUE(fs_->Shutdown(ShutdownMode::kNoLogFlush).ok());
  EXPECT_EQ(ErrnoOf(client_->Read(*ino, 0, 4).status()), EIO);
  EXPECT_EQ(ErrnoOf(client_->Write(*ino, 0, "x")), EIO);
  EXPECT_EQ(ErrnoOf(client_->Fsync(*ino)), EIO);
  EXPECT_EQ(ErrnoOf(client_->Fsync(*ino, /*datasync=*/true)), EIO);
  EXPECT_EQ(ErrnoOf(client_->Sync()), EIO);
  EXPECT_EQ(ErrnoOf(client_->Truncate(*ino, 0)), EIO);
  EXPECT_EQ(ErrnoOf(client_->Create(root(), "g").status()), EIO);
  EXPECT_EQ(ErrnoOf(client_->Find(root(), "f").status()), EIO);
  EXPECT_EQ(ErrnoOf(client_->List(root()).status()), EIO);
  EXPECT_EQ(ErrnoOf(fs_->Unlink(root(), "f")), EIO);
  EXPECT_EQ(ErrnoOf(fs_->Rmdir(root(), "f")), EIO);
  EXPECT_EQ(ErrnoOf(fs_->Rename(root(), "f", root(), "g", 0)), EIO);
  EXPECT_EQ(ErrnoOf(fs_->Link(*ino, root(), "g").status()), EIO);
  EXPECT_EQ(ErrnoOf(fs_->GetAttributes(*ino).status()), EIO);
  EXPECT_EQ(ErrnoOf(fs_->SetXattr(*ino, "user.a", "b", 0)), EIO);
  EXPECT_EQ(ErrnoOf(fs_->ListXattr(*ino).status()), EIO);
  EXPECT_EQ(ErrnoOf(fs_->Seek(*ino, 0, SEEK_DATA).status()), EIO);
  EXPECT_EQ(ErrnoOf(fs_->StatFs().status()), EIO);
  fs_->Forget(*ino, 1);
  EXPECT_TRUE(fs_->Shutdown(ShutdownMode::kDefault).ok());  // It is already.
  EXPECT_TRUE(fs_->Unmount().ok());
}

TEST_F(ShutdownTest, AReadOnlyMountCanBeShutDown) {
  MakeAndMount();
  Unmount();
  MountOptions options = SmallCache();
  options.read_only = true;
  Mount(options);
  EXPECT_TRUE(fs_->Shutdown(ShutdownMode::kDefault).ok());
  EXPECT_EQ(ErrnoOf(client_->List(root()).status()), EIO);
  EXPECT_EQ(ErrnoOf(client_->Sync()), EIO);
  EXPECT_EQ(ErrnoOf(client_->Create(root(), "f").status()), EIO);
}

TEST_F(ShutdownTest, TheDeviceIsLeftAloneAndDirtyDataStaysDirty) {
  MakeAndMount();
  Unmount();
  std::atomic<int> requests{0};
  std::vector<std::string> lines;
  FaultDevice counter(*device_);
  counter.SetDecide([&](const IoRequest&) {
    ++requests;
    return 0;
  });
  MountOptions options = SmallCache();
  options.commit_interval_ns = 10'000'000;
  options.log = [&](const std::string& line) { lines.push_back(line); };
  MountOn(counter, options);
  const auto ino = client_->Create(root(), "f");
  ASSERT_TRUE(client_->Fsync(*ino).ok());
  ASSERT_TRUE(client_->Write(*ino, 0, "dirty").ok());
  ASSERT_TRUE(fs_->Shutdown(ShutdownMode::kNoLogFlush).ok());
  const int before = requests;
  std::this_thread::sleep_for(milliseconds(300));  // The flusher looks every 250 ms.
  EXPECT_EQ(ErrnoOf(client_->Fsync(*ino)), EIO);
  EXPECT_EQ(fs_->page_cache().dirty_pages.load(), 1);
  EXPECT_TRUE(fs_->Unmount().ok());
  fs_.reset();
  EXPECT_EQ(requests.load(), before);
  EXPECT_EQ(lines, std::vector<std::string>{"shut down (nologflush): nothing more is written"});
}

TEST_F(ShutdownTest, WhoWaitsForTheLogIsAnsweredAtOnce) {
  MakeAndMount();
  Unmount();
  FlushHolder holder(*device_);
  MountOn(holder);
  const auto ino = client_->Create(root(), "f");
  holder.Hold();
  Status synced;
  std::thread writer([&] { synced = client_->Fsync(*ino); });
  holder.WaitUntilHeld();
  std::thread shutdown([&] { EXPECT_TRUE(fs_->Shutdown(ShutdownMode::kNoLogFlush).ok()); });
  writer.join();  // Although the flush has not come back.
  EXPECT_EQ(ErrnoOf(synced), EIO);
  holder.Release();
  shutdown.join();
  fs_.reset();
}

TEST_F(ShutdownTest, ASyncThatFailsIsReportedAndTheFilesystemIsDown) {
  MakeAndMount();
  Unmount();
  FaultDevice faulty(*device_);
  MountOn(faulty);
  ASSERT_TRUE(client_->Create(root(), "f").ok());
  faulty.FailAll(IoOp::kFlush, EIO);
  EXPECT_EQ(ErrnoOf(fs_->Shutdown(ShutdownMode::kLogFlush)), EIO);
  EXPECT_EQ(ErrnoOf(client_->List(root()).status()), EIO);
  EXPECT_TRUE(fs_->Unmount().ok());
  fs_.reset();
}

// One client of the load below: a file that is rewritten and synced over and over.
struct Writer {
  int synced = 0;   // What the file must hold at least.
  int started = 0;  // And at most.
};

void Work(FileSystem& fs, int number, Writer& writer) {
  FsClient client(fs);
  std::mt19937 random(static_cast<unsigned>(number));
  const std::string prefix = "w" + std::to_string(number);
  const auto ino = client.Create(fs.root(), prefix);
  if (!ino.ok()) return;
  for (int i = 1;; ++i) {
    // Some load that nobody checks: large unsynced files, removed again.
    const auto junk = client.Create(fs.root(), prefix + "junk");
    if (!junk.ok() || !client.Write(*junk, random() % 8192, std::string(1 << 20, 'j')).ok()) return;
    writer.started = i;
    if (!client.Write(*ino, 0, std::to_string(1'000'000 + i)).ok()) return;
    if (!client.Fsync(*ino, random() % 2 == 0).ok()) return;
    writer.synced = i;
    if (!fs.Unlink(fs.root(), prefix + "junk").ok()) return;
    fs.Forget(*junk, 1);
    if (random() % 8 == 0 && !client.Truncate(*ino, 7).ok()) return;
  }
}

TEST_F(ShutdownTest, NothingHangsAndNothingSyncedIsLostUnderLoad) {
  constexpr int kWriters = 6;
  std::mt19937 random(7);
  for (int round = 0; round < 9; ++round) {
    MountOptions options = SmallCache();
    options.cache_bytes = 8 << 20;
    options.commit_interval_ns = 50'000'000;
    MakeAndMount(96 << 20, options);
    Writer writers[kWriters];
    std::vector<std::thread> threads;
    for (int i = 0; i < kWriters; ++i) {
      threads.emplace_back([&, i] { Work(*fs_, i, writers[i]); });
    }
    std::this_thread::sleep_for(milliseconds(20 + random() % 150));
    const auto mode = static_cast<ShutdownMode>(round % 3);
    EXPECT_TRUE(fs_->Shutdown(mode).ok());
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(fs_->Unmount().ok());
    CutPower(static_cast<uint64_t>(round));
    Mount();
    for (int i = 0; i < kWriters; ++i) {
      if (writers[i].synced == 0) continue;
      const std::string found = Contents("w" + std::to_string(i));
      const int value = std::atoi(found.c_str()) - 1'000'000;
      EXPECT_TRUE(writers[i].synced <= value && value <= writers[i].started)
          << found << " after " << writers[i].synced << " was synced";
    }
    Unmount();
    ExpectClean();
  }
}

}  // namespace
}  // namespace pbfs
