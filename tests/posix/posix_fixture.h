// SPDX-License-Identifier: Apache-2.0
// What the tests of filesystem semantics share. They speak to the kernel only, and run on any
// directory of any filesystem: what they ask for is in POSIX and in the Linux man pages. Where two
// filesystems may differ, the test says so and why.
#pragma once
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace pbfs::posix {

struct Options {
  std::string directory;               // The tests work in here.
  std::string filesystem;              // As in /proc/mounts: ext4, xfs, fuseblk.pbfs, ...
  std::set<std::string> mounted_with;  // Mount options that change what is expected.
  std::string remount_command;         // Unmounts the filesystem and mounts it again; or "".
  std::string second_directory;        // The same directory by way of another mount; or "".
  bool may_fill = false;               // It is small, and nobody else's.
};
Options& options();

inline bool MountedWith(const std::string& option) {
  return options().mounted_with.count(option) != 0;
}
inline bool IsFuse() { return options().filesystem.rfind("fuse", 0) == 0; }
inline bool IsXfs() { return options().filesystem == "xfs"; }
inline bool IsExt4() { return options().filesystem == "ext4"; }

// "ok", or the name of the errno with which a call returned -1.
std::string Outcome(const std::function<int64_t()>& call);

#define EXPECT_OK(call) EXPECT_EQ(Outcome([&]() -> int64_t { return (call); }), "ok") << #call
#define ASSERT_OK(call) ASSERT_EQ(Outcome([&]() -> int64_t { return (call); }), "ok") << #call
#define EXPECT_FAILS(error, call) \
  EXPECT_EQ(Outcome([&]() -> int64_t { return (call); }), strerrorname_np(error)) << #call

// An open file. That opening fails is a failure of the test.
class File {
 public:
  explicit File(const std::string& path, int flags = O_RDWR | O_CREAT, mode_t mode = 0644)
      : fd_(open(path.c_str(), flags, mode)) {
    if (fd_ < 0) ADD_FAILURE() << "open " << path << ": " << strerrorname_np(errno);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { Close(); }
  operator int() const { return fd_; }
  void Close() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

// A mapped file, from its beginning.
class Mapping {
 public:
  Mapping(int fd, size_t size, int protection = PROT_READ | PROT_WRITE, int flags = MAP_SHARED)
      : size_(size), memory_(static_cast<char*>(mmap(nullptr, size, protection, flags, fd, 0))) {
    if (memory_ == MAP_FAILED) ADD_FAILURE() << "mmap: " << strerrorname_np(errno);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(memory_, size_); }
  char& operator[](off_t at) { return memory_[at]; }
  std::string Bytes(off_t offset, size_t size) { return std::string(memory_ + offset, size); }
  void Put(off_t offset, const std::string& bytes) {
    memcpy(memory_ + offset, bytes.data(), bytes.size());
  }
  int Sync() { return msync(memory_, size_, MS_SYNC); }

 private:
  size_t size_;
  char* memory_;
};

// Opens and closes at once: 0, or -1 with errno.
int TryOpen(const std::string& path, int flags, mode_t mode = 0644);

void WriteFile(const std::string& path, std::string_view contents);
std::string ReadFile(const std::string& path);
// All of the range, fewer bytes only at the end of the file.
std::string ReadRange(int fd, off_t offset, size_t size);
void WriteRange(int fd, off_t offset, std::string_view bytes);
// Bytes that differ at each place and for each seed.
std::string Pattern(size_t size, uint64_t seed = 1);
inline std::string Zeroes(size_t size) { return std::string(size, '\0'); }
// Says where two long strings differ instead of printing them.
testing::AssertionResult Same(const std::string& got, const std::string& expected);

struct stat Stat(const std::string& path);  // Of a symbolic link itself.
struct stat Stat(int fd);
// st_blocks. The kernel's FUSE client asks for it again only when a descriptor has been closed.
int64_t Blocks(int fd);
bool Exists(const std::string& path);
int64_t Nanoseconds(const timespec& time);
inline int64_t Atime(const std::string& path) { return Nanoseconds(Stat(path).st_atim); }
inline int64_t Mtime(const std::string& path) { return Nanoseconds(Stat(path).st_mtim); }
inline int64_t Ctime(const std::string& path) { return Nanoseconds(Stat(path).st_ctim); }
mode_t Mode(const std::string& path);  // 07777 of it.
// Without "." and "..", sorted.
std::vector<std::string> Names(const std::string& directory);

// Long enough that what follows has a later time, also where times come from the timer's tick.
void Tick();
// Writes the file back and lets the kernel forget its pages.
void Forget(int fd);

inline constexpr uid_t kUser = 65534;
inline constexpr gid_t kGroup = 65534;
struct Credentials {
  uid_t uid = kUser;
  gid_t gid = kGroup;
  std::vector<gid_t> groups = {};
};
// In a process of its own. Failures inside are failures of the test.
void InChild(const std::function<void()>& body);
void As(const Credentials& who, const std::function<void()>& body);
inline void AsUser(const std::function<void()>& body) { As({}, body); }

// Each test has an empty directory of its own with mode 0777, and is in it.
class PosixTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;
  // Unmounts and mounts again; nothing may be open. False, with the test skipped, where it cannot.
  static bool CanRemount() { return !options().remount_command.empty(); }
  void Remount();
  const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
};

#define SKIP_UNLESS_REMOUNT() \
  if (!CanRemount()) GTEST_SKIP() << "no --remount-command"

}  // namespace pbfs::posix
