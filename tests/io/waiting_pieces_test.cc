// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "io/io_ring.h"
#include "io/uring_device.h"

namespace pbfs {
namespace {

// A request that waited for one on another thread's ring must not end up on that ring: the thread
// stops reaping it once its own request is done.
TEST(WaitingPiecesTest, DoNotDependOnTheThreadWhoseRequestTheyWaitedFor) {
  char path[] = "/var/tmp/pbfs-waiting-XXXXXX";
  const int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(ftruncate(fd, 1 << 20), 0);
  close(fd);
  UringDeviceOptions options;
  options.in_flight_max = 1;
  auto device = UringDevice::Open(path, options);
  unlink(path);
  ASSERT_TRUE(device.ok()) << device.status();
  auto ring = IoRing::Create(8);
  if (!ring.ok()) GTEST_SKIP() << "no io_uring here: " << ring.status();

  void* memory = nullptr;
  ASSERT_EQ(posix_memalign(&memory, 4096, 4 * 4096), 0);
  auto* bytes = static_cast<std::byte*>(memory);
  (*ring)->Attach();
  std::atomic<uint32_t> own_done{0};
  struct Own {
    BlockDevice* device;
    std::atomic<uint32_t>* done;
  } own{device->get(), &own_done};
  IoRequest first;
  first.op = IoOp::kRead;
  first.buffer.Append(bytes, 4096);
  first.PushCompletion(
      [](IoRequest&, void* context, int) {
        auto* state = static_cast<Own*>(context);
        state->device->SetDone(*state->done);
      },
      &own);
  (*device)->Submit(first);

  std::atomic<int> others_done{0};
  std::vector<std::unique_ptr<IoRequest>> others;
  std::thread([&] {
    for (size_t i = 1; i < 4; ++i) {
      others.push_back(std::make_unique<IoRequest>());
      others.back()->op = IoOp::kRead;
      others.back()->offset_bytes = i * 4096;
      others.back()->buffer.Append(bytes + i * 4096, 4096);
      others.back()->PushCompletion(
          [](IoRequest&, void* context, int) { ++*static_cast<std::atomic<int>*>(context); },
          &others_done);
      (*device)->Submit(*others.back());
    }
  }).join();
  (*device)->WaitUntil(own_done);
  // From here on this thread does not reap its ring.
  for (int i = 0; i < 1000 && others_done < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(others_done, 3);
  while (others_done < 3) (*ring)->RunOnce(1'000'000);
  IoRing::Detach();
  device->reset();
  free(memory);
}

}  // namespace
}  // namespace pbfs
