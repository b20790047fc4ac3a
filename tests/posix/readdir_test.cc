// SPDX-License-Identifier: Apache-2.0
// readdir(3), telldir(3), seekdir(3), also while the directory changes.
#include <dirent.h>

#include <algorithm>
#include <map>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class Readdir : public PosixTest {
 protected:
  void SetUp() override {
    PosixTest::SetUp();
    ASSERT_OK(mkdir("d", 0755));
  }
  static std::string Name(int i) { return "d/name-" + std::to_string(i) + std::string(20, 'x'); }
  static void Make(int first, int last) {
    for (int i = first; i < last; ++i) ASSERT_OK(TryOpen(Name(i), O_CREAT | O_RDWR));
  }
  // How often each name is returned, from here to the end.
  static std::map<std::string, int> Rest(DIR* stream) {
    std::map<std::string, int> names;
    while (const dirent* entry = readdir(stream)) ++names["d/" + std::string(entry->d_name)];
    return names;
  }
};

TEST_F(Readdir, EachNameOnce) {
  Make(0, 3000);
  DIR* stream = opendir("d");
  const std::map<std::string, int> names = Rest(stream);
  closedir(stream);
  EXPECT_EQ(names.size(), 3002u);
  EXPECT_TRUE(std::all_of(names.begin(), names.end(), [](auto& name) { return name.second == 1; }));
  EXPECT_EQ(names.count("d/."), 1u);
  EXPECT_EQ(names.count("d/.."), 1u);
}

TEST_F(Readdir, NumbersAndTypes) {
  WriteFile("d/file", "x");
  ASSERT_OK(mkdir("d/directory", 0755));
  ASSERT_OK(symlink("x", "d/link"));
  ASSERT_OK(mkfifo("d/fifo", 0644));
  const std::map<std::string, int> types = {
      {"file", DT_REG}, {"directory", DT_DIR}, {"link", DT_LNK}, {"fifo", DT_FIFO}};
  DIR* stream = opendir("d");
  while (const dirent* entry = readdir(stream)) {
    const std::string name = entry->d_name;
    EXPECT_EQ(entry->d_ino, Stat("d/" + name).st_ino) << name;
    EXPECT_EQ(int{entry->d_type}, name[0] == '.' ? DT_DIR : types.at(name)) << name;
  }
  closedir(stream);
}

TEST_F(Readdir, WhatStaysIsReturnedOnceWhileOthersComeAndGo) {
  Make(0, 2000);
  DIR* stream = opendir("d");
  std::map<std::string, int> names;
  // Every fourth is removed in the course of it; as many others are made.
  for (int i = 0; i < 500; ++i) {
    const dirent* entry = readdir(stream);
    ASSERT_NE(entry, nullptr);
    ++names["d/" + std::string(entry->d_name)];
    ASSERT_OK(unlink(Name(i * 4).c_str()));
    Make(10'000 + i, 10'001 + i);
  }
  for (const auto& [name, count] : Rest(stream)) names[name] += count;
  closedir(stream);
  for (int i = 0; i < 2000; ++i) {
    if (i % 4 != 0) EXPECT_EQ(names[Name(i)], 1) << i;
  }
  for (const auto& [name, count] : names) EXPECT_LE(count, 1) << name;
}

TEST_F(Readdir, RemovingEverythingAsItIsRead) {
  Make(0, 3000);
  DIR* stream = opendir("d");
  while (const dirent* entry = readdir(stream)) {
    if (entry->d_name[0] != '.') ASSERT_OK(unlinkat(dirfd(stream), entry->d_name, 0));
  }
  closedir(stream);
  EXPECT_OK(rmdir("d"));
}

TEST_F(Readdir, RenamingWithinIt) {
  Make(0, 1000);
  DIR* stream = opendir("d");
  std::map<std::string, int> names;
  for (int i = 0; i < 200; ++i) {
    ++names["d/" + std::string(readdir(stream)->d_name)];
    ASSERT_OK(rename(Name(i).c_str(), ("d/renamed" + std::to_string(i)).c_str()));
  }
  for (const auto& [name, count] : Rest(stream)) names[name] += count;
  closedir(stream);
  for (int i = 200; i < 1000; ++i) EXPECT_EQ(names[Name(i)], 1) << i;
}

