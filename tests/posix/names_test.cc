// SPDX-License-Identifier: Apache-2.0
// Making, finding and removing names: open(2), mkdir(2), mknod(2), unlink(2), rmdir(2).
#include <dirent.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <climits>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class Names : public PosixTest {};

TEST_F(Names, ExclusiveCreationWantsANewName) {
  EXPECT_OK(TryOpen("f", O_CREAT | O_EXCL | O_RDWR));
  EXPECT_FAILS(EEXIST, TryOpen("f", O_CREAT | O_EXCL | O_RDWR));
  // Also when it is a symbolic link that leads nowhere.
  ASSERT_OK(symlink("nowhere", "dangling"));
  EXPECT_FAILS(EEXIST, TryOpen("dangling", O_CREAT | O_EXCL | O_RDWR));
  EXPECT_FALSE(Exists("nowhere"));
  EXPECT_OK(TryOpen("dangling", O_CREAT | O_RDWR));
  EXPECT_TRUE(Exists("nowhere"));
  EXPECT_FAILS(EEXIST, mkdir("f", 0755));
  EXPECT_FAILS(EEXIST, mkdir(".", 0755));
  EXPECT_FAILS(EEXIST, symlink("x", "f"));
  EXPECT_FAILS(EEXIST, mknod("f", S_IFIFO | 0644, 0));
  EXPECT_FAILS(EEXIST, link("f", "nowhere"));
}

TEST_F(Names, DirectoriesAreNotOpenedForWriting) {
  ASSERT_OK(mkdir("d", 0755));
  EXPECT_FAILS(EISDIR, TryOpen("d", O_WRONLY));
  EXPECT_FAILS(EISDIR, TryOpen("d", O_RDWR));
  EXPECT_FAILS(EISDIR, TryOpen("d", O_RDONLY | O_CREAT));
  EXPECT_OK(TryOpen("d", O_RDONLY));
  EXPECT_OK(TryOpen("d", O_RDONLY | O_DIRECTORY));
  File directory("d", O_RDONLY);
  char byte;
  EXPECT_FAILS(EISDIR, read(directory, &byte, 1));
}

TEST_F(Names, KindsOfFilesThatOpenRefuses) {
  WriteFile("f", "x");
  ASSERT_OK(symlink("f", "l"));
  EXPECT_FAILS(ENOTDIR, TryOpen("f", O_RDONLY | O_DIRECTORY));
  EXPECT_FAILS(ELOOP, TryOpen("l", O_RDONLY | O_NOFOLLOW));
  EXPECT_OK(TryOpen("l", O_PATH | O_NOFOLLOW));
  EXPECT_FAILS(ENOENT, TryOpen("none", O_RDONLY));
  EXPECT_FAILS(ENOENT, TryOpen("", O_RDONLY));
  EXPECT_FAILS(ENOTDIR, TryOpen("f/x", O_RDONLY | O_CREAT));
  EXPECT_FAILS(ENOENT, TryOpen("none/x", O_RDONLY | O_CREAT));
  EXPECT_FAILS(EISDIR, TryOpen("new/", O_RDWR | O_CREAT));
  EXPECT_FAILS(ENOTDIR, TryOpen("f/", O_RDONLY));
  ASSERT_OK(mkfifo("p", 0644));
  EXPECT_FAILS(ENXIO, TryOpen("p", O_WRONLY | O_NONBLOCK));
}

TEST_F(Names, TruncationAtOpen) {
  WriteFile("f", "contents");
  EXPECT_OK(TryOpen("f", O_WRONLY));
  EXPECT_EQ(ReadFile("f"), "contents");
  EXPECT_OK(TryOpen("f", O_WRONLY | O_TRUNC));
  EXPECT_EQ(Stat("f").st_size, 0);
}

