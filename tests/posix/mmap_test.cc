// SPDX-License-Identifier: Apache-2.0
// Mapped files agree with read(2), write(2) and O_DIRECT: mmap(2), msync(2).
#include <setjmp.h>
#include <signal.h>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

constexpr size_t kSize = 1 << 20;
constexpr off_t kPage = 4096;

sigjmp_buf fault;
// Whether touching this byte raises SIGBUS.
bool Faults(const char* byte) {
  struct sigaction action = {}, old;
  action.sa_handler = [](int) { siglongjmp(fault, 1); };
  sigaction(SIGBUS, &action, &old);
  volatile bool faulted = true;
  if (sigsetjmp(fault, 1) == 0) {
    static_cast<void>(*static_cast<const volatile char*>(byte));
    faulted = false;
  }
  sigaction(SIGBUS, &old, nullptr);
  return faulted;
}

class Mmap : public PosixTest {};

TEST_F(Mmap, SharedWritesAreReadAndKept) {
  WriteFile("f", Pattern(kSize));
  std::string bytes = Pattern(kSize);
  {
    File file("f", O_RDWR), other("f", O_RDWR);
    Mapping memory(file, kSize);
    EXPECT_TRUE(Same(memory.Bytes(0, kSize), bytes));
    memory.Put(100'000, "through the mapping");
    bytes.replace(100'000, 19, "through the mapping");
    EXPECT_TRUE(Same(ReadRange(other, 0, kSize), bytes));
    WriteRange(other, 200'000, "through write");
    bytes.replace(200'000, 13, "through write");
    EXPECT_EQ(memory.Bytes(200'000, 13), "through write");
    EXPECT_OK(memory.Sync());
  }
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
  if (!CanRemount()) return;
  Remount();
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
}

TEST_F(Mmap, NotSyncedIsWrittenAtUnmount) {
  SKIP_UNLESS_REMOUNT();
  WriteFile("f", Zeroes(kSize));
  {
    File file("f", O_RDWR);
    Mapping memory(file, kSize);
    file.Close();  // The mapping holds the file.
    memory.Put(0, Pattern(kSize));
  }
  Remount();
  EXPECT_TRUE(Same(ReadFile("f"), Pattern(kSize)));
}

TEST_F(Mmap, AgreesWithDirectIo) {
  WriteFile("f", Pattern(kSize));
  File file("f", O_RDWR), direct("f", O_RDWR | O_DIRECT);
  Mapping memory(file, kSize);
  alignas(4096) static char block[kPage];
  for (off_t at = 0; at < 64 * kPage; at += 8 * kPage) {
    memory[at] = 'd';  // Dirty in the page cache.
    ASSERT_EQ(pread(direct, block, kPage, at), kPage);
    EXPECT_EQ(block[0], 'd') << at;
    EXPECT_EQ(block[1], memory[at + 1]);
    memset(block, 'w', kPage);
    ASSERT_EQ(pwrite(direct, block, kPage, at), kPage);
    EXPECT_EQ(memory[at], 'w') << at;
    EXPECT_EQ(memory[at + kPage - 1], 'w');
    EXPECT_EQ(ReadRange(file, at, 2), "ww");
  }
}

TEST_F(Mmap, PrivateWritesStayPrivate) {
  WriteFile("f", Pattern(kSize));
  File file("f", O_RDONLY);
  Mapping memory(file, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE);
  memory.Put(0, "private");
  EXPECT_EQ(memory.Bytes(0, 7), "private");
  EXPECT_TRUE(Same(ReadFile("f"), Pattern(kSize)));
}

TEST_F(Mmap, TheLastPageBehindTheEnd) {
  WriteFile("f", "short");
  {
    File file("f", O_RDWR);
    Mapping memory(file, 2 * kPage);
    EXPECT_EQ(memory.Bytes(5, kPage - 5), Zeroes(kPage - 5));
    memory.Put(100, "behind the end");
    EXPECT_OK(memory.Sync());
    EXPECT_EQ(ReadFile("f"), "short");
    EXPECT_TRUE(Faults(&memory[kPage]));
    // It is not contents when the file grows.
    EXPECT_OK(fsync(file));
  }
  ASSERT_OK(truncate("f", 1000));
  EXPECT_TRUE(Same(ReadFile("f"), "short" + Zeroes(995)));
  if (!CanRemount()) return;
  Remount();
  EXPECT_TRUE(Same(ReadFile("f"), "short" + Zeroes(995)));
}

TEST_F(Mmap, TruncationTakesPagesAway) {
  WriteFile("f", Pattern(kSize));
  File file("f", O_RDWR);
  Mapping memory(file, kSize);
  memory[kPage * 10] = 'd';
  EXPECT_FALSE(Faults(&memory[kPage * 10]));
  ASSERT_OK(ftruncate(file, kPage + 10));
  EXPECT_TRUE(Faults(&memory[kPage * 10]));
  EXPECT_FALSE(Faults(&memory[kPage]));
  EXPECT_EQ(memory[kPage + 10], 0);
  ASSERT_OK(ftruncate(file, kSize));
  EXPECT_EQ(memory[kPage * 10], 0);
  EXPECT_EQ(memory[kPage + 10], 0);
}

TEST_F(Mmap, Holes) {
  File file("f");
  ASSERT_OK(ftruncate(file, kSize));
  Mapping memory(file, kSize);
  EXPECT_EQ(memory.Bytes(0, kSize), Zeroes(kSize));
  memory[500'000] = 'x';
  EXPECT_OK(memory.Sync());
  EXPECT_GT(Blocks(file), 0);
  EXPECT_LE(Blocks(file), 512);
  std::string bytes = Zeroes(kSize);
  bytes[500'000] = 'x';
  EXPECT_TRUE(Same(ReadFile("f"), bytes));
}

TEST_F(Mmap, ProcessesShareIt) {
  WriteFile("f", Zeroes(kPage));
  File file("f", O_RDWR);
  Mapping memory(file, kPage);
  InChild([&] {
    memory[1] = 'c';
    Mapping again(File("f", O_RDWR), kPage);
    EXPECT_EQ(again[1], 'c');
    again[2] = 'd';
  });
  EXPECT_EQ(memory.Bytes(0, 3), std::string("\0cd", 3));
}

TEST_F(Mmap, NeedsTheRightsOfTheDescriptor) {
  WriteFile("f", "x");
  File reader("f", O_RDONLY), writer("f", O_WRONLY);
  const auto map = [](int fd, int protection, int flags) {
    void* memory = mmap(nullptr, kPage, protection, flags, fd, 0);
    return memory == MAP_FAILED ? -1 : munmap(memory, kPage);
  };
  EXPECT_FAILS(EACCES, map(reader, PROT_READ | PROT_WRITE, MAP_SHARED));
  EXPECT_OK(map(reader, PROT_READ | PROT_WRITE, MAP_PRIVATE));
  EXPECT_OK(map(reader, PROT_READ, MAP_SHARED));
  EXPECT_FAILS(EACCES, map(writer, PROT_READ, MAP_SHARED));
}

TEST_F(Mmap, OfARemovedFile) {
  WriteFile("f", Pattern(kSize));
  File file("f", O_RDWR);
  Mapping memory(file, kSize);
  ASSERT_OK(unlink("f"));
  file.Close();
  memory.Put(kPage, "still here");
  EXPECT_OK(memory.Sync());
  EXPECT_EQ(memory.Bytes(kPage, 10), "still here");
}

TEST_F(Mmap, WritingFromAMappingOfTheSameFile) {
  WriteFile("f", Pattern(kSize));
  File file("f", O_RDWR);
  Mapping memory(file, kSize);
  // The source is a page of the file that need not be in memory.
  EXPECT_EQ(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), 0);
  EXPECT_EQ(pwrite(file, &memory[300'000], 10'000, 100), 10'000);
  EXPECT_TRUE(Same(memory.Bytes(100, 10'000), Pattern(kSize).substr(300'000, 10'000)));
}

}  // namespace
}  // namespace pbfs::posix
