// SPDX-License-Identifier: Apache-2.0
// Extended attributes: xattr(7), setxattr(2), getxattr(2), listxattr(2), removexattr(2).
#include <sys/xattr.h>

#include <algorithm>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

int Set(const char* path, const std::string& name, std::string_view value, int flags = 0) {
  return setxattr(path, name.c_str(), value.data(), value.size(), flags);
}
std::string Get(const char* path, const std::string& name) {
  std::string value(65536, '?');
  const ssize_t size = getxattr(path, name.c_str(), value.data(), value.size());
  if (size < 0) return strerrorname_np(errno);
  value.resize(static_cast<size_t>(size));
  return value;
}
// Sorted; of the spaces that a test sets itself.
std::vector<std::string> List(const char* path) {
  std::string list(65536, '\0');
  const ssize_t size = llistxattr(path, list.data(), list.size());
  EXPECT_GE(size, 0);
  std::vector<std::string> names;
  for (ssize_t at = 0; at < size; at += static_cast<ssize_t>(names.back().size()) + 1) {
    names.emplace_back(list.data() + at);
  }
  std::sort(names.begin(), names.end());
  return names;
}

class Xattr : public PosixTest {
 protected:
  void SetUp() override {
    PosixTest::SetUp();
    WriteFile("f", "x");
  }
};

TEST_F(Xattr, CreateAndReplace) {
  EXPECT_FAILS(ENODATA, Set("f", "user.a", "1", XATTR_REPLACE));
  EXPECT_OK(Set("f", "user.a", "1", XATTR_CREATE));
  EXPECT_FAILS(EEXIST, Set("f", "user.a", "2", XATTR_CREATE));
  EXPECT_EQ(Get("f", "user.a"), "1");
  EXPECT_OK(Set("f", "user.a", "3", XATTR_REPLACE));
  EXPECT_OK(Set("f", "user.b", "4"));
  EXPECT_OK(Set("f", "user.b", "5"));
  EXPECT_EQ(Get("f", "user.a"), "3");
  EXPECT_EQ(Get("f", "user.b"), "5");
  EXPECT_EQ(List("f"), (std::vector<std::string>{"user.a", "user.b"}));
  EXPECT_FAILS(EINVAL, Set("f", "user.a", "1", XATTR_CREATE << 8));
}

TEST_F(Xattr, Remove) {
  ASSERT_OK(Set("f", "user.a", "1"));
  ASSERT_OK(Set("f", "user.b", "2"));
  EXPECT_OK(removexattr("f", "user.a"));
  EXPECT_FAILS(ENODATA, removexattr("f", "user.a"));
  EXPECT_EQ(Get("f", "user.a"), "ENODATA");
  EXPECT_EQ(List("f"), std::vector<std::string>{"user.b"});
}

TEST_F(Xattr, SizesAreAskedForAndChecked) {
  ASSERT_OK(Set("f", "user.name", "value"));
  EXPECT_EQ(getxattr("f", "user.name", nullptr, 0), 5);
  EXPECT_EQ(listxattr("f", nullptr, 0), 10);
  char small[4];
  EXPECT_FAILS(ERANGE, getxattr("f", "user.name", small, 4));
  EXPECT_FAILS(ERANGE, listxattr("f", small, 4));
  EXPECT_OK(Set("f", "user.empty", ""));
  EXPECT_EQ(getxattr("f", "user.empty", nullptr, 0), 0);
  EXPECT_EQ(Get("f", "user.empty"), "");
}

TEST_F(Xattr, Values) {
  std::string value;
  for (int c = 0; c < 256; ++c) value.push_back(static_cast<char>(c));
  EXPECT_OK(Set("f", "user.bytes", value));
  EXPECT_EQ(Get("f", "user.bytes"), value);
  // xattr(7): ext4 keeps all attributes of a file in one block.
  const size_t largest = IsExt4() ? 3000 : 65536;
  for (const size_t size : {size_t{100}, size_t{1000}, largest, size_t{10}, size_t{2000}}) {
    EXPECT_OK(Set("f", "user.large", Pattern(size, size)));
    EXPECT_TRUE(Same(Get("f", "user.large"), Pattern(size, size)));
    EXPECT_EQ(Get("f", "user.bytes"), value);
  }
  EXPECT_FAILS(E2BIG, Set("f", "user.large", std::string(65537, 'x')));
  EXPECT_TRUE(Same(Get("f", "user.large"), Pattern(2000, 2000)));
}

TEST_F(Xattr, NamesOf255Bytes) {
  const std::string longest = "user." + std::string(250, 'n');
  EXPECT_OK(Set("f", longest, "x"));
  EXPECT_EQ(List("f"), std::vector<std::string>{longest});
  EXPECT_FAILS(ERANGE, Set("f", longest + "n", "x"));
  EXPECT_FAILS(ERANGE, Set("f", "", "x"));
  EXPECT_FAILS(EINVAL, Set("f", "user.", "x"));
}

