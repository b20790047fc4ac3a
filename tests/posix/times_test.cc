// SPDX-License-Identifier: Apache-2.0
// Times of modification and of change: utimensat(2), and which operation sets what (inode(7)).
#include <sys/xattr.h>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

constexpr timespec kNow = {0, UTIME_NOW}, kOmit = {0, UTIME_OMIT};

int SetTimes(const char* path, timespec atime, timespec mtime, int flags = 0) {
  const timespec times[2] = {atime, mtime};
  return utimensat(AT_FDCWD, path, times, flags);
}

enum Changed { kNothing = 0, kCtime = 1, kMtime = 2, kBoth = 3 };

class Times : public PosixTest {
 protected:
  // What an operation does to the times of a file.
  static int Effect(const std::string& path, const std::function<void()>& operation) {
    const int64_t mtime = Mtime(path), ctime = Ctime(path);
    Tick();
    operation();
    EXPECT_GE(Mtime(path), mtime);
    EXPECT_GE(Ctime(path), ctime);
    return (Ctime(path) > ctime ? kCtime : 0) | (Mtime(path) > mtime ? kMtime : 0);
  }
};

TEST_F(Times, SetToTheNanosecond) {
  WriteFile("f", "x");
  const int64_t ctime = Ctime("f");
  Tick();
  ASSERT_OK(SetTimes("f", {1'000'000'001, 123'456'789}, {1'000'000'002, 987'654'321}));
  EXPECT_EQ(Atime("f"), 1'000'000'001'123'456'789);
  EXPECT_EQ(Mtime("f"), 1'000'000'002'987'654'321);
  EXPECT_GT(Ctime("f"), ctime);
}

