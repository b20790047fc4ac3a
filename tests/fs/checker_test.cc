// SPDX-License-Identifier: Apache-2.0
#include "fs/checker.h"

#include <random>

#include "tests/support/fs_image.h"

namespace pbfs {
namespace {

std::string AllLines(const CheckReport& report) {
  std::string text;
  for (const std::string& line : report.problems) absl::StrAppend(&text, line, "\n");
  return text;
}

CheckReport Check(BlockDevice& device) {
  StatusOr<CheckReport> report = CheckFilesystem(device);
  EXPECT_TRUE(report.ok()) << report.status();
  return report.ok() ? *std::move(report) : CheckReport{};
}

// ---- Clean images

TEST(CheckerTest, AFreshFilesystemIsClean) {
  for (const uint64_t size : {uint64_t{16} << 20, uint64_t{64} << 20, uint64_t{3} << 30}) {
    MemoryDevice device(size);
    ASSERT_TRUE(MakeFilesystem(device, {}).ok());
    const CheckReport report = Check(device);
    EXPECT_TRUE(report.clean()) << AllLines(report);
    EXPECT_EQ(report.stats.directories, 1u);
    EXPECT_EQ(report.stats.files, 0u);
    EXPECT_EQ(report.stats.groups_initialized, 1u);
    EXPECT_EQ(report.stats.blocks, size / kBlockBytes);
  }
}

TEST(CheckerTest, ARichFilesystemIsCleanAndCounted) {
  const RichImage image = MakeRichImage();
  const CheckReport report = Check(*image.device);
  EXPECT_TRUE(report.clean()) << AllLines(report);
  EXPECT_EQ(report.stats.directories, 5u);
  EXPECT_EQ(report.stats.files, 606u);
  EXPECT_EQ(report.stats.symlinks, 2u);
  EXPECT_EQ(report.stats.others, 1u);
  EXPECT_EQ(report.stats.orphans, 1u);
  EXPECT_EQ(report.stats.data_blocks, 5u + 3 + 400 + 2);
}

TEST(CheckerTest, ADirtyLogIsRefusedAndReplayedInMemory) {
  const RichImage image = MakeDirtyRichImage();
  EXPECT_EQ(ErrnoOf(CheckFilesystem(*image.device).status()), EBUSY);
  const auto before = image.device->Clone();
  const auto report = CheckReplayed(*image.device);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->clean()) << AllLines(*report);
  EXPECT_TRUE(report->log_was_dirty);
  EXPECT_GT(report->checkpoints_replayed, 0u);
  std::string a(1 << 20, 0);
  std::string b(1 << 20, 0);
  for (uint64_t offset = 0; offset < image.device->geometry().size_bytes; offset += a.size()) {
    ASSERT_EQ(ReadSync(*before, offset, a.data(), a.size()), 0);
    ASSERT_EQ(ReadSync(*image.device, offset, b.data(), b.size()), 0);
    ASSERT_TRUE(a == b) << "the check wrote within the MiB at " << offset;
  }
}

TEST(CheckerTest, ACheckCanBeCancelled) {
  const RichImage image = MakeRichImage();
  CheckOptions options;
  int asked = 0;
  options.cancelled = [&asked] { return ++asked > 3; };
  EXPECT_EQ(ErrnoOf(CheckFilesystem(*image.device, options).status()), ECANCELED);
}

TEST(CheckerTest, ProblemLinesAreLimitedAndCounted) {
  const RichImage image = MakeRichImage();
  ImageEditor editor(*image.device);
  for (BlockNumber block = 4000; block < 4100; block += 2) editor.EditBit(block, true);
  CheckOptions options;
  options.problem_lines_max = 10;
  const auto report = CheckFilesystem(*image.device, options);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->problems.size(), 10u);
  EXPECT_EQ(report->problem_count, 51u);  // 50 leaks and the group's free_blocks.
}

// ---- A random workload leaves a clean filesystem

