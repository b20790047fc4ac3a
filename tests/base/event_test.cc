// SPDX-License-Identifier: Apache-2.0
#include "base/event.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

namespace pbfs {
namespace {

class CountingObserver : public BlockingObserver {
 public:
  CountingObserver() { t_blocking_observer = this; }
  ~CountingObserver() override { t_blocking_observer = nullptr; }
  void WillBlock() override { ++count; }
  int count = 0;
};

TEST(AnnounceBlocking, CallsTheObserverOfItsOwnThreadOnly) {
  CountingObserver observer;
  AnnounceBlocking();
  std::thread([] { AnnounceBlocking(); }).join();
  EXPECT_EQ(observer.count, 1);
}

TEST(Event, WaitReturnsAtOnceAndUnannouncedWhenSet) {
  CountingObserver observer;
  Event event;
  event.Set();
  event.Wait();
  EXPECT_TRUE(event.IsSet());
  EXPECT_EQ(observer.count, 0);
}

TEST(Event, AnnouncesAWaitBeforeItBegins) {
  Event event;
  class SettingObserver : public BlockingObserver {
   public:
    explicit SettingObserver(Event& event) : event_(event) {}
    void WillBlock() override { event_.Set(); }

   private:
    Event& event_;
  } observer(event);
  t_blocking_observer = &observer;
  event.Wait();  // Would never return if the announcement came late or not at all.
  t_blocking_observer = nullptr;
  EXPECT_TRUE(event.IsSet());
}

TEST(Event, WakesEveryWaiter) {
  Event event;
  std::vector<std::thread> waiters;
  for (int i = 0; i < 4; ++i) waiters.emplace_back([&event] { event.Wait(); });
  EXPECT_FALSE(event.IsSet());
  event.Set();
  for (std::thread& waiter : waiters) waiter.join();
}

TEST(Event, MayBeDestroyedAsSoonAsTheWaitReturns) {
  for (int round = 0; round < 500; ++round) {
    auto event = std::make_unique<Event>();
    std::thread setter([raw = event.get()] { raw->Set(); });
    event->Wait();
    event.reset();
    setter.join();
  }
}

}  // namespace
}  // namespace pbfs
