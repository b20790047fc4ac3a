// SPDX-License-Identifier: Apache-2.0
#include "fs/recovery.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fs_image.h"

namespace pbfs {
namespace {

using ::testing::HasSubstr;

// The block of the anchor with the larger generation, or of the other.
BlockNumber AnchorBlock(ImageEditor& editor, bool newest) {
  const BlockNumber first = editor.superblock().log_start;
  const auto a = editor.Get<LogAnchor>(first);
  const auto b = editor.Get<LogAnchor>(first + 1);
  return (a.generation > b.generation) == newest ? first : first + 1;
}

void Damage(ImageEditor& editor, BlockNumber block) {
  AlignedBuffer bytes = *AlignedBuffer::Create(kBlockBytes);
  editor.Load(block, bytes);
  bytes.data()[200] ^= std::byte{1};
  editor.Store(block, bytes);
}

TEST(RecoveryTest, ALostAnchorOfADirtyLogIsNotTakenForACleanOne) {
  const RichImage image = MakeDirtyRichImage();
  ImageEditor editor(*image.device);
  Damage(editor, AnchorBlock(editor, /*newest=*/true));
  const Status replayed = ReplayLog(*image.device, editor.superblock()).status();
  EXPECT_EQ(ErrnoOf(replayed), EUCLEAN) << replayed;
  EXPECT_THAT(std::string(replayed.message()), HasSubstr("checkpoints follow"));
  EXPECT_FALSE(FileSystem::Mount(*image.device, {}).ok());
}

TEST(RecoveryTest, ALostOlderAnchorIsNoObstacle) {
  const RichImage image = MakeRichImage();  // Clean, with what was replayed still in the ring.
  ImageEditor editor(*image.device);
  Damage(editor, AnchorBlock(editor, /*newest=*/false));
  const auto replayed = ReplayLog(*image.device, editor.superblock());
  ASSERT_TRUE(replayed.ok()) << replayed.status();
  EXPECT_FALSE(replayed->replayed);
}

}  // namespace
}  // namespace pbfs
