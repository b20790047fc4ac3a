// SPDX-License-Identifier: Apache-2.0
// What a mounted filesystem does with metadata whose checksums are right and whose content is not:
// what does not need it goes on, and what was synced stays.
#include "fs/fork.h"
#include "fs/tree_node.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fs_image.h"

namespace pbfs {
namespace {

using ::testing::AnyOf;
using ::testing::Eq;
using ::testing::HasSubstr;

class DamagedMountTest : public testing::Test {
 protected:
  const RichContents& has() const { return image_.contents; }
  BlockDevice& device() { return *image_.device; }

  Status Mount() {
    MountOptions options;
    options.cache_bytes = 16 << 20;
    options.log = [this](const std::string& line) {
      const std::lock_guard lock(mutex_);
      absl::StrAppend(&said_, line, "\n");
    };
    auto mounted = FileSystem::Mount(device(), options);
    if (!mounted.ok()) return mounted.status();
    fs_ = *std::move(mounted);
    client_ = std::make_unique<FsClient>(*fs_);
    return OkStatus();
  }
  // The server is killed, and the next one mounts.
  Status MountAgain() {
    fs_.reset();
    return Mount();
  }
  std::string said() {
    const std::lock_guard lock(mutex_);
    return said_;
  }
  // Makes a file and syncs it.
  void WriteSynced(const char* name) {
    const auto made = client_->Create(fs_->root(), name);
    ASSERT_TRUE(made.ok()) << made.status();
    ASSERT_TRUE(client_->Write(*made, 0, "synced").ok());
    ASSERT_TRUE(client_->Fsync(*made).ok());
  }
  std::string Content(const char* name) {
    const auto ino = client_->Find(fs_->root(), name);
    if (!ino.ok() || *ino == 0) return "gone";
    return client_->Read(*ino, 0, 100).value_or("unreadable");
  }
  void SetOrphan(InodeNumber ino, uint8_t kind) {
    const auto state = editor_.Get<StateBlock>(editor_.superblock().state_block);
    editor_.Edit(state.orphans.block, [&](std::byte* leaf) {
      LeafErase(leaf, 0);
      LeafInsert(leaf, 0, ino, {&kind, 1});
    });
  }

  RichImage image_ = MakeRichImage();
  ImageEditor editor_{device()};
  std::mutex mutex_;
  std::string said_;
  std::unique_ptr<FileSystem> fs_;
  std::unique_ptr<FsClient> client_;
};

TEST_F(DamagedMountTest, AnOrphanThatIsNoFileIsNotTruncated) {
  // Its target is as an inline extent would be, with a block of somebody else's behind the end.
  const BlockNumber foreign = editor_.superblock().log_start;
  editor_.EditInode(has().short_link, [&](DiskInode& inode) {
    uint8_t target[47] = {};
    const InlineExtent extent = {1, {foreign, 1, 0, 0}};
    std::memcpy(target, &extent, sizeof extent);
    SetInline(inode, Fork::kData, target);
    inode.size_bytes = sizeof target;
    inode.blocks = 1;
  });
  SetOrphan(has().short_link, static_cast<uint8_t>(OrphanKind::kTruncate));
  const Status status = Mount();
  EXPECT_EQ(ErrnoOf(status), EUCLEAN);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no regular file"));
}

TEST_F(DamagedMountTest, AnOrphanOfAnUnknownKindIsNotTouched) {
  SetOrphan(has().small_file, 3);
  const Status status = Mount();
  EXPECT_EQ(ErrnoOf(status), EUCLEAN);
  EXPECT_THAT(std::string(status.message()), HasSubstr("kind of inode"));
}

TEST_F(DamagedMountTest, AnOrphanThatCannotBeFreedKeepsItsSpaceAndNothingElse) {
  editor_.EditInode(has().orphan, [](DiskInode& inode) { inode.blocks = 0; });
  for (int mounts = 0; mounts < 2; ++mounts) {
    ASSERT_TRUE(Mount().ok());
    EXPECT_EQ(fs_->mount_report().orphans, 0u);
    EXPECT_THAT(said(), HasSubstr(absl::StrCat("inode ", has().orphan, ": freeing")));
    WriteSynced(absl::StrCat("file ", mounts).c_str());
    ASSERT_TRUE(fs_->Unmount().ok());
    fs_.reset();
  }
}

// More inodes are free than the group has, after two more are freed: recovery would refuse that.
TEST_F(DamagedMountTest, AWrongCountOfFreeInodesDoesNotMakeTheLogUnusable) {
  editor_.EditGroup(0, [](AgEntry& group) { group.free_inodes = group.inode_slots; });
  ASSERT_TRUE(Mount().ok());
  WriteSynced("synced");
  ASSERT_TRUE(fs_->Unlink(has().large_dir, "a name that is not too short 1").ok());
  ASSERT_TRUE(fs_->Unlink(has().large_dir, "a name that is not too short 2").ok());
  (void)client_->Sync();
  ASSERT_TRUE(MountAgain().ok());
  EXPECT_EQ(Content("synced"), "synced");
}

TEST_F(DamagedMountTest, AWrongCountOfEntriesDoesNotMakeTheLogUnusable) {
  editor_.EditInode(has().large_dir, [](DiskInode& inode) { ++inode.entries; });
  ASSERT_TRUE(Mount().ok());
  WriteSynced("synced");
  Status status;
  for (int i = 0; i < 600 && status.ok(); ++i) {
    status = fs_->Unlink(has().large_dir, absl::StrCat("a name that is not too short ", i));
  }
  EXPECT_EQ(ErrnoOf(status), EUCLEAN);
  EXPECT_THAT(std::string(status.message()), HasSubstr("entries"));
  ASSERT_TRUE(client_->Sync().ok());
  ASSERT_TRUE(MountAgain().ok());
  EXPECT_EQ(Content("synced"), "synced");
}

TEST_F(DamagedMountTest, AWrongCountOfBlocksDoesNotMakeTheLogUnusable) {
  const uint64_t total = editor_.superblock().total_blocks;
  editor_.EditInode(has().small_file, [&](DiskInode& inode) { inode.blocks = total; });
  ASSERT_TRUE(Mount().ok());
  WriteSynced("synced");
  (void)client_->Write(has().small_file, 100'000, std::string(10'000, 'm'));
  EXPECT_THAT(ErrnoOf(client_->Fsync(has().small_file)), AnyOf(Eq(EIO), Eq(EUCLEAN)));
  WriteSynced("synced later");
  ASSERT_TRUE(MountAgain().ok());
  EXPECT_EQ(Content("synced"), "synced");
  EXPECT_EQ(Content("synced later"), "synced");
}

TEST_F(DamagedMountTest, SequencesThatWouldOverflowAreRefused) {
  for (uint32_t i = 0; i < kLogAnchorBlocks; ++i) {
    editor_.EditAs<LogAnchor>(editor_.superblock().log_start + i,
                              [](LogAnchor& anchor) { anchor.first_sequence = UINT64_MAX; });
  }
  EXPECT_EQ(ErrnoOf(Mount()), EUCLEAN);
}

}  // namespace
}  // namespace pbfs
