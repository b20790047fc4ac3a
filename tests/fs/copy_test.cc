// SPDX-License-Identifier: Apache-2.0
// copy_file_range(2), and where blocks lie.
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <thread>

#include "absl/strings/str_join.h"
#include "fs/checker.h"
#include "tests/support/fs_fixture.h"

namespace pbfs {
namespace {

class CopyTest : public FsFixture {
 protected:
  void SetUp() override { MakeAndMount(); }

  InodeNumber Make(const char* name, const std::string& bytes = "") {
    const auto made = client_->Create(root(), name);
    EXPECT_TRUE(made.ok()) << made.status();
    if (!made.ok()) return 0;
    if (!bytes.empty()) EXPECT_TRUE(client_->Write(*made, 0, bytes).ok());
    return *made;
  }
  static std::string Pattern(size_t bytes, uint32_t seed = 1) {
    std::mt19937 random(seed);
    std::string text(bytes, '\0');
    for (char& byte : text) byte = static_cast<char>(random());
    return text;
  }
  // As the kernel and programs do it: until everything is copied, or the source ends.
  uint64_t Copy(InodeNumber from, uint64_t from_offset, InodeNumber to, uint64_t to_offset,
                uint64_t length) {
    uint64_t done = 0;
    while (done < length) {
      const auto copied =
          fs_->CopyRange({from, from_offset + done, length - done}, {to, to_offset + done}, {});
      EXPECT_TRUE(copied.ok()) << copied.status();
      if (!copied.ok() || *copied == 0) break;
      done += *copied;
    }
    return done;
  }
  std::string Bytes(InodeNumber ino) { return *client_->Read(ino, 0, 64 << 20); }
  uint64_t Blocks(InodeNumber ino) { return fs_->GetAttributes(ino)->blocks_512 / 8; }
  void Check() {
    ASSERT_TRUE(fs_->Unmount().ok());
    fs_.reset();
    const auto report = CheckFilesystem(*device_);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(report->clean()) << absl::StrJoin(report->problems, "\n");
    Mount();
  }
};

TEST_F(CopyTest, BytesArriveWhereTheyWereSent) {
  const std::string source = Pattern(3'000'000);
  const InodeNumber from = Make("from", source);
  std::string expected = Pattern(2'000'000, 2);
  const InodeNumber to = Make("to", expected);
  EXPECT_EQ(Copy(from, 1001, to, 500'003, 2'500'000), 2'500'000u);
  expected.resize(3'000'003);
  expected.replace(500'003, 2'500'000, source, 1001, 2'500'000);
  EXPECT_EQ(Bytes(to), expected);
  EXPECT_EQ(Bytes(from), source);
  Check();
  EXPECT_EQ(Bytes(*client_->Find(root(), "to")), expected);
}

TEST_F(CopyTest, TheSourceEndsTheCopy) {
  const InodeNumber from = Make("from", Pattern(10'000));
  const InodeNumber to = Make("to");
  EXPECT_EQ(Copy(from, 9000, to, 0, 1 << 20), 1000u);
  EXPECT_EQ(Bytes(to), Pattern(10'000).substr(9000));
  EXPECT_EQ(Copy(from, 10'000, to, 0, 100), 0u);
  EXPECT_EQ(Copy(from, 20'000, to, 0, 100), 0u);
}

TEST_F(CopyTest, HolesAreNotCopiedAsZeroes) {
  const InodeNumber from = Make("from", Pattern(5000));
  ASSERT_TRUE(client_->Write(from, uint64_t{8} << 30, "far").ok());
  ASSERT_TRUE(client_->Truncate(from, uint64_t{9} << 30).ok());
  const InodeNumber to = Make("to", Pattern(100'000, 2));
  EXPECT_EQ(Copy(from, 0, to, 0, uint64_t{9} << 30), uint64_t{9} << 30);
  EXPECT_EQ(fs_->GetAttributes(to)->size_bytes, uint64_t{9} << 30);
  std::string start = Pattern(5000);
  start.resize(100'000);
  EXPECT_EQ(*client_->Read(to, 0, 100'000), start);
  EXPECT_EQ(*client_->Read(to, (uint64_t{8} << 30) - 1, 5), std::string("\0far\0", 5));
  EXPECT_EQ(Blocks(to), 3u);
  Check();
}

TEST_F(CopyTest, WithinAFileRangesMayNotOverlap) {
  std::string expected = Pattern(100'000);
  const InodeNumber ino = Make("a", expected);
  EXPECT_EQ(Copy(ino, 0, ino, 50'000, 50'000), 50'000u);
  expected.replace(50'000, 50'000, expected, 0, 50'000);
  EXPECT_EQ(Bytes(ino), expected);
  EXPECT_EQ(ErrnoOf(fs_->CopyRange({ino, 0, 50'000}, {ino, 49'999}, {}).status()), EINVAL);
  EXPECT_EQ(ErrnoOf(fs_->CopyRange({root(), 0, 1}, {ino, 0}, {}).status()), EISDIR);
  EXPECT_EQ(ErrnoOf(fs_->CopyRange({ino, 0, 10}, {ino, kFileBytesMax - 5}, {}).status()), EFBIG);
}

TEST_F(CopyTest, SetIdBitsGo) {
  const InodeNumber from = Make("from", "abc");
  const InodeNumber to = Make("to");
  SetAttributes mode;
  mode.mode = 06755;
  ASSERT_TRUE(fs_->SetAttributesOf(to, mode).ok());
  ASSERT_TRUE(fs_->CopyRange({from, 0, 3}, {to, 0}, {.kill_suidgid = true}).ok());
  EXPECT_EQ(fs_->GetAttributes(to)->mode & 07777, 0755u);
}

TEST_F(CopyTest, CopiesInOppositeDirectionsDoNotWaitForEachOther) {
  const InodeNumber a = Make("a", Pattern(4'000'000));
  const InodeNumber b = Make("b", Pattern(4'000'000, 2));
  std::thread other([&] {
    for (int i = 0; i < 5; ++i) Copy(b, 2'000'000, a, 0, 2'000'000);
  });
  for (int i = 0; i < 5; ++i) Copy(a, 2'000'000, b, 0, 2'000'000);
  other.join();
  EXPECT_EQ(Bytes(a),
            Pattern(4'000'000, 2).substr(2'000'000) + Pattern(4'000'000).substr(2'000'000));
  EXPECT_EQ(Bytes(b),
            Pattern(4'000'000).substr(2'000'000) + Pattern(4'000'000, 2).substr(2'000'000));
}

TEST_F(CopyTest, BlocksAreWhereTheMapHasThem) {
  const InodeNumber ino = Make("a", Pattern(5000));
  ASSERT_TRUE(client_->Fallocate(ino, FALLOC_FL_KEEP_SIZE, 0, 20'000).ok());
  const auto first = fs_->BlockOf(ino, 0);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_NE(*first, 0u);
  std::string block(kBlockBytes, '\0');
  ASSERT_EQ(ReadSync(*device_, *first * kBlockBytes, reinterpret_cast<std::byte*>(block.data()),
                     kBlockBytes),
            0);
  EXPECT_EQ(block, Pattern(5000).substr(0, kBlockBytes));
  EXPECT_NE(*fs_->BlockOf(ino, 1), 0u);
  EXPECT_EQ(*fs_->BlockOf(ino, 2), 0u);   // Unwritten.
  EXPECT_EQ(*fs_->BlockOf(ino, 50), 0u);  // A hole.
  EXPECT_EQ(ErrnoOf(fs_->BlockOf(root(), 0).status()), EISDIR);
}

TEST_F(CopyTest, ASourceThatBecomesShorterLeavesTheRestOfTheTarget) {
  constexpr size_t kBytes = 8 << 20;
  const InodeNumber source = Make("source");
  const InodeNumber target = Make("target", std::string(kBytes, 'b'));
  for (int round = 0; round < 20; ++round) {
    ASSERT_TRUE(client_->Write(source, 0, std::string(kBytes, 'a')).ok());
    ASSERT_TRUE(client_->Write(target, 0, std::string(kBytes, 'b')).ok());
    std::thread truncates([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(300 * round));
      EXPECT_TRUE(client_->Truncate(source, 0).ok());
    });
    const auto copied = fs_->CopyRange({source, 0, kBytes}, {target, 0}, {});
    truncates.join();
    ASSERT_TRUE(copied.ok()) << copied.status();
    const std::string bytes = Bytes(target);
    ASSERT_EQ(bytes.size(), kBytes);
    EXPECT_EQ(bytes.find_first_not_of('b', *copied), std::string::npos) << *copied;
  }
}

}  // namespace
}  // namespace pbfs
