// SPDX-License-Identifier: Apache-2.0
#include "base/mutex.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace pbfs {
namespace {

struct Counter {
  Mutex mutex;
  CondVar changed;
  int value ABSL_GUARDED_BY(mutex) = 0;
};

TEST(Mutex, KeepsIncrementsOfSeveralThreadsApart) {
  Counter counter;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&counter] {
      for (int round = 0; round < 5000; ++round) {
        MutexLock lock(counter.mutex);
        ++counter.value;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  MutexLock lock(counter.mutex);
  EXPECT_EQ(counter.value, 20000);
}

TEST(Mutex, TryLockFailsWhileAnotherThreadHoldsIt) {
  Mutex mutex;
  const auto try_it = [&mutex] {
    if (!mutex.TryLock()) return false;
    mutex.Unlock();
    return true;
  };
  bool taken = true;
  {
    MutexLock lock(mutex);
    std::thread([&] { taken = try_it(); }).join();
  }
  EXPECT_FALSE(taken);
  EXPECT_TRUE(try_it());
}

TEST(CondVar, WakesAWaiterThatThenHoldsTheLock) {
  Counter counter;
  std::thread setter([&counter] {
    MutexLock lock(counter.mutex);
    counter.value = 7;
    counter.changed.Signal();
  });
  {
    MutexLock lock(counter.mutex);
    while (counter.value == 0) counter.changed.Wait(counter.mutex);
    EXPECT_EQ(counter.value, 7);
  }
  setter.join();
}

TEST(CondVar, WaitForReturnsFalseAtTheTimeout) {
  Counter counter;
  MutexLock lock(counter.mutex);
  EXPECT_FALSE(counter.changed.WaitFor(counter.mutex, std::chrono::milliseconds(2)));
}

TEST(SharedMutex, AdmitsTwoReadersAtOnce) {
  SharedMutex mutex;
  std::atomic<int> inside{0};
  const auto read = [&] {
    ReaderLock lock(mutex);
    ++inside;
    while (inside.load() < 2) std::this_thread::yield();
  };
  std::thread first(read);
  std::thread second(read);
  first.join();
  second.join();
  EXPECT_EQ(inside.load(), 2);
}

TEST(SharedMutex, WriterExcludesReaders) {
  SharedMutex mutex;
  int value = 0;  // Guarded by mutex; a local cannot be annotated.
  int torn_count = 0;
  std::thread writer([&] {
    for (int round = 0; round < 2000; ++round) {
      WriterLock lock(mutex);
      ++value;
      ++value;
    }
  });
  for (int round = 0; round < 2000; ++round) {
    ReaderLock lock(mutex);
    if (value % 2 != 0) ++torn_count;
  }
  writer.join();
  EXPECT_EQ(torn_count, 0);
  EXPECT_EQ(value, 4000);
}

}  // namespace
}  // namespace pbfs
