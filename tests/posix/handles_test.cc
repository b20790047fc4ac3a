// SPDX-License-Identifier: Apache-2.0
// name_to_handle_at(2) and open_by_handle_at(2): what a file server keeps of a file.
#include <memory>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class Handles : public PosixTest {
 protected:
  struct Handle {
    alignas(file_handle) char bytes[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
    file_handle* get() { return reinterpret_cast<file_handle*>(bytes); }
    std::string Text() {
      return std::string(reinterpret_cast<char*>(get()->f_handle), get()->handle_bytes);
    }
  };
  static Handle Of(const std::string& path) {
    Handle handle;
    handle.get()->handle_bytes = MAX_HANDLE_SZ;
    int mount = 0;
    EXPECT_OK(name_to_handle_at(AT_FDCWD, path.c_str(), handle.get(), &mount, 0)) << path;
    return handle;
  }
  // The descriptor, or -1 with errno.
  static int Open(Handle& handle, int flags) {
    const int mount = open(options().directory.c_str(), O_RDONLY | O_DIRECTORY);
    const int fd = open_by_handle_at(mount, handle.get(), flags);
    const int error = errno;
    close(mount);
    errno = error;
    return fd;
  }
  static int TryHandle(Handle& handle, int flags) {
    const int fd = Open(handle, flags);
    return fd < 0 ? fd : close(fd);
  }
};

TEST_F(Handles, LeadToTheFile) {
  WriteFile("f", "contents");
  ASSERT_OK(mkdir("d", 0755));
  WriteFile("d/f", "inside");
  Handle file = Of("f"), directory = Of("d");
  EXPECT_NE(file.Text(), directory.Text());
  const int fd = Open(file, O_RDWR);
  ASSERT_GE(fd, 0) << strerrorname_np(errno);
  EXPECT_EQ(Stat(fd).st_ino, Stat("f").st_ino);
  EXPECT_EQ(ReadRange(fd, 0, 100), "contents");
  WriteRange(fd, 0, "CON");
  close(fd);
  EXPECT_EQ(ReadFile("f"), "CONtents");
  const int opened = Open(directory, O_RDONLY | O_DIRECTORY);
  ASSERT_GE(opened, 0);
  struct stat inside;
  EXPECT_OK(fstatat(opened, "f", &inside, 0));
  EXPECT_EQ(inside.st_ino, Stat("d/f").st_ino);
  struct stat parent;
  EXPECT_OK(fstatat(opened, "..", &parent, 0));
  EXPECT_EQ(parent.st_ino, Stat(".").st_ino);
  close(opened);
  AsUser([&] { EXPECT_FAILS(EPERM, TryHandle(file, O_RDONLY)); });
}

TEST_F(Handles, FollowTheFileNotTheName) {
  WriteFile("f", "contents");
  Handle handle = Of("f");
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(rename("f", "d/g"));
  WriteFile("f", "another");
  EXPECT_EQ(Of("d/g").Text(), handle.Text());
  const int fd = Open(handle, O_RDONLY);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(ReadRange(fd, 0, 100), "contents");
  close(fd);
}

TEST_F(Handles, OfADeletedFileAreStale) {
  WriteFile("f", "contents");
  ASSERT_OK(mkdir("d", 0755));
  Handle file = Of("f"), directory = Of("d");
  ASSERT_OK(unlink("f"));
  ASSERT_OK(rmdir("d"));
  EXPECT_FAILS(ESTALE, TryHandle(file, O_RDONLY));
  EXPECT_FAILS(ESTALE, TryHandle(directory, O_RDONLY));
  // Also when other files have taken the numbers.
  for (int i = 0; i < 300; ++i) WriteFile("new" + std::to_string(i), "x");
  EXPECT_FAILS(ESTALE, TryHandle(file, O_RDONLY));
  EXPECT_FAILS(ESTALE, TryHandle(directory, O_RDONLY));
}

TEST_F(Handles, OfAFileThatIsStillOpen) {
  WriteFile("f", "contents");
  Handle handle = Of("f");
  File file("f", O_RDWR);
  ASSERT_OK(unlink("f"));
  const int fd = Open(handle, O_RDONLY);
  // It lives, but a filesystem may refuse a file without a name.
  if (fd < 0) {
    EXPECT_EQ(errno, ESTALE);
  } else {
    EXPECT_EQ(ReadRange(fd, 0, 100), "contents");
    close(fd);
  }
  file.Close();
  // The end of a file reaches a FUSE server a little later.
  for (int i = 0; i < 100 && TryHandle(handle, O_RDONLY) == 0; ++i) usleep(10'000);
  EXPECT_FAILS(ESTALE, TryHandle(handle, O_RDONLY));
}

TEST_F(Handles, HoldAcrossARemount) {
  SKIP_UNLESS_REMOUNT();
  WriteFile("f", "contents");
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(mkdir("d/e", 0755));
  WriteFile("d/e/f", "deep");
  WriteFile("deleted", "x");
  Handle file = Of("f"), deep = Of("d/e/f"), directory = Of("d/e"), deleted = Of("deleted");
  ASSERT_OK(unlink("deleted"));
  Remount();
  EXPECT_FAILS(ESTALE, TryHandle(deleted, O_RDONLY));
  // Before anybody has looked the names up.
  const int fd = Open(deep, O_RDONLY);
  ASSERT_GE(fd, 0) << strerrorname_np(errno);
  EXPECT_EQ(ReadRange(fd, 0, 100), "deep");
  close(fd);
  const int opened = Open(directory, O_RDONLY | O_DIRECTORY);
  ASSERT_GE(opened, 0) << strerrorname_np(errno);
  struct stat inside;
  EXPECT_OK(fstatat(opened, "f", &inside, 0));
  EXPECT_OK(fstatat(opened, "../../f", &inside, 0));
  EXPECT_EQ(inside.st_ino, Stat("f").st_ino);
  close(opened);
  EXPECT_EQ(Of("f").Text(), file.Text());
  for (int i = 0; i < 300; ++i) WriteFile("new" + std::to_string(i), "x");
  EXPECT_FAILS(ESTALE, TryHandle(deleted, O_RDONLY));
}

TEST_F(Handles, TheBufferIsAskedFor) {
  WriteFile("f", "x");
  Handle handle;
  int mount;
  EXPECT_FAILS(EOVERFLOW, name_to_handle_at(AT_FDCWD, "f", handle.get(), &mount, 0));
  EXPECT_GT(handle.get()->handle_bytes, 0u);
}

}  // namespace
}  // namespace pbfs::posix
