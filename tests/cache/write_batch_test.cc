// SPDX-License-Identifier: Apache-2.0
#include "cache/write_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <random>
#include <thread>

#include "base/event.h"
#include "cache/page_cache.h"
#include "io/fault_device.h"
#include "io/memory_device.h"
#include "tests/cache/test_support.h"

namespace pbfs {
namespace {

using testing::ElementsAre;
using testing::Field;

class WriteBatchTest : public testing::Test {
 protected:
  // A page of memory whose bytes tell the block it belongs to; never adjacent to the one before.
  std::byte* DataOf(uint64_t block) {
    memory_.push_back(std::make_unique<Page[]>(2));
    Page& page = memory_.back()[0];
    std::memset(page.bytes, static_cast<int>(block % 251), kPageBytes);
    return page.bytes;
  }
  uint8_t OnDevice(uint64_t block) {
    Page page;
    EXPECT_EQ(ReadSync(memory_device_, block * kPageBytes, page.bytes, kPageBytes), 0);
    for (const std::byte byte : page.bytes) EXPECT_EQ(byte, page.bytes[0]);
    return std::to_integer<uint8_t>(page.bytes[0]);
  }
  void Run(WriteBatch& batch) {
    Event done;
    batch.Start([&done](WriteBatch&) { done.Set(); });
    done.Wait();
  }

