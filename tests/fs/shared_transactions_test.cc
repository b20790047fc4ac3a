// SPDX-License-Identifier: Apache-2.0
// What many small files share: requests to the device, and transactions.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/format.h"
#include "nlohmann/json.hpp"
#include "tests/support/fault_fixture.h"

namespace pbfs {
namespace {

class SharedTransactionsTest : public FaultFixture {
 protected:
  static std::string Name(size_t number) { return absl::StrCat("file", number); }
  static std::string Content(size_t number) {
    return std::string(kPageBytes, static_cast<char>('a' + number % 26));
  }
  InodeNumber Make(size_t number) {
    const auto made = client_->Create(fs_->root(), Name(number));
    EXPECT_TRUE(made.ok()) << made.status();
    EXPECT_TRUE(client_->Write(*made, 0, Content(number)).ok());
    return *made;
  }
  // Gone, and forgotten by the kernel.
  void Remove(std::string_view name) {
    const InodeNumber ino = *client_->Find(fs_->root(), name);
    ASSERT_TRUE(fs_->Unlink(fs_->root(), name).ok());
    fs_->Forget(ino, UINT64_MAX);
  }
  uint64_t Checkpoints() {
    return nlohmann::json::parse(fs_->StatsJson())["log"]["checkpoints"].get<uint64_t>();
  }
};

TEST_F(SharedTransactionsTest, ASyncWritesNeighboursTogether) {
  constexpr size_t kFiles = 400;
  for (size_t i = 0; i < kFiles; ++i) Make(i);
  (void)recorder_.TakeRecording();
  ASSERT_TRUE(client_->Sync().ok());
  size_t data_writes = 0;
  uint64_t data_bytes = 0;
  for (const RecordedIo& io : recorder_.TakeRecording()) {
    if (io.kind != RecordedIo::Kind::kWrite || io.fua) continue;
    ++data_writes;
    data_bytes += io.data.size();
  }
  EXPECT_GE(data_bytes, kFiles * kPageBytes);
  EXPECT_LE(data_writes, 8u);
  CutPowerAndMount();
  for (size_t i = 0; i < kFiles; ++i) {
    EXPECT_EQ(*client_->Read(*client_->Find(fs_->root(), Name(i)), 0, kPageBytes), Content(i));
  }
  ExpectClean();
}

TEST_F(SharedTransactionsTest, AnInodeThatCannotBeStoredFailsNoOther) {
  constexpr size_t kFiles = 20;
  constexpr size_t kVictim = 10;
  constexpr size_t kOthers = 3000;
  std::vector<InodeNumber> files;
  for (size_t i = 0; i < kFiles; ++i) files.push_back(Make(i));
  ASSERT_TRUE(client_->Sync().ok());
  ASSERT_TRUE(fs_->Unmount().ok());
  fs_.reset();
  Mount(2 << 20);
  for (size_t i = 0; i < kFiles; ++i) {
    ASSERT_EQ(*client_->Find(fs_->root(), Name(i)), files[i]);
    ASSERT_TRUE(client_->Write(files[i], kPageBytes, Content(i + 1)).ok());
  }
  // Dirty inodes stay in memory, their blocks do not.
  const InodeNumber others = *client_->Mkdir(fs_->root(), "others");
  for (size_t i = 0; i < kOthers; ++i) {
    const auto other = client_->Create(others, Name(i));
    ASSERT_TRUE(other.ok());
    ASSERT_TRUE(fs_->SetXattr(*other, "user.large", std::string(3000, 'v'), 0).ok());
  }
  const BlockNumber bad = InodeBlock(files[kVictim]);
  device_.SetDecide([bad](const IoRequest& request) {
    const uint64_t at = bad * kBlockBytes;
    const bool hit =
        request.offset_bytes <= at && at < request.offset_bytes + request.buffer.size_bytes();
    return request.op == IoOp::kRead && hit ? EIO : 0;
  });
  EXPECT_EQ(ErrnoOf(client_->Sync()), EIO);
  size_t failed = 0;
  for (size_t i = 0; i < kFiles; ++i) {
    const bool shares_block = InodeBlock(files[i]) == bad;
    failed += shares_block ? 1 : 0;
    EXPECT_EQ(ErrnoOf(client_->Fsync(files[i])), shares_block ? EIO : 0) << i;
  }
  EXPECT_LE(failed, kInodesPerBlock);
  CutPowerAndMount();
  for (size_t i = 0; i < kFiles; ++i) {
    const std::string expected =
        InodeBlock(files[i]) == bad ? Content(i) : Content(i) + Content(i + 1);
    EXPECT_TRUE(*client_->Read(files[i], 0, 2 * kPageBytes) == expected) << i;
  }
  ExpectClean();
}

TEST_F(SharedTransactionsTest, SmallAndLargeInodesAreFreedInOneBurst) {
  const uint64_t free_before = fs_->StatFs()->blocks_free;
  const uint64_t inodes_before = fs_->StatFs()->inodes_free;
  for (size_t i = 0; i < 40; ++i) Make(i);
  // A tree of extents, a tree of attributes, a directory, nothing at all.
  const InodeNumber holes = *client_->Create(fs_->root(), "holes");
  for (uint64_t i = 0; i < 60; ++i) {
    ASSERT_TRUE(client_->Write(holes, i * 3 * kPageBytes, Content(i)).ok());
  }
  const InodeNumber attributes = *client_->Create(fs_->root(), "attributes");
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(fs_->SetXattr(attributes, absl::StrCat("user.", i), std::string(700, 'v'), 0).ok());
  }
  ASSERT_TRUE(client_->Create(fs_->root(), "empty").ok());
  ASSERT_TRUE(client_->Sync().ok());
  EXPECT_LT(fs_->StatFs()->blocks_free, free_before);
  for (size_t i = 0; i < 40; ++i) {
    Remove(Name(i));
    if (i == 10) Remove("holes");
    if (i == 20) Remove("attributes");
    if (i == 30) Remove("empty");
  }
  ASSERT_TRUE(client_->Sync().ok());
  EXPECT_EQ(fs_->StatFs()->blocks_free, free_before);
  EXPECT_EQ(fs_->StatFs()->inodes_free, inodes_before);
  ExpectClean();
}

// What the kernel sends after an unlink, a link or a rename.
TEST_F(SharedTransactionsTest, TimesThatAreThereTakeNoTransaction) {
  const InodeNumber ino = Make(0);
  ASSERT_TRUE(client_->Sync().ok());
  const Attributes now = *fs_->GetAttributes(ino);
  const uint64_t before = Checkpoints();
  ASSERT_TRUE(fs_->SetAttributesOf(ino, {.ctime = now.ctime}).ok());
  ASSERT_TRUE(fs_->SetAttributesOf(ino, {.mtime = now.mtime, .ctime = now.ctime}).ok());
  ASSERT_TRUE(client_->Sync().ok());
  EXPECT_EQ(Checkpoints(), before);
  const Time later{now.ctime.seconds + 1, now.ctime.nanoseconds};
  EXPECT_EQ(fs_->SetAttributesOf(ino, {.mtime = now.mtime, .ctime = later})->ctime, later);
  ASSERT_TRUE(client_->Sync().ok());
  EXPECT_EQ(Checkpoints(), before + 1);
  EXPECT_EQ(fs_->SetAttributesOf(ino, {.mtime = later, .ctime = later})->mtime, later);
  ASSERT_TRUE(client_->Sync().ok());
  EXPECT_EQ(Checkpoints(), before + 2);
  // The time of a write that has not been stored yet gives way to what is set.
  ASSERT_TRUE(client_->Write(ino, 0, "x").ok());
  EXPECT_EQ(fs_->SetAttributesOf(ino, {.mtime = later, .ctime = later})->mtime, later);
  ASSERT_TRUE(client_->Sync().ok());
  EXPECT_EQ(fs_->GetAttributes(ino)->mtime, later);
}

}  // namespace
}  // namespace pbfs
