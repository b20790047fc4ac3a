// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/worker_pool.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "base/blocking.h"
#include "base/check.h"

namespace pbfs::fuse {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kReapIntervalNs = 1'000'000;
constexpr Clock::duration kSpinTime = std::chrono::microseconds(50);
// A request that comes this soon after the thread fell asleep would probably have been met by
// spinning; the rest is the time a wake-up takes.
constexpr Clock::duration kShortSleep = std::chrono::microseconds(150);
constexpr unsigned kSpinPenaltyMax = 64;
// Requests handled before their I/O is submitted at the latest.
constexpr unsigned kPlugMax = 8;

// Whether spinning pays, from what the last idle times were like. Single thread.
class SpinPolicy {
 public:
  bool ShouldSpin() const { return skip_ == 0; }
  void Spun(bool found) {
    if (found) {
      penalty_ = 0;
      return;
    }
    penalty_ = std::min(penalty_ * 2 + 1, kSpinPenaltyMax);
    skip_ = penalty_;
  }
  // Slept that long until a request came.
  void Slept(Clock::duration time) {
    if (time < kShortSleep && skip_ > 0) --skip_;
  }

 private:
  unsigned penalty_ = 1;
  // Short sleeps to come before the next spin.
  unsigned skip_ = 1;
};

}  // namespace

struct WorkerPool::Loop {
  explicit Loop(PageCache& cache) : frames(std::in_place, cache) {}
  // The channel ends before the ring it is armed on.
  std::unique_ptr<IoRing> ring;
  std::unique_ptr<Channel> channel;
  std::optional<ReceiveFrames> frames;  // Until Stop().
  SpinPolicy spin;
  // Waits for requests; the others are woken when there are some.
  bool watches = false;
  // Where its requests come from.
  std::optional<unsigned> processor;
  std::atomic<bool> parked{false};
};

// One thread. `loop_` is set while it drives one.
class WorkerPool::Worker : public BlockingObserver {
 public:
  Worker(WorkerPool& pool, Loop* loop) : pool_(pool), given_(loop) {}
  void Start() { thread_ = std::thread(&Worker::Main, this); }
  void Join() { thread_.join(); }

  void WillBlock() override;

 private:
  friend class WorkerPool;

  void Main();
  void RunOn(unsigned processor);
  void DriveLoop();
  Channel::Received Receive();
  void Handle();
  void Idle();
  void Park();
  bool SpinForRequest();

  WorkerPool& pool_;
  Loop* loop_ = nullptr;
  std::optional<unsigned> processor_;
  bool in_handler_ = false;
  bool blocked_ = false;
  Request request_;
  InFlight::Token token_;
  // How long the thread has just slept, until it receives.
  Clock::duration slept_{Clock::duration::max()};
  std::thread thread_;

  // Guarded by the pool's mutex.
  Loop* given_;
  CondVar woken_;
};

void WorkerPool::Worker::Main() {
  pthread_setname_np(pthread_self(), "pbfs-fuse");
  t_blocking_observer = this;
  while (Loop* loop = pool_.StandBy(*this)) {
    loop_ = loop;
    if (loop_->processor) RunOn(*loop_->processor);
    loop_->ring->Attach();
    DriveLoop();
  }
  t_blocking_observer = nullptr;
}

