// SPDX-License-Identifier: Apache-2.0
// A full filesystem, what statfs(2) counts, limits, and where blocks lie.
#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <memory>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

class Space : public PosixTest {
 protected:
  static struct statvfs Statfs() {
    struct statvfs result = {};
    EXPECT_OK(statvfs(".", &result));
    return result;
  }
  static uint64_t Free() { return Statfs().f_bavail * Statfs().f_frsize; }
  static int Sync() {
    File directory(".", O_RDONLY);
    return syncfs(directory);
  }
  // Space of removed files comes back soon, not at once: waits until it has.
  static void Settle() {
    struct statvfs last = Statfs();
    for (int i = 0, same = 0; i < 100 && same < 3; ++i) {
      EXPECT_OK(Sync());
      usleep(50'000);
      const struct statvfs now = Statfs();
      same = now.f_bfree == last.f_bfree && now.f_ffree == last.f_ffree ? same + 1 : 0;
      last = now;
    }
  }
  static bool Returns(uint64_t expected) {
    for (int i = 0; i < 100; ++i) {
      EXPECT_OK(Sync());
      if (Free() == expected) return true;
      usleep(100'000);
    }
    return false;
  }
  // Writes until there is no space, with the error where it is reported: at write, fsync or close.
  static void Fill(const std::string& name) {
    const std::string chunk = Pattern(1 << 20);
    for (size_t size : {chunk.size(), size_t{4096}}) {
      const int fd = open(name.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
      if (fd < 0) {
        EXPECT_EQ(errno, ENOSPC);
        return;
      }
      int error = 0;
      for (int i = 0; error == 0; ++i) {
        const ssize_t put = write(fd, chunk.data(), size);
        if (put < 0 || (i % 32 == 31 && fsync(fd) != 0)) error = errno;
      }
      EXPECT_EQ(error, ENOSPC) << strerrorname_np(error);
      if (fsync(fd) != 0) EXPECT_EQ(errno, ENOSPC);
      close(fd);
    }
    // syncfs(2) says once more what writing back met, where space is not taken by write(2).
    if (Sync() != 0) EXPECT_EQ(errno, ENOSPC);
  }
};

#define SKIP_UNLESS_MAY_FILL()                              \
  if (!options().may_fill) GTEST_SKIP() << "no --may-fill"; \
  ASSERT_LT(Free(), uint64_t{2} << 30) << "that is not a small filesystem"

TEST_F(Space, FillAndRemoveAgainAndAgain) {
  SKIP_UNLESS_MAY_FILL();
  WriteFile("keep", "kept");
  Fill("big");
  ASSERT_OK(unlink("big"));
  Settle();
  const uint64_t free = Free();
  for (int round = 0; round < 2; ++round) {
    Fill("big");
    EXPECT_LE(Free(), uint64_t{8} << 20);
    EXPECT_OK(unlink("big")) << "removing takes no space";
    EXPECT_TRUE(Returns(free)) << "free: " << Free() << ", before: " << free;
  }
  EXPECT_EQ(ReadFile("keep"), "kept");
}

TEST_F(Space, WorkOnAFullFilesystem) {
  SKIP_UNLESS_MAY_FILL();
  ASSERT_OK(mkdir("d", 0755));
  for (int i = 0; i < 100; ++i) WriteFile("d/" + std::to_string(i), Pattern(10'000));
  Fill("big");
  // What it had is still there and can be changed or removed.
  EXPECT_TRUE(Same(ReadFile("d/50"), Pattern(10'000)));
  {
    File file("d/50", O_RDWR);
    WriteRange(file, 0, "overwritten");
    EXPECT_OK(fsync(file));
  }
  EXPECT_OK(chmod("d/51", 0600));
  EXPECT_OK(rename("d/52", "d/51"));
  EXPECT_OK(rename("d/51", "d/renamed"));
  EXPECT_OK(rename("d/renamed", "moved"));
  EXPECT_OK(truncate("d/53", 10));
  for (int i = 54; i < 100; ++i) EXPECT_OK(unlink(("d/" + std::to_string(i)).c_str()));
  {
    File file("big", O_RDWR);
    EXPECT_OK(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 16 << 20));
    EXPECT_OK(fsync(file));
  }
  Settle();
  WriteFile("new", Pattern(1 << 20));
  File file("new", O_RDWR);
  EXPECT_OK(fsync(file));
  EXPECT_TRUE(Same(ReadFile("new"), Pattern(1 << 20)));
}

TEST_F(Space, AllocatedSpaceCanBeWritten) {
  SKIP_UNLESS_MAY_FILL();
  constexpr size_t kSize = 8 << 20;
  File file("reserved");
  ASSERT_OK(fallocate(file, 0, 0, kSize));
  ASSERT_OK(fsync(file));
  Fill("big");
  const std::string bytes = Pattern(kSize);
  WriteRange(file, 0, bytes);
  EXPECT_OK(fsync(file));
  Forget(file);
  EXPECT_TRUE(Same(ReadRange(file, 0, kSize), bytes));
}

TEST_F(Space, AllocatingTooMuchIsRefused) {
  SKIP_UNLESS_MAY_FILL();
  Settle();
  const uint64_t free = Free();
  {
    File file("f");
    EXPECT_FAILS(ENOSPC, fallocate(file, 0, 0, static_cast<off_t>(free + (64 << 20))));
  }
  ASSERT_OK(unlink("f"));
  EXPECT_TRUE(Returns(free)) << "free: " << Free() << ", before: " << free;
}

TEST_F(Space, FilesUntilThereIsNoSpace) {
  SKIP_UNLESS_MAY_FILL();
  ASSERT_OK(mkdir("d", 0755));
  Fill("big");
  // Small steps to the end: each create or write succeeds or says ENOSPC.
  int made = 0;
  for (; made < 20'000; ++made) {
    const std::string name = "d/" + std::to_string(made);
    if (mkdir(name.c_str(), 0755) != 0) break;
  }
  EXPECT_TRUE(errno == ENOSPC || made == 20'000) << strerrorname_np(errno);
  EXPECT_EQ(Names("d").size(), static_cast<size_t>(made));
  EXPECT_EQ(Stat("d").st_nlink, static_cast<nlink_t>(made + 2));
}

TEST_F(Space, StatfsCounts) {
  Settle();
  const struct statvfs before = Statfs();
  EXPECT_EQ(before.f_bsize, 4096u);
  EXPECT_EQ(before.f_namemax, 255u);
  EXPECT_GE(before.f_blocks, before.f_bfree);
  EXPECT_GE(before.f_bfree, before.f_bavail);
  EXPECT_GT(before.f_files, 0u);
  File file("f");
  WriteRange(file, 0, Pattern(4 << 20));
  EXPECT_OK(Sync());
  const uint64_t used = (before.f_bfree - Statfs().f_bfree) * before.f_frsize;
  EXPECT_GE(used, uint64_t{4 << 20});
  EXPECT_LE(used, uint64_t{5 << 20});
  // Space that is only allocated is not free either.
  ASSERT_OK(fallocate(file, 0, 4 << 20, 4 << 20));
  EXPECT_OK(Sync());
  EXPECT_GE((before.f_bfree - Statfs().f_bfree) * before.f_frsize, uint64_t{8 << 20});
}

TEST_F(Space, FilesAreCounted) {
  const auto used = [] { return Statfs().f_files - Statfs().f_ffree; };
  Settle();
  const uint64_t before = used();
  for (int i = 0; i < 50; ++i) WriteFile(std::to_string(i), "x");
  EXPECT_OK(Sync());
  EXPECT_EQ(used(), before + 50);
  for (int i = 0; i < 50; ++i) ASSERT_OK(unlink(std::to_string(i).c_str()));
  for (int i = 0; i < 50 && used() != before; ++i) {
    usleep(100'000);
    EXPECT_OK(Sync());
  }
  EXPECT_EQ(used(), before);
}

volatile sig_atomic_t exceeded;

// In a process whose files may have 100 000 bytes.
void WithLimit(const std::function<void()>& body) {
  InChild([&] {
    exceeded = 0;
    signal(SIGXFSZ, [](int) { exceeded = exceeded + 1; });
    const rlimit limit = {100'000, RLIM_INFINITY};
    ASSERT_OK(setrlimit(RLIMIT_FSIZE, &limit));
    body();
  });
}

TEST_F(Space, TheLimitOfFileSizes) {
  WithLimit([] {
    const std::string bytes = Pattern(1000);
    File file("f");
    EXPECT_EQ(pwrite(file, bytes.data(), 1000, 99'500), 500) << "what fits is written";
    EXPECT_EQ(exceeded, 0);
    EXPECT_FAILS(EFBIG, pwrite(file, bytes.data(), 1000, 100'000));
    EXPECT_EQ(exceeded, 1);
    EXPECT_FAILS(EFBIG, ftruncate(file, 100'001));
    EXPECT_EQ(exceeded, 2);
    EXPECT_OK(ftruncate(file, 100'000));
    EXPECT_FAILS(EFBIG, fallocate(file, 0, 0, 100'001));
    EXPECT_EQ(exceeded, 3);
    EXPECT_EQ(Stat(file).st_size, 100'000);
    EXPECT_TRUE(Same(ReadRange(file, 99'500, 1000), bytes.substr(0, 500)));
  });
}

TEST_F(Space, TheLimitHoldsForCopies) {
  WriteFile("from", Pattern(200'000));
  WithLimit([] {
    File from("from", O_RDONLY), to("to");
    off_t offset = 99'000;
    EXPECT_EQ(copy_file_range(from, nullptr, to, &offset, 50'000, 0), 1000);
    EXPECT_FAILS(EFBIG, copy_file_range(from, nullptr, to, &offset, 50'000, 0));
    EXPECT_EQ(Stat(to).st_size, 100'000);
  });
}

// tar(1), for one, takes a file without blocks for one hole.
TEST_F(Space, BlocksOfAFileThatIsOpen) {
  File file("f");
  ASSERT_OK(ftruncate(file, 50 << 20));
  EXPECT_EQ(Stat(file).st_blocks, 0);
  WriteRange(file, 10 << 20, Pattern(4000));
  ASSERT_OK(fsync(file));
  EXPECT_GT(Stat("f").st_blocks, 0);
  WriteRange(file, 20 << 20, Pattern(1 << 20));
  ASSERT_OK(sync_file_range(
      file, 0, 0,
      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
  for (int i = 0; i < 50 && Stat("f").st_blocks < 2048; ++i) usleep(100'000);
  EXPECT_GE(Stat("f").st_blocks, 2048);
}

TEST_F(Space, BlocksOfAFile) {
  if (options().filesystem.rfind("fuse.", 0) == 0) {
    GTEST_SKIP() << "the kernel asks a FUSE server for them only where it knows the device";
  }
  File file("f");
  WriteRange(file, 0, Pattern(8 * 4096));
  ASSERT_OK(ftruncate(file, 12 * 4096));
  ASSERT_OK(fsync(file));
  std::set<int> blocks;
  int block_size = 0;
  ASSERT_OK(ioctl(file, FIGETBSZ, &block_size));
  ASSERT_EQ(block_size, 4096);
  for (int i = 0; i < 8; ++i) {
    int block = i;
    ASSERT_OK(ioctl(file, FIBMAP, &block));
    EXPECT_GT(block, 0);
    blocks.insert(block);
  }
  EXPECT_EQ(blocks.size(), 8u);
  EXPECT_EQ(*blocks.rbegin() - *blocks.begin(), 7) << "written at once: in one piece";
  int hole = 9;
  ASSERT_OK(ioctl(file, FIBMAP, &hole));
  EXPECT_EQ(hole, 0);
}

}  // namespace
}  // namespace pbfs::posix
