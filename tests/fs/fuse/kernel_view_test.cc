// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/kernel_view.h"

#include <gtest/gtest.h>

#include "fs/fuse/kernel_behaviour.h"

namespace pbfs::fuse {
namespace {

constexpr uint64_t kFile = 7;

class KernelViewTest : public testing::Test {
 protected:
  // A direct write has ended. What the drop is that the caller is to see to, if any.
  std::shared_ptr<KernelView::Drop> EndWrite(bool waits) {
    std::shared_ptr<KernelView::Drop> drop;
    EXPECT_EQ(view_.AwaitDrop(
                  kFile, [this] { ++answered_; }, &drop),
              waits);
    return drop;
  }
  void Finish(KernelView::Drop& drop) {
    for (const auto& answer : view_.EndDrop(kFile, drop)) answer();
  }

  KernelView view_;
  int answered_ = 0;
};

TEST_F(KernelViewTest, WithoutAReadNobodyWaits) { EXPECT_EQ(EndWrite(false), nullptr); }

TEST_F(KernelViewTest, WritesThatEndBeforeTheDropHasEndedWaitForIt) {
  view_.NoteRead(kFile);
  const auto drop = EndWrite(true);
  ASSERT_NE(drop, nullptr);
  EXPECT_EQ(EndWrite(true), nullptr);
  view_.BeginDrop(*drop);
  EXPECT_EQ(EndWrite(true), nullptr);
  EXPECT_EQ(answered_, 0);
  Finish(*drop);
  EXPECT_EQ(answered_, 3);
  EXPECT_EQ(EndWrite(false), nullptr);
}

TEST_F(KernelViewTest, WhatWasReadAfterADropBeganNeedsAnother) {
  view_.NoteRead(kFile);
  const auto first = EndWrite(true);
  view_.NoteRead(kFile);
  EXPECT_EQ(EndWrite(true), nullptr);  // It has not begun.
  view_.BeginDrop(*first);
  view_.NoteRead(kFile);
  const auto second = EndWrite(true);
  ASSERT_NE(second, nullptr);
  Finish(*first);
  EXPECT_EQ(answered_, 2);
  EXPECT_EQ(EndWrite(true), nullptr);
  view_.BeginDrop(*second);
  Finish(*second);
  EXPECT_EQ(answered_, 4);
  EXPECT_EQ(EndWrite(false), nullptr);
}

TEST(KernelBehaviourTest, FollowsTheProtocolsMinorVersion) {
  EXPECT_FALSE(WritebackLastsUntilAnswered(38));  // Linux 6.1.
  EXPECT_FALSE(SyncReachesFuseblk(38));
  EXPECT_TRUE(WritebackLastsUntilAnswered(44));  // 6.16
  EXPECT_FALSE(SyncReachesFuseblk(44));
  EXPECT_TRUE(SyncReachesFuseblk(45));  // 6.18
}

}  // namespace
}  // namespace pbfs::fuse
