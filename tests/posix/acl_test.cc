// SPDX-License-Identifier: Apache-2.0
// POSIX access control lists: acl(5). They are set as the kernel takes them, in extended
// attributes.
#include <linux/posix_acl_xattr.h>
#include <sys/xattr.h>

#include <algorithm>
#include <sstream>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

constexpr char kAccess[] = "system.posix_acl_access";
constexpr char kDefault[] = "system.posix_acl_default";

// From text such as "u::rw- u:1000:r-- g::r-- m::rw- o::---", in this order.
std::string Encode(const std::string& text) {
  std::string bytes(4, '\0');
  bytes[0] = POSIX_ACL_XATTR_VERSION;
  std::istringstream entries(text);
  for (std::string entry; entries >> entry;) {
    const size_t at = entry.rfind(':');
    const std::string id = entry.substr(2, at - 2), rights = entry.substr(at + 1);
    posix_acl_xattr_entry encoded = {};
    switch (entry[0]) {
      case 'u':
        encoded.e_tag = id.empty() ? 0x01 : 0x02;
        break;
      case 'g':
        encoded.e_tag = id.empty() ? 0x04 : 0x08;
        break;
      case 'm':
        encoded.e_tag = 0x10;
        break;
      default:
        encoded.e_tag = 0x20;
        break;
    }
    encoded.e_perm = static_cast<uint16_t>((rights[0] == 'r') << 2 | (rights[1] == 'w') << 1 |
                                           (rights[2] == 'x'));
    encoded.e_id = id.empty() ? 0xffffffff : static_cast<uint32_t>(std::stoul(id));
    bytes.append(reinterpret_cast<const char*>(&encoded), sizeof encoded);
  }
  return bytes;
}

int SetAcl(const char* path, const char* which, const std::string& text) {
  const std::string bytes = Encode(text);
  return setxattr(path, which, bytes.data(), bytes.size(), 0);
}

// As text; "" if there is none.
std::string GetAcl(const char* path, const char* which) {
  std::string bytes(65536, '\0');
  const ssize_t size = getxattr(path, which, bytes.data(), bytes.size());
  if (size < 0) {
    EXPECT_EQ(errno, ENODATA);
    return "";
  }
  std::string text;
  for (size_t at = 4; at < static_cast<size_t>(size); at += sizeof(posix_acl_xattr_entry)) {
    posix_acl_xattr_entry entry;
    memcpy(&entry, bytes.data() + at, sizeof entry);
    text += text.empty() ? "" : " ";
    text += entry.e_tag <= 0x02   ? "u:"
            : entry.e_tag <= 0x08 ? "g:"
            : entry.e_tag == 0x10 ? "m:"
                                  : "o:";
    if (entry.e_tag == 0x02 || entry.e_tag == 0x08) text += std::to_string(entry.e_id);
    text += ":";
    text += (entry.e_perm & 4) != 0 ? "r" : "-";
    text += (entry.e_perm & 2) != 0 ? "w" : "-";
    text += (entry.e_perm & 1) != 0 ? "x" : "-";
  }
  return text;
}

class Acl : public PosixTest {
 protected:
  static void Make(const char* path, mode_t mode) {
    WriteFile(path, "x");
    ASSERT_OK(chmod(path, mode));
  }
};

TEST_F(Acl, IsReadBackAsSet) {
  Make("f", 0640);
  const std::string acl = "u::rw- u:1000:rwx u:2000:--- g::r-- g:3000:-w- m::rwx o::--x";
  ASSERT_OK(SetAcl("f", kAccess, acl));
  EXPECT_EQ(GetAcl("f", kAccess), acl);
  EXPECT_EQ(GetAcl("f", kDefault), "");
  // The mask is the group's class of the mode.
  EXPECT_EQ(Mode("f"), 0671u);
  ASSERT_OK(removexattr("f", kAccess));
  EXPECT_EQ(GetAcl("f", kAccess), "");
  EXPECT_OK(removexattr("f", kAccess)) << "there is none, which is no error";
  ASSERT_OK(mkdir("e", 0755));
  EXPECT_OK(removexattr("e", kDefault));
}