TEST_F(Names, LengthOfNames) {
  const std::string longest(255, 'n'), longer(256, 'n');
  EXPECT_OK(TryOpen(longest, O_CREAT | O_RDWR));
  EXPECT_OK(rename(longest.c_str(), "f"));
  EXPECT_OK(link("f", longest.c_str()));
  EXPECT_EQ(posix::Names("."), (std::vector<std::string>{"f", longest}));
  EXPECT_OK(unlink(longest.c_str()));
  EXPECT_OK(mkdir(longest.c_str(), 0755));
  EXPECT_OK(rmdir(longest.c_str()));
  EXPECT_OK(symlink("f", longest.c_str()));

  EXPECT_FAILS(ENAMETOOLONG, TryOpen(longer, O_RDONLY));
  EXPECT_FAILS(ENAMETOOLONG, TryOpen(longer, O_CREAT | O_RDWR));
  EXPECT_FAILS(ENAMETOOLONG, mkdir(longer.c_str(), 0755));
  EXPECT_FAILS(ENAMETOOLONG, symlink("f", longer.c_str()));
  EXPECT_FAILS(ENAMETOOLONG, link("f", longer.c_str()));
  EXPECT_FAILS(ENAMETOOLONG, mknod(longer.c_str(), S_IFIFO | 0644, 0));
  EXPECT_FAILS(ENAMETOOLONG, rename("f", longer.c_str()));
  EXPECT_FAILS(ENAMETOOLONG, rename(longer.c_str(), "g"));
  EXPECT_FAILS(ENAMETOOLONG, unlink(longer.c_str()));
  EXPECT_FAILS(ENAMETOOLONG, rmdir(longer.c_str()));
  struct stat attributes;
  EXPECT_FAILS(ENAMETOOLONG, stat(longer.c_str(), &attributes));
  const std::string path(PATH_MAX, '/');
  EXPECT_FAILS(ENAMETOOLONG, stat(path.c_str(), &attributes));
}

TEST_F(Names, AnyBytes) {
  std::string all;
  for (int c = 1; c < 256; ++c) {
    if (c != '/') all.push_back(static_cast<char>(c));
  }
  const std::vector<std::string> names = {all, "\xff\xfe", "\xc3\xa4", "a\xcc\x88",
                                          " ", "\n",       "A",        "a"};
  for (const std::string& name : names) {
    EXPECT_OK(TryOpen(name, O_CREAT | O_EXCL | O_RDWR));
  }
  std::vector<std::string> sorted = names;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(posix::Names("."), sorted);
}

TEST_F(Names, UnlinkAndRmdirTellFilesFromDirectories) {
  ASSERT_OK(mkdir("d", 0755));
  WriteFile("f", "x");
  EXPECT_FAILS(EISDIR, unlink("d"));
  EXPECT_FAILS(ENOTDIR, rmdir("f"));
  EXPECT_FAILS(ENOENT, unlink("none"));
  EXPECT_FAILS(ENOENT, rmdir("none"));
  EXPECT_FAILS(ENOTDIR, unlink("f/x"));
  EXPECT_FAILS(ENOTDIR, unlink("f/"));
  EXPECT_FAILS(EINVAL, rmdir("d/."));
  EXPECT_FAILS(ENOTEMPTY, rmdir("d/.."));
  WriteFile("d/f", "x");
  EXPECT_FAILS(ENOTEMPTY, rmdir("d"));
  EXPECT_OK(unlink("d/f"));
  ASSERT_OK(symlink("d", "l"));
  EXPECT_FAILS(ENOTDIR, rmdir("l"));
  EXPECT_OK(rmdir("d"));
  EXPECT_OK(unlink("l"));
}

TEST_F(Names, ARemovedDirectoryTakesNoNames) {
  ASSERT_OK(mkdir("d", 0755));
  WriteFile("f", "x");
  File directory("d", O_RDONLY | O_DIRECTORY);
  ASSERT_OK(rmdir("d"));
  EXPECT_EQ(Stat(directory).st_nlink, 0u);
  EXPECT_FAILS(ENOENT, openat(directory, "x", O_CREAT | O_RDWR, 0644));
  EXPECT_FAILS(ENOENT, mkdirat(directory, "x", 0755));
  EXPECT_FAILS(ENOENT, symlinkat("x", directory, "x"));
  EXPECT_FAILS(ENOENT, linkat(AT_FDCWD, "f", directory, "x", 0));
  EXPECT_FAILS(ENOENT, renameat(AT_FDCWD, "f", directory, "x"));
}