  struct alignas(kPageBytes) Page {
    std::byte bytes[kPageBytes];
  };
  std::vector<std::unique_ptr<Page[]>> memory_;
  MemoryDevice memory_device_{64 << 20};
  FaultDevice fault_{memory_device_};
  HoldDevice device_{fault_};
};

TEST_F(WriteBatchTest, AnEmptyBatchIsDoneAtOnceWithoutIo) {
  WriteBatch batch(device_, 1 << 20);
  bool done = false;
  batch.Start([&done](WriteBatch&) { done = true; });
  EXPECT_TRUE(done);
  EXPECT_EQ(device_.request_count(), 0u);
}

TEST_F(WriteBatchTest, AdjacentBlocksOfDifferentFilesBecomeOneRequestWhateverTheirOrder) {
  WriteBatch batch(device_, 1 << 20);
  for (const uint64_t block : {105, 101, 103, 100, 104, 102, 300, 302}) {
    batch.Add(block, DataOf(block), block * 10);
  }
  Run(batch);
  EXPECT_EQ(batch.request_count(), 3u);
  EXPECT_THAT(device_.request_bytes(), ElementsAre(6 * 4096, 4096, 4096));
  EXPECT_FALSE(batch.any_failed());
  for (const uint64_t block : {100, 101, 102, 103, 104, 105, 300, 302}) {
    EXPECT_EQ(OnDevice(block), block % 251);
  }
  EXPECT_EQ(OnDevice(99), 0);
  EXPECT_EQ(OnDevice(301), 0);
}

TEST_F(WriteBatchTest, PiecesKeepTheOrderOfAddAndTheirCookies) {
  WriteBatch batch(device_, 1 << 20);
  for (const uint64_t block : {9, 3, 7}) batch.Add(block, DataOf(block), block + 1000);
  Run(batch);
  EXPECT_THAT(batch.pieces(), ElementsAre(Field(&WriteBatch::Piece::cookie, 1009),
                                          Field(&WriteBatch::Piece::cookie, 1003),
                                          Field(&WriteBatch::Piece::cookie, 1007)));
}

TEST_F(WriteBatchTest, RequestsStayWithinTheByteLimit) {
  WriteBatch batch(device_, 10 * 4096 + 100);
  for (uint64_t block = 50; block < 75; ++block) batch.Add(block, DataOf(block), 0);
  Run(batch);
  EXPECT_THAT(device_.request_bytes(), ElementsAre(10 * 4096, 10 * 4096, 5 * 4096));
  for (uint64_t block = 50; block < 75; ++block) EXPECT_EQ(OnDevice(block), block);
}

TEST_F(WriteBatchTest, RequestsStayWithinTheSegmentLimit) {
  WriteBatch batch(device_, 64 << 20);
  for (uint64_t block = 0; block < 1500; ++block) batch.Add(block, DataOf(block), 0);
  Run(batch);
  EXPECT_THAT(device_.request_segments(), ElementsAre(1024, 476));
  for (uint64_t block = 0; block < 1500; ++block) EXPECT_EQ(OnDevice(block), block % 251);
}

TEST_F(WriteBatchTest, ABadBlockFailsAloneWhateverItWasMergedWith) {
  fault_.SetDecide([](const IoRequest& request) {
    const bool covered = request.offset_bytes <= 20 * 4096 &&
                         request.offset_bytes + request.buffer.size_bytes() > 20 * 4096;
    return request.op == IoOp::kWrite && covered ? ENOSPC : 0;
  });
  WriteBatch batch(device_, 1 << 20);
  for (const uint64_t block : {40, 21, 10, 20, 19, 22}) batch.Add(block, DataOf(block), block);
  Run(batch);
  EXPECT_TRUE(batch.any_failed());
  std::vector<int> errors;
  for (const auto& piece : batch.pieces()) errors.push_back(piece.error);
  EXPECT_THAT(errors, ElementsAre(0, 0, 0, ENOSPC, 0, 0));
  for (const uint64_t block : {10, 19, 21, 22, 40}) EXPECT_EQ(OnDevice(block), block);
  EXPECT_EQ(OnDevice(20), 0);
  EXPECT_EQ(batch.request_count(), 3u);
}

TEST_F(WriteBatchTest, ABlockAddedTwiceIsWrittenOnceAndFailsForTheOther) {
  WriteBatch batch(device_, 1 << 20);
  for (const uint64_t block : {6, 5, 6, 7, 6}) batch.Add(block, DataOf(block), block);
  Run(batch);
  std::vector<int> errors;
  for (const auto& piece : batch.pieces()) errors.push_back(piece.error);
  EXPECT_THAT(errors, ElementsAre(0, 0, EUCLEAN, 0, EUCLEAN));
  EXPECT_EQ(batch.request_count(), 1u);
  for (const uint64_t block : {5, 6, 7}) EXPECT_EQ(OnDevice(block), block);
}

TEST_F(WriteBatchTest, AMergedRequestThatFailsOnceIsWrittenAllTheSame) {
  fault_.SetDecide(
      [first = true](const IoRequest&) mutable { return std::exchange(first, false) ? EIO : 0; });
  WriteBatch batch(device_, 1 << 20);
  for (const uint64_t block : {4, 5, 6}) batch.Add(block, DataOf(block), block);
  Run(batch);
  EXPECT_FALSE(batch.any_failed());
  for (const uint64_t block : {4, 5, 6}) EXPECT_EQ(OnDevice(block), block);
}

TEST_F(WriteBatchTest, ADeadDeviceFailsEveryPieceOnce) {
  fault_.FailAll(IoOp::kWrite, EIO);
  WriteBatch batch(device_, 16 * 4096);
  for (uint64_t block = 0; block < 64; ++block) batch.Add(block, DataOf(block), block);
  int calls = 0;
  batch.Start([&calls](WriteBatch&) { ++calls; });
  EXPECT_EQ(calls, 1);
  for (const auto& piece : batch.pieces()) EXPECT_EQ(piece.error, EIO);
  EXPECT_EQ(fault_.failed_count(), 4u + 64u);
}

TEST_F(WriteBatchTest, DoneIsCalledOnceWhenTheLastRequestEnds) {
  device_.Hold();
  WriteBatch batch(device_, 1 << 20);
  batch.Add(1, DataOf(1), 0);
  batch.Add(10, DataOf(10), 0);
  int calls = 0;
  batch.Start([&calls](WriteBatch&) { ++calls; });
  EXPECT_EQ(calls, 0);
  device_.Release();
  EXPECT_EQ(calls, 1);
}

TEST_F(WriteBatchTest, DoneMayDeleteTheBatchEvenWhenRequestsEndInsideStart) {
  auto* batch = new WriteBatch(device_, 1 << 20);
  batch->Add(1, DataOf(1), 0);
  batch->Add(10, DataOf(10), 0);
  bool done = false;
  batch->Start([&done](WriteBatch& ended) {
    done = true;
    delete &ended;
  });
  EXPECT_TRUE(done);
}

TEST_F(WriteBatchTest, CompletionsOfManyBatchesOnAnotherThreadReportEveryPiece) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 50; ++round) {
    device_.Hold();
    auto batch = std::make_unique<WriteBatch>(device_, 4 * 4096);
    for (uint64_t block = 0; block < 64; ++block) {
      if (random() % 3 != 0) batch->Add(block, DataOf(block), block);
    }
    Event done;
    batch->Start([&done](WriteBatch&) { done.Set(); });
    std::thread completer([this] { device_.Release(); });
    done.Wait();
    EXPECT_FALSE(batch->any_failed());
    completer.join();
  }
}

}  // namespace
}  // namespace pbfs