TEST_F(Acl, SurvivesARemount) {
  SKIP_UNLESS_REMOUNT();
  Make("f", 0640);
  ASSERT_OK(mkdir("d", 0755));
  const std::string acl = "u::rw- u:1000:rwx g::r-- m::rwx o::--x";
  ASSERT_OK(SetAcl("f", kAccess, acl));
  ASSERT_OK(SetAcl("d", kDefault, acl));
  Remount();
  EXPECT_EQ(GetAcl("f", kAccess), acl);
  EXPECT_EQ(GetAcl("d", kDefault), acl);
  EXPECT_EQ(Mode("f"), 0671u);
  As({.uid = 1000}, [] { EXPECT_OK(TryOpen("f", O_RDWR)); });
}

TEST_F(Acl, NamedUsersAndGroups) {
  Make("f", 0600);
  ASSERT_OK(SetAcl("f", kAccess, "u::rw- u:1000:rw- u:2000:--- g::--- g:3000:r-- m::rw- o::---"));
  As({.uid = 1000}, [] { EXPECT_OK(TryOpen("f", O_RDWR)); });
  As({.uid = 2000, .gid = 3000}, [] { EXPECT_FAILS(EACCES, TryOpen("f", O_RDONLY)); });
  As({.uid = 4000, .gid = 3000}, [] {
    EXPECT_OK(TryOpen("f", O_RDONLY));
    EXPECT_FAILS(EACCES, TryOpen("f", O_WRONLY));
  });
  As({.uid = 4000, .groups = {3000}}, [] { EXPECT_OK(access("f", R_OK)); });
  As({.uid = 4000}, [] { EXPECT_FAILS(EACCES, TryOpen("f", O_RDONLY)); });
}

TEST_F(Acl, OneGroupMustGrantAllThatIsAskedFor) {
  Make("f", 0600);
  ASSERT_OK(SetAcl("f", kAccess, "u::rw- g::--- g:3000:r-- g:3001:-w- m::rw- o::rw-"));
  As({.groups = {3000, 3001}}, [] {
    EXPECT_OK(TryOpen("f", O_RDONLY));
    EXPECT_OK(TryOpen("f", O_WRONLY));
    EXPECT_FAILS(EACCES, TryOpen("f", O_RDWR));
  });
  // Being in a group that grants nothing is not being another.
  As({.groups = {0}}, [] { EXPECT_FAILS(EACCES, TryOpen("f", O_RDONLY)); });
  AsUser([] { EXPECT_OK(TryOpen("f", O_RDWR)); });
}

TEST_F(Acl, TheMaskLimitsThem) {
  Make("f", 0600);
  ASSERT_OK(chown("f", 0, 3000));
  ASSERT_OK(SetAcl("f", kAccess, "u::rw- u:1000:rwx g::rwx m::r-- o::rwx"));
  EXPECT_EQ(Mode("f"), 0647u);
  As({.uid = 1000}, [] {
    EXPECT_OK(TryOpen("f", O_RDONLY));
    EXPECT_FAILS(EACCES, TryOpen("f", O_WRONLY));
  });
  As({.gid = 3000}, [] { EXPECT_FAILS(EACCES, TryOpen("f", O_WRONLY)); });
  AsUser([] { EXPECT_OK(TryOpen("f", O_RDWR)); });
}

TEST_F(Acl, ChmodChangesTheMask) {
  Make("f", 0600);
  ASSERT_OK(SetAcl("f", kAccess, "u::rw- u:1000:rw- g::rw- m::rw- o::r--"));
  ASSERT_OK(chmod("f", 0740));
  EXPECT_EQ(GetAcl("f", kAccess), "u::rwx u:1000:rw- g::rw- m::r-- o::---");
  EXPECT_EQ(Mode("f"), 0740u);
  As({.uid = 1000}, [] { EXPECT_FAILS(EACCES, TryOpen("f", O_WRONLY)); });
  ASSERT_OK(chmod("f", 0760));
  As({.uid = 1000}, [] { EXPECT_OK(TryOpen("f", O_RDWR)); });
}