TEST_F(Xattr, SpacesOfNames) {
  EXPECT_FAILS(EOPNOTSUPP, Set("f", "unknown.a", "x"));
  EXPECT_FAILS(EOPNOTSUPP, Set("f", "plain", "x"));
  EXPECT_OK(Set("f", "trusted.a", "t"));
  EXPECT_OK(Set("f", "security.test", "s"));
  EXPECT_OK(Set("f", "user.a", "u"));
  EXPECT_EQ(List("f"), (std::vector<std::string>{"security.test", "trusted.a", "user.a"}));
  AsUser([] {
    EXPECT_EQ(Get("f", "trusted.a"), "ENODATA");
    EXPECT_FAILS(EPERM, Set("f", "trusted.b", "x"));
    EXPECT_FAILS(EPERM, removexattr("f", "trusted.a"));
    EXPECT_FAILS(EPERM, Set("f", "security.test", "x"));
    EXPECT_EQ(Get("f", "security.test"), "s");
    const std::vector<std::string> names = List("f");
    EXPECT_EQ(std::count(names.begin(), names.end(), "trusted.a"), 0);
  });
}

TEST_F(Xattr, UserAttributesFollowThePermissions) {
  ASSERT_OK(Set("f", "user.a", "1"));
  ASSERT_OK(chmod("f", 0644));
  AsUser([] {
    EXPECT_EQ(Get("f", "user.a"), "1");
    EXPECT_FAILS(EACCES, Set("f", "user.a", "2"));
    EXPECT_FAILS(EACCES, removexattr("f", "user.a"));
  });
  ASSERT_OK(chmod("f", 0622));
  AsUser([] {
    EXPECT_EQ(Get("f", "user.a"), "EACCES");
    EXPECT_OK(Set("f", "user.a", "2"));
  });
}

TEST_F(Xattr, UserAttributesAreForFilesAndDirectories) {
  ASSERT_OK(symlink("f", "l"));
  ASSERT_OK(mkfifo("p", 0666));
  ASSERT_OK(mkdir("d", 0777));
  EXPECT_FAILS(EPERM, lsetxattr("l", "user.a", "x", 1, 0));
  EXPECT_FAILS(EPERM, Set("p", "user.a", "x"));
  EXPECT_OK(lsetxattr("l", "trusted.a", "x", 1, 0));
  EXPECT_OK(Set("p", "trusted.a", "x"));
  EXPECT_EQ(List("l"), std::vector<std::string>{"trusted.a"});
  EXPECT_OK(Set("d", "user.a", "x"));
  EXPECT_OK(Set("l", "user.followed", "x"));
  EXPECT_EQ(List("f"), std::vector<std::string>{"user.followed"});
  // In a sticky directory they are the owner's.
  ASSERT_OK(chmod("d", 01777));
  AsUser([] { EXPECT_FAILS(EPERM, Set("d", "user.b", "x")); });
}

TEST_F(Xattr, Many) {
  const int count = IsExt4() ? 50 : 400;  // All in one block there.
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    names.push_back("user.name" + std::to_string(i));
    ASSERT_OK(Set("f", names.back(), std::to_string(i * i)));
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(List("f"), names);
  if (CanRemount()) Remount();
  EXPECT_EQ(List("f"), names);
  for (int i = 0; i < count; ++i) {
    EXPECT_EQ(Get("f", "user.name" + std::to_string(i)), std::to_string(i * i));
    if (i % 2 == 0) EXPECT_OK(removexattr("f", ("user.name" + std::to_string(i)).c_str()));
  }
  EXPECT_EQ(List("f").size(), static_cast<size_t>(count / 2));
}

TEST_F(Xattr, BelongToTheFileNotToTheName) {
  ASSERT_OK(Set("f", "user.a", "1"));
  ASSERT_OK(link("f", "g"));
  EXPECT_EQ(Get("g", "user.a"), "1");
  ASSERT_OK(Set("g", "user.a", "2"));
  ASSERT_OK(rename("g", "h"));
  ASSERT_OK(unlink("f"));
  EXPECT_EQ(Get("h", "user.a"), "2");
  WriteFile("f", "another");
  EXPECT_EQ(List("f").size(), 0u);
  File file("h");
  ASSERT_OK(unlink("h"));
  EXPECT_OK(fsetxattr(file, "user.b", "3", 1, 0));
  char value[2] = {};
  EXPECT_EQ(fgetxattr(file, "user.a", value, 1), 1);
  EXPECT_STREQ(value, "2");
}

}  // namespace
}  // namespace pbfs::posix
