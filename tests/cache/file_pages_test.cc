// SPDX-License-Identifier: Apache-2.0
#include "cache/file_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "tests/cache/test_support.h"

namespace pbfs {
namespace {

using testing::ElementsAre;

class FilePagesTest : public testing::Test {
 protected:
  ~FilePagesTest() override { pages_.CheckInvariants(); }

  PageBuf& NewFrame(uint8_t value) {
    PageBuf& frame = *pages_.Allocate();
    FillPage(frame, value);
    return frame;
  }
  void AddDirty(uint64_t index, uint8_t value, bool promised = false, int64_t now_ns = 1) {
    file_.InsertDirty(index, NewFrame(value), PromiseOf(promised), now_ns);
  }
  void AddClean(uint64_t index, uint8_t value) { file_.InsertClean(index, NewFrame(value)); }
  void Write(uint64_t index, size_t offset, size_t length, uint8_t value, bool promised = false,
             int64_t now_ns = 1) {
    std::array<uint8_t, kPageBytes + 16> bytes;
    bytes.fill(value);
    file_.WritePartial(index, offset, LogicalBuffer(bytes.data(), bytes.size()), 16, length,
                       PromiseOf(promised), NewFrame(0xee), now_ns);
  }
  std::vector<FilePages::DirtyPage> Collect(uint64_t first = 0, uint64_t last = UINT64_MAX,
                                            size_t max_pages = SIZE_MAX) {
    std::vector<FilePages::DirtyPage> round;
    file_.CollectDirty(first, last, max_pages, round);
    return round;
  }
  static std::vector<uint64_t> IndicesOf(const std::vector<FilePages::DirtyPage>& round) {
    std::vector<uint64_t> indices;
    for (const auto& page : round) indices.push_back(page.index);
    return indices;
  }
  void End(const std::vector<FilePages::DirtyPage>& round, bool failed = false) {
    for (const auto& page : round) file_.EndWriteback(page, failed);
  }
  // The byte at `offset` of the cached page; -1 when it is not cached.
  int Byte(uint64_t index, size_t offset = 0) {
    std::vector<PageBuf*> found;
    file_.Lookup(index, 1, found);
    if (found[0] == nullptr) return -1;
    const int byte = ByteOf(*found[0], offset);
    pages_.Unpin(*found[0]);
    return byte;
  }
  size_t FramesUsed() { return pages_.frames_total() - pages_.frames_free(); }

