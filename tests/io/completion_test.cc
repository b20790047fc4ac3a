// SPDX-License-Identifier: Apache-2.0
// The completion stack: what each layer sees when requests come back.
#include <gmock/gmock.h>

#include "io/completion_scope.h"
#include "io/fault_device.h"
#include "io/memory_device.h"
#include "io/recording_device.h"
#include "tests/io/test_util.h"

namespace pbfs {
namespace {

using ::testing::ElementsAre;

TEST(IoRequest, CallsFramesLastPushedFirstWithTheirOwnContext) {
  std::vector<std::string> calls;
  struct Frame {
    std::vector<std::string>* calls;
    std::string name;
  };
  Frame bottom{&calls, "submitter"};
  Frame top{&calls, "layer"};
  IoRequest request;
  request.PushCompletion(
      [](IoRequest&, void* context, int error) {
        auto* frame = static_cast<Frame*>(context);
        frame->calls->push_back(frame->name + " " + std::to_string(error));
      },
      &bottom);
  request.PushCompletion(
      [](IoRequest& request, void* context, int error) {
        auto* frame = static_cast<Frame*>(context);
        frame->calls->push_back(frame->name + " " + std::to_string(error));
        request.Complete(error + 1);
      },
      &top);
  request.Complete(5);
  EXPECT_THAT(calls, ElementsAre("layer 5", "submitter 6"));
}

TEST(IoRequestDeathTest, CompletingWithoutAFrameIsOurBug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(IoRequest().Complete(0), "CHECK failed: depth_ > 0");
}

TEST(IoRequest, MayBeDeletedByItsOwnCompletion) {
  MemoryDevice device(1 << 20);
  auto* request = new IoRequest;
  request->op = IoOp::kFlush;
  bool called = false;
  request->PushCompletion(
      [](IoRequest& request, void* context, int) {
        *static_cast<bool*>(context) = true;
        delete &request;
      },
      &called);
  device.Submit(*request);
  EXPECT_TRUE(called);
}

// Fault over recording over memory.
class Wrapped : public ::testing::Test {
 protected:
  MemoryDevice memory_{1 << 20};
  RecordingDevice recording_{memory_};
  FaultDevice fault_{recording_};
  AlignedMemory data_{4096};
};

TEST_F(Wrapped, EachLayerSeesTheRequestBeforeTheOneAboveIt) {
  std::vector<std::string> calls;
  size_t recorded_then = 0;
  fault_.SetOnComplete([&](const IoRequest& request, int error) {
    calls.push_back("fault");
    EXPECT_EQ(request.offset_bytes, 8192u);
    EXPECT_EQ(request.buffer.size_bytes(), 4096u);
    recorded_then = recording_.TakeRecording().size();
    return error;
  });
  IoRequest request;
  request.op = IoOp::kWrite;
  request.offset_bytes = 8192;
  request.buffer.Append(data_.data(), data_.size());
  request.PushCompletion(
      [](IoRequest&, void* context, int) {
        static_cast<std::vector<std::string>*>(context)->push_back("submitter");
      },
      &calls);
  fault_.Submit(request);
  EXPECT_THAT(calls, ElementsAre("fault", "submitter"));
  EXPECT_EQ(recorded_then, 2u);  // The recording's frame had run by then.
}

TEST_F(Wrapped, ARequestCanBeUsedAgainOnceItCompleted) {
  IoRequest request;
  request.op = IoOp::kWrite;
  request.buffer.Append(data_.data(), data_.size());
  for (int round = 0; round < 20; ++round) {
    request.offset_bytes = static_cast<uint64_t>(round) * 4096;
    ASSERT_EQ(RunSync(fault_, request), 0);
  }
  EXPECT_EQ(recording_.TakeRecording().size(), 40u);
}

// Submits itself again from its completion, `left` times.
struct Chain {
  BlockDevice* device;
  IoRequest request;
  int left;
  int depth = 0;
  int depth_max = 0;

  void Go() {
    request.PushCompletion(
        [](IoRequest&, void* context, int) {
          auto* self = static_cast<Chain*>(context);
          self->depth_max = std::max(self->depth_max, ++self->depth);
          if (--self->left > 0) self->Go();
          --self->depth;
        },
        this);
    device->Submit(request);
  }
};

TEST_F(Wrapped, ChainsOfRequestsDoNotNestOnTheStack) {
  Chain chain{&fault_, {}, 100000};
  chain.request.op = IoOp::kRead;
  chain.request.buffer.Append(data_.data(), data_.size());
  chain.Go();
  EXPECT_EQ(chain.left, 0);
  EXPECT_EQ(chain.depth_max, 1);
}

TEST_F(Wrapped, ChainsOfFailingRequestsDoNotNestEither) {
  fault_.FailAll(IoOp::kRead, EIO);
  Chain chain{&fault_, {}, 100000};
  chain.request.op = IoOp::kRead;
  chain.request.buffer.Append(data_.data(), data_.size());
  chain.Go();
  EXPECT_EQ(chain.left, 0);
  EXPECT_EQ(chain.depth_max, 1);
}

TEST_F(Wrapped, ACompletionThatWaitsIsCaught) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto wait_in_completion = [this] {
    IoRequest request;
    request.op = IoOp::kFlush;
    request.PushCompletion(
        [](IoRequest&, void* context, int) { FlushSync(*static_cast<BlockDevice*>(context)); },
        &memory_);
    memory_.Submit(request);
  };
  EXPECT_DEATH(wait_in_completion(), "CHECK failed: !InCompletion");
  EXPECT_FALSE(InCompletion());
}

TEST_F(Wrapped, RunSyncOfManyReturnsAnErrorIfOneFailed) {
  int count = 0;
  fault_.SetDecide([&count](const IoRequest&) { return ++count == 3 ? ENOSPC : 0; });
  std::vector<std::unique_ptr<IoRequest>> requests;
  std::vector<IoRequest*> pointers;
  for (uint64_t i = 0; i < 5; ++i) {
    requests.push_back(std::make_unique<IoRequest>());
    requests.back()->op = IoOp::kWrite;
    requests.back()->offset_bytes = i * 4096;
    requests.back()->buffer.Append(data_.data(), data_.size());
    pointers.push_back(requests.back().get());
  }
  EXPECT_EQ(RunSync(fault_, pointers), ENOSPC);
  EXPECT_EQ(recording_.TakeRecording().size(), 8u);
  EXPECT_EQ(RunSync(fault_, std::span<IoRequest* const>()), 0);
}

TEST_F(Wrapped, ReadSyncAndWriteSyncTakeUnalignedMemory) {
  std::vector<char> text(4096 + 3, 'q');
  ASSERT_EQ(WriteSync(memory_, 4096, text.data() + 3, 4096), 0);
  std::vector<char> back(4096 + 5, '-');
  ASSERT_EQ(ReadSync(memory_, 4096, back.data() + 5, 4096), 0);
  EXPECT_EQ(std::string(back.begin(), back.begin() + 5), "-----");
  EXPECT_EQ(std::string(back.begin() + 5, back.end()), std::string(4096, 'q'));
}

}  // namespace
}  // namespace pbfs
