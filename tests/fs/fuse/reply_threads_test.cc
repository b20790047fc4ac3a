// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/reply_threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/event.h"

namespace pbfs::fuse {
namespace {

TEST(ReplyThreadsTest, SendsInOrderAndBeforeItEnds) {
  std::vector<int> sent;
  {
    ReplyThreads threads;
    for (int i = 0; i < 1000; ++i) threads.Queue([&sent, i] { sent.push_back(i); });
  }
  ASSERT_EQ(sent.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(sent[static_cast<size_t>(i)], i);
}

// As the kernel does it to whoever closes a file: what frees a stuck sender may be a later answer.
TEST(ReplyThreadsTest, AnotherThreadJoinsWhenOneIsStuck) {
  ReplyThreads threads;
  Event first_runs, free, third_sent;
  std::atomic<bool> second_sent{false};
  threads.Queue([&] {
    first_runs.Set();
    free.Wait();
  });
  first_runs.Wait();
  threads.Queue([&] { second_sent = true; });
  // Long enough to be taken for stuck.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  threads.Queue([&] {
    third_sent.Set();
    free.Set();
  });
  third_sent.Wait();
  EXPECT_TRUE(second_sent);
}

TEST(ReplyThreadsTest, AnIdleThreadIsWoken) {
  ReplyThreads threads;
  for (int i = 0; i < 20; ++i) {
    Event sent;
    threads.Queue([&sent] { sent.Set(); });
    sent.Wait();
    if (i % 5 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace
}  // namespace pbfs::fuse
