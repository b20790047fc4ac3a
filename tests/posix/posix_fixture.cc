// SPDX-License-Identifier: Apache-2.0
#include "tests/posix/posix_fixture.h"

#include <dirent.h>
#include <grp.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace pbfs::posix {

Options& options() {
  static auto& options = *new Options;
  return options;
}

std::string Outcome(const std::function<int64_t()>& call) {
  errno = 0;
  if (call() >= 0) return "ok";
  const char* name = strerrorname_np(errno);
  return name == nullptr ? std::to_string(errno) : name;
}

int TryOpen(const std::string& path, int flags, mode_t mode) {
  const int fd = open(path.c_str(), flags, mode);
  if (fd < 0) return -1;
  close(fd);
  return 0;
}

void WriteFile(const std::string& path, std::string_view contents) {
  File file(path, O_WRONLY | O_CREAT | O_TRUNC);
  WriteRange(file, 0, contents);
}

std::string ReadFile(const std::string& path) {
  File file(path, O_RDONLY);
  std::string all;
  for (;;) {
    const std::string more = ReadRange(file, static_cast<off_t>(all.size()), 1 << 20);
    if (more.empty()) return all;
    all += more;
  }
}

std::string ReadRange(int fd, off_t offset, size_t size) {
  std::string bytes(size, '?');
  size_t done = 0;
  while (done < size) {
    const ssize_t got =
        pread(fd, bytes.data() + done, size - done, offset + static_cast<off_t>(done));
    if (got < 0) ADD_FAILURE() << "pread: " << strerrorname_np(errno);
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

void WriteRange(int fd, off_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = pwrite(fd, bytes.data(), bytes.size(), offset);
    if (put <= 0) {
      ADD_FAILURE() << "pwrite: " << strerrorname_np(errno);
      return;
    }
    offset += put;
    bytes.remove_prefix(static_cast<size_t>(put));
  }
}

std::string Pattern(size_t size, uint64_t seed) {
  std::string bytes(size, '\0');
  uint64_t state = seed * 0x9e3779b97f4a7c15;
  for (char& byte : bytes) {
    state = state * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<char>(state >> 56 | 1);  // Never zero.
  }
  return bytes;
}

testing::AssertionResult Same(const std::string& got, const std::string& expected) {
  if (got == expected) return testing::AssertionSuccess();
  const size_t common = std::min(got.size(), expected.size());
  const size_t at = static_cast<size_t>(
      std::mismatch(got.begin(), got.begin() + static_cast<std::ptrdiff_t>(common),
                    expected.begin())
          .first -
      got.begin());
  auto result = testing::AssertionFailure();
  result << got.size() << " bytes instead of " << expected.size() << "; they differ at " << at;
  if (at < common) result << ": " << int{got[at]} << " instead of " << int{expected[at]};
  return result;
}

struct stat Stat(const std::string& path) {
  struct stat attributes = {};
  EXPECT_OK(lstat(path.c_str(), &attributes)) << path;
  return attributes;
}

struct stat Stat(int fd) {
  struct stat attributes = {};
  EXPECT_OK(fstat(fd, &attributes));
  return attributes;
}

int64_t Blocks(int fd) {
  EXPECT_OK(TryOpen("/proc/self/fd/" + std::to_string(fd), O_RDONLY));
  return Stat(fd).st_blocks;
}

bool Exists(const std::string& path) {
  struct stat attributes;
  return lstat(path.c_str(), &attributes) == 0;
}

int64_t Nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

mode_t Mode(const std::string& path) { return Stat(path).st_mode & 07777; }

std::vector<std::string> Names(const std::string& directory) {
  std::vector<std::string> names;
  DIR* stream = opendir(directory.c_str());
  EXPECT_NE(stream, nullptr) << directory << ": " << strerrorname_np(errno);
  if (stream == nullptr) return names;
  while (const dirent* entry = readdir(stream)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  closedir(stream);
  std::sort(names.begin(), names.end());
  return names;
}

void Tick() { usleep(20'000); }

void Forget(int fd) {
  EXPECT_OK(fsync(fd));
  EXPECT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

void InChild(const std::function<void()>& body) {
  fflush(nullptr);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    body();
    fflush(nullptr);
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "the child was killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0) << "in the child process";
}

void As(const Credentials& who, const std::function<void()>& body) {
  InChild([&] {
    ASSERT_OK(setgroups(who.groups.size(), who.groups.data()));
    ASSERT_OK(setresgid(who.gid, who.gid, who.gid));
    ASSERT_OK(setresuid(who.uid, who.uid, who.uid));
    body();
  });
}

void PosixTest::SetUp() {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  directory_ = options().directory + "/" + info->test_suite_name() + "." + info->name();
  std::replace(directory_.begin() + static_cast<std::ptrdiff_t>(options().directory.size()) + 1,
               directory_.end(), '/', '-');
  std::filesystem::remove_all(directory_);
  umask(0);
  ASSERT_OK(mkdir(directory_.c_str(), 0777));
  umask(022);
  ASSERT_OK(chdir(directory_.c_str()));
}

void PosixTest::TearDown() {
  ASSERT_OK(chdir("/"));
  umask(022);
  std::error_code error;
  std::filesystem::remove_all(directory_, error);
  EXPECT_FALSE(error) << "removing " << directory_ << ": " << error.message();
}

void PosixTest::Remount() {
  ASSERT_OK(chdir("/"));
  ASSERT_EQ(system(options().remount_command.c_str()), 0) << options().remount_command;
  ASSERT_OK(chdir(directory_.c_str()));
}

}  // namespace pbfs::posix