  PageCache pages_{PageCache::kFramesMin * kPageBytes};
  FilePages file_{pages_, 42};
};

TEST_F(FilePagesTest, LookupPinsWhatIsThereAndLeavesHolesNull) {
  AddClean(10, 1);
  AddDirty(12, 2);
  std::vector<PageBuf*> found;
  file_.Lookup(9, 5, found);
  ASSERT_EQ(found.size(), 5u);
  EXPECT_EQ(found[0], nullptr);
  EXPECT_EQ(ByteOf(*found[1]), 1);
  EXPECT_EQ(found[2], nullptr);
  EXPECT_EQ(ByteOf(*found[3]), 2);
  EXPECT_EQ(found[4], nullptr);
  EXPECT_EQ(found[1]->pin_count(), 1u);
  EvictAll(pages_);
  EXPECT_TRUE(file_.Contains(10));
  UnpinAll(pages_, found);
  EvictAll(pages_);
  EXPECT_FALSE(file_.Contains(10));
}

TEST_F(FilePagesTest, NoneCachedIsTrueOnlyForARangeWithoutPages) {
  AddClean(10, 1);
  EXPECT_TRUE(file_.NoneCached(0, 10));
  EXPECT_FALSE(file_.NoneCached(0, 11));
  EXPECT_FALSE(file_.NoneCached(10, 1));
  EXPECT_TRUE(file_.NoneCached(11, 1000));
}

TEST_F(FilePagesTest, InsertCleanKeepsThePageThatIsThere) {
  AddDirty(3, 7);
  AddClean(3, 9);
  EXPECT_EQ(Byte(3), 7);
  EXPECT_EQ(FramesUsed(), 1u);
  PageBuf* page = file_.InsertCleanPinned(3, NewFrame(9));
  EXPECT_EQ(ByteOf(*page), 7);
  EXPECT_EQ(page->pin_count(), 1u);
  pages_.Unpin(*page);
}

TEST_F(FilePagesTest, InsertDirtyReplacesThePageButNotUnderAReader) {
  AddClean(3, 1);
  std::vector<PageBuf*> reader;
  file_.Lookup(3, 1, reader);
  AddDirty(3, 2);
  EXPECT_EQ(Byte(3), 2);
  EXPECT_EQ(ByteOf(*reader[0]), 1);
  EXPECT_EQ(FramesUsed(), 2u);
  UnpinAll(pages_, reader);
  EXPECT_EQ(FramesUsed(), 1u);
}

TEST_F(FilePagesTest, APartialWriteToAMissingPageIsZeroAround) {
  Write(5, 100, 50, 0xaa);
  EXPECT_EQ(Byte(5, 0), 0);
  EXPECT_EQ(Byte(5, 99), 0);
  EXPECT_EQ(Byte(5, 100), 0xaa);
  EXPECT_EQ(Byte(5, 149), 0xaa);
  EXPECT_EQ(Byte(5, 150), 0);
  EXPECT_EQ(Byte(5, 4095), 0);
  EXPECT_EQ(file_.dirty_count(), 1u);
  EXPECT_EQ(FramesUsed(), 1u);
}

TEST_F(FilePagesTest, APartialWriteToACachedPageKeepsTheRest) {
  AddClean(5, 0x11);
  Write(5, 4000, 96, 0xaa);
  EXPECT_EQ(Byte(5, 3999), 0x11);
  EXPECT_EQ(Byte(5, 4000), 0xaa);
  EXPECT_EQ(Byte(5, 4095), 0xaa);
  EXPECT_EQ(FramesUsed(), 1u);
  EvictAll(pages_);
  EXPECT_EQ(Byte(5, 4000), 0xaa);
}

TEST_F(FilePagesTest, CollectTakesTheLowestPagesOfTheRangeAscending) {
  for (const uint64_t index : {9, 2, 7, 30, 4}) AddDirty(index, 1);
  AddClean(5, 1);
  const auto round = Collect(3, 29, 2);
  EXPECT_THAT(IndicesOf(round), ElementsAre(4, 7));
  EXPECT_EQ(file_.dirty_count(), 3u);
  EXPECT_EQ(file_.writeback_count(), 2u);
  const auto second = Collect(0, 3);
  EXPECT_THAT(IndicesOf(second), ElementsAre(2));
  EXPECT_EQ(pages_.dirty_pages.load(), 5);
  End(round);
  EXPECT_EQ(pages_.dirty_pages.load(), 3);
  file_.CheckInvariants();
  End(second);
}

TEST_F(FilePagesTest, AWrittenPageIsCleanAndEvictable) {
  AddDirty(1, 5);
  const auto round = Collect();
  EvictAll(pages_);
  EXPECT_EQ(Byte(1), 5);
  End(round);
  EXPECT_EQ(file_.dirty_count(), 0u);
  EXPECT_EQ(file_.writeback_count(), 0u);
  EXPECT_EQ(Byte(1), 5);
  EvictAll(pages_);
  EXPECT_EQ(Byte(1), -1);
}

TEST_F(FilePagesTest, AWriteToAPageUnderWritebackLeavesTheFrameInFlightUntouched) {
  AddDirty(1, 5);
  const auto round = Collect();
  Write(1, 0, 10, 6);
  EXPECT_EQ(ByteOf(*round[0].page, 0), 5);
  EXPECT_EQ(Byte(1, 0), 6);
  EXPECT_EQ(Byte(1, 10), 5);
  AddDirty(1, 7);
  EXPECT_EQ(ByteOf(*round[0].page, 0), 5);
  EXPECT_EQ(file_.dirty_count(), 1u);
  EXPECT_EQ(file_.writeback_count(), 1u);
  EXPECT_EQ(pages_.dirty_pages.load(), 2);
  file_.CheckInvariants();
  End(round);
  EXPECT_EQ(file_.dirty_count(), 1u);
  EXPECT_EQ(pages_.dirty_pages.load(), 1);
  EXPECT_EQ(Byte(1), 7);
  EXPECT_EQ(FramesUsed(), 1u);
}

TEST_F(FilePagesTest, APageIsNotCollectedWhileItsFormerFrameIsInFlight) {
  AddDirty(1, 5);
  AddDirty(2, 5);
  const auto round = Collect(1, 1);
  Write(1, 0, 10, 6);
  const auto other = Collect();
  EXPECT_THAT(IndicesOf(other), ElementsAre(2));
  End(round);
  const auto second = Collect();
  ASSERT_THAT(IndicesOf(second), ElementsAre(1));
  EXPECT_EQ(ByteOf(*second[0].page), 6);
  End(second);
  End(other);
}

TEST_F(FilePagesTest, AFailedWritebackOfARewrittenPageIsNoError) {
  AddDirty(1, 5);
  const auto round = Collect();
  Write(1, 0, 4096, 6);
  End(round, true);
  EXPECT_FALSE(file_.HasErrors());
  EXPECT_EQ(file_.dirty_count(), 1u);
  const auto second = Collect();
  EXPECT_THAT(IndicesOf(second), ElementsAre(1));
  End(second);
}

TEST_F(FilePagesTest, AnErrorStaysWithItsDataUntilThePageIsRewritten) {
  AddDirty(1, 5);
  End(Collect(), true);
  EXPECT_TRUE(file_.HasErrors());
  EXPECT_EQ(file_.dirty_count(), 1u);
  EXPECT_EQ(pages_.dirty_pages.load(), 1);
  EXPECT_EQ(file_.oldest_dirty_ns(), INT64_MAX);
  EXPECT_TRUE(Collect().empty());
  EvictAll(pages_);
  EXPECT_EQ(Byte(1), 5);
  Write(1, 0, 1, 6, false, 50);
  EXPECT_FALSE(file_.HasErrors());
  EXPECT_EQ(file_.dirty_count(), 1u);
  EXPECT_EQ(file_.oldest_dirty_ns(), 50);
  const auto round = Collect();
  EXPECT_THAT(IndicesOf(round), ElementsAre(1));
  End(round);
  EXPECT_EQ(pages_.dirty_pages.load(), 0);
}

TEST_F(FilePagesTest, AnErrorEndsWhenAWholePageReplacesIt) {
  AddDirty(1, 5);
  End(Collect(), true);
  AddDirty(1, 6);
  EXPECT_FALSE(file_.HasErrors());
  file_.CheckInvariants();
}

TEST_F(FilePagesTest, AnErrorIsDroppedWithItsPage) {
  AddDirty(1, 5);
  AddDirty(2, 5);
  End(Collect(), true);
  file_.Drop(0, 1);
  EXPECT_TRUE(file_.HasErrors());
  file_.Drop(2, 2);
  EXPECT_FALSE(file_.HasErrors());
  EXPECT_EQ(file_.dirty_count(), 0u);
  EXPECT_EQ(pages_.dirty_pages.load(), 0);
}

// Beyond a limit the data of failed pages is given up; the error stays with their indices.
TEST_F(FilePagesTest, FailedPagesBeyondTheLimitAreLostUntilWrittenAnewOrDropped) {
  const int64_t kept = pages_.error_pages.load();
  pages_.error_pages = static_cast<int64_t>(pages_.error_pages_max());
  for (const uint64_t index : {1, 2, 3, 7}) AddDirty(index, 5, index == 2);
  const size_t used = FramesUsed();
  size_t given_up = 0;
  for (const auto& page : Collect()) given_up += file_.EndWriteback(page, ENOSPC).blocks;
  pages_.error_pages = kept;
  EXPECT_EQ(given_up, 1u);
  EXPECT_EQ(FramesUsed(), used - 4);
  EXPECT_EQ(pages_.dirty_pages.load(), 0);
  EXPECT_EQ(file_.WriteError(), ENOSPC);
  EXPECT_EQ(Byte(2), -1);
  EXPECT_EQ(file_.WriteErrorAt(2), ENOSPC);
  EXPECT_EQ(file_.WriteErrorAt(4), 0);
  AddDirty(2, 6);
  EXPECT_EQ(file_.WriteErrorAt(1), ENOSPC);
  EXPECT_EQ(file_.WriteErrorAt(2), 0);
  EXPECT_EQ(file_.WriteErrorAt(3), ENOSPC);
  Write(3, 0, 100, 6);
  EXPECT_EQ(file_.WriteErrorAt(3), ENOSPC);  // The rest of the page is still lost.
  Write(3, 0, 4096, 6);
  EXPECT_EQ(file_.WriteErrorAt(3), 0);
  file_.Drop(0, 6);
  EXPECT_EQ(file_.WriteError(), ENOSPC);
  file_.Drop(7, UINT64_MAX);
  EXPECT_EQ(file_.WriteError(), 0);
  file_.CheckInvariants();
}

TEST_F(FilePagesTest, RetryErrorsMakesPagesCollectableOnceMore) {
  AddDirty(1, 5);
  AddDirty(2, 5);
  End(Collect(), true);
  file_.RetryErrors();
  EXPECT_FALSE(file_.HasErrors());
  const auto round = Collect();
  EXPECT_THAT(IndicesOf(round), ElementsAre(1, 2));
  End(round);
  EXPECT_EQ(file_.dirty_count(), 0u);
}

TEST_F(FilePagesTest, PromisesAreInheritedByAReplacingPage) {
  AddDirty(1, 5, true);
  EXPECT_TRUE(file_.IsDirtyOrPromised(1));
  const auto round = Collect();
  EXPECT_EQ(round[0].promise, PagePromise::kBlock);
  EXPECT_TRUE(file_.IsDirtyOrPromised(1));
  Write(1, 0, 10, 6, false);
  EXPECT_EQ(file_.CountPromised(0, 10), 1u);
  EXPECT_EQ(file_.ClearPromises(0, 10).blocks, 1u);
  EXPECT_EQ(file_.CountPromised(0, 10), 0u);
  End(round);
  const auto second = Collect();
  EXPECT_EQ(second[0].promise, PagePromise::kNone);
  End(second);
}

TEST_F(FilePagesTest, APageIsNotEvictedBeforeItsReservationIsSettled) {
  AddDirty(1, 5, true);
  End(Collect());
  EvictAll(pages_);
  EXPECT_EQ(Byte(1), 5);
  EXPECT_EQ(file_.ClearPromises(1, 1).blocks, 1u);
  EvictAll(pages_);
  EXPECT_EQ(Byte(1), -1);
}

TEST_F(FilePagesTest, CountAndClearOfPromisesKeepToTheirRange) {
  for (uint64_t index = 0; index < 10; ++index) AddDirty(index, 1, index % 2 == 0);
  EXPECT_EQ(file_.CountPromised(0, 10), 5u);
  EXPECT_EQ(file_.CountPromised(2, 3), 2u);
  EXPECT_EQ(file_.ClearPromises(2, 3).blocks, 2u);
  EXPECT_EQ(file_.ClearPromises(2, 3).blocks, 0u);
  EXPECT_EQ(file_.CountPromised(0, 10), 3u);
  EXPECT_EQ(file_.NextPromised(0), 0u);
  EXPECT_EQ(file_.NextPromised(1), 6u);
  EXPECT_EQ(file_.NextPromised(9), UINT64_MAX);
}

TEST_F(FilePagesTest, DropForgetsTheRangeAndCountsItsReservations) {
  for (uint64_t index = 0; index < 10; ++index) AddDirty(index, 1, index < 6);
  AddClean(20, 1);
  EXPECT_EQ(file_.Drop(4, 8).blocks, 2u);
  EXPECT_EQ(file_.page_count(), 6u);
  EXPECT_EQ(file_.dirty_count(), 5u);
  EXPECT_EQ(pages_.dirty_pages.load(), 5);
  EXPECT_TRUE(file_.Contains(3));
  EXPECT_FALSE(file_.Contains(4));
  EXPECT_FALSE(file_.Contains(8));
  EXPECT_TRUE(file_.Contains(9));
  EXPECT_EQ(file_.Drop(0, UINT64_MAX).blocks, 4u);
  EXPECT_EQ(FramesUsed(), 0u);
}

TEST_F(FilePagesTest, ZeroTailDirtiesACachedPageAndReportsAMissingOne) {
  AddClean(1, 5);
  EXPECT_TRUE(file_.ZeroTail(1, 100, NewFrame(0xee), 1));
  EXPECT_EQ(Byte(1, 99), 5);
  EXPECT_EQ(Byte(1, 100), 0);
  EXPECT_EQ(Byte(1, 4095), 0);
  EXPECT_EQ(file_.dirty_count(), 1u);
  EXPECT_FALSE(file_.ZeroTail(2, 100, NewFrame(0xee), 1));
  EXPECT_EQ(FramesUsed(), 1u);
}

TEST_F(FilePagesTest, ZeroTailOfAPageUnderWritebackLeavesTheFrameInFlight) {
  AddDirty(1, 5);
  const auto round = Collect();
  EXPECT_TRUE(file_.ZeroTail(1, 100, NewFrame(0xee), 1));
  EXPECT_EQ(ByteOf(*round[0].page, 100), 5);
  EXPECT_EQ(Byte(1, 99), 5);
  EXPECT_EQ(Byte(1, 100), 0);
  End(round);
  EXPECT_EQ(file_.dirty_count(), 1u);
}

TEST_F(FilePagesTest, ZeroTailAtTheEndOfThePageChangesNothing) {
  AddClean(1, 5);
  EXPECT_TRUE(file_.ZeroTail(1, kPageBytes, NewFrame(0xee), 1));
  EXPECT_EQ(file_.dirty_count(), 0u);
}

TEST_F(FilePagesTest, OldestDirtyIsTheFirstOfTheUnwrittenPages) {
  EXPECT_EQ(file_.oldest_dirty_ns(), INT64_MAX);
  AddDirty(5, 1, false, 100);
  AddDirty(9, 1, false, 200);
  AddDirty(1, 1, false, 300);
  Write(5, 0, 1, 1, false, 400);
  EXPECT_EQ(file_.oldest_dirty_ns(), 100);
  End(Collect(5, 5));
  EXPECT_EQ(file_.oldest_dirty_ns(), 200);
  file_.Drop(9, 9);
  EXPECT_EQ(file_.oldest_dirty_ns(), 300);
  End(Collect());
  EXPECT_EQ(file_.oldest_dirty_ns(), INT64_MAX);
}

TEST_F(FilePagesTest, ADestroyedFileFreesItsFramesExceptPinnedOnes) {
  std::vector<PageBuf*> reader;
  {
    FilePages other(pages_, 43);
    other.InsertDirty(1, NewFrame(1), PagePromise::kBlock, 1);
    other.InsertClean(2, NewFrame(2));
    other.Lookup(2, 1, reader);
  }
  EXPECT_EQ(pages_.dirty_pages.load(), 0);
  EXPECT_EQ(FramesUsed(), 1u);
  EXPECT_EQ(ByteOf(*reader[0]), 2);
  UnpinAll(pages_, reader);
  EXPECT_EQ(FramesUsed(), 0u);
}

using FilePagesDeathTest = FilePagesTest;

TEST_F(FilePagesDeathTest, DroppingAPageUnderWritebackIsABug) {
  AddDirty(1, 5);
  const auto round = Collect();
  EXPECT_DEATH(file_.Drop(0, 10), "writeback");
  End(round);
}

}  // namespace
}  // namespace pbfs
