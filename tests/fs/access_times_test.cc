// SPDX-License-Identifier: Apache-2.0
// What reading does to access times, by mount option and inode flag, and when they are stored.
#include "base/clock.h"
#include "tests/support/fs_fixture.h"

namespace pbfs {
namespace {

using When = AccessTimePolicy::When;

class AccessTimesTest : public FsFixture {
 protected:
  static MountOptions With(AccessTimePolicy policy) {
    MountOptions options = SmallCache();
    options.access_times = policy;
    options.commit_interval_ns = int64_t{3600} * 1'000'000'000;
    return options;
  }
  void Prepare(AccessTimePolicy policy) {
    MakeAndMount(64 << 20, With(policy));
    file_ = *client_->Create(root(), "file");
    link_ = *client_->Create(root(), "link", S_IFLNK | 0777, "target");
    directory_ = *client_->Mkdir(root(), "dir");
    ASSERT_TRUE(client_->Write(file_, 0, "content").ok());
    for (const InodeNumber ino : {file_, link_, directory_}) SetAtime(ino, 1'000'000);
  }
  void SetAtime(InodeNumber ino, int64_t seconds) {
    SetAttributes request;
    request.atime = Time{seconds, 0};
    ASSERT_TRUE(fs_->SetAttributesOf(ino, request).ok());
  }
  Time Atime(InodeNumber ino) { return fs_->GetAttributes(ino)->atime; }
  bool Touched(InodeNumber ino) { return Atime(ino).seconds != 1'000'000; }
  void ReadAll() {
    ASSERT_TRUE(client_->Read(file_, 0, 100).ok());
    ASSERT_TRUE(fs_->ReadLink(link_).ok());
    ASSERT_TRUE(client_->List(directory_).ok());
  }

