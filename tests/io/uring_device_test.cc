// SPDX-License-Identifier: Apache-2.0
#include "io/uring_device.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/event.h"
#include "io/io_ring.h"
#include "io/pipe.h"
#include "tests/io/test_util.h"

namespace pbfs {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kSize = 24 << 20;

// What a descriptor has, `size_bytes` at most.
std::string ReadAll(int fd, size_t size_bytes) {
  std::string bytes(size_bytes, '\0');
  size_t done = 0;
  while (done < size_bytes) {
    const ssize_t count = read(fd, bytes.data() + done, size_bytes - done);
    if (count <= 0) break;
    done += static_cast<size_t>(count);
  }
  bytes.resize(done);
  return bytes;
}

// Each way a transfer can take.
enum class Path { kSharedRing, kOwnRing, kThreadPool, kBuffered };

std::string NameOf(const ::testing::TestParamInfo<Path>& info) {
  switch (info.param) {
    case Path::kSharedRing:
      return "SharedRing";
    case Path::kOwnRing:
      return "OwnRing";
    case Path::kThreadPool:
      return "ThreadPool";
    case Path::kBuffered:
      return "Buffered";
  }
  return "";
}

class UringDeviceTest : public ::testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    UringDeviceOptions options;
    options.force_thread_pool = GetParam() == Path::kThreadPool;
    options.force_buffered = GetParam() == Path::kBuffered;
    Reopen(options);
    if (GetParam() == Path::kOwnRing) {
      StatusOr<std::unique_ptr<IoRing>> ring = IoRing::Create(64);
      if (!ring.ok()) GTEST_SKIP() << ring.status();
      ring_ = *std::move(ring);
      ring_->Attach();
    }
  }
  void TearDown() override {
    if (ring_ != nullptr) IoRing::Detach();
  }
  void Reopen(const UringDeviceOptions& options) {
    device_.reset();
    StatusOr<std::unique_ptr<UringDevice>> device = UringDevice::Open(file_.path(), options);
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
  }

  TempFile file_{kSize};
  std::unique_ptr<UringDevice> device_;
  std::unique_ptr<IoRing> ring_;
};

INSTANTIATE_TEST_SUITE_P(Paths, UringDeviceTest,
                         ::testing::Values(Path::kSharedRing, Path::kOwnRing, Path::kThreadPool,
                                           Path::kBuffered),
                         NameOf);

TEST_P(UringDeviceTest, ReadsBackWhatItWrote) {
  AlignedMemory out(64 << 10);
  out.FillPattern(1);
  ASSERT_EQ(WriteSync(*device_, 8192, out.data(), out.size()), 0);
  ASSERT_EQ(FlushSync(*device_), 0);
  AlignedMemory in(64 << 10);
  ASSERT_EQ(ReadSync(*device_, 8192, in.data(), in.size()), 0);
  EXPECT_TRUE(in == out);
  ASSERT_EQ(ReadSync(*device_, 0, in.data(), 8192), 0);
  EXPECT_TRUE(AllBytesAre(in.data(), 8192, 0));
}

TEST_P(UringDeviceTest, ReadsIntoAPipe) {
  // Without direct I/O the pages would be those of the file.
  ASSERT_EQ(device_->geometry().reads_into_pipes, GetParam() != Path::kBuffered);
  if (!device_->geometry().reads_into_pipes) return;
  constexpr size_t kLength = 255 * 4096;
  AlignedMemory out(kLength);
  out.FillPattern(7);
  ASSERT_EQ(WriteSync(*device_, 1 << 20, out.data(), out.size()), 0);
  const auto pipe = Pipe::Create(256);
  ASSERT_TRUE(pipe.ok()) << pipe.status();
  ASSERT_EQ(WriteToPipe((*pipe)->write_end(), "head", 4), 0);
  IoRequest read;
  read.op = IoOp::kRead;
  read.offset_bytes = 1 << 20;
  read.length_bytes = kLength;
  read.pipe = (*pipe)->write_end();
  ASSERT_EQ(RunSync(*device_, read), 0);
  // What the device has later does not show in pages that were read before.
  AlignedMemory other(kLength);
  ASSERT_EQ(WriteSync(*device_, 1 << 20, other.data(), other.size()), 0);
  EXPECT_EQ(ReadAll((*pipe)->read_end(), 4 + kLength),
            "head" + std::string(reinterpret_cast<const char*>(out.data()), kLength));

  read.offset_bytes = kSize - kLength + 4096;
  EXPECT_EQ(RunSync(*device_, read), EIO);
}

