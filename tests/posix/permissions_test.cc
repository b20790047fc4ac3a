// SPDX-License-Identifier: Apache-2.0
// Who may do what: path_resolution(7), access(2), chmod(2), chown(2), sticky and setgid
// directories, supplementary groups.
#include <sys/wait.h>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class Permissions : public PosixTest {
 protected:
  // A file of this owner, group and mode.
  static void Make(const char* path, uid_t uid, gid_t gid, mode_t mode) {
    WriteFile(path, "x");
    ASSERT_OK(chown(path, uid, gid));
    ASSERT_OK(chmod(path, mode));
  }
  static void MakeDirectory(const char* path, uid_t uid, gid_t gid, mode_t mode) {
    ASSERT_OK(mkdir(path, 0700));
    ASSERT_OK(chown(path, uid, gid));
    ASSERT_OK(chmod(path, mode));
  }
};

TEST_F(Permissions, TheFirstClassThatFitsDecides) {
  Make("owner", kUser, 100, 0477);  // May only read, though all others may write.
  Make("group", 0, kGroup, 0747);
  Make("other", 0, 100, 0774);
  AsUser([] {
    for (const char* name : {"owner", "group", "other"}) {
      EXPECT_OK(TryOpen(name, O_RDONLY)) << name;
      EXPECT_FAILS(EACCES, TryOpen(name, O_WRONLY)) << name;
      EXPECT_FAILS(EACCES, TryOpen(name, O_RDWR)) << name;
      EXPECT_OK(access(name, R_OK)) << name;
      EXPECT_FAILS(EACCES, access(name, W_OK)) << name;
      EXPECT_FAILS(EACCES, access(name, R_OK | X_OK)) << name;
      EXPECT_FAILS(EACCES, truncate(name, 0)) << name;
    }
  });
}

TEST_F(Permissions, SupplementaryGroups) {
  Make("f", 0, 4711, 0060);
  MakeDirectory("d", 0, 4712, 0770);
  As({.groups = {4711, 4712}}, [] {
    EXPECT_OK(TryOpen("f", O_RDWR));
    EXPECT_OK(TryOpen("d/new", O_CREAT | O_RDWR));
    EXPECT_EQ(Stat("d/new").st_gid, kGroup);
  });
  As({.groups = {4713}}, [] {
    EXPECT_FAILS(EACCES, TryOpen("f", O_RDONLY));
    EXPECT_FAILS(EACCES, TryOpen("d/new", O_RDONLY));
  });
}

TEST_F(Permissions, DirectoriesWithoutSearchOrRead) {
  MakeDirectory("search", 0, 0, 0711);
  MakeDirectory("read", 0, 0, 0744);
  Make("search/f", 0, 0, 0644);
  Make("read/f", 0, 0, 0644);
  AsUser([] {
    EXPECT_EQ(ReadFile("search/f"), "x");
    EXPECT_FAILS(EACCES, TryOpen("search", O_RDONLY | O_DIRECTORY));
    EXPECT_EQ(Names("read"), std::vector<std::string>{"f"});
    EXPECT_FAILS(EACCES, TryOpen("read/f", O_RDONLY));
    EXPECT_FAILS(EACCES, TryOpen("read/none", O_RDONLY));
    struct stat attributes;
    EXPECT_FAILS(EACCES, stat("read/f", &attributes));
    EXPECT_FAILS(EACCES, chdir("read"));
    EXPECT_OK(chdir("search"));
  });
}

TEST_F(Permissions, NamesBelongToTheDirectory) {
  MakeDirectory("d", 0, 0, 0755);
  Make("d/f", kUser, kGroup, 0666);
  MakeDirectory("own", kUser, kGroup, 0755);
  Make("own/f", 0, 0, 0600);
  AsUser([] {
    EXPECT_FAILS(EACCES, unlink("d/f"));
    EXPECT_FAILS(EACCES, rename("d/f", "own/g"));
    EXPECT_FAILS(EACCES, rename("own/f", "d/g"));
    EXPECT_FAILS(EACCES, TryOpen("d/new", O_CREAT | O_RDWR));
    EXPECT_FAILS(EACCES, mkdir("d/new", 0755));
    EXPECT_FAILS(EACCES, symlink("x", "d/new"));
    EXPECT_FAILS(EACCES, mkfifo("d/new", 0644));
    EXPECT_FAILS(EACCES, link("d/f", "d/new"));
    EXPECT_OK(unlink("own/f"));
  });
}

TEST_F(Permissions, StickyDirectories) {
  MakeDirectory("d", 0, 0, 01777);
  Make("d/root", 0, 0, 0666);
  Make("d/user", kUser, kGroup, 0644);
  MakeDirectory("d/empty", 0, 0, 0777);
  MakeDirectory("mine", kUser, kGroup, 01777);
  Make("mine/root", 0, 0, 0644);
  AsUser([] {
    EXPECT_FAILS(EPERM, unlink("d/root"));
    EXPECT_FAILS(EPERM, rename("d/root", "d/other"));
    EXPECT_FAILS(EPERM, rename("d/user", "d/root"));
    EXPECT_FAILS(EPERM, rmdir("d/empty"));
    EXPECT_OK(rename("d/user", "d/renamed"));
    EXPECT_OK(unlink("d/renamed"));
    EXPECT_OK(unlink("mine/root"));  // The directory's owner may.
  });
}

