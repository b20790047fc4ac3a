// SPDX-License-Identifier: Apache-2.0
// Short and interrupted transfers, which real files hardly ever give. This program's own preadv2
// and pwritev2 come before libc's, and cut or refuse what the thread pool asks for.
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>

#include "io/uring_device.h"
#include "tests/io/test_util.h"

namespace {

// Bytes one call may move; 0: no limit.
std::atomic<size_t> g_call_bytes_max{0};
// The next calls fail with this errno, as many as say.
std::atomic<int> g_fail_error{0};
std::atomic<int> g_fail_count{0};
// Before those, so many calls are passed on.
std::atomic<int> g_pass_count{0};
// The failing calls do not fail but move nothing, or this much.
std::atomic<bool> g_fail_with_result{false};
std::atomic<size_t> g_fail_result{0};
std::atomic<int> g_call_count{0};
std::atomic<int> g_unaligned_count{0};
std::atomic<int> g_dsync_count{0};
// What fallocate fails with; 0: it is passed on.
std::atomic<int> g_fallocate_error{0};

bool Refuse() {
  ++g_call_count;
  if (g_fail_count.load() <= 0) return false;
  if (g_pass_count.load() > 0) {
    --g_pass_count;
    return false;
  }
  --g_fail_count;
  errno = g_fail_error.load();
  return true;
}

// The first of the segments, cut to the limit.
std::vector<iovec> Cut(const iovec* segments, int count) {
  std::vector<iovec> cut(segments, segments + count);
  size_t left_bytes = g_call_bytes_max.load();
  if (left_bytes == 0) return cut;
  for (iovec& segment : cut) {
    segment.iov_len = std::min(segment.iov_len, left_bytes);
    left_bytes -= segment.iov_len;
  }
  return cut;
}

ssize_t Call(long number, int fd, const iovec* segments, int count, off_t offset, int flags) {
  if (Refuse()) return g_fail_with_result ? static_cast<ssize_t>(g_fail_result.load()) : -1;
  if (offset % 512 != 0) ++g_unaligned_count;
  if ((flags & RWF_DSYNC) != 0) ++g_dsync_count;
  const std::vector<iovec> cut = Cut(segments, count);
  return syscall(number, fd, cut.data(), cut.size(), offset, 0L, flags);
}

}  // namespace

extern "C" {
ssize_t preadv2(int fd, const iovec* segments, int count, off_t offset, int flags) {
  return Call(SYS_preadv2, fd, segments, count, offset, flags);
}
ssize_t pwritev2(int fd, const iovec* segments, int count, off_t offset, int flags) {
  return Call(SYS_pwritev2, fd, segments, count, offset, flags);
}
int fallocate(int fd, int mode, off_t offset, off_t length) {
  if (g_fallocate_error.load() == 0) {
    return static_cast<int>(syscall(SYS_fallocate, fd, mode, offset, length));
  }
  errno = g_fallocate_error.load();
  return -1;
}
}

namespace pbfs {
namespace {

class ShortTransferTest : public ::testing::Test {
 protected:
  ShortTransferTest() {
    UringDeviceOptions options;
    options.force_thread_pool = true;
    device_ = *UringDevice::Open(file_.path(), options);
    g_call_count = 0;
    g_unaligned_count = 0;
    g_dsync_count = 0;
  }
  ~ShortTransferTest() override {
    g_call_bytes_max = 0;
    g_fail_count = 0;
    g_pass_count = 0;
    g_fail_with_result = false;
    g_fallocate_error = 0;
  }