TEST_F(Acl, WithoutNamesItIsTheMode) {
  Make("f", 0600);
  ASSERT_OK(SetAcl("f", kAccess, "u::rw- u:1000:rw- g::rw- m::rw- o::r--"));
  ASSERT_OK(SetAcl("f", kAccess, "u::r-- g::-w- o::--x"));
  EXPECT_EQ(Mode("f"), 0421u);
  EXPECT_EQ(GetAcl("f", kAccess), "");
}

TEST_F(Acl, NewFilesInheritTheDefault) {
  ASSERT_OK(mkdir("d", 0755));
  const std::string acl = "u::rwx u:1000:rwx g::r-x m::rwx o::---";
  ASSERT_OK(SetAcl("d", kDefault, acl));
  EXPECT_EQ(GetAcl("d", kAccess), "");
  EXPECT_EQ(Mode("d"), 0755u);
  umask(077);  // Has no say where there is a default.
  EXPECT_OK(TryOpen("d/f", O_CREAT | O_RDWR, 0664));
  EXPECT_EQ(GetAcl("d/f", kAccess), "u::rw- u:1000:rwx g::r-x m::rw- o::---");
  EXPECT_EQ(Mode("d/f"), 0660u);
  EXPECT_EQ(GetAcl("d/f", kDefault), "");
  EXPECT_OK(mkdir("d/sub", 0777));
  EXPECT_EQ(GetAcl("d/sub", kAccess), acl);
  EXPECT_EQ(GetAcl("d/sub", kDefault), acl);
  EXPECT_OK(mkdir("d/sub/sub", 0700));
  EXPECT_EQ(GetAcl("d/sub/sub", kDefault), acl);
  EXPECT_EQ(GetAcl("d/sub/sub", kAccess), "u::rwx u:1000:rwx g::r-x m::--- o::---");
  EXPECT_OK(mkfifo("d/p", 0666));
  EXPECT_EQ(GetAcl("d/p", kAccess), "u::rw- u:1000:rwx g::r-x m::rw- o::---");
  EXPECT_OK(symlink("x", "d/l"));
  EXPECT_EQ(Mode("d/l"), 0777u);
}

TEST_F(Acl, ADefaultThatIsOnlyAMode) {
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(SetAcl("d", kDefault, "u::rwx g::rw- o::r--"));
  umask(077);
  EXPECT_OK(TryOpen("d/f", O_CREAT | O_RDWR, 0666));
  EXPECT_EQ(Mode("d/f"), 0664u);
  EXPECT_EQ(GetAcl("d/f", kAccess), "");
  EXPECT_OK(mkdir("d/sub", 0777));
  EXPECT_EQ(Mode("d/sub"), 0764u);
  EXPECT_EQ(GetAcl("d/sub", kDefault), "u::rwx g::rw- o::r--");
  ASSERT_OK(removexattr("d", kDefault));
  EXPECT_OK(TryOpen("d/g", O_CREAT | O_RDWR, 0666));
  EXPECT_EQ(Mode("d/g"), 0600u);
}

TEST_F(Acl, AFileWithoutANameInheritsToo) {
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(SetAcl("d", kDefault, "u::rwx u:1000:rwx g::r-x m::rwx o::---"));
  File file("d", O_TMPFILE | O_RDWR, 0664);
  ASSERT_OK(linkat(file, "", AT_FDCWD, "d/f", AT_EMPTY_PATH));
  EXPECT_EQ(GetAcl("d/f", kAccess), "u::rw- u:1000:rwx g::r-x m::rw- o::---");
}

TEST_F(Acl, ExistingFilesDoNotInherit) {
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(SetAcl("d", kDefault, "u::rwx u:1000:rwx g::r-x m::rwx o::---"));
  Make("f", 0644);
  EXPECT_OK(rename("f", "d/f"));
  EXPECT_EQ(GetAcl("d/f", kAccess), "");
  EXPECT_EQ(Mode("d/f"), 0644u);
}

