// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "base/event.h"
#include "base/mutex.h"
#include "fs/fuse/awake_processors.h"
#include "fs/fuse/in_flight.h"
#include "fs/fuse/transport.h"

namespace pbfs::fuse {

// The threads that serve requests.
//
// A loop is {ring, channel, receive frames}; one thread at a time drives it: receives, runs the
// handler, reaps the ring. A handler that is about to wait hands its loop to a standby thread
// (base/blocking.h) and ends without one; its thread then stands by itself. So no request waits
// behind a blocked one, and a ring is always reaped.
//
// Where the transport has queues, each loop watches its own, on its processor. Else the first loop
// watches for requests, and the others park; one is woken when a request waits although
// another was just received, so a lone client does not wake threads in vain, and many clients or a
// queue of writes are served on all processors.
//
// Limits: at most `blocked_handlers_max` handlers wait at once, give or take one per loop; beyond,
// loops only reap.
class WorkerPool {
 public:
  struct Options {
    unsigned loops = 1;
    unsigned blocked_handlers_max = 64;
    // Look for requests for a while before sleeping, when that paid lately.
    bool spin = true;
  };
  // What is done with a request. Answers it now or later; may wait (AnnounceBlocking).
  class Processor {
   public:
    virtual ~Processor() = default;
    virtual void Process(Request& request) = 0;
  };

  // The references are borrowed.
  static StatusOr<std::unique_ptr<WorkerPool>> Create(Transport& transport, PageCache& cache,
                                                      Processor& processor, InFlight& in_flight,
                                                      const Options& options);
  // REQUIRES: not run, or stopped.
  ~WorkerPool();

  // Starts serving.
  Status Run();

  // No further request is received; handlers under way go on and rings are reaped until Stop(). Any
  // thread, also a handler.
  void StopReceiving();
  // Blocks until StopReceiving(), also by a closed channel.
  void WaitForEnd() { ended_.Wait(); }
  // Ends all threads and gives the receive frames back: the cache is not used any more. REQUIRES:
  // StopReceiving() was called, nothing is in flight.
  void Stop();
  // After Stop(): what was sent since then goes to the kernel.
  void Flush();

 private:
  class Worker;
  struct Loop;

  WorkerPool(Processor& processor, PageCache& cache, InFlight& in_flight, const Options& options);

  bool MayReceive() const;
  // Wakes a loop that is parked, if there is one.
  void WakeParked();
  // Gives the loop to a standby thread, or to a new one; false when no thread can be had.
  bool PassLoop(Loop& loop) ABSL_LOCKS_EXCLUDED(mutex_);
  // For a thread without a loop: waits for one. nullptr: the pool stops.
  Loop* StandBy(Worker& worker) ABSL_LOCKS_EXCLUDED(mutex_);

  // Constant after Create().
  Processor& processor_;
  PageCache& cache_;
  InFlight& in_flight_;
  const Options options_;
  std::vector<std::unique_ptr<Loop>> loops_;
  std::optional<AwakeProcessors> awake_;  // Until Stop().

  std::atomic<bool> receiving_{true};
  std::atomic<bool> stopping_{false};
  std::atomic<unsigned> blocked_handlers_{0};
  std::atomic<bool> someone_spins_{false};
  std::atomic<unsigned> parked_loops_{0};
  Event ended_;

  Mutex mutex_;
  std::vector<std::unique_ptr<Worker>> workers_ ABSL_GUARDED_BY(mutex_);
  std::vector<Worker*> standbys_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace pbfs::fuse