TEST_P(UringDeviceTest, ARequestIntoAPipeEndsWithTheFile) {
  if (!device_->geometry().reads_into_pipes) return;
  ASSERT_EQ(truncate(file_.path().c_str(), kSize / 2), 0);
  const auto pipe = Pipe::Create(256);
  ASSERT_TRUE(pipe.ok()) << pipe.status();
  IoRequest read;
  read.op = IoOp::kRead;
  read.offset_bytes = kSize / 2 - 8192;
  read.length_bytes = 16384;
  read.pipe = (*pipe)->write_end();
  EXPECT_EQ(RunSync(*device_, read), EIO);
}

TEST_P(UringDeviceTest, TheBytesAreInTheFile) {
  AlignedMemory out(4096);
  out.FillPattern(2);
  ASSERT_EQ(WriteSync(*device_, 4096, out.data(), out.size(), /*fua=*/true), 0);
  const int fd = open(file_.path().c_str(), O_RDONLY | O_CLOEXEC);
  AlignedMemory in(4096);
  EXPECT_EQ(pread(fd, in.data(), 4096, 4096), 4096);
  close(fd);
  EXPECT_TRUE(in == out);
}

TEST_P(UringDeviceTest, ScattersAndGathersThreeHundredSegments) {
  AlignedMemory out(600 * 4096);
  out.FillPattern(3);
  IoRequest write;
  write.op = IoOp::kWrite;
  write.offset_bytes = 1 << 20;
  for (size_t i = 0; i < 300; ++i) write.buffer.Append(out.data() + i * 8192, 4096);
  ASSERT_EQ(write.buffer.segments().size(), 300u);
  ASSERT_EQ(RunSync(*device_, write), 0);

  AlignedMemory in(600 * 4096);
  IoRequest read;
  read.op = IoOp::kRead;
  read.offset_bytes = 1 << 20;
  for (size_t i = 300; i-- > 0;) read.buffer.Append(in.data() + i * 8192 + 4096, 4096);
  ASSERT_EQ(RunSync(*device_, read), 0);
  for (size_t i = 0; i < 300; ++i) {
    ASSERT_EQ(std::memcmp(in.data() + (299 - i) * 8192 + 4096, out.data() + i * 8192, 4096), 0);
    ASSERT_TRUE(AllBytesAre(in.data() + i * 8192, 4096, 0));  // The gaps were left alone.
  }
}

TEST_P(UringDeviceTest, SplitsRequestsLongerThanOneTransfer) {
  const size_t length = device_->geometry().max_transfer_bytes * 2 + (1 << 20) + 512;
  AlignedMemory out(length);
  out.FillPattern(4);
  ASSERT_EQ(WriteSync(*device_, 512, out.data(), length), 0);
  AlignedMemory in(length);
  ASSERT_EQ(ReadSync(*device_, 512, in.data(), length), 0);
  EXPECT_TRUE(in == out);
}

TEST_P(UringDeviceTest, SplitsRequestsOfMoreSegmentsThanOneCallTakes) {
  constexpr size_t kSegments = 2500;
  AlignedMemory out(kSegments * 1024);
  out.FillPattern(5);
  IoRequest write;
  write.op = IoOp::kWrite;
  write.offset_bytes = 4096;
  for (size_t i = 0; i < kSegments; ++i) write.buffer.Append(out.data() + i * 1024, 512);
  ASSERT_EQ(RunSync(*device_, write), 0);
  AlignedMemory in(kSegments * 512);
  ASSERT_EQ(ReadSync(*device_, 4096, in.data(), in.size()), 0);
  for (size_t i = 0; i < kSegments; ++i) {
    ASSERT_EQ(std::memcmp(in.data() + i * 512, out.data() + i * 1024, 512), 0) << i;
  }
}

TEST_P(UringDeviceTest, SubmitBatchCompletesEveryRequest) {
  AlignedMemory out(64 * 4096);
  out.FillPattern(6);
  std::vector<TrackedRequest> requests(64);
  std::vector<IoRequest*> pointers;
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].Set(IoOp::kWrite, (63 - i) * 4096, out.data() + i * 4096, 4096);
    pointers.push_back(&requests[i].request);
  }
  device_->SubmitBatch(pointers);
  for (TrackedRequest& request : requests) {
    device_->WaitUntil(request.done);
    EXPECT_EQ(request.error.load(), 0);
  }
  AlignedMemory in(4096);
  for (size_t i = 0; i < 64; ++i) {
    ASSERT_EQ(ReadSync(*device_, (63 - i) * 4096, in.data(), 4096), 0);
    ASSERT_EQ(std::memcmp(in.data(), out.data() + i * 4096, 4096), 0);
  }
}