  InodeNumber file_ = 0, link_ = 0, directory_ = 0;
};

TEST_F(AccessTimesTest, RelativeUpdatesWhatIsOlderThanTheLastChangeOnce) {
  Prepare({.when = When::kRelative});
  ReadAll();
  for (const InodeNumber ino : {file_, link_, directory_}) EXPECT_TRUE(Touched(ino)) << ino;
  SleepFor(std::chrono::milliseconds(20));
  SetAtime(file_, RealTimeNow().tv_sec + 100);  // Newer than all changes, within a day.
  const Time before = Atime(file_);
  ReadAll();
  EXPECT_EQ(Atime(file_), before);
}

TEST_F(AccessTimesTest, AlwaysUpdatesAtEachRead) {
  Prepare({.when = When::kAlways});
  ReadAll();
  const Time first = Atime(file_);
  SleepFor(std::chrono::milliseconds(20));
  ReadAll();
  EXPECT_GT(Atime(file_), first);
}

TEST_F(AccessTimesTest, NeverAndNotForDirectories) {
  Prepare({.when = When::kNever});
  ReadAll();
  for (const InodeNumber ino : {file_, link_, directory_}) EXPECT_FALSE(Touched(ino)) << ino;
  fs_->SetAccessTimes({.when = When::kAlways, .directories = false});
  ReadAll();
  EXPECT_TRUE(Touched(file_));
  EXPECT_FALSE(Touched(directory_));
}

TEST_F(AccessTimesTest, ATimeThatIsSetWinsOverAnEarlierRead) {
  Prepare({.when = When::kAlways});
  ReadAll();
  SetAtime(file_, 5);
  EXPECT_EQ(Atime(file_).seconds, 5);
  Unmount();
  Mount(With({.when = When::kNever}));
  EXPECT_EQ(Atime(file_).seconds, 5);
}

TEST_F(AccessTimesTest, UnmountSyncAndFsyncStoreThemButNotFdatasync) {
  Prepare({.when = When::kAlways});
  ASSERT_TRUE(client_->Sync().ok());
  ReadAll();
  ASSERT_TRUE(client_->Fsync(file_, /*datasync=*/true).ok());
  ASSERT_TRUE(client_->Fsync(link_).ok());
  CutPower(3);
  Mount(With({.when = When::kAlways}));
  EXPECT_FALSE(Touched(file_));
  EXPECT_TRUE(Touched(link_));
  ReadAll();
  ASSERT_TRUE(client_->Sync().ok());
  CutPower(4);
  Mount(With({.when = When::kAlways}));
  EXPECT_TRUE(Touched(file_));
  SetAtime(directory_, 1'000'000);
  ReadAll();
  Unmount();
  Mount(With({.when = When::kNever}));
  EXPECT_TRUE(Touched(directory_));
}

TEST_F(AccessTimesTest, AThreadStoresThemAfterAWhileUnlessLazy) {
  Prepare({.when = When::kAlways});
  Unmount();
  MountOptions options = With({.when = When::kAlways});
  options.commit_interval_ns = 50'000'000;
  Mount(options);
  ReadAll();
  SleepFor(std::chrono::milliseconds(300));
  CutPower(5);  // Commits come every 20 ms, too.
  Mount(With({.when = When::kNever}));
  EXPECT_TRUE(Touched(file_));
}

TEST_F(AccessTimesTest, LazyOnesAreStoredInTheirTimeOrWhenTheKernelForgets) {
  enum class Reason { kNone, kForgotten, kTime };
  for (const Reason reason : {Reason::kNone, Reason::kForgotten, Reason::kTime}) {
    Prepare({.when = When::kNever});
    Unmount();
    MountOptions options = With({.when = When::kAlways, .lazy = true});
    options.commit_interval_ns = 50'000'000;
    options.lazy_delay_ns = [reason] { return reason == Reason::kTime ? 1 : INT64_MAX; };
    Mount(options);
    ASSERT_EQ(*client_->Find(root(), "file"), file_);
    ReadAll();
    if (reason == Reason::kForgotten) fs_->Forget(file_, 1);
    SleepFor(std::chrono::milliseconds(reason == Reason::kNone ? 500 : 2000));
    CutPower(6);
    Mount(With({.when = When::kNever}));
    EXPECT_EQ(Touched(file_), reason != Reason::kNone);
    Unmount();
  }
}

TEST_F(AccessTimesTest, ReadOnlyNothingIsTouchedAndAfterwardsAllIsAsBefore) {
  Prepare({.when = When::kAlways});
  ReadAll();
  ASSERT_TRUE(fs_->Remount(/*read_only=*/true).ok());
  const Time before = Atime(file_);
  SleepFor(std::chrono::milliseconds(20));
  ReadAll();
  EXPECT_EQ(Atime(file_), before);
  ASSERT_TRUE(fs_->Remount(false).ok());
  ReadAll();
  EXPECT_GT(Atime(file_), before);
  const Time after = Atime(file_);
  Unmount();
  MountOptions options = With({.when = When::kAlways});
  options.read_only = true;
  Mount(options);
  EXPECT_EQ(Atime(file_), after);
  ReadAll();
  EXPECT_EQ(Atime(file_), after);
}

TEST_F(AccessTimesTest, ManyFilesAndDeletedOnes) {
  Prepare({.when = When::kAlways});
  std::vector<InodeNumber> files;
  for (int i = 0; i < 5'000; ++i) {
    files.push_back(*client_->Create(root(), "f" + std::to_string(i)));
    ASSERT_TRUE(client_->Write(files.back(), 0, "x").ok());
  }
  for (const InodeNumber ino : files) ASSERT_TRUE(client_->Read(ino, 0, 1).ok());
  for (int i = 0; i < 1'000; ++i) {
    ASSERT_TRUE(fs_->Unlink(root(), "f" + std::to_string(i)).ok());
    fs_->Forget(files[static_cast<size_t>(i)], 1);
  }
  ASSERT_TRUE(client_->Sync().ok());
  Unmount();
}

}  // namespace
}  // namespace pbfs