TEST_F(Readdir, SeekingBack) {
  Make(0, 1000);
  DIR* stream = opendir("d");
  std::vector<std::pair<int64_t, std::string>> places;
  for (;;) {
    const int64_t place = telldir(stream);
    const dirent* entry = readdir(stream);
    if (entry == nullptr) break;
    places.emplace_back(place, entry->d_name);
  }
  ASSERT_EQ(places.size(), 1002u);
  for (size_t i = 0; i < places.size(); i += 97) {
    const auto& [place, name] = places[places.size() - 1 - i];
    seekdir(stream, place);
    const dirent* entry = readdir(stream);
    ASSERT_NE(entry, nullptr);
    EXPECT_EQ(entry->d_name, name);
  }
  closedir(stream);
}

TEST_F(Readdir, PlacesHoldWhileOthersAreRemoved) {
  Make(0, 1000);
  DIR* stream = opendir("d");
  for (int i = 0; i < 500; ++i) ASSERT_NE(readdir(stream), nullptr);
  const int64_t place = telldir(stream);
  std::map<std::string, int> before = Rest(stream);
  int removed = 0;
  for (int i = 0; i < 1000; i += 3) {
    ASSERT_OK(unlink(Name(i).c_str()));
    removed += static_cast<int>(before.erase(Name(i)));
  }
  EXPECT_GT(removed, 0);
  seekdir(stream, place);
  std::map<std::string, int> after = Rest(stream);
  // The C library may have read on before the removal; what is left must be all there.
  for (const auto& [name, count] : before) EXPECT_EQ(after[name], 1) << name;
  closedir(stream);
}

TEST_F(Readdir, RewindingSeesWhatIsNew) {
  Make(0, 10);
  DIR* stream = opendir("d");
  EXPECT_EQ(Rest(stream).size(), 12u);
  EXPECT_EQ(readdir(stream), nullptr);
  Make(10, 20);
  ASSERT_OK(unlink(Name(0).c_str()));
  rewinddir(stream);
  const std::map<std::string, int> names = Rest(stream);
  EXPECT_EQ(names.size(), 21u);
  EXPECT_EQ(names.count(Name(0)), 0u);
  EXPECT_EQ(names.count(Name(15)), 1u);
  closedir(stream);
}

TEST_F(Readdir, ASmallBuffer) {
  Make(0, 300);
  File directory("d", O_RDONLY | O_DIRECTORY);
  alignas(dirent64) char buffer[300];
  std::set<std::string> names;
  for (;;) {
    const ssize_t got = getdents64(directory, buffer, sizeof buffer);
    ASSERT_GE(got, 0);
    if (got == 0) break;
    for (ssize_t at = 0; at < got;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer + at);
      EXPECT_TRUE(names.insert(entry->d_name).second) << entry->d_name;
      at += entry->d_reclen;
    }
  }
  EXPECT_EQ(names.size(), 302u);
  EXPECT_EQ(lseek(directory, 0, SEEK_SET), 0);
  EXPECT_FAILS(EINVAL, getdents64(directory, buffer, 10));
  File file("file");
  EXPECT_FAILS(ENOTDIR, getdents64(file, buffer, sizeof buffer));
}

TEST_F(Readdir, ARemovedDirectory) {
  DIR* stream = opendir("d");
  ASSERT_OK(rmdir("d"));
  EXPECT_EQ(readdir(stream), nullptr);
  closedir(stream);
}

TEST_F(Readdir, NewNamesAreThereAtOnce) {
  for (int i = 0; i < 50; ++i) {
    Make(i, i + 1);
    EXPECT_EQ(Names("d").size(), static_cast<size_t>(i + 1));
  }
}

}  // namespace
}  // namespace pbfs::posix