TEST_P(UringDeviceTest, RequestsBeyondTheBoundInFlightWaitAndComplete) {
  UringDeviceOptions options;
  options.force_thread_pool = GetParam() == Path::kThreadPool;
  options.in_flight_max = 1;
  Reopen(options);
  AlignedMemory out(32 * 4096);
  out.FillPattern(7);
  std::vector<TrackedRequest> requests(32);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].Set(IoOp::kWrite, i * 4096, out.data() + i * 4096, 4096);
    device_->Submit(requests[i].request);
  }
  if (ring_ != nullptr) {
    EXPECT_LE(ring_->in_flight(), 1u);
  }
  for (TrackedRequest& request : requests) {
    device_->WaitUntil(request.done);
    EXPECT_EQ(request.error.load(), 0);
  }
  AlignedMemory in(32 * 4096);
  ASSERT_EQ(ReadSync(*device_, 0, in.data(), in.size()), 0);
  EXPECT_TRUE(in == out);
}

TEST_P(UringDeviceTest, ACompletionMaySubmitTheNextRequest) {
  struct Chain {
    BlockDevice* device;
    AlignedMemory memory{4096};
    IoRequest request;
    int left = 40;
    std::atomic<uint32_t> done{0};
    void Go() {
      request.PushCompletion(
          [](IoRequest&, void* context, int error) {
            auto* self = static_cast<Chain*>(context);
            EXPECT_EQ(error, 0);
            if (--self->left > 0) return self->Go();
            BlockDevice::SetDone(self->done);
          },
          this);
      device->Submit(request);
    }
  } chain{.device = device_.get(), .request = {}};
  chain.request.op = IoOp::kRead;
  chain.request.buffer.Append(chain.memory.data(), 4096);
  chain.Go();
  device_->WaitUntil(chain.done);
  EXPECT_EQ(chain.left, 0);
}

TEST_P(UringDeviceTest, RangesPastTheEndFailAndDoNotGrowTheFile) {
  AlignedMemory data(8192);
  EXPECT_EQ(ReadSync(*device_, kSize - 4096, data.data(), 8192), EIO);
  EXPECT_EQ(WriteSync(*device_, kSize - 4096, data.data(), 8192), EIO);
  EXPECT_EQ(WriteSync(*device_, kSize, data.data(), 4096), EIO);
  struct stat attributes = {};
  ASSERT_EQ(stat(file_.path().c_str(), &attributes), 0);
  EXPECT_EQ(static_cast<uint64_t>(attributes.st_size), kSize);
  EXPECT_EQ(ReadSync(*device_, kSize - 8192, data.data(), 8192), 0);
}

TEST_P(UringDeviceTest, ReadsPastTheEndOfAFileCutShortFail) {
  AlignedMemory data(64 << 10);
  for (const uint64_t size : {uint64_t{20480}, uint64_t{20480 + 300}, uint64_t{0}}) {
    file_.Truncate(kSize);
    file_.Truncate(size);
    EXPECT_EQ(ReadSync(*device_, 0, data.data(), data.size()), EIO) << size;
    EXPECT_EQ(ReadSync(*device_, 32768, data.data(), 4096), EIO) << size;
    if (size > 0) {
      EXPECT_EQ(ReadSync(*device_, 0, data.data(), 20480), 0);
    }
  }
}

TEST_P(UringDeviceTest, DiscardedAndZeroedRangesReadZeros) {
  AlignedMemory data(1 << 20);
  data.Fill(9);
  ASSERT_TRUE(device_->geometry().can_discard);
  ASSERT_EQ(WriteSync(*device_, 0, data.data(), data.size()), 0);
  ASSERT_EQ(RunRange(*device_, IoOp::kDiscard, 65536, 131072), 0);
  ASSERT_EQ(RunRange(*device_, IoOp::kWriteZeroes, 524288 + 512, 1024), 0);
  AlignedMemory in(1 << 20);
  ASSERT_EQ(ReadSync(*device_, 0, in.data(), in.size()), 0);
  std::memset(data.data() + 65536, 0, 131072);
  std::memset(data.data() + 524288 + 512, 0, 1024);
  EXPECT_TRUE(in == data);
}

