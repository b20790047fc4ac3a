// SPDX-License-Identifier: Apache-2.0
#include "io/io_ring.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <chrono>
#include <thread>

#include "base/event.h"
#include "io/completion_scope.h"
#include "tests/io/test_util.h"

namespace pbfs {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kLong = 10'000 * kMillisecond;

// A ring attached to the test's thread, a pipe, and a file.
class IoRingTest : public ::testing::Test {
 public:
  // One read of the file's first sector.
  void QueueRead(IoRing::CqeFunction done, void* context) {
    ring_->QueueReadv(file_fd_, &read_iov_, 1, 0, done, context);
  }

 protected:
  void SetUp() override {
    StatusOr<std::unique_ptr<IoRing>> ring = IoRing::Create(16);
    if (!ring.ok()) GTEST_SKIP() << ring.status();
    ring_ = *std::move(ring);
    ring_->Attach();
    ASSERT_EQ(pipe2(pipe_, O_CLOEXEC | O_NONBLOCK), 0);
    file_fd_ = open(file_.path().c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(file_fd_, 0);
  }
  void TearDown() override {
    if (ring_ == nullptr) return;
    if (IoRing::Current() != nullptr) IoRing::Detach();
    ring_.reset();
    close(pipe_[0]);
    close(pipe_[1]);
    close(file_fd_);
  }
  void WriteByte() { ASSERT_EQ(write(pipe_[1], "x", 1), 1); }
  int DrainPipe() {
    char bytes[64];
    const ssize_t count = read(pipe_[0], bytes, sizeof(bytes));
    return count < 0 ? 0 : static_cast<int>(count);
  }
  static void Count(void* context, int result) {
    EXPECT_EQ(result, 512);
    ++*static_cast<int*>(context);
  }

  TempFile file_{64 << 10};
  AlignedMemory memory_{512};
  iovec read_iov_{memory_.data(), 512};
  int file_fd_ = -1;
  int pipe_[2] = {-1, -1};
  std::unique_ptr<IoRing> ring_;
};

TEST_F(IoRingTest, IsCurrentOnTheThreadItIsAttachedTo) {
  EXPECT_EQ(IoRing::Current(), ring_.get());
  std::thread([] { EXPECT_EQ(IoRing::Current(), nullptr); }).join();
  IoRing::Detach();
  EXPECT_EQ(IoRing::Current(), nullptr);
}

TEST_F(IoRingTest, RunOnceReturnsAtItsTimeoutWithNothingRun) {
  const Clock::time_point start = Clock::now();
  EXPECT_EQ(ring_->RunOnce(2 * kMillisecond), 0);
  EXPECT_GE(Clock::now() - start, std::chrono::milliseconds(2));
  EXPECT_EQ(ring_->RunOnce(0), 0);
}

TEST_F(IoRingTest, RunsTheFunctionOfAQueuedReadWithItsResult) {
  int count = 0;
  QueueRead(Count, &count);
  EXPECT_EQ(ring_->in_flight(), 1u);
  while (count == 0) ring_->RunOnce(kLong);
  EXPECT_EQ(count, 1);
  EXPECT_EQ(ring_->in_flight(), 0u);
}

TEST_F(IoRingTest, ARunThatDoesNotWaitStillFindsCompletions) {
  int count = 0;
  QueueRead(Count, &count);
  const Clock::time_point give_up = Clock::now() + std::chrono::seconds(10);
  while (count == 0 && Clock::now() < give_up) ring_->RunOnce(0);
  EXPECT_EQ(count, 1);
}

TEST_F(IoRingTest, WritesSyncsAndPunchesHoles) {
  memory_.Fill(7);
  int results[3] = {1, 1, 1};
  const auto keep = [](void* context, int result) { *static_cast<int*>(context) = result; };
  ring_->QueueWritev(file_fd_, &read_iov_, 1, 512, RWF_DSYNC, keep, &results[0]);
  while (ring_->in_flight() > 0) ring_->RunOnce(kLong);
  ring_->QueueFdatasync(file_fd_, keep, &results[1]);
  ring_->SubmitQueued();
  while (ring_->in_flight() > 0) ring_->RunOnce(kLong);
  char back[512];
  ASSERT_EQ(pread(file_fd_, back, 512, 512), 512);
  EXPECT_EQ(std::memcmp(back, memory_.data(), 512), 0);
  ring_->QueueFallocate(file_fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096, keep,
                        &results[2]);
  while (ring_->in_flight() > 0) ring_->RunOnce(kLong);
  ASSERT_EQ(pread(file_fd_, back, 512, 512), 512);
  EXPECT_EQ(back[0], 0);
  EXPECT_EQ(results[0], 512);
  EXPECT_EQ(results[1], 0);
  EXPECT_EQ(results[2], 0);
}

TEST_F(IoRingTest, TakesMorePiecesThanItHasEntries) {
  int count = 0;
  for (int i = 0; i < 500; ++i) QueueRead(Count, &count);
  EXPECT_EQ(ring_->in_flight(), 500u);
  while (count < 500) ring_->RunOnce(kLong);
  EXPECT_EQ(ring_->in_flight(), 0u);
}

TEST_F(IoRingTest, ACompletionMayQueueAndSubmitMore) {
  struct Again {
    IoRingTest* test;
    IoRing* ring;
    int left;
    void Queue() {
      test->QueueRead(
          [](void* context, int) {
            auto* self = static_cast<Again*>(context);
            EXPECT_TRUE(InCompletion());
            if (--self->left > 0) {
              self->Queue();
              self->ring->SubmitQueued();
            }
          },
          this);
    }
  } again{this, ring_.get(), 50};
  again.Queue();
  while (again.left > 0) ring_->RunOnce(kLong);
  EXPECT_EQ(ring_->in_flight(), 0u);
}

TEST_F(IoRingTest, RunOnceInsideACompletionIsCaught) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto nest = [this] {
    QueueRead([](void* context, int) { static_cast<IoRing*>(context)->RunOnce(0); }, ring_.get());
    while (ring_->in_flight() > 0) ring_->RunOnce(kLong);
  };
  EXPECT_DEATH(nest(), "CHECK failed: !InCompletion");
}

TEST_F(IoRingTest, WakeFromAnotherThreadEndsAWait) {
  std::thread waker([this] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ring_->Wake();
  });
  EXPECT_EQ(ring_->RunOnce(-1), 0);
  waker.join();
}

