// SPDX-License-Identifier: Apache-2.0
// Set-user-ID, set-group-ID and file capabilities go when a file is changed: write(2), truncate(2),
// chown(2), capabilities(7).
#include <sys/wait.h>
#include <sys/xattr.h>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class SetId : public PosixTest {
 protected:
  static void Make(mode_t mode = 06777) {
    unlink("f");
    WriteFile("f", std::string(8192, 'x'));
    ASSERT_OK(chmod("f", mode));
  }
  // The mode after somebody without CAP_FSETID did this to a file of root with the mode.
  static mode_t After(mode_t mode, const std::function<void()>& change) {
    Make(mode);
    AsUser(change);
    return Mode("f");
  }
  static void Write() {
    File file("f", O_RDWR);
    EXPECT_EQ(pwrite(file, "y", 1, 0), 1);
  }
  // version 2, permitted: cap_net_raw.
  static int SetCapability() {
    const unsigned char value[20] = {1, 0, 0, 2, 0, 0x20};
    return setxattr("f", "security.capability", value, sizeof value, 0);
  }
  static bool HasCapability() { return getxattr("f", "security.capability", nullptr, 0) > 0; }
};

TEST_F(SetId, AWriteTakesThem) {
  EXPECT_EQ(After(06777, Write), 0777u);
  EXPECT_EQ(After(04777, Write), 0777u);
  EXPECT_EQ(After(02777, Write), 0777u);
  // Sticky stays.
  EXPECT_EQ(After(07777, Write), 01777u);
}

TEST_F(SetId, SetgidWithoutExecutionByTheGroup) {
  // It then means no program; it stays for those who are in the group only.
  EXPECT_EQ(After(02767, Write), 0767u);
  Make(02767);
  As({.groups = {0}}, Write);
  EXPECT_EQ(Mode("f"), 02767u);
}

TEST_F(SetId, EveryKindOfWriteTakesThem) {
  EXPECT_EQ(After(06777,
                  [] {
                    alignas(4096) static char block[4096];
                    File file("f", O_RDWR | O_DIRECT);
                    EXPECT_EQ(pwrite(file, block, sizeof block, 0), 4096);
                  }),
            0777u);
  EXPECT_EQ(After(06777,
                  [] {
                    File file("f", O_WRONLY | O_APPEND);
                    EXPECT_EQ(write(file, "y", 1), 1);
                  }),
            0777u);
  EXPECT_EQ(After(06777, [] { EXPECT_OK(truncate("f", 100)); }), 0777u);
  EXPECT_EQ(After(06777,
                  [] {
                    File file("f", O_RDWR);
                    EXPECT_OK(ftruncate(file, 100'000));
                  }),
            0777u);
  EXPECT_EQ(After(06777, [] { EXPECT_OK(TryOpen("f", O_WRONLY | O_TRUNC)); }), 0777u);
  EXPECT_EQ(After(06777,
                  [] {
                    File file("f", O_RDWR);
                    EXPECT_OK(fallocate(file, 0, 0, 100'000));
                  }),
            0777u);
  EXPECT_EQ(After(06777,
                  [] {
                    File file("f", O_RDWR);
                    EXPECT_OK(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
                  }),
            0777u);
  WriteFile("from", "other contents");
  EXPECT_EQ(After(06777,
                  [] {
                    File from("from", O_RDONLY), file("f", O_RDWR);
                    EXPECT_EQ(copy_file_range(from, nullptr, file, nullptr, 14, 0), 14);
                  }),
            0777u);
}

TEST_F(SetId, ThatTheyAreGoneIsOnTheDisk) {
  SKIP_UNLESS_REMOUNT();
  Make();
  AsUser(Write);
  Remount();
  EXPECT_EQ(Mode("f"), 0777u);
}

TEST_F(SetId, WhatDoesNotTakeThem) {
  EXPECT_EQ(After(06777, [] { EXPECT_EQ(ReadFile("f").size(), 8192u); }), 06777u);
  EXPECT_EQ(After(06777, [] { EXPECT_OK(TryOpen("f", O_RDWR)); }), 06777u);
  EXPECT_EQ(After(06777, [] { EXPECT_OK(utimensat(AT_FDCWD, "f", nullptr, 0)); }), 06777u);
  EXPECT_EQ(After(06777, [] { EXPECT_OK(setxattr("f", "user.a", "b", 1, 0)); }), 06777u);
  // Root has CAP_FSETID.
  Make();
  Write();
  EXPECT_OK(truncate("f", 5));
  EXPECT_EQ(Mode("f"), 06777u);
}

TEST_F(SetId, ANewOwnerTakesThem) {
  Make();
  EXPECT_OK(chown("f", kUser, static_cast<gid_t>(-1)));
  EXPECT_EQ(Mode("f"), 0777u);
  Make();
  EXPECT_OK(chown("f", static_cast<uid_t>(-1), kGroup));
  EXPECT_EQ(Mode("f"), 0777u);
  Make();
  ASSERT_OK(chown("f", kUser, kGroup));
  ASSERT_OK(chmod("f", 06755));
  As({.groups = {4711}}, [] { EXPECT_OK(chown("f", static_cast<uid_t>(-1), 4711)); });
  EXPECT_EQ(Mode("f"), 0755u);
}

TEST_F(SetId, DirectoriesKeepTheirs) {
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(chmod("d", 06755));
  EXPECT_OK(chown("d", kUser, kGroup));
  EXPECT_EQ(Mode("d"), 06755u);
}

TEST_F(SetId, Capabilities) {
  Make(0777);
  ASSERT_OK(SetCapability());
  EXPECT_OK(chmod("f", 0755));
  EXPECT_TRUE(HasCapability());
  EXPECT_OK(chmod("f", 0777));
  AsUser(Write);
  EXPECT_FALSE(HasCapability()) << "after a write";
  ASSERT_OK(SetCapability());
  Write();
  EXPECT_FALSE(HasCapability()) << "after a write by root";
  ASSERT_OK(SetCapability());
  EXPECT_OK(truncate("f", 10));
  EXPECT_FALSE(HasCapability()) << "after truncation";
  ASSERT_OK(SetCapability());
  EXPECT_OK(chown("f", kUser, kGroup));
  EXPECT_FALSE(HasCapability()) << "after a new owner";
}

TEST_F(SetId, AProgramRunsAsItsOwner) {
  ASSERT_OK(system("cp /usr/bin/id program"));
  ASSERT_OK(chown("program", 4711, 4712));
  ASSERT_OK(chmod("program", 06755));
  AsUser([] {
    EXPECT_EQ(WEXITSTATUS(system("[ $(./program -u) = 4711 ] && [ $(./program -g) = 4712 ]")), 0);
  });
}

}  // namespace
}  // namespace pbfs::posix
