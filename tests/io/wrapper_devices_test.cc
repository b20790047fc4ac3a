// SPDX-License-Identifier: Apache-2.0
// ShutdownDevice, FaultDevice, WatchedDevice, RecordingDevice and OverlayDevice over memory.
#include <gmock/gmock.h>

#include <chrono>
#include <thread>

#include "base/mutex.h"
#include "io/fault_device.h"
#include "io/memory_device.h"
#include "io/overlay_device.h"
#include "io/recording_device.h"
#include "io/shutdown_device.h"
#include "io/uring_device.h"
#include "io/watched_device.h"
#include "tests/io/test_util.h"

namespace pbfs {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Kind = RecordedIo::Kind;

class WrapperTest : public ::testing::Test {
 protected:
  static int Put(BlockDevice& device, uint64_t offset_bytes, size_t length_bytes, int value,
                 bool fua = false) {
    AlignedMemory data(length_bytes);
    data.Fill(value);
    return WriteSync(device, offset_bytes, data.data(), length_bytes, fua);
  }
  static int ValueAt(BlockDevice& device, uint64_t offset_bytes, size_t length_bytes) {
    AlignedMemory data(length_bytes);
    EXPECT_EQ(ReadSync(device, offset_bytes, data.data(), length_bytes), 0);
    const int value = std::to_integer<int>(data.data()[0]);
    return AllBytesAre(data.data(), length_bytes, value) ? value : -1;
  }

