// SPDX-License-Identifier: Apache-2.0
// The one seam between code that may wait and threads that must not stall others.
//
// A FUSE worker thread owns a loop (its ring, the channel). Just before such a thread really waits
// - for device I/O, log space, a contended lock - it hands its loop to a standby thread, as Go
// hands over a P on a blocking system call. Code that waits therefore says so with a BlockingScope;
// on threads without an observer that costs one thread-local load.
#pragma once

namespace pbfs {

class BlockingObserver {
 public:
  virtual ~BlockingObserver() = default;
  // Called on the thread that is about to wait; at most a few microseconds, must not wait itself.
  // May be called many times before the handler ends; calls after the first are no-ops.
  virtual void WillBlock() = 0;
};

// The observer of the calling thread (nullptr: none). Borrowed; set by the thread's own main loop.
inline thread_local BlockingObserver* t_blocking_observer = nullptr;

// Announces a wait of unknown length.
inline void AnnounceBlocking() {
  if (t_blocking_observer != nullptr) t_blocking_observer->WillBlock();
}

}  // namespace pbfs
