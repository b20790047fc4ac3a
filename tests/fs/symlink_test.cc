// SPDX-License-Identifier: Apache-2.0
#include "fs/symlink.h"

#include <sys/stat.h>

#include "fs/fork.h"
#include "tests/support/meta_fixture.h"

namespace pbfs {
namespace {

class SymlinkTest : public MetaFixture {
 protected:
  static DiskInode NewLink() {
    DiskInode inode = {};
    inode.ino = 800;
    inode.mode = S_IFLNK | 0777;
    inode.nlink = 1;
    return inode;
  }
  static std::string Target(size_t length) {
    std::string target;
    while (target.size() < length) absl::StrAppend(&target, target.size(), "/");
    return target.substr(0, length);
  }
  Status Write(DiskInode& inode, const std::string& target) {
    return Commit([&](Transaction& transaction) {
      return WriteSymlink(reader_, space_, transaction, inode, target);
    });
  }
};

TEST_F(SymlinkTest, TargetsOfAllLengthsComeBack) {
  for (const size_t length : {1, 2, 100, 431, 432, 433, 960, 961, 1920, 3840, 3841, 4094, 4095}) {
    DiskInode inode = NewLink();
    const size_t nodes = space_.live().size();
    PBFS_EXPECT_OK(Write(inode, Target(length)));
    PBFS_EXPECT_OK(VerifyInode(inode, inode.ino, superblock_));
    EXPECT_EQ(inode.size_bytes, length);
    EXPECT_EQ(FormatOf(inode, Fork::kData),
              length <= kForkInlineBytesMax ? ForkFormat::kInline : ForkFormat::kTree);
    EXPECT_EQ(inode.blocks, space_.live().size() - nodes);
    EXPECT_LE(inode.blocks, kSymlinkChangeBlocksMax);
    const auto read = ReadSymlink(reader_, space_, inode);
    ASSERT_TRUE(read.ok()) << read.status().ToString();
    EXPECT_EQ(*read, Target(length));
    Remount();
    EXPECT_EQ(ReadSymlink(reader_, space_, inode).value(), Target(length));
  }
}

TEST_F(SymlinkTest, AttributesComeFirst) {
  DiskInode inode = NewLink();
  const std::vector<uint8_t> attributes(200, 1);
  SetInline(inode, Fork::kAttributes, attributes);
  PBFS_EXPECT_OK(Write(inode, Target(300)));
  EXPECT_EQ(FormatOf(inode, Fork::kData), ForkFormat::kTree);
  EXPECT_EQ(ReadSymlink(reader_, space_, inode).value(), Target(300));
  EXPECT_TRUE(std::ranges::equal(ForkBytes(inode, Fork::kAttributes), attributes));
}

TEST_F(SymlinkTest, ImpossibleTargetsAreRefused) {
  DiskInode inode = NewLink();
  EXPECT_EQ(ErrnoOf(Write(inode, "")), ENOENT);
  EXPECT_EQ(ErrnoOf(Write(inode, Target(4096))), ENAMETOOLONG);
}

TEST_F(SymlinkTest, DamagedTargetsAreFound) {
  DiskInode inode = NewLink();
  PBFS_EXPECT_OK(Write(inode, Target(3000)));
  DiskInode wrong_size = inode;
  wrong_size.size_bytes = 2999;
  EXPECT_TRUE(IsCorruption(ReadSymlink(reader_, space_, wrong_size).status()));
  DiskInode no_tree = inode;
  SetTreeRoot(no_tree, Fork::kData, {});
  EXPECT_TRUE(IsCorruption(ReadSymlink(reader_, space_, no_tree).status()));

  TreeRoot root = GetTreeRoot(inode, Fork::kData);
  Tree tree(reader_, space_, inode.ino, root);
  PBFS_EXPECT_OK(
      Commit([&](Transaction& transaction) { return tree.Erase(transaction, 1).status(); }));
  EXPECT_TRUE(IsCorruption(ReadSymlink(reader_, space_, inode).status()));
}

}  // namespace
}  // namespace pbfs
