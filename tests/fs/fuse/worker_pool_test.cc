// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/worker_pool.h"

#include <atomic>
#include <set>

#include "base/event.h"
#include "fs/fuse/dev_transport.h"
#include "gtest/gtest.h"
#include "tests/fs/fuse/fake_kernel.h"

namespace pbfs::fuse {
namespace {

class WorkerPoolTest : public testing::Test, public WorkerPool::Processor {
 protected:
  WorkerPoolTest() : cache_(16 << 20), transport_(kernel_.server_fd()) {}
  ~WorkerPoolTest() override {
    if (pool_ != nullptr) {
      pool_->StopReceiving();
      in_flight_.WaitUntilNone();
      pool_->Stop();
    }
    close(kernel_.server_fd());
  }

  void Start(const WorkerPool::Options& options) {
    auto pool = WorkerPool::Create(transport_, cache_, *this, in_flight_, options);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = *std::move(pool);
    ASSERT_TRUE(pool_->Run().ok());
  }
  void Process(Request& request) override { process_(request); }
  void Answer(uint64_t unique) {
    fuse_out_header header = {};
    header.len = sizeof(header);
    header.unique = unique;
    const iovec segment = {&header, sizeof(header)};
    EXPECT_EQ(transport_.Send(&segment, 1, Transport::Delivery::kHere), 0);
  }

  PageCache cache_;
  FakeKernel kernel_;
  DevTransport transport_;
  InFlight in_flight_;
  std::function<void(Request&)> process_;
  std::unique_ptr<WorkerPool> pool_;
};

TEST_F(WorkerPoolTest, WaitingHandlersDoNotHoldUpOthers) {
  constexpr uint64_t kWaiting = 20;
  Event all_here;
  std::atomic<unsigned> here{0};
  process_ = [&](Request& request) {
    if (++here == kWaiting) all_here.Set();
    all_here.Wait();
    Answer(request.header().unique);
  };
  Start({.loops = 1});
  std::set<uint64_t> open;
  for (uint64_t i = 0; i < kWaiting; ++i) open.insert(kernel_.Send(FUSE_GETATTR, 1, "12345678"));
  while (!open.empty()) ASSERT_EQ(open.erase(kernel_.Receive().unique), 1u);
}

TEST_F(WorkerPoolTest, BlockedHandlersAreBounded) {
  Event go;
  std::atomic<unsigned> here{0};
  process_ = [&](Request& request) {
    ++here;
    go.Wait();
    Answer(request.header().unique);
  };
  Start({.loops = 2, .blocked_handlers_max = 4});
  for (int i = 0; i < 30; ++i) kernel_.Send(FUSE_GETATTR, 1, "");
  for (int i = 0; i < 100 && here < 4; ++i) usleep(10'000);
  usleep(50'000);
  EXPECT_GE(here, 4u);
  EXPECT_LE(here, 4u + 2u);
  go.Set();
  for (int i = 0; i < 30; ++i) kernel_.Receive();
  EXPECT_EQ(here, 30u);
}

TEST_F(WorkerPoolTest, TakenFramesAreReplacedAndLeftOnesUsedAgain) {
  std::vector<PageBuf*> taken;
  std::string expected;
  process_ = [&](Request& request) {
    ASSERT_TRUE(request.is_write);
    ASSERT_EQ(request.frames.size(), 3u);
    EXPECT_EQ(std::string(reinterpret_cast<char*>(request.frames[1]->data), kPageBytes),
              expected.substr(kPageBytes, kPageBytes));
    taken.push_back(std::exchange(request.frames[1], nullptr));
    Answer(request.header().unique);
  };
  Start({.loops = 1});
  for (int i = 0; i < 500; ++i) {
    expected = std::string(2 * kPageBytes + 100, static_cast<char>(i));
    fuse_write_in in = {};
    in.size = static_cast<uint32_t>(expected.size());
    kernel_.Call(FUSE_WRITE, 64, Bytes(in) + expected);
  }
  pool_->StopReceiving();
  in_flight_.WaitUntilNone();
  pool_->Stop();
  pool_.reset();
  EXPECT_EQ(cache_.frames_free() + taken.size(), cache_.frames_total());
  for (size_t i = 0; i < taken.size(); ++i) {
    EXPECT_EQ(taken[i]->data[5], static_cast<std::byte>(i));
    cache_.Unpin(*taken[i]);
  }
}

TEST_F(WorkerPoolTest, AClosedChannelEndsIt) {
  process_ = [](Request&) {};
  Start({.loops = 2});
  kernel_.HangUp();
  pool_->WaitForEnd();
}

TEST_F(WorkerPoolTest, NothingIsReceivedAfterTheEnd) {
  std::atomic<unsigned> here{0};
  process_ = [&](Request& request) {
    ++here;
    pool_->StopReceiving();
    Answer(request.header().unique);
  };
  Start({.loops = 1});
  kernel_.Call(FUSE_DESTROY, 0, "");
  in_flight_.WaitUntilNone();
  kernel_.Send(FUSE_GETATTR, 1, "");
  usleep(50'000);
  EXPECT_EQ(here, 1u);
}

}  // namespace
}  // namespace pbfs::fuse