void WorkerPool::Worker::RunOn(unsigned processor) {
  if (processor_ == processor) return;
  processor_ = processor;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  // Refused (a container that may not use all): slower, no more.
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

void WorkerPool::Worker::DriveLoop() {
  unsigned handled = 0;  // Since the ring was last run.
  while (loop_ != nullptr && !pool_.stopping_.load(std::memory_order_acquire)) {
    loop_->channel->Flush();
    const bool plugged_long = handled >= kPlugMax;
    bool received = !plugged_long && Receive() == Channel::Received::kRequest;
    if (!received && handled > 0) {
      handled = 0;
      // Where requests come by the ring, the wait for the next submits what was queued, too.
      if (!plugged_long && loop_->processor) {
        Idle();
        continue;
      }
      if (loop_->ring->RunOnce(0) > 0 || plugged_long) continue;
    }
    const bool in_a_row = received && handled > 0;
    if (!received) received = SpinForRequest();
    if (!received) {
      Idle();
      continue;
    }
    // A request that waited while another was handled: there may be more clients than one.
    if (in_a_row && pool_.parked_loops_.load(std::memory_order_relaxed) > 0 &&
        loop_->channel->HasMore()) {
      pool_.WakeParked();
    }
    loop_->ring->Plug();
    Handle();
    ++handled;
  }
  if (loop_ == nullptr) return;
  // Stopped: nothing uses the filesystem any more, but a transfer may still be on its way back.
  while (loop_->ring->in_flight() > 0) loop_->ring->Reap(kReapIntervalNs);
  loop_->channel->Flush();
  loop_->ring->SubmitQueued();
  IoRing::Detach();
  loop_ = nullptr;
}

Channel::Received WorkerPool::Worker::Receive() {
  if (!pool_.MayReceive()) return Channel::Received::kNothing;
  loop_->frames->Refill();
  // The token first, then the question: so whoever stopped receiving and then sees no token knows
  // that no request is on its way.
  token_ = pool_.in_flight_.Begin();
  Channel::Received received = Channel::Received::kNothing;
  if (pool_.receiving_.load(std::memory_order_seq_cst)) {
    received = loop_->channel->TryReceive(request_, *loop_->frames);
  }
  if (received == Channel::Received::kClosed) pool_.StopReceiving();
  if (received == Channel::Received::kRequest) {
    loop_->spin.Slept(std::exchange(slept_, Clock::duration::max()));
    if (pool_.awake_) pool_.awake_->NoteRequest();
  } else {
    token_ = {};
  }
  return received;
}

void WorkerPool::Worker::Handle() {
  in_handler_ = true;
  t_request = &request_;
  pool_.processor_.Process(request_);
  t_request = nullptr;
  in_handler_ = false;
  token_ = {};
  if (blocked_) {
    blocked_ = false;
    pool_.blocked_handlers_.fetch_sub(1, std::memory_order_relaxed);
    for (PageBuf* frame : request_.frames) {
      if (frame != nullptr) pool_.cache_.Unpin(*frame);
    }
    request_.frames.clear();
  } else {
    loop_->frames->Return(request_.frames);
  }
}

void WorkerPool::Worker::WillBlock() {
  if (!in_handler_ || loop_ == nullptr) return;
  Loop* const loop = std::exchange(loop_, nullptr);
  pool_.blocked_handlers_.fetch_add(1, std::memory_order_relaxed);
  blocked_ = true;
  IoRing::Detach();
  if (pool_.PassLoop(*loop)) return;
  // No thread to be had: wait with the loop, as its waits reap the ring.
  pool_.blocked_handlers_.fetch_sub(1, std::memory_order_relaxed);
  blocked_ = false;
  loop_ = loop;
  loop_->ring->Attach();
}

bool WorkerPool::Worker::SpinForRequest() {
  // Not where it would take the processor from the client itself.
  if (!pool_.options_.spin || loop_->processor) return false;
  if (!loop_->spin.ShouldSpin() || !pool_.MayReceive()) return false;
  // One is enough: the others would only take the processor from the clients.
  if (pool_.someone_spins_.exchange(true, std::memory_order_acquire)) return false;
  const Clock::time_point end = Clock::now() + kSpinTime;
  Channel::Received received = Channel::Received::kNothing;
  do {
    loop_->ring->RunOnce(0);
    received = Receive();
  } while (received == Channel::Received::kNothing && Clock::now() < end);
  pool_.someone_spins_.store(false, std::memory_order_release);
  const bool found = received == Channel::Received::kRequest;
  loop_->spin.Spun(found);
  return found;
}

void WorkerPool::Worker::Idle() {
  // Since the loop last looked, a wait for frames or a spin may have used up Stop()'s wake.
  if (pool_.stopping_.load(std::memory_order_acquire)) return;
  // The same goes for the wake of who left an answer here.
  loop_->channel->Flush();
  if (!pool_.receiving_.load(std::memory_order_relaxed)) {
    loop_->ring->Reap(-1);
  } else if (!pool_.MayReceive()) {
    loop_->ring->Reap(kReapIntervalNs);
  } else if (!loop_->watches) {
    Park();
  } else {
    const Clock::time_point start = Clock::now();
    // A handler that ended just now may have made room for what was fetched before.
    loop_->ring->RunOnce(loop_->channel->HasFetched() ? 0 : -1);
    slept_ = Clock::now() - start;
  }
}

// Until WakeParked() or a completion of this ring.
void WorkerPool::Worker::Park() {
  loop_->parked.store(true, std::memory_order_relaxed);
  pool_.parked_loops_.fetch_add(1, std::memory_order_relaxed);
  loop_->ring->Reap(-1);
  pool_.parked_loops_.fetch_sub(1, std::memory_order_relaxed);
  loop_->parked.store(false, std::memory_order_relaxed);
}

WorkerPool::WorkerPool(Processor& processor, PageCache& cache, InFlight& in_flight,
                       const Options& options)
    : processor_(processor), cache_(cache), in_flight_(in_flight), options_(options) {}

StatusOr<std::unique_ptr<WorkerPool>> WorkerPool::Create(Transport& transport, PageCache& cache,
                                                         Processor& processor, InFlight& in_flight,
                                                         const Options& options) {
  PBFS_CHECK(options.loops > 0);
  std::unique_ptr<WorkerPool> pool(new WorkerPool(processor, cache, in_flight, options));
  for (unsigned i = 0; i < options.loops; ++i) {
    auto loop = std::make_unique<Loop>(cache);
    PBFS_ASSIGN_OR_RETURN(loop->ring, transport.MakeRing());
    PBFS_ASSIGN_OR_RETURN(loop->channel, transport.OpenChannel(*loop->ring));
    loop->watches = transport.has_queues() || i == 0;
    if (transport.has_queues()) loop->processor = i;
    pool->loops_.push_back(std::move(loop));
  }
  return pool;
}

Status WorkerPool::Run() {
  if (options_.spin) awake_.emplace();
  for (auto& loop : loops_) {
    if (!PassLoop(*loop)) return ErrnoError(EAGAIN, "cannot start a thread");
  }
  return OkStatus();
}

WorkerPool::~WorkerPool() { PBFS_CHECK(workers_.empty()); }

bool WorkerPool::MayReceive() const {
  return receiving_.load(std::memory_order_relaxed) &&
         blocked_handlers_.load(std::memory_order_relaxed) < options_.blocked_handlers_max;
}

void WorkerPool::WakeParked() {
  for (auto& loop : loops_) {
    if (!loop->parked.exchange(false, std::memory_order_relaxed)) continue;
    loop->ring->Wake();
    return;
  }
}

bool WorkerPool::PassLoop(Loop& loop) {
  MutexLock lock(mutex_);
  if (!standbys_.empty()) {
    Worker& worker = *standbys_.back();
    standbys_.pop_back();
    worker.given_ = &loop;
    worker.woken_.Signal();
    return true;
  }
  auto worker = std::make_unique<Worker>(*this, &loop);
  try {
    worker->Start();
  } catch (const std::system_error&) {
    return false;
  }
  workers_.push_back(std::move(worker));
  return true;
}

WorkerPool::Loop* WorkerPool::StandBy(Worker& worker) {
  MutexLock lock(mutex_);
  if (worker.given_ == nullptr) standbys_.push_back(&worker);
  while (worker.given_ == nullptr && !stopping_.load(std::memory_order_relaxed)) {
    worker.woken_.Wait(mutex_);
  }
  return std::exchange(worker.given_, nullptr);
}

void WorkerPool::StopReceiving() {
  receiving_.store(false, std::memory_order_seq_cst);
  ended_.Set();
}

void WorkerPool::Stop() {
  PBFS_CHECK(!receiving_.load(std::memory_order_relaxed));
  std::vector<std::unique_ptr<Worker>> workers;
  {
    MutexLock lock(mutex_);
    stopping_.store(true, std::memory_order_release);
    for (Worker* worker : standbys_) worker->woken_.Signal();
    workers.swap(workers_);
  }
  for (auto& loop : loops_) loop->ring->Wake();
  for (auto& worker : workers) worker->Join();
  awake_.reset();
  for (auto& loop : loops_) loop->frames.reset();
}

void WorkerPool::Flush() {
  for (auto& loop : loops_) {
    loop->ring->Attach();
    loop->channel->Flush();
    loop->ring->SubmitQueued();
    IoRing::Detach();
  }
}

}  // namespace pbfs::fuse