TEST_F(IoRingTest, AWakeBeforeTheWaitEndsTheNextWaitOnly) {
  ring_->Wake();
  ring_->Wake();
  EXPECT_EQ(ring_->RunOnce(0), 0);  // Does not wait, so may leave the wake to the next.
  EXPECT_EQ(ring_->RunOnce(-1), 0);
  const Clock::time_point start = Clock::now();
  ring_->RunOnce(3 * kMillisecond);
  EXPECT_GE(Clock::now() - start, std::chrono::milliseconds(3));
}

TEST_F(IoRingTest, NoWakeIsLostAmongMany) {
  constexpr int kRounds = 3000;
  std::atomic<int> posted{0};
  std::atomic<int> seen{0};
  std::thread waker([&] {
    for (int round = 1; round <= kRounds; ++round) {
      posted.store(round);
      ring_->Wake();
      while (seen.load() < round) std::this_thread::yield();
    }
  });
  while (seen.load() < kRounds) {
    if (posted.load() == seen.load()) ring_->RunOnce(-1);
    seen.store(posted.load());
  }
  waker.join();
}

TEST_F(IoRingTest, CallsReadyEachTimeThePipeBecomesReadable) {
  int bytes = 0;
  ring_->WatchReadable(pipe_[0], [&] { bytes += DrainPipe(); });
  EXPECT_EQ(ring_->RunOnce(kMillisecond), 0);
  for (int round = 1; round <= 5; ++round) {
    std::thread writer([this] { WriteByte(); });
    while (bytes < round) EXPECT_EQ(ring_->RunOnce(kLong), 1);
    writer.join();
  }
}

