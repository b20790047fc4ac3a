// SPDX-License-Identifier: Apache-2.0
// fsck.pbfs and pbfsctl as a user runs them, on image files.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fs_image.h"

namespace pbfs {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

struct Outcome {
  int exit_code;
  std::string output;  // Both streams.
};

class Fsck : public testing::Test {
 protected:
  Fsck() {
    std::string name = testing::TempDir() + "pbfs-fsck-XXXXXX";
    directory_ = mkdtemp(name.data());
  }
  ~Fsck() override { std::filesystem::remove_all(directory_); }

  std::string Path() const { return directory_ + "/a.img"; }

  static Outcome Run(const std::string& command_line) {
    FILE* const pipe = popen((PBFS_BIN_DIR "/" + command_line + " 2>&1").c_str(), "r");
    Outcome outcome = {-1, ""};
    std::array<char, 4096> buffer;
    while (const size_t got = fread(buffer.data(), 1, buffer.size(), pipe)) {
      outcome.output.append(buffer.data(), got);
    }
    outcome.exit_code = WEXITSTATUS(pclose(pipe));
    return outcome;
  }
  Outcome RunFsck(const std::string& options) { return Run("fsck.pbfs " + options + " " + Path()); }

  void Save(BlockDevice& device) const {
    std::ofstream file(Path(), std::ios::binary);
    std::string bytes(1 << 20, '\0');
    for (uint64_t at = 0; at < device.geometry().size_bytes; at += bytes.size()) {
      ASSERT_EQ(ReadSync(device, at, bytes.data(), bytes.size()), 0);
      file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }
  }
  std::string Contents() const {
    std::ifstream file(Path(), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  void SaveDamaged() const {
    const RichImage image = MakeRichImage();
    ImageEditor(*image.device).EditInode(image.contents.small_file, [](DiskInode& inode) {
      ++inode.nlink;
    });
    Save(*image.device);
  }

  std::string directory_;
};

TEST_F(Fsck, FindsAFreshFilesystemClean) {
  ASSERT_EQ(Run("mkfs.pbfs -q -s 64M " + Path()).exit_code, 0);
  for (const char* options : {"-n", "-p", "-a", "-y", "", "-f -p", "-n -f -v"}) {
    const Outcome outcome = RunFsck(options);
    EXPECT_EQ(outcome.exit_code, 0) << options << ": " << outcome.output;
  }
  EXPECT_THAT(RunFsck("-p").output, HasSubstr("not checked"));
  EXPECT_THAT(RunFsck("-p -f").output, HasSubstr("clean, 0 files, 1 directories"));
  EXPECT_THAT(RunFsck("").output, HasSubstr("clean, 0 files, 1 directories"));
}

TEST_F(Fsck, ReadOnlyReplaysInMemoryAndWritesNothing) {
  Save(*MakeDirtyRichImage().device);
  const std::string before = Contents();
  const Outcome outcome = RunFsck("-n");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("log is dirty"), HasSubstr("clean, ")));
  EXPECT_TRUE(Contents() == before);
}

TEST_F(Fsck, FinishesWhatACrashLeft) {
  for (const char* options : {"-p", "-a", "-y", ""}) {
    Save(*MakeDirtyRichImage().device);
    const Outcome outcome = RunFsck(options);
    EXPECT_EQ(outcome.exit_code, 1) << options << ": " << outcome.output;
    EXPECT_THAT(outcome.output, AllOf(HasSubstr("log replayed"), HasSubstr("orphans finished: 1"),
                                      HasSubstr("clean, ")));
    EXPECT_EQ(RunFsck("-n").exit_code, 0);
    EXPECT_THAT(RunFsck("-p").output, HasSubstr("was unmounted"));
  }
}

TEST_F(Fsck, ReportsErrorsAndLeavesThem) {
  SaveDamaged();
  const std::string before = Contents();
  for (const char* options : {"-n", "-p", "-y", "-p -f"}) {
    const Outcome outcome = RunFsck(options);
    EXPECT_EQ(outcome.exit_code, 4) << options << ": " << outcome.output;
    EXPECT_THAT(outcome.output, AllOf(HasSubstr("nlink is 2"), HasSubstr("does not repair")));
    EXPECT_TRUE(Contents() == before) << options;
  }
}

TEST_F(Fsck, RefusesWhatIsInUseOrNotThere) {
  ASSERT_EQ(Run("mkfs.pbfs -q -s 64M " + Path()).exit_code, 0);
  const int fd = open(Path().c_str(), O_RDONLY);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  for (const char* options : {"-n", "-p", ""}) {
    const Outcome outcome = RunFsck(options);
    EXPECT_EQ(outcome.exit_code, 8) << options;
    EXPECT_THAT(outcome.output, HasSubstr("in use"));
  }
  EXPECT_EQ(RunFsck("-M -p").exit_code, 0);
  close(fd);
  std::filesystem::remove(Path());
  EXPECT_EQ(RunFsck("-n").exit_code, 8);
  std::ofstream(Path()).close();
  std::filesystem::resize_file(Path(), 64 << 20);
  const Outcome outcome = RunFsck("-p");
  EXPECT_EQ(outcome.exit_code, 8);
  EXPECT_THAT(outcome.output, HasSubstr("not a pbfs filesystem"));
}

TEST_F(Fsck, KnowsItsCommandLine) {
  ASSERT_EQ(Run("mkfs.pbfs -q -s 64M " + Path()).exit_code, 0);
  EXPECT_EQ(RunFsck("-n -p").exit_code, 16);
  EXPECT_EQ(RunFsck("-n -y").exit_code, 16);
  EXPECT_EQ(RunFsck("-x").exit_code, 16);
  EXPECT_EQ(RunFsck("-Cx").exit_code, 16);
  EXPECT_EQ(Run("fsck.pbfs -n").exit_code, 16);
  EXPECT_EQ(Run("fsck.pbfs -n a b").exit_code, 16);
  EXPECT_EQ(RunFsck("-T -r -n").exit_code, 0);  // As fsck(8) may pass them.
  EXPECT_THAT(Run("fsck.pbfs -V").output, HasSubstr("fsck.pbfs "));
  EXPECT_THAT(Run("fsck.pbfs --help").output, HasSubstr("-n "));
}

TEST_F(Fsck, ShowsProgressToAProgram) {
  Save(*MakeRichImage().device);
  const Outcome outcome = RunFsck("-n -C1");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.output, HasSubstr("1 0 "));
  EXPECT_THAT(outcome.output, HasSubstr(Path() + "\n"));
  EXPECT_THAT(RunFsck("-n").output, Not(HasSubstr("1 0 ")));
}

