// SPDX-License-Identifier: Apache-2.0
#include "base/simulation/scheduler.h"

#include <set>

#include "base/clock.h"
#include "base/event.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/thread.h"
#include "gtest/gtest.h"

namespace pbfs {
namespace {

using simulation::Scheduler;

Scheduler::Options Seeded(uint64_t seed) {
  return {.seed = seed, .policy = Scheduler::Policy::kRandom, .switch_one_in = 3};
}

// Three threads write their letters under a lock, again and again.
std::string Interleaving(const Scheduler::Options& options) {
  std::string text;
  Scheduler(options).Run([&] {
    Mutex mutex;
    std::vector<Thread> threads;
    for (const char letter : {'a', 'b', 'c'}) {
      threads.emplace_back([&, letter] {
        for (int i = 0; i < 5; ++i) {
          MutexLock lock(mutex);
          text += letter;
        }
      });
    }
    for (Thread& thread : threads) thread.join();
  });
  return text;
}

TEST(SchedulerTest, ASeedGivesTheSameRunEachTimeAndOthersGiveOthers) {
  std::set<std::string> seen;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const Scheduler::Options options = Scheduler::OptionsOf(seed);
    const std::string text = Interleaving(options);
    EXPECT_EQ(text.size(), 15u);
    EXPECT_EQ(Interleaving(options), text) << seed;
    seen.insert(text);
  }
  EXPECT_GT(seen.size(), 20u);
}

// Reads and writes a counter with a lock for each, not for both.
int RacyCount(uint64_t seed) {
  int count = 0;
  Scheduler(Seeded(seed)).Run([&] {
    Mutex mutex;
    const auto add = [&] {
      int read = 0;
      {
        MutexLock lock(mutex);
        read = count;
      }
      MutexLock lock(mutex);
      count = read + 1;
    };
    Thread other(add);
    add();
    other.join();
  });
  return count;
}

TEST(SchedulerTest, FindsAnUpdateThatIsLost) {
  std::set<int> counts;
  for (uint64_t seed = 0; seed < 30; ++seed) counts.insert(RacyCount(seed));
  EXPECT_EQ(counts, (std::set<int>{1, 2}));
}

TEST(SchedulerTest, TimePassesOnlyWhenAllWait) {
  Scheduler(Seeded(1)).Run([] {
    const int64_t start = NowNs();
    SleepFor(std::chrono::minutes(5));
    EXPECT_GE(NowNs() - start, std::chrono::nanoseconds(std::chrono::minutes(5)).count());
    Mutex mutex;
    CondVar never;
    MutexLock lock(mutex);
    const int64_t before = NowNs();
    EXPECT_FALSE(never.WaitFor(mutex, std::chrono::milliseconds(250)));
    EXPECT_GE(NowNs() - before, 250'000'000);
    EXPECT_LT(NowNs() - before, 251'000'000);
  });
}

TEST(SchedulerTest, EventsAndConditionsWakeWhoWaits) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Scheduler(Seeded(seed)).Run([] {
      Event ready;
      Event done;
      Thread other([&] {
        ready.Wait();
        done.Set();
      });
      ready.Set();
      done.Wait();
      other.join();
    });
  }
}

TEST(SchedulerTest, ReadersShareAndWritersDoNot) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Scheduler(Seeded(seed)).Run([] {
      SharedMutex mutex;
      int value = 0;
      std::vector<Thread> threads;
      for (int i = 0; i < 3; ++i) {
        threads.emplace_back([&] {
          WriterLock lock(mutex);
          const int before = value;
          SleepFor(std::chrono::microseconds(5));
          value = before + 1;
        });
        threads.emplace_back([&] {
          ReaderLock lock(mutex);
          const int before = value;
          SleepFor(std::chrono::microseconds(5));
          EXPECT_EQ(value, before);
        });
      }
      for (Thread& thread : threads) thread.join();
      EXPECT_EQ(value, 3);
    });
  }
}

TEST(SchedulerTest, RandomBitsComeFromTheSeed) {
  const auto bits = [](uint64_t seed) {
    uint64_t result = 0;
    Scheduler(Seeded(seed)).Run([&] { result = RandomBits(); });
    return result;
  };
  EXPECT_EQ(bits(7), bits(7));
  EXPECT_NE(bits(7), bits(8));
}

TEST(SchedulerDeathTest, TwoWhoWaitForEachOtherAreAHang) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(Scheduler(Seeded(1)).Run([] {
    Mutex first;
    MutexLock held(first);
    Event never;
    Thread other([&] { MutexLock lock(first); });
    never.Wait();
    other.join();
  }),
               "no task can ever run again.*\n.*a condition\n.*a lock");
}

TEST(SchedulerDeathTest, ThoseWhoOnlyLookAgainAndAgainAreAHang) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(Scheduler(Seeded(1)).Run([] {
    for (;;) SleepFor(std::chrono::milliseconds(20));
  }),
               "nothing is achieved any more");
}

}  // namespace
}  // namespace pbfs
