// SPDX-License-Identifier: Apache-2.0
#include "fs/dump.h"

#include <gmock/gmock.h>

#include "fs/fork.h"
#include "tests/support/fs_image.h"

namespace pbfs {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class DumpTest : public ::testing::Test {
 protected:
  DumpTest()
      : image_(MakeRichImage()),
        editor_(*image_.device),
        dumper_(*image_.device, editor_.superblock()) {}

  std::string Text(const StatusOr<DumpNode>& node) {
    EXPECT_TRUE(node.ok()) << node.status();
    return node.ok() ? FormatDump(*node) : "";
  }

  const RichImage image_;
  ImageEditor editor_;
  Dumper dumper_;
};

TEST_F(DumpTest, ShowsTheSuperblockAndItsCopies) {
  const std::string text = Text(dumper_.Superblocks());
  EXPECT_THAT(text, AllOf(HasSubstr("magic: PBFS"), HasSubstr("total_blocks: 8192"),
                          HasSubstr("version: 0.1"), HasSubstr("valid: yes"),
                          HasSubstr("block 8191:"), Not(HasSubstr("valid: block"))));
}

TEST_F(DumpTest, SaysWhatIsWrongWithABlock) {
  editor_.EditAs<StateBlock>(editor_.superblock().state_block,
                             [](StateBlock& state) { state.orphans.zero[0] = 1; });
  EXPECT_THAT(Text(dumper_.State()), HasSubstr("valid: block"));
}

TEST_F(DumpTest, ShowsEveryMetadataBlockOfAFilesystem) {
  for (const BlockNumber block : editor_.MetadataBlocks()) {
    const auto node = dumper_.Block(block);
    ASSERT_TRUE(node.ok()) << node.status();
    const DumpNode* valid = node->Find("valid");
    ASSERT_NE(valid, nullptr) << block;
    EXPECT_EQ(std::get<std::string>(valid->value), "yes") << FormatDump(*node);
    EXPECT_NE(node->Find("header"), nullptr);
  }
}

TEST_F(DumpTest, ShowsAGroup) {
  const std::string text = Text(dumper_.Group(0));
  EXPECT_THAT(text, AllOf(HasSubstr("flags: 0x1"), HasSubstr("inode_tree:"), HasSubstr("chunk:"),
                          HasSubstr("free_runs:"), HasSubstr("used_mask: 0x")));
  EXPECT_EQ(ErrnoOf(dumper_.Group(1).status()), EINVAL);
}

TEST_F(DumpTest, ShowsInodesOfAllKinds) {
  const RichContents& has = image_.contents;
  EXPECT_THAT(Text(dumper_.Inode(has.small_dir)),
              AllOf(HasSubstr("mode: 040755"), HasSubstr("entries:"), HasSubstr("name: sub")));
  EXPECT_THAT(Text(dumper_.Inode(has.large_dir)),
              AllOf(HasSubstr("data_tree:"), HasSubstr("name: a name that is not too short 599")));
  EXPECT_THAT(Text(dumper_.Inode(has.small_file)),
              AllOf(HasSubstr("extents:"), HasSubstr("file_block: 0"), HasSubstr("length: 5")));
  EXPECT_THAT(Text(dumper_.Inode(has.sparse_file)), HasSubstr("file_block: 1197"));
  EXPECT_THAT(Text(dumper_.Inode(has.short_link)), HasSubstr("target: target"));
  EXPECT_THAT(Text(dumper_.Inode(has.long_link)),
              AllOf(HasSubstr("piece: 3"), HasSubstr("target: ttt")));
  EXPECT_THAT(Text(dumper_.Inode(has.small_xattrs)), HasSubstr("name: user.two"));
  EXPECT_THAT(Text(dumper_.Inode(has.large_xattrs)),
              AllOf(HasSubstr("name: user.large"), HasSubstr("value_bytes: 5000")));
  EXPECT_EQ(ErrnoOf(dumper_.Inode(7).status()), EINVAL);
  EXPECT_EQ(ErrnoOf(dumper_.Inode(MakeInodeNumber(1, 0)).status()), ENOENT);
}

TEST_F(DumpTest, ShowsTreeNodesByWhoseTheyAre) {
  const DiskInode inode = editor_.GetInode(image_.contents.large_dir);
  const std::string root = Text(dumper_.Block(GetTreeRoot(inode, Fork::kData).block));
  EXPECT_THAT(root, AllOf(HasSubstr("kind: tree node"), HasSubstr("children:"),
                          HasSubstr(absl::StrCat("owner: inode ", image_.contents.large_dir))));
  const auto state = editor_.Get<StateBlock>(editor_.superblock().state_block);
  EXPECT_THAT(Text(dumper_.Block(state.orphans.block)),
              AllOf(HasSubstr("owner: orphans"), HasSubstr("kind: 1"),
                    HasSubstr(absl::StrCat("ino: ", image_.contents.orphan))));
}

TEST_F(DumpTest, ShowsTheLogAndACheckpoint) {
  const auto log = dumper_.Log();
  EXPECT_THAT(Text(log), AllOf(HasSubstr("clean: 1"), HasSubstr("tail_sequence:")));
  const DumpNode* checkpoints = log->Find("checkpoints");
  ASSERT_TRUE(checkpoints != nullptr && !checkpoints->children.empty());
  const DumpNode& last = checkpoints->children.back();
  const std::string text = Text(dumper_.Block(std::get<uint64_t>(last.Find("block")->value)));
  EXPECT_THAT(text, AllOf(HasSubstr("whole: yes"), HasSubstr("kind: image"),
                          HasSubstr("chunks: 0xffffffff")));
}

TEST_F(DumpTest, ShowsOtherBlocksAsBytes) {
  DiskInode inode = editor_.GetInode(image_.contents.small_file);
  const BlockNumber block = reinterpret_cast<const InlineExtent*>(inode.inline_area)->value.block;
  EXPECT_THAT(Text(dumper_.Block(block)),
              AllOf(HasSubstr("data or free"), HasSubstr("0fe0: 6161")));
  EXPECT_EQ(ErrnoOf(dumper_.Block(8192).status()), EINVAL);
}

TEST_F(DumpTest, SurvivesDamagedBlocks) {
  std::mt19937_64 random(1);
  const std::vector<BlockNumber> blocks = editor_.MetadataBlocks();
  for (int i = 0; i < 5000; ++i) {
    const BlockNumber block = blocks[random() % blocks.size()];
    AlignedBuffer buffer = *AlignedBuffer::Create(kBlockBytes);
    editor_.Load(block, buffer);
    for (int n = 0; n < 8; ++n) {
      // The magic stays: it says how to look.
      buffer.data()[4 + random() % (n < 4 ? 300 : kBlockBytes - 4)] = std::byte(random());
    }
    (void)FormatDump(DumpBlock(buffer.data(), block, editor_.superblock()));
    (void)FormatDump(DumpBlock(buffer.data(), random(), Superblock{}));
  }
}

TEST(DumpTextTest, BytesFromDiskAreSafeToPrint) {
  EXPECT_EQ(EscapeBytes("plain"), "plain");
  EXPECT_EQ(EscapeBytes("a\n\x1b\\"), "a\\x0a\\x1b\\x5c");
  EXPECT_EQ(EscapeBytes("gr\xc3\xbc\xc3\x9f"), "gr\xc3\xbc\xc3\x9f");
  EXPECT_EQ(EscapeBytes("\xc3"), "\\xc3");
  EXPECT_EQ(EscapeBytes("\xed\xa0\x80"), "\\xed\\xa0\\x80");
  EXPECT_EQ(EscapeBytes("\xf0\x9f\x98\x80"), "\xf0\x9f\x98\x80");
  EXPECT_EQ(EscapeBytes("\xc0\xaf"), "\\xc0\\xaf");
}

}  // namespace
}  // namespace pbfs