TEST_F(IoRingTest, WatchingNothingEndsTheCalls) {
  int calls = 0;
  ring_->WatchReadable(pipe_[0], [&] { ++calls; });
  EXPECT_EQ(ring_->RunOnce(kMillisecond), 0);
  ring_->WatchReadable(-1, nullptr);
  WriteByte();
  EXPECT_EQ(ring_->RunOnce(5 * kMillisecond), 0);
  EXPECT_EQ(calls, 0);
}

TEST_F(IoRingTest, ReapLeavesReadyToTheNextRunOnce) {
  int bytes = 0;
  ring_->WatchReadable(pipe_[0], [&] { bytes += DrainPipe(); });
  EXPECT_EQ(ring_->RunOnce(kMillisecond), 0);
  WriteByte();
  ring_->Reap(kMillisecond);
  ring_->Reap(kMillisecond);
  EXPECT_EQ(bytes, 0);
  EXPECT_EQ(ring_->RunOnce(-1), 1);
  EXPECT_EQ(bytes, 1);
}

TEST_F(IoRingTest, ReapWaitsThoughTheWatchedPipeIsReadable) {
  int calls = 0;
  ring_->WatchReadable(pipe_[0], [&] { ++calls; });
  WriteByte();
  while (calls == 0) ring_->RunOnce(kLong);  // The pipe stays readable, the watch is not armed.
  const Clock::time_point start = Clock::now();
  EXPECT_EQ(ring_->Reap(5 * kMillisecond), 0);
  EXPECT_GE(Clock::now() - start, std::chrono::milliseconds(5));
  EXPECT_EQ(calls, 1);
}

TEST_F(IoRingTest, ReadyMayRunTheRingForItsOwnRequests) {
  int count = 0;
  int calls = 0;
  ring_->WatchReadable(pipe_[0], [&] {
    ++calls;
    QueueRead(Count, &count);
    while (count < calls) ring_->RunOnce(kLong);
    DrainPipe();
  });
  WriteByte();
  while (calls == 0) ring_->RunOnce(kLong);
  EXPECT_EQ(calls, 1);  // Not again while it ran, though the pipe stayed readable...
  EXPECT_EQ(ring_->RunOnce(kMillisecond), 0);  // ...nor for that time afterwards.
  WriteByte();
  while (calls == 1) ring_->RunOnce(kLong);
  EXPECT_EQ(count, 2);
}

// The loop moves to a second thread while requests of the first are in flight.
TEST_F(IoRingTest, MovesToAnotherThreadWithItsWatchItsWakeAndItsRequests) {
  int bytes = 0;
  int count = 0;
  ring_->WatchReadable(pipe_[0], [&] { bytes += DrainPipe(); });
  EXPECT_EQ(ring_->RunOnce(kMillisecond), 0);  // Arms the polls on this thread.
  for (int i = 0; i < 10; ++i) QueueRead(Count, &count);
  ring_->SubmitQueued();
  IoRing::Detach();
  Event woken;
  std::thread second([&] {
    ring_->Attach();
    while (count < 10) ring_->RunOnce(kLong);
    while (bytes == 0) ring_->RunOnce(kLong);
    woken.Set();
    while (ring_->RunOnce(-1) != 0) {
    }
    IoRing::Detach();
  });
  WriteByte();
  woken.Wait();
  ring_->Wake();
  second.join();
  EXPECT_EQ(bytes, 1);
  // And back: the second thread has exited with its polls armed.
  ring_->Attach();
  WriteByte();
  while (bytes == 1) ring_->RunOnce(kLong);
  ring_->Wake();
  ring_->RunOnce(-1);
}