bool NewestCheckpointNeedsOthers(MemoryDevice& device) {
  ImageEditor editor(device);
  const Superblock& superblock = editor.superblock();
  CheckpointHeader newest = {};
  for (uint32_t i = kLogAnchorBlocks; i < superblock.log_blocks; ++i) {
    const auto header = editor.Get<CheckpointHeader>(superblock.log_start + i);
    if (header.header.magic != kMagicCheckpoint) continue;
    if (header.sequence > newest.sequence) newest = header;
  }
  return newest.tail_sequence < newest.sequence;
}

TEST_F(Fsck, ReplayOfABrokenLogIsAnErrorThatIsLeft) {
  RichImage image = MakeDirtyRichImage();
  // Damages the body of a checkpoint that a later one calls durable, and needs: on a slow machine
  // metadata may have been written back, and the newest checkpoint stands alone.
  for (int attempt = 0; attempt < 10 && !NewestCheckpointNeedsOthers(*image.device); ++attempt) {
    image = MakeDirtyRichImage();
  }
  ImageEditor editor(*image.device);
  const Superblock& superblock = editor.superblock();
  std::vector<BlockNumber> headers;
  for (uint32_t i = kLogAnchorBlocks; i < superblock.log_blocks; ++i) {
    const auto header = editor.Get<BlockHeader>(superblock.log_start + i);
    if (header.magic == kMagicCheckpoint) headers.push_back(superblock.log_start + i);
  }
  ASSERT_GE(headers.size(), 2u);
  AlignedBuffer block = *AlignedBuffer::Create(kBlockBytes);
  for (size_t i = 0; i + 1 < headers.size(); ++i) {
    editor.Load(headers[i] + 1, block);
    block.data()[100] ^= std::byte{1};
    editor.Store(headers[i] + 1, block);
  }
  Save(*image.device);
  const std::string before = Contents();
  for (const char* options : {"-n", "-p"}) {
    const Outcome outcome = RunFsck(options);
    EXPECT_EQ(outcome.exit_code, 4) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("log checkpoint"));
  }
  EXPECT_TRUE(Contents() == before);
}

// ---- pbfsctl

TEST_F(Fsck, PbfsctlShowsAnImage) {
  const RichImage image = MakeRichImage();
  Save(*image.device);
  EXPECT_THAT(Run("pbfsctl stats " + Path()).output,
              AllOf(HasSubstr("blocks: 8192"), HasSubstr("log: clean"), HasSubstr("orphans: yes")));
  EXPECT_THAT(Run("pbfsctl stats --json " + Path()).output, HasSubstr("\"blocks\": 8192,"));
  EXPECT_THAT(Run("pbfsctl dump " + Path()).output, HasSubstr("total_blocks: 8192"));
  EXPECT_THAT(Run("pbfsctl dump " + Path() + " state").output, HasSubstr("orphans:"));
  EXPECT_THAT(Run("pbfsctl dump " + Path() + " ag 0").output, HasSubstr("free_runs:"));
  EXPECT_THAT(Run("pbfsctl dump " + Path() + " log").output, HasSubstr("checkpoints:"));
  EXPECT_THAT(Run("pbfsctl dump " + Path() + " 1").output, HasSubstr("kind: bitmap"));
  const std::string ino = std::to_string(image.contents.short_link);
  EXPECT_THAT(Run("pbfsctl dump --json " + Path() + " inode " + ino).output,
              HasSubstr("\"target\": \"target\""));
}

TEST_F(Fsck, PbfsctlSaysWhatItCannotDo) {
  ASSERT_EQ(Run("mkfs.pbfs -q -s 64M " + Path()).exit_code, 0);
  EXPECT_EQ(Run("pbfsctl").exit_code, 1);
  EXPECT_EQ(Run("pbfsctl dump " + Path() + " nonsense").exit_code, 1);
  EXPECT_EQ(Run("pbfsctl dump " + Path() + " ag 9").exit_code, 1);
  EXPECT_EQ(Run("pbfsctl dump " + Path() + " inode x").exit_code, 1);
  const Outcome outcome = Run("pbfsctl stats " + directory_);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.output, HasSubstr("not the mount point of a pbfs filesystem"));
  EXPECT_EQ(Run("pbfsctl sync " + directory_).exit_code, 1);
}

}  // namespace
}  // namespace pbfs