// Operations on a few names, so that all kinds of collisions of what was done before happen.
class Workload {
 public:
  Workload(FileSystem& fs, uint64_t seed) : fs_(fs), client_(fs), random_(seed) {
    dirs_.push_back(fs.root());
  }
  void Step() {
    const InodeNumber dir = dirs_[random_() % dirs_.size()];
    const std::string name = Name();
    switch (random_() % 12) {
      case 0:
      case 1:
        WriteFile(dir, name);
        break;
      case 2:
        if (auto made = client_.Mkdir(dir, name); made.ok() && dirs_.size() < 20) {
          dirs_.push_back(*made);  // Keeps the reference.
        }
        break;
      case 3:
        Drop(client_.Create(dir, name, S_IFLNK | 0777, std::string(1 + random_() % 4000, 's')));
        break;
      case 4:
      case 5:
        (void)fs_.Unlink(dir, name);
        break;
      case 6:
        (void)fs_.Rmdir(dir, name);
        break;
      case 7:
      case 8:
        (void)fs_.Rename(dir, name, dirs_[random_() % dirs_.size()], Name(),
                         random_() % 4 == 0 ? unsigned{RENAME_EXCHANGE} : 0);
        break;
      case 9:
        WithFile(dir, name, [&](InodeNumber ino) {
          (void)client_.Truncate(ino, random_() % 3 == 0 ? 0 : random_() % 300'000);
        });
        break;
      case 10:
        WithFile(dir, name, [&](InodeNumber ino) { ChangeXattr(ino); });
        break;
      default:
        WithFile(dir, name, [&](InodeNumber ino) {
          if (fs_.Link(ino, dirs_[random_() % dirs_.size()], Name()).ok()) fs_.Forget(ino, 1);
        });
    }
  }

 private:
  std::string Name() {
    const uint64_t number = random_() % 120;
    return absl::StrCat("n", number, std::string(number * 2, 'x'));
  }
  void Drop(const StatusOr<InodeNumber>& made) {
    if (made.ok()) fs_.Forget(*made, 1);
  }
  void WithFile(InodeNumber dir, const std::string& name,
                const std::function<void(InodeNumber)>& act) {
    const auto found = client_.Find(dir, name);
    if (!found.ok() || *found == 0) return;
    act(*found);
    fs_.Forget(*found, 1);
  }
  void WriteFile(InodeNumber dir, const std::string& name) {
    Drop(client_.Create(dir, name));
    WithFile(dir, name, [&](InodeNumber ino) {
      for (uint64_t i = random_() % 8; i > 0; --i) {
        (void)client_.Write(ino, random_() % 2'000'000, std::string(1 + random_() % 20'000, 'w'));
      }
      if (random_() % 4 == 0) (void)client_.Fsync(ino);
    });
  }
  void ChangeXattr(InodeNumber ino) {
    const std::string name = absl::StrCat("user.", random_() % 6);
    if (random_() % 3 == 0) {
      (void)fs_.RemoveXattr(ino, name);
    } else {
      (void)fs_.SetXattr(ino, name, std::string(random_() % (random_() % 4 == 0 ? 9000 : 60), 'v'),
                         0);
    }
  }

  FileSystem& fs_;
  FsClient client_;
  std::mt19937_64 random_;
  std::vector<InodeNumber> dirs_;
};

class CheckerWorkloadTest : public FsFixture, public ::testing::WithParamInterface<uint64_t> {};

TEST_P(CheckerWorkloadTest, LeavesACleanFilesystem) {
  MakeAndMount(48 << 20);
  {
    Workload workload(*fs_, GetParam());
    for (int i = 0; i < 3000; ++i) workload.Step();
  }
  ASSERT_TRUE(client_->Sync().ok());
  const auto live = CheckReplayed(*device_->Clone());  // As if cut off now.
  ASSERT_TRUE(live.ok()) << live.status();
  EXPECT_TRUE(live->clean()) << AllLines(*live);
  Unmount();
  const CheckReport report = Check(*device_);
  EXPECT_TRUE(report.clean()) << AllLines(report);
  EXPECT_EQ(report.stats.orphans, 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, CheckerWorkloadTest, ::testing::Range<uint64_t>(1, 5));

}  // namespace
}  // namespace pbfs
