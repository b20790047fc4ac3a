// SPDX-License-Identifier: Apache-2.0
// Runs a program of many threads so that a seed decides everything: which thread goes on at each
// lock, wait and wake-up, what time it is, and what RandomBits() gives. The same seed gives the
// same run; other seeds give other interleavings. Compiled with PBFS_SIMULATION only; the seam is
// base/mutex.h, base/thread.h, base/clock.h and base/random.h.
//
// The idea of running the real program on simulated time and a seeded order is FoundationDB's and
// TigerBeetle's; the policy with priorities follows "A Randomized Scheduler with Probabilistic
// Guarantees of Finding Bugs" (PCT, ASPLOS 2010).
#pragma once

#include <cstdint>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"

namespace pbfs::simulation {

struct Task;
// Who may join it. The scheduler's list has the other share.
using TaskHandle = std::shared_ptr<Task>;

// Tasks are threads of the system of which one at a time runs, so thread_local, debuggers and
// sanitizers work as ever. Time stands still while any task can run, but for a microsecond each
// time it is looked at; when all wait, it moves on to the first deadline.
//
// When no task can ever run again, or NoteProgress() is not called for long, that is a hang: it
// is reported with what every task waits for, and the process aborts.
class Scheduler {
 public:
  enum class Policy : uint8_t {
    kRandom,      // Any ready task, at each point where it may switch.
    kPriorities,  // The one with the highest priority; priorities change now and then (PCT).
    kCalm,        // Switches only when a task must wait; any ready one goes on.
  };
  struct Options {
    uint64_t seed = 1;
    Policy policy = Policy::kRandom;
    // kRandom: a switch at one of so many points. kPriorities: a change at one of so many.
    uint32_t switch_one_in = 20;
    // A wait with a deadline times out although others could run, at one of so many switches.
    uint32_t early_timeout_one_in = 200;
    // A hang: so much time without NoteProgress().
    int64_t silence_max_ns = int64_t{900} * 1'000'000'000;
  };
  // Everything chosen by the seed.
  static Options OptionsOf(uint64_t seed);

  explicit Scheduler(const Options& options);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Runs `body` as the first task, on the calling thread, which is no task before. All tasks it
  // started have been joined when it returns.
  void Run(const std::function<void()>& body);

  // Of the calling thread; nullptr: it is no task.
  static Scheduler* Current();
  // Something was achieved: not a hang. Does nothing on a thread that is no task.
  static void NoteProgress();

  // --- For tasks.
  int64_t NowNs();
  timespec RealTimeNow();
  void Sleep(int64_t duration_ns);
  void Yield();
  uint64_t RandomBits() { return random_.Next(); }
  // Switches between tasks so far.
  uint64_t switches() const { return switches_; }

  // --- For primitives.cc. Words are what tasks wait on; they are not looked at.
  // A point where another task may go on.
  void Point();
  // Waits until woken through `word` or the deadline (ns; INT64_MAX: none). False: timed out.
  bool Wait(const void* word, const char* what, int64_t deadline_ns);
  void WakeOne(const void* word);
  void WakeAll(const void* word);
  TaskHandle Start(std::function<void()> body);
  void Join(Task& task);
  static const Task* Self();

 private:
  struct Carrier;

  Task& PickNext();
  size_t PickReady();
  void Expire(Task& task);
  // The current task is not ready any more, or is on the ready list again: the next goes on.
  void SwitchAway();
  void MakeReady(Task& task);
  void TaskEnded(Task& task);
  [[noreturn]] void Hang(const char* why) const;
  [[noreturn]] static void Carry(Carrier& carrier);
  // Touched by whoever has the turn: schedulers of one process run one at a time.
  static std::vector<Carrier*>& IdleCarriers();

  const Options options_;
  Random random_;
  std::vector<TaskHandle> tasks_;  // That have not ended.
  std::vector<Task*> ready_;       // Without the one that runs.
  Task* running_ = nullptr;
  int64_t now_ns_ = 1'000'000'000;
  int64_t progress_ns_ = now_ns_;
  uint64_t switches_ = 0;
  uint32_t tasks_started_ = 0;
};

}  // namespace pbfs::simulation