  MemoryDevice memory_{1 << 20};
};

using ShutdownDeviceTest = WrapperTest;

TEST_F(ShutdownDeviceTest, PassesRequestsOnUntilItIsShutDown) {
  ShutdownDevice device(memory_);
  EXPECT_EQ(Put(device, 0, 4096, 1), 0);
  EXPECT_EQ(ValueAt(device, 0, 4096), 1);
  device.Shutdown();
  EXPECT_EQ(Put(device, 0, 4096, 2), EIO);
  EXPECT_EQ(FlushSync(device), EIO);
  device.Shutdown();
  EXPECT_EQ(ValueAt(memory_, 0, 4096), 1);
  EXPECT_EQ(memory_.flush_count(), 0u);
}

TEST_F(ShutdownDeviceTest, ABatchPassesOrFailsAsOne) {
  ShutdownDevice device(memory_);
  AlignedMemory data(8192);
  for (const int expected : {0, EIO}) {
    IoRequest requests[2];
    IoRequest* pointers[2] = {&requests[0], &requests[1]};
    for (IoRequest& request : requests) {
      request.op = IoOp::kWrite;
      request.buffer.Append(data.data(), 4096);
    }
    requests[1].offset_bytes = 4096;
    EXPECT_EQ(RunSync(device, pointers), expected);
    device.Shutdown();
  }
}

TEST_F(ShutdownDeviceTest, ShutdownWaitsForWhatIsInFlight) {
  UringDeviceOptions options;
  TempFile file(64 << 20);
  auto below = UringDevice::Open(file.path(), options);
  ASSERT_TRUE(below.ok()) << below.status();
  for (int round = 0; round < 20; ++round) {
    ShutdownDevice device(**below);
    std::atomic<bool> down{false};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&, i] {
        for (;;) {
          const bool after = down;
          const int error = Put(device, uint64_t(i) << 20, 1 << 20, round);
          EXPECT_TRUE(error == EIO || (error == 0 && !after)) << error;
          if (error != 0) return;
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    device.Shutdown();
    down = true;
    for (std::thread& thread : threads) thread.join();
  }
}

using FaultDeviceTest = WrapperTest;

TEST_F(FaultDeviceTest, FailsWhatTheRuleSaysWithoutReachingTheDevice) {
  FaultDevice device(memory_);
  device.SetDecide([](const IoRequest& request) {
    return request.op == IoOp::kWrite && request.offset_bytes == 4096 ? ENOSPC : 0;
  });
  EXPECT_EQ(Put(device, 0, 4096, 1), 0);
  EXPECT_EQ(Put(device, 4096, 4096, 1), ENOSPC);
  EXPECT_EQ(ValueAt(device, 0, 4096), 1);
  EXPECT_EQ(ValueAt(memory_, 4096, 4096), 0);
  EXPECT_EQ(device.failed_count(), 1u);
  device.SetDecide(nullptr);
  EXPECT_EQ(Put(device, 4096, 4096, 2), 0);
}

TEST_F(FaultDeviceTest, FailAllHoldsForOneOperationUntilTakenBack) {
  FaultDevice device(memory_);
  device.FailAll(IoOp::kFlush, EIO);
  EXPECT_EQ(Put(device, 0, 4096, 1), 0);
  EXPECT_EQ(FlushSync(device), EIO);
  EXPECT_EQ(FlushSync(device), EIO);
  EXPECT_EQ(memory_.flush_count(), 0u);
  device.FailAll(IoOp::kFlush, 0);
  EXPECT_EQ(FlushSync(device), 0);
  EXPECT_EQ(memory_.flush_count(), 1u);
  EXPECT_EQ(device.failed_count(), 2u);
}

TEST_F(FaultDeviceTest, OnCompleteSeesEveryResultAndMayReplaceIt) {
  FaultDevice device(memory_);
  std::vector<int> seen;
  device.FailAll(IoOp::kFlush, ENXIO);
  device.SetOnComplete([&seen](const IoRequest& request, int error) {
    seen.push_back(error);
    return request.op == IoOp::kWrite ? EIO : error;
  });
  EXPECT_EQ(FlushSync(device), ENXIO);
  EXPECT_EQ(Put(device, 0, 4096, 4), EIO);
  EXPECT_EQ(ValueAt(memory_, 0, 4096), 4);  // It did reach the device.
  EXPECT_THAT(seen, ElementsAre(ENXIO, 0));
}

TEST_F(FaultDeviceTest, ARuleFailsTheNthRequestOfItsKindOnceOrFromThenOn) {
  for (const bool from_then_on : {false, true}) {
    FaultDevice device(memory_);
    device.AddRule({.op = IoOp::kWrite,
                    .begin_bytes = 4096,
                    .end_bytes = 8192,
                    .nth = 2,
                    .from_then_on = from_then_on,
                    .error = ENOSPC});
    EXPECT_EQ(Put(device, 4096, 4096, 1), 0);
    EXPECT_EQ(Put(device, 0, 4096, 1), 0);
    EXPECT_EQ(Put(device, 8192, 4096, 1), 0);
    EXPECT_EQ(ValueAt(device, 4096, 4096), 1);
    EXPECT_EQ(Put(device, 0, 8192, 2), ENOSPC);
    EXPECT_EQ(ValueAt(memory_, 0, 8192), 1);
    EXPECT_EQ(Put(device, 4096, 4096, 3), from_then_on ? ENOSPC : 0);
    EXPECT_EQ(FlushSync(device), 0);
    device.Heal();
    EXPECT_EQ(Put(device, 4096, 4096, 1), 0);
    EXPECT_EQ(device.count(IoOp::kWrite), 6u);
    EXPECT_EQ(device.count(IoOp::kFlush), 1u);
  }
}

TEST_F(FaultDeviceTest, ABadBlockFailsWhateverTouchesItFromTheNthRequestOn) {
  FaultDevice device(memory_);
  device.AddRule({.op = IoOp::kWrite, .nth = 2, .bad_block = true});
  EXPECT_EQ(Put(device, 4096, 4096, 1), 0);
  EXPECT_EQ(Put(device, 0, 8192, 1), EIO);
  EXPECT_EQ(Put(device, 0, 4096, 1), 0);
  EXPECT_EQ(Put(device, 4096, 8192, 1), EIO);
  EXPECT_EQ(Put(device, 8192, 4096, 1), 0);
  EXPECT_EQ(ValueAt(device, 4096, 4096), 1);
}

TEST_F(FaultDeviceTest, ARequestMayBeDoneAndReportedAsFailed) {
  FaultDevice device(memory_);
  device.AddRule({.op = IoOp::kWrite, .action = FaultDevice::Action::kFailDone});
  EXPECT_EQ(Put(device, 0, 4096, 7), EIO);
  EXPECT_EQ(ValueAt(memory_, 0, 4096), 7);
}

TEST_F(FaultDeviceTest, HeldRequestsAndCompletionsEndWithRelease) {
  for (const auto action : {FaultDevice::Action::kHold, FaultDevice::Action::kHoldCompletion}) {
    FaultDevice device(memory_);
    device.AddRule({.op = IoOp::kWrite, .action = action});
    AlignedMemory data(4096);
    data.Fill(9);
    ASSERT_EQ(Put(memory_, 0, 4096, 1), 0);
    TrackedRequest late;
    device.Submit(late.Set(IoOp::kWrite, 0, data.data(), data.size()).request);
    EXPECT_EQ(device.held_count(), 1u);
    EXPECT_EQ(late.error.load(), -1);
    EXPECT_EQ(ValueAt(memory_, 0, 4096), action == FaultDevice::Action::kHold ? 1 : 9);
    EXPECT_EQ(Put(device, 4096, 4096, 2), 0);  // The others go on.
    device.Release();
    EXPECT_EQ(late.error.load(), 0);
    EXPECT_EQ(device.held_count(), 0u);
    EXPECT_EQ(ValueAt(memory_, 0, 4096), 9);
  }
}

class WatchedDeviceTest : public WrapperTest {
 protected:
  // Waits for so many lines, not for ever.
  std::vector<std::string> Lines(size_t count) {
    for (int i = 0; i < 2000; ++i) {
      {
        MutexLock lock(mutex_);
        if (lines_.size() >= count) return lines_;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    MutexLock lock(mutex_);
    return lines_;
  }
  WatchedDevice::Options Impatient() {
    return {.limit = std::chrono::milliseconds(20),
            .interval = std::chrono::milliseconds(5),
            .log = [this](const std::string& line) {
              MutexLock lock(mutex_);
              lines_.push_back(line);
            }};
  }

  FaultDevice fault_{memory_};
  Mutex mutex_;
  std::vector<std::string> lines_;
};

TEST_F(WatchedDeviceTest, SaysOnceWhichRequestDoesNotEndAndWhenItDoes) {
  WatchedDevice device(fault_, Impatient());
  fault_.AddRule({.op = IoOp::kRead, .action = FaultDevice::Action::kHold});
  fault_.AddRule({.op = IoOp::kFlush, .action = FaultDevice::Action::kHoldCompletion});
  AlignedMemory data(8192);
  TrackedRequest read;
  device.Submit(read.Set(IoOp::kRead, 5 * 4096, data.data(), data.size()).request);
  EXPECT_THAT(Lines(1), ElementsAre("memory: block 5: read of 8192 bytes has taken 0 s so far: the "
                                    "device does not answer"));
  TrackedRequest flush;
  flush.request.op = IoOp::kFlush;
  device.Submit(flush.Arm().request);
  EXPECT_EQ(Put(device, 0, 4096, 1), 0);  // Others pass.
  EXPECT_EQ(Lines(2)[1], "memory: flush has taken 0 s so far: the device does not answer");
  fault_.Release();
  EXPECT_EQ(read.error.load(), 0);
  EXPECT_EQ(flush.error.load(), 0);
  EXPECT_THAT(Lines(4)[2], testing::EndsWith("has taken 0 s, and has ended now"));
}

TEST_F(WatchedDeviceTest, MeasuresRequests) {
  WatchedDevice device(fault_, Impatient());
  EXPECT_EQ(device.StatsJson(), "{\"requests_in_flight\":0,\"bytes_in_flight\":0}");
  EXPECT_EQ(Put(device, 0, 4096, 1), 0);
  EXPECT_EQ(Put(device, 8192, 8192, 1), 0);
  EXPECT_EQ(FlushSync(device), 0);
  fault_.AddRule({.op = IoOp::kRead, .action = FaultDevice::Action::kHold});
  AlignedMemory data(4096);
  TrackedRequest read;
  device.Submit(read.Set(IoOp::kRead, 0, data.data(), data.size()).request);
  const std::string stats = device.StatsJson();
  EXPECT_THAT(stats, HasSubstr("\"requests_in_flight\":1,\"bytes_in_flight\":4096"));
  EXPECT_THAT(stats, HasSubstr("\"write\":{\"latency_ns\":{\"count\":2,"));
  EXPECT_THAT(stats, HasSubstr("\"size_bytes\":{\"count\":2,\"mean\":6144,\"p50\":5119,"));
  EXPECT_THAT(stats, HasSubstr("\"max\":8192,\"classes\":[[8191,1],[16383,1]]}"));
  EXPECT_THAT(stats, HasSubstr("\"flush\":{\"latency_ns\":{\"count\":1,"));
  EXPECT_THAT(stats, Not(HasSubstr("\"read\"")));
  fault_.Release();
}

TEST_F(WatchedDeviceTest, PassesEverythingOnAndIsSilentAboutWhatEnds) {
  fault_.AddRule({.op = IoOp::kWrite, .nth = 3, .error = ENOSPC});
  {
    WatchedDevice device(fault_, Impatient());
    std::vector<std::unique_ptr<AlignedMemory>> memory;
    std::vector<std::unique_ptr<IoRequest>> requests;
    std::vector<IoRequest*> pointers;
    for (uint64_t i = 0; i < 20; ++i) {
      memory.push_back(std::make_unique<AlignedMemory>(4096));
      memory.back()->Fill(static_cast<int>(i + 1));
      requests.push_back(std::make_unique<IoRequest>());
      requests.back()->op = IoOp::kWrite;
      requests.back()->offset_bytes = i * 8192;
      requests.back()->buffer.Append(memory.back()->data(), 4096);
      pointers.push_back(requests.back().get());
    }
    EXPECT_EQ(RunSync(device, pointers), ENOSPC);
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
  }
  EXPECT_EQ(ValueAt(memory_, 4 * 8192, 4096), 5);
  EXPECT_EQ(ValueAt(memory_, 2 * 8192, 4096), 0);
  EXPECT_TRUE(lines_.empty());
}

using RecordingDeviceTest = WrapperTest;

TEST_F(RecordingDeviceTest, KeepsWritesFlushesAndMarksInOrder) {
  RecordingDevice device(memory_);
  Put(device, 4096, 8192, 3);
  FlushSync(device);
  device.Mark(77);
  Put(device, 0, 512, 5, /*fua=*/true);
  FlushSync(device);
  const std::vector<RecordedIo> recording = device.TakeRecording();
  std::vector<Kind> kinds;
  for (const RecordedIo& entry : recording) kinds.push_back(entry.kind);
  EXPECT_THAT(kinds, ElementsAre(Kind::kWrite, Kind::kWriteEnd, Kind::kFlushStart, Kind::kFlushEnd,
                                 Kind::kMark, Kind::kWrite, Kind::kWriteEnd, Kind::kFlushStart,
                                 Kind::kFlushEnd));
  EXPECT_EQ(recording[0].offset_bytes, 4096u);
  EXPECT_EQ(recording[0].data, std::vector<std::byte>(8192, std::byte{3}));
  EXPECT_FALSE(recording[0].fua);
  EXPECT_EQ(recording[0].id, recording[1].id);
  EXPECT_EQ(recording[2].id, recording[3].id);
  EXPECT_EQ(recording[4].id, 77u);
  EXPECT_TRUE(recording[5].fua);
  EXPECT_NE(recording[7].id, recording[2].id);
  EXPECT_TRUE(device.TakeRecording().empty());
}

TEST_F(RecordingDeviceTest, LeavesOutReadsAndTheEndOfWhatFailed) {
  FaultDevice fault(memory_);
  RecordingDevice device(fault);
  fault.FailAll(IoOp::kWrite, EIO);
  fault.FailAll(IoOp::kFlush, EIO);
  EXPECT_EQ(Put(device, 0, 4096, 1), EIO);
  EXPECT_EQ(FlushSync(device), EIO);
  ValueAt(device, 0, 4096);
  const std::vector<RecordedIo> recording = device.TakeRecording();
  ASSERT_EQ(recording.size(), 2u);
  EXPECT_EQ(recording[0].kind, Kind::kWrite);
  EXPECT_EQ(recording[1].kind, Kind::kFlushStart);
}

TEST_F(RecordingDeviceTest, RecordsWriteZeroesAsZerosAndDiscardsAsGarbage) {
  RecordingDevice device(memory_, /*with_discards=*/true);
  ASSERT_EQ(RunRange(device, IoOp::kWriteZeroes, 4096, 8192), 0);
  ASSERT_EQ(RunRange(device, IoOp::kDiscard, 0, 4096), 0);
  const std::vector<RecordedIo> recording = device.TakeRecording();
  ASSERT_EQ(recording.size(), 4u);
  EXPECT_EQ(recording[0].offset_bytes, 4096u);
  EXPECT_EQ(recording[0].data, std::vector<std::byte>(8192));
  EXPECT_EQ(recording[2].offset_bytes, 0u);
  EXPECT_EQ(recording[2].data, std::vector<std::byte>(4096, RecordedIo::kDiscarded));
}

TEST_F(RecordingDeviceTest, ReplayedOntoAnEmptyDeviceGivesTheSameContents) {
  RecordingDevice device(memory_);
  for (uint64_t i = 0; i < 40; ++i) {
    AlignedMemory data(1536);
    data.FillPattern(i);
    ASSERT_EQ(WriteSync(device, (i * 37 % 100) * 512, data.data(), data.size()), 0);
  }
  ASSERT_EQ(RunRange(device, IoOp::kWriteZeroes, 1024, 3072), 0);
  MemoryDevice replayed(1 << 20);
  for (const RecordedIo& entry : device.TakeRecording()) {
    if (entry.kind != Kind::kWrite) continue;
    ASSERT_EQ(WriteSync(replayed, entry.offset_bytes, entry.data.data(), entry.data.size()), 0);
  }
  AlignedMemory expected(1 << 20);
  AlignedMemory found(1 << 20);
  ReadSync(memory_, 0, expected.data(), expected.size());
  ReadSync(replayed, 0, found.data(), found.size());
  EXPECT_TRUE(expected == found);
}

using OverlayDeviceTest = WrapperTest;

TEST_F(OverlayDeviceTest, ReadsFromBelowUntilWrittenAndNeverWritesBelow) {
  Put(memory_, 0, 16384, 1);
  OverlayDevice overlay(memory_);
  EXPECT_EQ(ValueAt(overlay, 0, 16384), 1);
  ASSERT_EQ(Put(overlay, 4096, 4096, 2), 0);
  ASSERT_EQ(FlushSync(overlay), 0);
  EXPECT_EQ(ValueAt(overlay, 0, 4096), 1);
  EXPECT_EQ(ValueAt(overlay, 4096, 4096), 2);
  EXPECT_EQ(ValueAt(overlay, 8192, 8192), 1);
  EXPECT_EQ(ValueAt(memory_, 0, 16384), 1);
}

TEST_F(OverlayDeviceTest, MixesPartsOfABlock) {
  Put(memory_, 0, 8192, 1);
  OverlayDevice overlay(memory_);
  ASSERT_EQ(Put(overlay, 1024, 512, 2), 0);
  ASSERT_EQ(Put(overlay, 3584, 1024, 3), 0);
  EXPECT_EQ(ValueAt(overlay, 0, 1024), 1);
  EXPECT_EQ(ValueAt(overlay, 1024, 512), 2);
  EXPECT_EQ(ValueAt(overlay, 1536, 2048), 1);
  EXPECT_EQ(ValueAt(overlay, 3584, 1024), 3);
  EXPECT_EQ(ValueAt(overlay, 4608, 3584), 1);
}

TEST_F(OverlayDeviceTest, ZeroesHideWhatIsBelowAndCanBeWrittenOver) {
  Put(memory_, 0, 16384, 1);
  OverlayDevice overlay(memory_);
  ASSERT_EQ(RunRange(overlay, IoOp::kWriteZeroes, 2048, 8192), 0);
  EXPECT_EQ(ValueAt(overlay, 0, 2048), 1);
  EXPECT_EQ(ValueAt(overlay, 2048, 8192), 0);
  EXPECT_EQ(ValueAt(overlay, 10240, 2048), 1);
  ASSERT_EQ(Put(overlay, 4096, 512, 6), 0);
  EXPECT_EQ(ValueAt(overlay, 4096, 512), 6);
  EXPECT_EQ(ValueAt(overlay, 4608, 3584), 0);
}

TEST_F(OverlayDeviceTest, IsWritableOverAReadOnlyDeviceAndKeepsItsSize) {
  OverlayDevice overlay(memory_);
  EXPECT_FALSE(overlay.geometry().read_only);
  EXPECT_EQ(overlay.geometry().size_bytes, memory_.geometry().size_bytes);
  EXPECT_EQ(Put(overlay, 1 << 20, 512, 1), EIO);
}

TEST_F(OverlayDeviceTest, PassesReadErrorsOn) {
  FaultDevice fault(memory_);
  OverlayDevice overlay(fault);
  fault.FailAll(IoOp::kRead, EIO);
  AlignedMemory data(4096);
  EXPECT_EQ(ReadSync(overlay, 0, data.data(), 4096), EIO);
}

TEST_F(OverlayDeviceTest, MatchesAModelOverRandomWrites) {
  AlignedMemory model(1 << 20);
  model.FillPattern(5);
  ASSERT_EQ(WriteSync(memory_, 0, model.data(), model.size()), 0);
  OverlayDevice overlay(memory_);
  uint64_t random = 12345;
  const auto next = [&random](uint64_t bound) {
    random = random * 6364136223846793005 + 1442695040888963407;
    return (random >> 33) % bound;
  };
  for (uint64_t round = 0; round < 300; ++round) {
    const uint64_t offset = next(2048 - 40) * 512;
    const uint64_t length = (1 + next(40)) * 512;
    if (next(4) == 0) {
      ASSERT_EQ(RunRange(overlay, IoOp::kWriteZeroes, offset, length), 0);
      std::memset(model.data() + offset, 0, length);
    } else {
      AlignedMemory data(length);
      data.FillPattern(round + 100);
      ASSERT_EQ(WriteSync(overlay, offset, data.data(), length), 0);
      std::memcpy(model.data() + offset, data.data(), length);
    }
  }
  AlignedMemory found(1 << 20);
  ASSERT_EQ(ReadSync(overlay, 0, found.data(), found.size()), 0);
  EXPECT_TRUE(found == model);
}

}  // namespace
}  // namespace pbfs