  TempFile file_{12 << 20};
  std::unique_ptr<UringDevice> device_;
};

TEST_F(ShortTransferTest, GoesOnInTheMiddleOfASegment) {
  AlignedMemory out(128 << 10);
  out.FillPattern(1);
  IoRequest write;
  write.op = IoOp::kWrite;
  for (size_t at = 0; at < out.size(); at += 8192) write.buffer.Append(out.data() + at, 6144);
  g_call_bytes_max = 3584;
  ASSERT_EQ(RunSync(*device_, write), 0);
  EXPECT_GE(g_call_count.load(), 27);
  AlignedMemory in(128 << 10);
  IoRequest read;
  read.op = IoOp::kRead;
  for (size_t at = 0; at < in.size(); at += 8192) read.buffer.Append(in.data() + at, 6144);
  g_call_bytes_max = 7680;
  ASSERT_EQ(RunSync(*device_, read), 0);
  for (size_t at = 0; at < out.size(); at += 8192) {
    ASSERT_EQ(std::memcmp(in.data() + at, out.data() + at, 6144), 0) << at;
  }
  EXPECT_EQ(write.buffer.size_bytes(), 16u * 6144);  // The request itself is left as it was.
  EXPECT_EQ(write.buffer.segments()[0].iov_base, out.data());
}

TEST_F(ShortTransferTest, RepeatsThePartOfASectorThatATransferEndedIn) {
  AlignedMemory out(16384);
  out.FillPattern(2);
  ASSERT_EQ(WriteSync(*device_, 0, out.data(), out.size()), 0);
  UringDeviceOptions options;
  options.force_thread_pool = true;
  options.force_buffered = true;
  device_ = *UringDevice::Open(file_.path(), options);
  AlignedMemory in(16384);
  g_call_bytes_max = 700;
  ASSERT_EQ(ReadSync(*device_, 0, in.data(), in.size()), 0);
  EXPECT_TRUE(in == out);
  EXPECT_EQ(g_unaligned_count.load(), 0);
}

TEST_F(ShortTransferTest, EveryStepOfAFuaWriteAsksForStableData) {
  AlignedMemory data(16384);
  g_call_bytes_max = 4096;
  ASSERT_EQ(WriteSync(*device_, 0, data.data(), data.size()), 0);
  EXPECT_EQ(g_dsync_count.load(), 0);
  ASSERT_EQ(WriteSync(*device_, 0, data.data(), data.size(), /*fua=*/true), 0);
  EXPECT_EQ(g_dsync_count.load(), 4);
}

TEST_F(ShortTransferTest, WritesZerosItselfWhereTheHostHasNoCallForIt) {
  AlignedMemory data(12 << 20);
  data.Fill(5);
  ASSERT_EQ(WriteSync(*device_, 0, data.data(), data.size()), 0);
  g_fallocate_error = EOPNOTSUPP;
  g_call_count = 0;
  constexpr uint64_t kOffset = 4096 + 512;
  constexpr uint64_t kLength = (9 << 20) + 1536;  // More than two transfers.
  ASSERT_EQ(RunRange(*device_, IoOp::kWriteZeroes, kOffset, kLength), 0);
  EXPECT_EQ(g_call_count.load(), 3);
  g_call_bytes_max = 100 * 1024;
  ASSERT_EQ(RunRange(*device_, IoOp::kWriteZeroes, 11 << 20, 512 << 10), 0);
  g_call_bytes_max = 0;
  AlignedMemory in(12 << 20);
  ASSERT_EQ(ReadSync(*device_, 0, in.data(), in.size()), 0);
  std::memset(data.data() + kOffset, 0, kLength);
  std::memset(data.data() + (11 << 20), 0, 512 << 10);
  EXPECT_TRUE(in == data);
}

TEST_F(ShortTransferTest, ADiscardTheHostRefusesFailsAndOneKnownInAdvanceIsDeclared) {
  g_fallocate_error = EOPNOTSUPP;
  EXPECT_TRUE(device_->geometry().can_discard);
  EXPECT_EQ(RunRange(*device_, IoOp::kDiscard, 0, 4096), EOPNOTSUPP);
  const auto other = UringDevice::Open(file_.path(), {});
  ASSERT_TRUE(other.ok());
  EXPECT_FALSE((*other)->geometry().can_discard);
  EXPECT_EQ(RunRange(**other, IoOp::kDiscard, 0, 4096), EOPNOTSUPP);
}

TEST_F(ShortTransferTest, RetriesInterruptedCalls) {
  AlignedMemory data(4096);
  for (const int error : {EINTR, EAGAIN}) {
    g_fail_error = error;
    g_fail_count = 5;
    EXPECT_EQ(WriteSync(*device_, 0, data.data(), 4096), 0);
    EXPECT_EQ(g_fail_count.load(), 0);
  }
}

TEST_F(ShortTransferTest, GivesUpOnACallThatIsInterruptedForever) {
  AlignedMemory data(4096);
  g_fail_error = EINTR;
  g_fail_count = 1 << 30;
  EXPECT_EQ(ReadSync(*device_, 0, data.data(), 4096), EINTR);
}

TEST_F(ShortTransferTest, PassesOtherErrorsOnWithoutARetry) {
  AlignedMemory data(4096);
  g_fail_error = ENOSPC;
  g_fail_count = 2;
  EXPECT_EQ(WriteSync(*device_, 0, data.data(), 4096), ENOSPC);
  EXPECT_EQ(g_fail_count.load(), 1);
}

TEST_F(ShortTransferTest, ARequestOfSeveralPiecesFailsWithTheErrorOfOne) {
  const size_t length = 4 << 20;
  AlignedMemory data(length);
  IoRequest write;
  write.op = IoOp::kWrite;
  for (size_t at = 0; at < length; at += 2048) write.buffer.Append(data.data() + at, 1024);
  g_fail_error = EIO;
  g_fail_count = 1;
  EXPECT_EQ(RunSync(*device_, write), EIO);
  EXPECT_GE(g_call_count.load(), 2);
}

// Every size a call may stop at, and every way a request may be cut into segments.
TEST_F(ShortTransferTest, EverySizeOfAShortTransferIsContinued) {
  UringDeviceOptions options;
  options.force_thread_pool = true;
  options.force_buffered = true;
  device_ = *UringDevice::Open(file_.path(), options);
  AlignedMemory out(8192);
  AlignedMemory in(8192);
  const auto request = [](IoRequest& io, IoOp op, AlignedMemory& memory, size_t segment_bytes) {
    io.op = op;
    for (size_t at = 0; at < memory.size(); at += segment_bytes) {
      io.buffer.Append(memory.data() + at, segment_bytes);
    }
  };
  for (size_t limit = 512; limit <= 8192; limit += limit < 2100 ? 1 : 97) {
    out.FillPattern(limit);
    for (const size_t segment_bytes : {512, 2048, 8192}) {
      IoRequest write;
      request(write, IoOp::kWrite, out, segment_bytes);
      IoRequest read;
      request(read, IoOp::kRead, in, segment_bytes);
      in.Fill(0);
      g_call_bytes_max = limit;
      ASSERT_EQ(RunSync(*device_, write), 0) << limit;
      ASSERT_EQ(RunSync(*device_, read), 0) << limit;
      ASSERT_TRUE(in == out) << limit;
    }
  }
}

// At every step of a request that is moved in eight.
TEST_F(ShortTransferTest, AnErrorAtAnyStepFailsTheRequestWithItsErrno) {
  AlignedMemory data(8 * 512);
  g_call_bytes_max = 512;
  for (const int error : {EIO, ENOSPC, EROFS}) {
    for (int step = 0; step < 8; ++step) {
      g_fail_error = error;
      for (const bool write : {false, true}) {
        g_pass_count = step;
        g_fail_count = 1;
        g_call_count = 0;
        const int result = write ? WriteSync(*device_, 0, data.data(), data.size())
                                 : ReadSync(*device_, 0, data.data(), data.size());
        EXPECT_EQ(result, error) << step;
        EXPECT_EQ(g_call_count.load(), step + 1);
      }
    }
  }
}

TEST_F(ShortTransferTest, AnInterruptionAtAnyStepIsRetried) {
  AlignedMemory out(8 * 512);
  out.FillPattern(9);
  AlignedMemory in(8 * 512);
  g_call_bytes_max = 512;
  for (const int error : {EINTR, EAGAIN}) {
    for (int step = 0; step < 8; ++step) {
      g_fail_error = error;
      g_pass_count = step;
      g_fail_count = 3;
      ASSERT_EQ(WriteSync(*device_, 0, out.data(), out.size()), 0);
      g_pass_count = step;
      g_fail_count = 3;
      ASSERT_EQ(ReadSync(*device_, 0, in.data(), in.size()), 0);
      EXPECT_TRUE(in == out);
    }
  }
}

TEST_F(ShortTransferTest, ACallThatMovesNothingIsAnError) {
  AlignedMemory data(8 * 512);
  g_call_bytes_max = 512;
  g_fail_with_result = true;
  g_fail_result = 0;
  for (int step = 0; step < 8; ++step) {
    for (const bool write : {false, true}) {
      g_pass_count = step;
      g_fail_count = 1;
      EXPECT_EQ(write ? WriteSync(*device_, 0, data.data(), data.size())
                      : ReadSync(*device_, 0, data.data(), data.size()),
                EIO);
    }
  }
}

// What a buffered write to a full host file does: first a part, then the reason.
TEST_F(ShortTransferTest, APartOfASectorIsTriedAgainToLearnWhy) {
  AlignedMemory data(8 * 512);
  g_fail_with_result = true;
  g_fail_result = 100;
  g_fail_count = 2;
  EXPECT_EQ(WriteSync(*device_, 0, data.data(), data.size()), 0);
  g_fail_count = 1 << 30;
  EXPECT_EQ(WriteSync(*device_, 0, data.data(), data.size()), EIO);
  g_fail_count = 1;  // The end of a file that was cut.
  EXPECT_EQ(ReadSync(*device_, 0, data.data(), data.size()), EIO);
}

}  // namespace
}  // namespace pbfs