// The kernel ends a poll on the thread that armed it. A former driver stuck in the kernel must not
// keep the new one from seeing the channel.
TEST_F(IoRingTest, TheWatchWorksWhileTheFormerDriverIsStuckInTheKernel) {
  int bytes = 0;
  int release[2];
  ASSERT_EQ(pipe2(release, O_CLOEXEC), 0);
  ring_->WatchReadable(pipe_[0], [&] { bytes += DrainPipe(); });
  IoRing::Detach();
  Event armed;
  std::thread former([&] {
    ring_->Attach();
    ring_->RunOnce(kMillisecond);
    IoRing::Detach();
    armed.Set();
    // The parent of a vfork sleeps uninterruptibly until the child is gone.
    const pid_t child = vfork();
    if (child == 0) {
      char byte;
      [[maybe_unused]] const ssize_t count = read(release[0], &byte, 1);
      _exit(0);
    }
    waitpid(child, nullptr, 0);
  });
  armed.Wait();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ring_->Attach();
  WriteByte();
  const Clock::time_point give_up = Clock::now() + std::chrono::seconds(2);
  while (bytes == 0 && Clock::now() < give_up) ring_->RunOnce(100 * kMillisecond);
  EXPECT_EQ(bytes, 1);
  EXPECT_EQ(write(release[1], "x", 1), 1);
  former.join();
  close(release[0]);
  close(release[1]);
}

// A loop that spins calls RunOnce(0) all the time. Strict seccomp kills at any system call but
// read, write and exit.
TEST_F(IoRingTest, AnIdleRunThatDoesNotWaitMakesNoSystemCall) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer has a thread of its own, which outlives SYS_exit";
#endif
  ring_->WatchReadable(pipe_[0], [] {});
  ring_->RunOnce(kMillisecond);
  const auto spin_without_system_calls = [this] {
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) _exit(0);
    for (int round = 0; round < 1000; ++round) ring_->RunOnce(0);
    syscall(SYS_exit, 0);
  };
  GTEST_FLAG_SET(death_test_style, "fast");
  EXPECT_EXIT(spin_without_system_calls(), ::testing::ExitedWithCode(0), "");
}

TEST_F(IoRingTest, AReadyThatLosesTheRingTouchesItNoMore) {
  int calls = 0;
  std::thread second;
  ring_->WatchReadable(pipe_[0], [&] {
    ++calls;
    DrainPipe();
    if (calls > 1) return;
    IoRing::Detach();
    second = std::thread([&] {
      ring_->Attach();
      WriteByte();
      while (calls < 2)
        ring_->RunOnce(kLong);  // `ready` is called here while the first still runs.
      IoRing::Detach();
    });
    second.join();
  });
  WriteByte();
  while (calls == 0) ring_->RunOnce(kLong);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(IoRing::Current(), nullptr);
}

TEST_F(IoRingTest, WithoutTransfersItStillWaitsAndWakes) {
  IoRing::Detach();
  auto created = IoRing::CreateWithoutTransfers();
  ASSERT_TRUE(created.ok()) << created.status();
  ring_ = *std::move(created);
  ring_->Attach();
  EXPECT_FALSE(ring_->takes_transfers());
  int calls = 0;
  ring_->WatchReadable(pipe_[0], [&] { calls += DrainPipe(); });
  EXPECT_EQ(ring_->RunOnce(kMillisecond), 0);
  WriteByte();
  EXPECT_EQ(ring_->RunOnce(kLong), 1);
  EXPECT_EQ(calls, 1);
  WriteByte();
  EXPECT_EQ(ring_->Reap(kMillisecond), 0);  // Leaves the watched fd alone.
  std::thread other([this] { ring_->Wake(); });
  EXPECT_EQ(ring_->Reap(-1), 0);
  other.join();
  EXPECT_EQ(ring_->RunOnce(-1), 1);
  EXPECT_EQ(calls, 2);
}

}  // namespace
}  // namespace pbfs
