// SPDX-License-Identifier: Apache-2.0
// Small files that are read because their neighbours were.
#include "fs/neighbour_reads.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/support/fs_fixture.h"

namespace pbfs {
namespace {

class NeighbourReadsTest : public FsFixture {
 protected:
  void MakeFiles(size_t count, size_t bytes) {
    MakeAndMount();
    for (size_t i = 0; i < count; ++i) {
      files_.push_back(*client_->Create(root(), absl::StrCat("file", i)));
      ASSERT_TRUE(client_->Write(files_.back(), 0, Content(i, bytes)).ok());
    }
    Unmount();
    Mount();
  }
  static std::string Content(size_t number, size_t bytes) {
    std::string content(bytes, static_cast<char>('a' + number % 26));
    return absl::StrCat(number, ":", content).substr(0, bytes);
  }
  uint64_t Misses() {
    return nlohmann::json::parse(fs_->StatsJson())["cache"]["data_misses"].get<uint64_t>();
  }
  std::string ReadFile(size_t number, size_t bytes) {
    return *client_->Read(files_[number], 0, bytes);
  }

  std::vector<InodeNumber> files_;
};

TEST_F(NeighbourReadsTest, AfterTwoFilesTheOthersAreThere) {
  MakeFiles(40, 5000);
  EXPECT_EQ(ReadFile(20, 5000), Content(20, 5000));
  EXPECT_EQ(ReadFile(20, 5000), Content(20, 5000));
  const uint64_t after_one = Misses();
  EXPECT_EQ(ReadFile(3, 5000), Content(3, 5000));
  EXPECT_GT(Misses(), after_one);  // One file, even if read twice, says nothing.
  const uint64_t before = Misses();
  // The files may lie in two windows, whose second one begins anew.
  for (size_t i = 0; i < files_.size(); ++i) EXPECT_EQ(ReadFile(i, 5000), Content(i, 5000));
  EXPECT_LE(Misses() - before, 10u);  // Of 80.
}

TEST_F(NeighbourReadsTest, OnlySmallFilesWithDataOnTheDevice) {
  MakeFiles(8, NeighbourReads::kFileBytesMax + 1);
  for (size_t i = 0; i < files_.size(); ++i) {
    const uint64_t before = Misses();
    EXPECT_EQ(ReadFile(i, NeighbourReads::kFileBytesMax + 1),
              Content(i, NeighbourReads::kFileBytesMax + 1));
    EXPECT_GT(Misses(), before);
  }
}

TEST_F(NeighbourReadsTest, ChangesAfterItAreSeen) {
  MakeFiles(20, 3000);
  ASSERT_TRUE(client_->Write(files_[5], 0, "dirty").ok());
  (void)ReadFile(0, 3000);
  (void)ReadFile(1, 3000);
  EXPECT_EQ(ReadFile(5, 5), "dirty");
  ASSERT_TRUE(client_->Write(files_[6], 100, "new").ok());
  EXPECT_EQ(ReadFile(6, 3000), Content(6, 3000).replace(100, 3, "new"));
  ASSERT_TRUE(fs_->SetAttributesOf(files_[7], {.size_bytes = 10}).ok());
  ASSERT_TRUE(fs_->SetAttributesOf(files_[7], {.size_bytes = 3000}).ok());
  EXPECT_EQ(ReadFile(7, 3000), Content(7, 3000).substr(0, 10) + std::string(2990, '\0'));
  ASSERT_TRUE(fs_->Unlink(root(), "file8").ok());
  Unmount();
  Mount();
  EXPECT_EQ(ReadFile(6, 3000), Content(6, 3000).replace(100, 3, "new"));
}

TEST_F(NeighbourReadsTest, WhatWasCutOffDoesNotComeBack) {
  MakeFiles(20, 3000);
  ASSERT_TRUE(fs_->SetAttributesOf(files_[7], {.size_bytes = 10}).ok());
  Unmount();
  Mount();
  (void)ReadFile(0, 3000);
  (void)ReadFile(1, 3000);
  ASSERT_TRUE(client_->Write(files_[7], 2000, "x").ok());
  EXPECT_EQ(ReadFile(7, 3000), Content(7, 3000).substr(0, 10) + std::string(1990, '\0') + "x");
}

// Blocks of an inode chunk that was given up keep what they had: the files in it are gone.
TEST_F(NeighbourReadsTest, FilesOfAChunkThatWasGivenUpStayGone) {
  MakeFiles(56 * 8, 3000);
  for (size_t i = 0; i < files_.size(); ++i) {
    if (i % 112 >= 3) ASSERT_TRUE(fs_->Unlink(root(), absl::StrCat("file", i)).ok());
  }
  Unmount();
  Mount();
  for (size_t i = 0; i < files_.size(); ++i) {
    if (i % 112 < 3) EXPECT_EQ(ReadFile(i, 3000), Content(i, 3000));
  }
  for (size_t i = 0; i < 56 * 8; ++i) {
    const InodeNumber fresh = *client_->Create(root(), absl::StrCat("fresh", i));
    ASSERT_TRUE(fs_->SetAttributesOf(fresh, {.size_bytes = 4096}).ok());
    EXPECT_EQ(*client_->Read(fresh, 0, 4096), std::string(4096, '\0')) << i;
  }
}

}  // namespace
}  // namespace pbfs
