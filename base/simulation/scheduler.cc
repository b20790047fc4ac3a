// SPDX-License-Identifier: Apache-2.0
#include "base/simulation/scheduler.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>

#include "base/check.h"

namespace pbfs::simulation {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
// 2026-01-01: an ordinary date for the wall clock to start from.
constexpr int64_t kRealTimeStart = 1'767'225'600;
constexpr int64_t kLookNs = 1000;

// One thread waits for a turn, another gives it. The futex makes what the giver did visible.
class Turn {
 public:
  void Give() {
    given_.store(1, std::memory_order_release);
    syscall(SYS_futex, &given_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }
  void Await() {
    while (given_.exchange(0, std::memory_order_acquire) == 0) {
      syscall(SYS_futex, &given_, FUTEX_WAIT_PRIVATE, 0, nullptr, nullptr, 0);
    }
  }

 private:
  std::atomic<uint32_t> given_{0};
};

thread_local Task* t_self = nullptr;

}  // namespace

struct Task {
  Scheduler* scheduler;
  uint32_t number;
  uint64_t priority;
  std::function<void()> body;
  Turn* turn;
  // What it waits for; nullptr: it does not wait.
  const void* word = nullptr;
  const char* what = "";
  int64_t deadline_ns = INT64_MAX;
  bool timed_out = false;
  bool ended = false;
};

// A thread of the system that runs tasks, one after the other. They are kept for the process's
// life: starting one costs more than a short task.
struct Scheduler::Carrier {
  Turn turn;
  TaskHandle task;
};

Scheduler::Options Scheduler::OptionsOf(uint64_t seed) {
  Random random(seed ^ 0x5ced);
  Options options;
  options.seed = seed;
  const uint64_t draw = random.Below(8);
  options.policy = draw < 2 ? Policy::kCalm : draw < 5 ? Policy::kPriorities : Policy::kRandom;
  static constexpr uint32_t kOneIn[] = {3, 10, 50, 200};
  options.switch_one_in = kOneIn[random.Below(4)];
  static constexpr uint32_t kEarly[] = {50, 300, 100'000};
  options.early_timeout_one_in = kEarly[random.Below(3)];
  return options;
}

Scheduler::Scheduler(const Options& options) : options_(options), random_(options.seed) {}

Scheduler::~Scheduler() { PBFS_CHECK(tasks_.empty()); }

Scheduler* Scheduler::Current() { return t_self != nullptr ? t_self->scheduler : nullptr; }

void Scheduler::NoteProgress() {
  if (Scheduler* const self = Current()) self->progress_ns_ = self->now_ns_;
}

const Task* Scheduler::Self() { return t_self; }

void Scheduler::Run(const std::function<void()>& body) {
  PBFS_CHECK(t_self == nullptr && tasks_.empty());
  Turn turn;
  auto first = std::make_shared<Task>();
  first->scheduler = this;
  first->priority = random_.Next();
  first->turn = &turn;
  tasks_.push_back(first);
  running_ = first.get();
  t_self = first.get();
  body();
  t_self = nullptr;
  running_ = nullptr;
  PBFS_CHECK(tasks_.size() == 1);
  tasks_.clear();
}

// ---- Time ---------------------------------------------------------------------------------------

int64_t Scheduler::NowNs() { return now_ns_ += kLookNs; }

timespec Scheduler::RealTimeNow() {
  const int64_t now = NowNs();
  return {kRealTimeStart + now / kSecond, now % kSecond};
}

void Scheduler::Sleep(int64_t duration_ns) { Wait(this, "sleeping", now_ns_ + duration_ns); }

void Scheduler::Yield() {
  if (ready_.empty()) {
    now_ns_ += kLookNs;
    return;
  }
  running_->priority = random_.Below(running_->priority + 1);
  MakeReady(*running_);
  SwitchAway();
}

// ---- Switching ----------------------------------------------------------------------------------

void Scheduler::MakeReady(Task& task) {
  task.word = nullptr;
  task.deadline_ns = INT64_MAX;
  ready_.push_back(&task);
}

void Scheduler::Point() {
  if (ready_.empty() || options_.policy == Policy::kCalm ||
      !random_.OneIn(options_.switch_one_in)) {
    return;
  }
  if (options_.policy == Policy::kPriorities) running_->priority = random_.Next();
  MakeReady(*running_);
  SwitchAway();
}

size_t Scheduler::PickReady() {
  if (options_.policy != Policy::kPriorities) return random_.Below(ready_.size());
  size_t best = 0;
  for (size_t i = 1; i < ready_.size(); ++i) {
    if (ready_[i]->priority > ready_[best]->priority) best = i;
  }
  return best;
}

void Scheduler::Expire(Task& task) {
  now_ns_ = std::max(now_ns_, task.deadline_ns);
  task.timed_out = true;
  MakeReady(task);
}

Task& Scheduler::PickNext() {
  ++switches_;
  if (ready_.empty() || random_.OneIn(options_.early_timeout_one_in)) {
    Task* first = nullptr;
    for (const TaskHandle& task : tasks_) {
      if (task->word == nullptr || task->deadline_ns == INT64_MAX) continue;
      if (first == nullptr || task->deadline_ns < first->deadline_ns) first = task.get();
    }
    if (first != nullptr) Expire(*first);
  }
  if (ready_.empty()) Hang("no task can ever run again");
  if (now_ns_ - progress_ns_ > options_.silence_max_ns) Hang("nothing is achieved any more");
  const size_t picked = PickReady();
  Task& next = *ready_[picked];
  ready_[picked] = ready_.back();
  ready_.pop_back();
  return next;
}

void Scheduler::SwitchAway() {
  Task& self = *t_self;
  Task& next = PickNext();
  running_ = &next;
  if (&next == &self) return;
  next.turn->Give();
  self.turn->Await();
}

bool Scheduler::Wait(const void* word, const char* what, int64_t deadline_ns) {
  Task& self = *running_;
  self.word = word;
  self.what = what;
  self.deadline_ns = deadline_ns;
  self.timed_out = false;
  SwitchAway();
  return !self.timed_out;
}

void Scheduler::WakeOne(const void* word) {
  Task* chosen = nullptr;
  uint64_t count = 0;
  for (const TaskHandle& task : tasks_) {
    if (task->word == word && random_.OneIn(++count)) chosen = task.get();
  }
  if (chosen != nullptr) MakeReady(*chosen);
}

void Scheduler::WakeAll(const void* word) {
  for (const TaskHandle& task : tasks_) {
    if (task->word == word) MakeReady(*task);
  }
}

// ---- Tasks --------------------------------------------------------------------------------------

std::vector<Scheduler::Carrier*>& Scheduler::IdleCarriers() {
  static auto* idle = [] {
    // A forked child has the list, but not the threads.
    pthread_atfork(nullptr, nullptr, [] { IdleCarriers().clear(); });
    return new std::vector<Carrier*>;
  }();
  return *idle;
}

void Scheduler::Carry(Carrier& carrier) {
  for (;;) {
    carrier.turn.Await();
    const TaskHandle task = std::move(carrier.task);
    t_self = task.get();
    task->body();
    t_self = nullptr;
    // From here on another task may take the carrier, and waits for nothing: it has its turn yet.
    IdleCarriers().push_back(&carrier);
    task->scheduler->TaskEnded(*task);
  }
}

TaskHandle Scheduler::Start(std::function<void()> body) {
  auto task = std::make_shared<Task>();
  task->scheduler = this;
  task->number = ++tasks_started_;
  task->priority = random_.Next();
  task->body = std::move(body);
  std::vector<Carrier*>& idle = IdleCarriers();
  Carrier* carrier = nullptr;
  if (idle.empty()) {
    carrier = new Carrier;
    std::thread([carrier] { Carry(*carrier); }).detach();
  } else {
    carrier = idle.back();
    idle.pop_back();
  }
  carrier->task = task;
  task->turn = &carrier->turn;
  tasks_.push_back(task);
  ready_.push_back(task.get());
  Point();
  return task;
}

void Scheduler::TaskEnded(Task& task) {
  task.ended = true;
  task.body = nullptr;
  std::erase_if(tasks_, [&](const TaskHandle& other) { return other.get() == &task; });
  WakeAll(&task);
  Task& next = PickNext();
  running_ = &next;
  next.turn->Give();
}

void Scheduler::Join(Task& task) {
  while (!task.ended) Wait(&task, "joining a thread", INT64_MAX);
}

void Scheduler::Hang(const char* why) const {
  std::fprintf(stderr, "hang: %s, at %.6f s of simulated time, seed %llu\n", why,
               static_cast<double>(now_ns_) / kSecond,
               static_cast<unsigned long long>(options_.seed));
  for (const TaskHandle& task : tasks_) {
    std::fprintf(stderr, "  task %u: %s", task->number,
                 task->word != nullptr ? task->what : "ready");
    if (task->word != nullptr && task->deadline_ns != INT64_MAX) {
      std::fprintf(stderr, ", until %.6f s", static_cast<double>(task->deadline_ns) / kSecond);
    }
    std::fprintf(stderr, "\n");
  }
  std::abort();
}

}  // namespace pbfs::simulation
