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

TEST(ReplyThreadsTest, OthersJoinWhenSomeAreStuck) {
  ReplyThreads threads;
  Event free;
  std::atomic<int> stuck{0};
  for (int i = 0; i < 5; ++i) {
    threads.Queue([&] {
      ++stuck;
      free.Wait();
    });
  }
  // Nothing is queued behind the last.
  Event sent;
  threads.Queue([&] { sent.Set(); });
  sent.Wait();
  EXPECT_EQ(stuck, 5);
  free.Set();
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