TEST_F(Names, AnUnlinkedFileLivesWhileItIsOpen) {
  const std::string bytes = Pattern(100'000);
  WriteFile("f", bytes);
  File file("f", O_RDWR);
  ASSERT_OK(unlink("f"));
  EXPECT_FALSE(Exists("f"));
  EXPECT_EQ(Stat(file).st_nlink, 0u);
  EXPECT_TRUE(Same(ReadRange(file, 0, 200'000), bytes));
  WriteRange(file, 100'000, "more");
  EXPECT_EQ(Stat(file).st_size, 100'004);
  EXPECT_EQ(ReadRange(file, 100'000, 10), "more");
  EXPECT_OK(fchmod(file, 0600));
  EXPECT_OK(ftruncate(file, 10));
  EXPECT_OK(fsync(file));
  EXPECT_FAILS(ENOENT, linkat(file, "", AT_FDCWD, "back", AT_EMPTY_PATH));
  // The name is free for another file.
  WriteFile("f", "another");
  EXPECT_NE(Stat("f").st_ino, Stat(file).st_ino);
  EXPECT_EQ(ReadRange(file, 0, 100), bytes.substr(0, 10));
}

TEST_F(Names, LoopsOfSymbolicLinks) {
  ASSERT_OK(symlink("b", "a"));
  ASSERT_OK(symlink("a", "b"));
  ASSERT_OK(symlink("self", "self"));
  EXPECT_FAILS(ELOOP, TryOpen("a", O_RDONLY));
  EXPECT_FAILS(ELOOP, TryOpen("self", O_RDONLY | O_CREAT));
  EXPECT_FAILS(ELOOP, mkdir("self/x", 0755));
  // path_resolution(7): 40 are followed.
  WriteFile("0", "end");
  for (int i = 1; i <= 41; ++i) {
    ASSERT_OK(symlink(std::to_string(i - 1).c_str(), std::to_string(i).c_str()));
  }
  EXPECT_OK(TryOpen("40", O_RDONLY));
  EXPECT_FAILS(ELOOP, TryOpen("41", O_RDONLY));
}

TEST_F(Names, SpecialFiles) {
  umask(0);
  ASSERT_OK(mknod("c", S_IFCHR | 0640, makedev(259, 70'000)));
  ASSERT_OK(mknod("b", S_IFBLK | 0604, makedev(7, 200)));
  ASSERT_OK(mknod("s", S_IFSOCK | 0600, 0));
  ASSERT_OK(mknod("r", S_IFREG | 0644, 0));
  EXPECT_EQ(Stat("c").st_mode, mode_t{S_IFCHR | 0640});
  EXPECT_EQ(Stat("c").st_rdev, makedev(259, 70'000));
  EXPECT_EQ(Stat("b").st_mode, mode_t{S_IFBLK | 0604});
  EXPECT_EQ(Stat("b").st_rdev, makedev(7, 200));
  EXPECT_TRUE(S_ISSOCK(Stat("s").st_mode));
  EXPECT_TRUE(S_ISREG(Stat("r").st_mode));
  EXPECT_FAILS(EPERM, mknod("d", S_IFDIR | 0755, 0));
  ASSERT_OK(unlink("c"));
  AsUser([] {
    EXPECT_FAILS(EPERM, mknod("c", S_IFCHR | 0644, makedev(1, 3)));
    EXPECT_OK(mkfifo("p", 0644));
  });
}

TEST_F(Names, AFifoCarriesBytes) {
  ASSERT_OK(mkfifo("p", 0644));
  File reader("p", O_RDONLY | O_NONBLOCK);
  File writer("p", O_WRONLY);
  EXPECT_EQ(write(writer, "through", 7), 7);
  char bytes[16] = {};
  EXPECT_EQ(read(reader, bytes, sizeof bytes), 7);
  EXPECT_STREQ(bytes, "through");
  EXPECT_EQ(Stat("p").st_size, 0);
}

TEST_F(Names, ASocketIsBound) {
  const int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "socket"};
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  EXPECT_OK(bind(server, name, sizeof address));
  EXPECT_TRUE(S_ISSOCK(Stat("socket").st_mode));
  EXPECT_FAILS(EADDRINUSE, bind(client, name, sizeof address));
  EXPECT_OK(listen(server, 1));
  EXPECT_OK(connect(client, name, sizeof address));
  EXPECT_FAILS(ENXIO, TryOpen("socket", O_RDONLY));
  close(server);
  close(client);
}

TEST_F(Names, TheMaskOfTheProcess) {
  umask(027);
  EXPECT_OK(TryOpen("f", O_CREAT | O_RDWR, 0666));
  EXPECT_OK(mkdir("d", 0777));
  EXPECT_OK(mkfifo("p", 0666));
  EXPECT_EQ(Mode("f"), 0640u);
  EXPECT_EQ(Mode("d"), 0750u);
  EXPECT_EQ(Mode("p"), 0640u);
  umask(0);
  EXPECT_OK(TryOpen("g", O_CREAT | O_RDWR, 06777));
  EXPECT_EQ(Mode("g"), 06777u);
  EXPECT_OK(mkdir("e", 01777));
  EXPECT_EQ(Mode("e"), 01777u);
  // The mode is for the files made later: this descriptor may write.
  File file("h", O_CREAT | O_RDWR, 0);
  EXPECT_EQ(write(file, "x", 1), 1);
  EXPECT_EQ(Mode("h"), 0u);
}

}  // namespace
}  // namespace pbfs::posix