TEST_F(Acl, WhatIsRefused) {
  Make("f", 0644);
  ASSERT_OK(mkdir("d", 0755));
  EXPECT_FAILS(EACCES, SetAcl("f", kDefault, "u::rwx g::r-x o::---"));
  EXPECT_FAILS(EINVAL, SetAcl("f", kAccess, "u::rw- u:1000:rw- g::rw- o::r--"));  // No mask.
  EXPECT_FAILS(EINVAL, SetAcl("f", kAccess, "u::rw- o::r--"));
  EXPECT_FAILS(EINVAL, SetAcl("f", kAccess, "u::rw- g::rw-"));
  EXPECT_FAILS(EINVAL, SetAcl("d", kDefault, "u::rw- u:1:r-- g::rw- o::r--"));
  EXPECT_FAILS(EINVAL, setxattr("f", kAccess, "x", 1, 0));
  EXPECT_EQ(Mode("f"), 0644u);
  AsUser([] {
    EXPECT_FAILS(EPERM, SetAcl("f", kAccess, "u::rw- g::rw- o::rw-"));
    EXPECT_FAILS(EPERM, SetAcl("d", kDefault, "u::rwx g::rwx o::rwx"));
    EXPECT_FAILS(EPERM, removexattr("f", kAccess));
    EXPECT_EQ(GetAcl("f", kAccess), "");
  });
}

TEST_F(Acl, TheOwnerMayChangeIt) {
  Make("f", 0600);
  ASSERT_OK(chown("f", kUser, kGroup));
  AsUser([] { EXPECT_OK(SetAcl("f", kAccess, "u::rw- u:1000:r-- g::--- m::r-- o::---")); });
  As({.uid = 1000}, [] { EXPECT_OK(TryOpen("f", O_RDONLY)); });
}

TEST_F(Acl, OfDirectories) {
  ASSERT_OK(mkdir("d", 0700));
  Make("d/f", 0666);
  As({.uid = 1000}, [] { EXPECT_FAILS(EACCES, TryOpen("d/f", O_RDONLY)); });
  ASSERT_OK(SetAcl("d", kAccess, "u::rwx u:1000:--x g::--- m::--x o::---"));
  As({.uid = 1000}, [] {
    EXPECT_OK(TryOpen("d/f", O_RDONLY));
    EXPECT_FAILS(EACCES, TryOpen("d", O_RDONLY | O_DIRECTORY));
    EXPECT_FAILS(EACCES, unlink("d/f"));
  });
  ASSERT_OK(SetAcl("d", kAccess, "u::rwx u:1000:rwx g::--- m::rwx o::---"));
  As({.uid = 1000}, [] { EXPECT_OK(unlink("d/f")); });
}

TEST_F(Acl, IsListedAndChangesCtime) {
  Make("f", 0600);
  const int64_t ctime = Ctime("f"), mtime = Mtime("f");
  Tick();
  ASSERT_OK(SetAcl("f", kAccess, "u::rw- u:1000:r-- g::--- m::r-- o::---"));
  EXPECT_GT(Ctime("f"), ctime);
  EXPECT_EQ(Mtime("f"), mtime);
  char list[1024];
  const ssize_t size = listxattr("f", list, sizeof list);
  ASSERT_GT(size, 0);
  EXPECT_NE(std::string(list, static_cast<size_t>(size)).find(kAccess), std::string::npos);
}

TEST_F(Acl, SetgidGoesWithTheMode) {
  Make("f", 0644);
  ASSERT_OK(chown("f", kUser, 4711));
  ASSERT_OK(chmod("f", 02755));
  // Who is not in the group cannot keep it.
  AsUser([] { EXPECT_OK(SetAcl("f", kAccess, "u::rwx u:1000:r-x g::r-x m::r-x o::r-x")); });
  EXPECT_EQ(Mode("f"), 0755u);
}

TEST_F(Acl, Long) {
  Make("f", 0600);
  std::string acl = "u::rw-";
  for (int i = 0; i < 100; ++i) acl += " u:" + std::to_string(1000 + i) + ":r--";
  acl += " g::--- m::rw- o::---";
  ASSERT_OK(SetAcl("f", kAccess, acl));
  EXPECT_EQ(GetAcl("f", kAccess), acl);
  As({.uid = 1099}, [] { EXPECT_OK(TryOpen("f", O_RDONLY)); });
  As({.uid = 1100}, [] { EXPECT_FAILS(EACCES, TryOpen("f", O_RDONLY)); });
}

}  // namespace
}  // namespace pbfs::posix