TEST_P(UringDeviceTest, EmptyTransfersSucceed) {
  IoRequest request;
  request.op = IoOp::kRead;
  EXPECT_EQ(RunSync(*device_, request), 0);
  EXPECT_EQ(RunRange(*device_, IoOp::kWriteZeroes, 4096, 0), 0);
}

TEST_P(UringDeviceTest, ServesSeveralThreadsAtOnce) {
  std::vector<std::thread> threads;
  for (uint64_t id = 0; id < 4; ++id) {
    threads.emplace_back([this, id] {
      // Two of them bring a ring of their own.
      std::unique_ptr<IoRing> ring;
      if (id % 2 == 0) {
        StatusOr<std::unique_ptr<IoRing>> created = IoRing::Create(32);
        if (created.ok()) {
          ring = *std::move(created);
          ring->Attach();
        }
      }
      AlignedMemory out(16384);
      AlignedMemory in(16384);
      for (uint64_t round = 0; round < 30; ++round) {
        const uint64_t offset = (id * 64 + round) * 16384;
        out.FillPattern(offset);
        EXPECT_EQ(WriteSync(*device_, offset, out.data(), out.size()), 0);
        EXPECT_EQ(ReadSync(*device_, offset, in.data(), in.size()), 0);
        EXPECT_TRUE(in == out);
      }
      if (ring != nullptr) IoRing::Detach();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_P(UringDeviceTest, ARequestOutlivesTheThreadThatSubmittedIt) {
  TrackedRequest request;
  AlignedMemory data(8 << 20);
  data.FillPattern(8);
  request.Set(IoOp::kWrite, 0, data.data(), data.size());
  std::thread([&] { device_->Submit(request.request); }).join();
  device_->WaitUntil(request.done);
  EXPECT_EQ(request.error.load(), 0);
}

TEST_P(UringDeviceTest, UnalignedTransfersAreOurBugs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  AlignedMemory data(8192);
  TrackedRequest request;
  request.Set(IoOp::kRead, 0, data.data() + 8, 4096);
  EXPECT_DEATH(device_->Submit(request.request), "CHECK failed");
  request.request.buffer = LogicalBuffer(data.data(), 100);
  EXPECT_DEATH(device_->Submit(request.request), "CHECK failed");
  request.request.buffer = LogicalBuffer(data.data(), 512);
  request.request.offset_bytes = 100;
  EXPECT_DEATH(device_->Submit(request.request), "CHECK failed");
}

// Gives the ring away when its thread is about to block, to a thread that drives it until told.
class HandingObserver : public BlockingObserver {
 public:
  HandingObserver() { t_blocking_observer = this; }
  ~HandingObserver() override {
    t_blocking_observer = nullptr;
    Stop();
  }
  void WillBlock() override {
    ++calls_;
    IoRing* ring = IoRing::Current();
    if (ring == nullptr) return;
    IoRing::Detach();
    ring_ = ring;
    stop_ = false;
    driver_ = std::thread([this, ring] {
      ring->Attach();
      while (!stop_.load()) ring->RunOnce(-1);
      IoRing::Detach();
    });
  }
  void Stop() {
    if (!driver_.joinable()) return;
    stop_ = true;
    ring_->Wake();
    driver_.join();
  }
  int calls() const { return calls_; }

 private:
  int calls_ = 0;
  IoRing* ring_ = nullptr;
  std::atomic<bool> stop_{false};
  std::thread driver_;
};

TEST_P(UringDeviceTest, AWaiterWhoseRingIsHandedAwayStillGetsItsCompletion) {
  for (int round = 0; round < 20; ++round) {
    HandingObserver observer;
    AlignedMemory data(8 << 20);
    // An fdatasync after 8 MiB takes longer than the reaping before the announcement, as a rule.
    TrackedRequest write;
    write.Set(IoOp::kWrite, 0, data.data(), data.size());
    device_->Submit(write.request);
    EXPECT_EQ(FlushSync(*device_), 0);
    device_->WaitUntil(write.done);
    EXPECT_EQ(write.error.load(), 0);
    observer.Stop();
    if (ring_ != nullptr && IoRing::Current() == nullptr) ring_->Attach();
  }
}

TEST_P(UringDeviceTest, AWaitForAnotherThreadsSignalHandsTheRingAwayAfterAShortTime) {
  HandingObserver observer;
  std::atomic<uint32_t> done{0};
  std::thread setter([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    BlockDevice::SetDone(done);
  });
  device_->WaitUntil(done);
  EXPECT_EQ(IoRing::Current(), nullptr);
  EXPECT_EQ(observer.calls(), 1);
  setter.join();
  observer.Stop();
  if (ring_ != nullptr) ring_->Attach();
}

TEST_P(UringDeviceTest, AWaiterThatKeepsItsRingIsWokenByAnotherThread) {
  for (int round = 0; round < 200; ++round) {
    auto done = std::make_unique<std::atomic<uint32_t>>(0);
    std::thread setter([raw = done.get()] { BlockDevice::SetDone(*raw); });
    device_->WaitUntil(*done);
    done.reset();  // The setter may still be inside SetDone.
    setter.join();
  }
}

TEST(UringDeviceOpen, SaysWhatTheFileIs) {
  TempFile file((1 << 20) + 100);
  const auto device = UringDevice::Open(file.path(), {});
  ASSERT_TRUE(device.ok()) << device.status();
  const Geometry& geometry = (*device)->geometry();
  EXPECT_EQ(geometry.size_bytes, 1u << 20);
  EXPECT_EQ(geometry.name, file.path());
  EXPECT_EQ(geometry.max_transfer_bytes, 4u << 20);
  EXPECT_TRUE(geometry.volatile_cache);
  EXPECT_FALSE(geometry.read_only);
  EXPECT_GE((*device)->fd(), 0);
}

TEST(UringDeviceOpen, IsDirectAndSilentWhereTheHostAllows) {
  TempFile file(1 << 20);
  const auto device = UringDevice::Open(file.path(), {});
  ASSERT_TRUE(device.ok());
  if (!(*device)->warnings().empty()) GTEST_SKIP() << (*device)->warnings().front();
  EXPECT_NE(fcntl((*device)->fd(), F_GETFL) & O_DIRECT, 0);
}

TEST(UringDeviceOpen, SaysOnceWhichFallbacksItTook) {
  TempFile file(1 << 20);
  UringDeviceOptions options;
  options.force_buffered = true;
  options.force_thread_pool = true;
  const auto device = UringDevice::Open(file.path(), options);
  ASSERT_TRUE(device.ok());
  EXPECT_EQ(fcntl((*device)->fd(), F_GETFL) & O_DIRECT, 0);
  EXPECT_THAT((*device)->warnings(),
              ElementsAre(HasSubstr("buffered I/O"), HasSubstr("thread pool")));
}

TEST(UringDeviceOpen, ReadOnlyRefusesChangesAndAllowsReads) {
  TempFile file(1 << 20);
  UringDeviceOptions options;
  options.read_only = true;
  const auto device = UringDevice::Open(file.path(), options);
  ASSERT_TRUE(device.ok());
  EXPECT_TRUE((*device)->geometry().read_only);
  AlignedMemory data(4096);
  EXPECT_EQ(WriteSync(**device, 0, data.data(), 4096), EROFS);
  EXPECT_EQ(RunRange(**device, IoOp::kDiscard, 0, 4096), EROFS);
  EXPECT_EQ(RunRange(**device, IoOp::kWriteZeroes, 0, 4096), EROFS);
  EXPECT_EQ(ReadSync(**device, 0, data.data(), 4096), 0);
}

TEST(UringDeviceOpen, KeepsTheErrnoAndThePathOfAFailure) {
  const auto missing = UringDevice::Open("/tmp/pbfs-no-such-file", {});
  EXPECT_EQ(ErrnoOf(missing.status()), ENOENT);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/tmp/pbfs-no-such-file"));
  UringDeviceOptions options;
  options.read_only = true;
  EXPECT_EQ(ErrnoOf(UringDevice::Open("/tmp", options).status()), ENOTBLK);
}

TEST(UringDeviceOpen, AdoptsADescriptorAndItsAccessMode) {
  TempFile file(1 << 20);
  const int fd = open(file.path().c_str(), O_RDONLY | O_CLOEXEC);
  {
    const auto device = UringDevice::Adopt(fd, file.path(), {});
    ASSERT_TRUE(device.ok()) << device.status();
    EXPECT_EQ((*device)->fd(), fd);
    EXPECT_TRUE((*device)->geometry().read_only);
    AlignedMemory data(4096);
    EXPECT_EQ(ReadSync(**device, 0, data.data(), 4096), 0);
  }
  EXPECT_EQ(fcntl(fd, F_GETFL), -1);  // Closed with the device.
}

}  // namespace
}  // namespace pbfs