TEST_F(Times, NowAndOmit) {
  WriteFile("f", "x");
  ASSERT_OK(SetTimes("f", {1000, 1}, {2000, 2}));
  ASSERT_OK(SetTimes("f", kOmit, {3000, 3}));
  EXPECT_EQ(Atime("f"), 1000'000'000'001);
  EXPECT_EQ(Mtime("f"), 3000'000'000'003);
  ASSERT_OK(SetTimes("f", {4000, 4}, kOmit));
  EXPECT_EQ(Atime("f"), 4000'000'000'004);
  EXPECT_EQ(Mtime("f"), 3000'000'000'003);
  const int64_t ctime = Ctime("f");
  Tick();
  ASSERT_OK(SetTimes("f", kOmit, kOmit));
  EXPECT_EQ(Ctime("f"), ctime);
  ASSERT_OK(SetTimes("f", kNow, kOmit));
  EXPECT_GT(Atime("f"), ctime);
  EXPECT_EQ(Mtime("f"), 3000'000'000'003);
  ASSERT_OK(utimensat(AT_FDCWD, "f", nullptr, 0));
  EXPECT_GT(Mtime("f"), ctime);
  EXPECT_FAILS(EINVAL, SetTimes("f", {1, 1'000'000'000}, kNow));
}

TEST_F(Times, OfASymbolicLink) {
  WriteFile("f", "x");
  ASSERT_OK(symlink("f", "l"));
  const int64_t before = Mtime("f");
  ASSERT_OK(SetTimes("l", {5, 6}, {7, 8}, AT_SYMLINK_NOFOLLOW));
  EXPECT_EQ(Mtime("l"), 7'000'000'008);
  EXPECT_EQ(Mtime("f"), before);
  ASSERT_OK(SetTimes("l", {5, 6}, {9, 0}));
  EXPECT_EQ(Mtime("f"), 9'000'000'000);
}

TEST_F(Times, WhoMaySetThem) {
  WriteFile("others", "x");
  ASSERT_OK(chmod("others", 0666));
  WriteFile("closed", "x");
  ASSERT_OK(chmod("closed", 0644));
  WriteFile("own", "x");
  ASSERT_OK(chown("own", kUser, kGroup));
  ASSERT_OK(chmod("own", 0400));
  AsUser([] {
    // Who may write may set the present time; only the owner another.
    EXPECT_OK(SetTimes("others", kNow, kNow));
    EXPECT_FAILS(EPERM, SetTimes("others", {1, 1}, {1, 1}));
    EXPECT_FAILS(EPERM, SetTimes("others", kNow, kOmit));
    EXPECT_FAILS(EACCES, SetTimes("closed", kNow, kNow));
    EXPECT_FAILS(EPERM, SetTimes("closed", {1, 1}, {1, 1}));
    EXPECT_OK(SetTimes("closed", kOmit, kOmit));
    EXPECT_OK(SetTimes("own", kNow, kNow));
    EXPECT_OK(SetTimes("own", {1, 1}, {1, 1}));
  });
}

// All that a signed 64-bit count of seconds would hold is not asked for: 1901 to 2242.
constexpr int64_t kSeconds[] = {-(int64_t{1} << 31) + 1,
                                -86'400,
                                -1,
                                0,
                                (int64_t{1} << 31) - 1,
                                int64_t{1} << 31,
                                int64_t{1} << 32,
                                (int64_t{1} << 32) + 86'400,
                                int64_t{1} << 33};

TEST_F(Times, LongAgoAndFarAhead) {
  for (const int64_t seconds : kSeconds) {
    const std::string name = "t" + std::to_string(seconds);
    WriteFile(name, "x");
    ASSERT_OK(SetTimes(name.c_str(), {seconds, 1}, {seconds, 999'999'999}));
  }
  for (bool again : {false, true}) {
    if (again) {
      if (!CanRemount()) break;
      Remount();
    }
    for (const int64_t seconds : kSeconds) {
      const struct stat attributes = Stat("t" + std::to_string(seconds));
      EXPECT_EQ(attributes.st_mtim.tv_sec, seconds);
      EXPECT_EQ(attributes.st_mtim.tv_nsec, 999'999'999);
      EXPECT_EQ(attributes.st_atim.tv_sec, seconds);
      EXPECT_EQ(attributes.st_atim.tv_nsec, 1);
    }
  }
}

TEST_F(Times, OfANewFile) {
  timespec before, after;
  Tick();
  clock_gettime(CLOCK_REALTIME_COARSE, &before);
  const int64_t parent = Mtime(".");
  WriteFile("f", "");
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(symlink("x", "l"));
  clock_gettime(CLOCK_REALTIME, &after);
  for (const char* name : {"f", "d", "l"}) {
    EXPECT_GE(Mtime(name), Nanoseconds(before)) << name;
    EXPECT_LE(Mtime(name), Nanoseconds(after)) << name;
    EXPECT_EQ(Mtime(name), Ctime(name)) << name;
    EXPECT_EQ(Mtime(name), Atime(name)) << name;
  }
  EXPECT_GT(Mtime("."), parent);
}

TEST_F(Times, Writing) {
  WriteFile("f", std::string(5000, 'x'));
  File file("f", O_RDWR);
  EXPECT_EQ(Effect("f", [&] { WriteRange(file, 0, "x"); }), kBoth);
  EXPECT_EQ(Effect("f", [&] { EXPECT_EQ(pwrite(file, "", 0, 0), 0); }), kNothing);
  EXPECT_EQ(Effect("f", [&] { EXPECT_OK(ftruncate(file, 100)); }), kBoth);
  EXPECT_EQ(Effect("f", [&] { EXPECT_OK(truncate("f", 10'000)); }), kBoth);
  EXPECT_EQ(Effect("f", [&] { EXPECT_OK(ftruncate(file, 10'000)); }), kBoth);
  EXPECT_EQ(Effect("f", [&] { EXPECT_OK(fallocate(file, 0, 0, 20'000)); }), kBoth);
  EXPECT_EQ(
      Effect(
          "f",
          [&] { EXPECT_OK(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)); }),
      kBoth);
  EXPECT_EQ(Effect("f", [&] { EXPECT_OK(TryOpen("f", O_WRONLY | O_TRUNC)); }), kBoth);
  EXPECT_EQ(Effect("f", [&] { EXPECT_OK(TryOpen("f", O_WRONLY | O_TRUNC)); }), kBoth);
  EXPECT_EQ(Effect("f", [&] { ReadRange(file, 0, 100); }), kNothing);
  EXPECT_EQ(Effect("f", [&] { EXPECT_OK(fsync(file)); }), kNothing);
}

TEST_F(Times, WritingThroughAMapping) {
  WriteFile("f", std::string(4096, 'x'));
  File file("f", O_RDWR);
  EXPECT_OK(fsync(file));
  Mapping memory(file, 4096);
  EXPECT_EQ(Effect("f",
                   [&] {
                     memory[0] = 'y';
                     EXPECT_OK(memory.Sync());
                   }),
            kBoth);
}

TEST_F(Times, Copying) {
  WriteFile("from", Pattern(10'000));
  WriteFile("to", "");
  File from("from", O_RDONLY), to("to", O_RDWR);
  const int64_t before = Mtime("from");
  EXPECT_EQ(
      Effect("to",
             [&] { EXPECT_EQ(copy_file_range(from, nullptr, to, nullptr, 10'000, 0), 10'000); }),
      kBoth);
  EXPECT_EQ(Mtime("from"), before);
}

TEST_F(Times, Attributes) {
  WriteFile("f", "x");
  EXPECT_EQ(Effect("f", [] { EXPECT_OK(chmod("f", 0600)); }), kCtime);
  EXPECT_EQ(Effect("f", [] { EXPECT_OK(chown("f", kUser, kGroup)); }), kCtime);
  EXPECT_EQ(Effect("f", [] { EXPECT_OK(setxattr("f", "user.a", "b", 1, 0)); }), kCtime);
  EXPECT_EQ(Effect("f", [] { EXPECT_OK(removexattr("f", "user.a")); }), kCtime);
  EXPECT_EQ(Effect("f", [] { EXPECT_OK(link("f", "g")); }), kCtime);
  EXPECT_EQ(Effect("f", [] { EXPECT_OK(rename("g", "h")); }), kCtime);
  EXPECT_EQ(Effect("f", [] { EXPECT_OK(unlink("h")); }), kCtime);
  EXPECT_EQ(Effect("f", [] { Stat("f"); }), kNothing);
  EXPECT_EQ(Effect("f", [] { EXPECT_FAILS(EEXIST, mkdir("f", 0755)); }), kNothing);
}

TEST_F(Times, OfDirectories) {
  ASSERT_OK(mkdir("d", 0755));
  ASSERT_OK(mkdir("e", 0755));
  WriteFile("f", "x");
  EXPECT_EQ(Effect("d", [] { WriteFile("d/f", ""); }), kBoth);
  EXPECT_EQ(Effect("d", [] { WriteFile("d/f", "more"); }), kNothing);
  EXPECT_EQ(Effect("d", [] { EXPECT_OK(chmod("d/f", 0600)); }), kNothing);
  EXPECT_EQ(Effect("d", [] { EXPECT_OK(mkdir("d/d", 0755)); }), kBoth);
  EXPECT_EQ(Effect("d", [] { EXPECT_OK(mkfifo("d/p", 0755)); }), kBoth);
  EXPECT_EQ(Effect("d", [] { EXPECT_OK(symlink("x", "d/l")); }), kBoth);
  EXPECT_EQ(Effect("d", [] { EXPECT_OK(link("f", "d/g")); }), kBoth);
  EXPECT_EQ(Effect("d", [] { EXPECT_OK(rename("d/g", "d/h")); }), kBoth);
  EXPECT_EQ(Effect("d", [] { EXPECT_OK(rename("d/h", "e/h")); }), kBoth);
  EXPECT_EQ(Effect("e", [] { EXPECT_OK(rename("d/f", "e/h")); }), kBoth);
  EXPECT_EQ(Effect("d", [] { EXPECT_OK(rmdir("d/d")); }), kBoth);
  EXPECT_EQ(Effect("d", [] { EXPECT_OK(unlink("d/p")); }), kBoth);
  EXPECT_EQ(Effect("d", [] { EXPECT_FAILS(ENOENT, unlink("d/p")); }), kNothing);
  EXPECT_EQ(Effect("d", [] { posix::Names("d"); }), kNothing);
}

TEST_F(Times, WrittenTimesSurviveARemount) {
  SKIP_UNLESS_REMOUNT();
  WriteFile("f", Pattern(100'000));
  ASSERT_OK(mkdir("d", 0755));
  Tick();
  WriteFile("f", "again");
  WriteFile("d/f", "x");
  const int64_t file = Mtime("f"), change = Ctime("f"), directory = Mtime("d");
  Remount();
  EXPECT_EQ(Mtime("f"), file);
  EXPECT_EQ(Ctime("f"), change);
  EXPECT_EQ(Mtime("d"), directory);
}

TEST_F(Times, WritingDoesNotBringBackAnEarlierTime) {
  // Times that were set last hold, also when written data goes to the disk later.
  File file("f");
  WriteRange(file, 0, Pattern(100'000));
  ASSERT_OK(SetTimes("f", {1000, 1}, {2000, 2}));
  EXPECT_OK(fsync(file));
  EXPECT_EQ(Mtime("f"), 2000'000'000'002);
  file.Close();
  EXPECT_EQ(Mtime("f"), 2000'000'000'002);
  if (!CanRemount()) return;
  Remount();
  EXPECT_EQ(Mtime("f"), 2000'000'000'002);
}

}  // namespace
}  // namespace pbfs::posix
