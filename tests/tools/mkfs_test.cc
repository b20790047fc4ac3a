// SPDX-License-Identifier: Apache-2.0
// mkfs.pbfs as a user runs it, on image files.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "fs/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pbfs {
namespace {

using testing::HasSubstr;

struct Outcome {
  int exit_code;
  std::string output;  // Both streams.
};

class Mkfs : public testing::Test {
 protected:
  Mkfs() {
    std::string name = testing::TempDir() + "pbfs-mkfs-XXXXXX";
    directory_ = mkdtemp(name.data());
  }
  ~Mkfs() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  static Outcome Run(const std::string& arguments) {
    const std::string command = std::string(PBFS_BIN_DIR "/mkfs.pbfs ") + arguments + " 2>&1";
    FILE* const pipe = popen(command.c_str(), "r");
    Outcome outcome = {-1, ""};
    std::array<char, 4096> buffer;
    while (const size_t got = fread(buffer.data(), 1, buffer.size(), pipe)) {
      outcome.output.append(buffer.data(), got);
    }
    outcome.exit_code = WEXITSTATUS(pclose(pipe));
    return outcome;
  }

  void MakeImage(const std::string& name, uintmax_t size_bytes) const {
    std::ofstream(Path(name)).close();
    std::filesystem::resize_file(Path(name), size_bytes);
  }
  void Put(const std::string& name, std::streamoff offset, const std::string& bytes) const {
    std::fstream file(Path(name), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(offset);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  Superblock Primary(const std::string& name) const {
    Superblock superblock = {};
    std::ifstream file(Path(name), std::ios::binary);
    file.read(reinterpret_cast<char*>(&superblock), sizeof superblock);
    return superblock;
  }
  bool IsPbfs(const std::string& name) const {
    return Primary(name).header.magic == kMagicSuperblock;
  }

  std::string directory_;
};

TEST_F(Mkfs, MakesASparseImage) {
  const Outcome outcome = Run("-s 1G -L photos " + Path("a.img"));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("1 GiB"));
  EXPECT_THAT(outcome.output, HasSubstr("photos"));
  struct stat status = {};
  ASSERT_EQ(stat(Path("a.img").c_str(), &status), 0);
  EXPECT_EQ(status.st_size, off_t{1} << 30);
  EXPECT_LT(status.st_blocks * 512, 1 << 20);
  EXPECT_TRUE(IsPbfs("a.img"));
}

TEST_F(Mkfs, UsesTheWholeFileWithoutSize) {
  MakeImage("a.img", 100 << 20);
  const Outcome outcome = Run("-q " + Path("a.img"));
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_EQ(outcome.output, "");
  EXPECT_EQ(Primary("a.img").total_blocks, 25600u);
}

TEST_F(Mkfs, DryRunWritesNothing) {
  const Outcome fresh = Run("-n -s 1G " + Path("a.img"));
  EXPECT_EQ(fresh.exit_code, 0) << fresh.output;
  EXPECT_THAT(fresh.output, HasSubstr("log"));
  EXPECT_FALSE(std::filesystem::exists(Path("a.img")));
  MakeImage("b.img", 100 << 20);
  EXPECT_EQ(Run("-n " + Path("b.img")).exit_code, 0);
  EXPECT_FALSE(IsPbfs("b.img"));
}

TEST_F(Mkfs, RefusesWhatIsThereUnlessForced) {
  ASSERT_EQ(Run("-s 64M " + Path("a.img")).exit_code, 0);
  const Outcome again = Run(Path("a.img"));
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_THAT(again.output, HasSubstr("contains a pbfs filesystem"));
  EXPECT_EQ(Run("-f " + Path("a.img")).exit_code, 0);
}

TEST_F(Mkfs, RefusesAFilesystemWhoseFirstBlockIsGone) {
  ASSERT_EQ(Run("-s 64M " + Path("a.img")).exit_code, 0);
  Put("a.img", 0, std::string(4096, '\0'));
  const Outcome again = Run(Path("a.img"));
  EXPECT_EQ(again.exit_code, 1);
  EXPECT_THAT(again.output, HasSubstr("superblock is damaged"));
  EXPECT_FALSE(IsPbfs("a.img"));
  EXPECT_EQ(Run("-f " + Path("a.img")).exit_code, 0);
}

TEST_F(Mkfs, ErasesForeignSignatures) {
  MakeImage("a.img", 64 << 20);
  Put("a.img", 4086, "SWAPSPACE2");
  Put("a.img", 1024, std::string("\1\0\0\0\377\1\0\0\0\0\0\0", 12) + std::string(16, 'u'));
  const Outcome refused = Run(Path("a.img"));
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.output, HasSubstr("swap"));
  EXPECT_FALSE(IsPbfs("a.img"));
  ASSERT_EQ(Run("-f " + Path("a.img")).exit_code, 0);
  std::ifstream file(Path("a.img"), std::ios::binary);
  std::string bytes(10, 0);
  file.seekg(4086);
  file.read(bytes.data(), 10);
  EXPECT_NE(bytes, "SWAPSPACE2");
}

TEST_F(Mkfs, RefusesALockedImage) {
  MakeImage("a.img", 64 << 20);
  const int fd = open(Path("a.img").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(fd, LOCK_EX), 0);
  const Outcome outcome = Run("-f " + Path("a.img"));
  close(fd);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.output, HasSubstr("in use by"));
  EXPECT_FALSE(IsPbfs("a.img"));
}

TEST_F(Mkfs, RefusedImageIsNotExtended) {
  ASSERT_EQ(Run("-s 64M " + Path("a.img")).exit_code, 0);
  EXPECT_EQ(Run("-s 128M " + Path("a.img")).exit_code, 1);
  EXPECT_EQ(std::filesystem::file_size(Path("a.img")), 64u << 20);
  EXPECT_EQ(Run("-f -s 128M " + Path("a.img")).exit_code, 0);
  EXPECT_EQ(std::filesystem::file_size(Path("a.img")), 128u << 20);
}

TEST_F(Mkfs, SaysWhatIsWrong) {
  const auto expect = [&](const std::string& arguments, const std::string& message) {
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.exit_code, 1) << arguments;
    EXPECT_THAT(outcome.output, HasSubstr(message));
  };
  const std::string image = Path("a.img");
  expect("", "DEVICE is required");
  expect("-Z " + image, "-Z");
  expect(image, "no such file");
  expect("-s 15M " + image, "at least 16 MiB");
  expect("-s 15X " + image, "not a size");
  expect("-s 64M -l 1M " + image, "log is too small");
  expect("-s 64M -U 123 " + image, "not a UUID");
  expect("-s 64M -L " + std::string(65, 'x') + " " + image, "label is too long");
  expect("-s 64M /dev/no-such-device", "no such device");
  expect("-s 64M " + image + " " + Path("b.img"), "more than one device");
  expect(directory_, "neither a block device nor an image file");
  EXPECT_FALSE(std::filesystem::exists(image));
}

TEST_F(Mkfs, HelpAndVersionSucceed) {
  const Outcome help = Run("--help");
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.output, HasSubstr("--log-size"));
  const Outcome version = Run("--version");
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.output, HasSubstr("mkfs.pbfs 0."));
}

TEST_F(Mkfs, UnwritableOutputIsAnError) {
  EXPECT_EQ(Run("-n -s 64M " + Path("a.img") + " >/dev/full").exit_code, 1);
}

}  // namespace
}  // namespace pbfs