TEST_F(Permissions, ChangingTheMode) {
  Make("root", 0, 0, 0666);
  Make("own", kUser, kGroup, 0600);
  Make("foreign", kUser, 100, 0600);
  AsUser([] {
    EXPECT_FAILS(EPERM, chmod("root", 0644));
    EXPECT_OK(chmod("own", 06755));
    EXPECT_EQ(Mode("own"), 06755u);
    // Set-group-ID is not given to the files of a group that one is not in.
    EXPECT_OK(chmod("foreign", 02755));
    EXPECT_EQ(Mode("foreign"), 0755u);
  });
  EXPECT_OK(chmod("foreign", 02755));
  EXPECT_EQ(Mode("foreign"), 02755u);
}

TEST_F(Permissions, ChangingTheOwner) {
  Make("own", kUser, kGroup, 0644);
  Make("root", 0, 0, 0666);
  As({.groups = {4711}}, [] {
    EXPECT_OK(chown("own", static_cast<uid_t>(-1), 4711));
    EXPECT_EQ(Stat("own").st_gid, 4711u);
    EXPECT_OK(chown("own", kUser, kGroup));
    EXPECT_FAILS(EPERM, chown("own", static_cast<uid_t>(-1), 4712));
    EXPECT_FAILS(EPERM, chown("own", 0, static_cast<gid_t>(-1)));
    EXPECT_FAILS(EPERM, chown("root", static_cast<uid_t>(-1), 4711));
  });
  EXPECT_OK(chown("own", 70'000, 4'000'000'000));
  EXPECT_EQ(Stat("own").st_uid, 70'000u);
  EXPECT_EQ(Stat("own").st_gid, 4'000'000'000u);
}

TEST_F(Permissions, SetgidDirectories) {
  MakeDirectory("d", 0, 4711, 02777);
  AsUser([] {
    umask(0);
    WriteFile("d/f", "x");
    EXPECT_EQ(Stat("d/f").st_gid, 4711u);
    EXPECT_OK(mkdir("d/sub", 0755));
    EXPECT_EQ(Stat("d/sub").st_gid, 4711u);
    EXPECT_EQ(Mode("d/sub"), 02755u);
    EXPECT_OK(mkfifo("d/p", 0644));
    EXPECT_EQ(Stat("d/p").st_gid, 4711u);
    EXPECT_OK(symlink("x", "d/l"));
    EXPECT_EQ(Stat("d/l").st_gid, 4711u);
    // Not a way to a set-group-ID program of another group.
    EXPECT_OK(TryOpen("d/program", O_CREAT | O_RDWR, 02755));
    EXPECT_EQ(Mode("d/program"), 0755u);
  });
  As({.groups = {4711}}, [] {
    umask(0);
    EXPECT_OK(TryOpen("d/ours", O_CREAT | O_RDWR, 02755));
    EXPECT_EQ(Mode("d/ours"), 02755u);
  });
  WriteFile("plain", "x");
  EXPECT_EQ(Stat("plain").st_gid, 0u);
}

TEST_F(Permissions, TheSuperuser) {
  Make("f", kUser, kGroup, 0);
  MakeDirectory("d", kUser, kGroup, 0);
  EXPECT_OK(TryOpen("f", O_RDWR));
  EXPECT_OK(TryOpen("d/f", O_CREAT | O_RDWR));
  EXPECT_OK(access("f", R_OK | W_OK));
  EXPECT_FAILS(EACCES, access("f", X_OK));
  EXPECT_OK(chmod("f", 0100));
  EXPECT_OK(access("f", X_OK));
}

TEST_F(Permissions, CheckedWhenOpened) {
  Make("f", kUser, kGroup, 0644);
  AsUser([] {
    File file("f", O_RDWR);
    EXPECT_OK(chmod("f", 0));
    EXPECT_EQ(pwrite(file, "y", 1, 0), 1);
    EXPECT_EQ(ReadRange(file, 0, 1), "y");
    EXPECT_OK(ftruncate(file, 100));
    EXPECT_FAILS(EACCES, TryOpen("f", O_RDONLY));
  });
}

TEST_F(Permissions, AChangeCountsAtOnceForOthers) {
  Make("f", 0, 0, 0600);
  AsUser([] { EXPECT_FAILS(EACCES, TryOpen("f", O_RDONLY)); });
  ASSERT_OK(chmod("f", 0644));
  AsUser([] { EXPECT_OK(TryOpen("f", O_RDONLY)); });
  ASSERT_OK(chmod(".", 0700));
  AsUser([] { EXPECT_FAILS(EACCES, TryOpen("f", O_RDONLY)); });
  ASSERT_OK(chmod(".", 0777));
}

TEST_F(Permissions, RunningPrograms) {
  WriteFile("program", "#!/bin/sh\nexit 7\n");
  ASSERT_OK(chmod("program", 0755));
  const auto run = [] {
    const pid_t child = fork();
    if (child == 0) {
      execl("./program", "program", nullptr);
      _exit(errno);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
  };
  AsUser([&] { EXPECT_EQ(run(), 7); });
  ASSERT_OK(chmod("program", 0744));
  AsUser([&] { EXPECT_EQ(run(), EACCES); });
  EXPECT_EQ(run(), 7);
  File writer("program", O_RDWR);
  EXPECT_EQ(run(), ETXTBSY);
}

}  // namespace
}  // namespace pbfs::posix
