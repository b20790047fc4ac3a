// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "base/status.h"
#include "io/io_request.h"

namespace pbfs {

// An io_uring that one thread at a time drives. Two kinds of threads own one: a FUSE worker's loop,
// whose ring watches the FUSE channel and the device together, and background threads (log writer,
// writeback) that want their I/O to complete on the thread that waits for it.
//
// A ring is attached to the thread that drives it; UringDevice submits to the attached ring of the
// calling thread, or to a shared ring with a reaper thread where there is none. A loop may be
// handed from one thread to another (Detach on one, Attach on the other, ordered by the caller's
// lock); the ring is therefore created without IORING_SETUP_SINGLE_ISSUER.
//
// The kernel finishes a request on the thread that submitted it, so that thread may be waiting
// (interruptibly: a lock, a futex) but not stuck in the kernel for long; what is still under way
// when it exits may end with ECANCELED, which UringDevice retries. A thread whose ring has I/O in
// flight waits only in BlockDevice::WaitUntil(), or with a BlockingObserver that hands the ring to
// another thread: else nobody reaps it.
//
// Thread-compatible, except Wake(), which any thread may call.
class IoRing {
 public:
  // `long_commands`: for QueueCommand().
  static StatusOr<std::unique_ptr<IoRing>> Create(unsigned entries, bool long_commands = false);
  // For hosts that refuse io_uring: it waits for Wake() and the watched fd with poll(2), and takes
  // no transfers; the device then has a thread pool of its own.
  static StatusOr<std::unique_ptr<IoRing>> CreateWithoutTransfers();
  bool takes_transfers() const;
  ~IoRing();

  // The ring attached to the calling thread, or nullptr.
  static IoRing* Current();
  void Attach();
  static void Detach();

  // Detaches the ring of the calling thread, if any, for as long as it lives: I/O that others' code
  // starts meanwhile does not depend on this thread to reap it.
  class DetachedScope {
   public:
    DetachedScope();
    ~DetachedScope();
    DetachedScope(const DetachedScope&) = delete;
    DetachedScope& operator=(const DetachedScope&) = delete;

   private:
    IoRing* const ring_;
  };

  // Calls `ready` from RunOnce whenever `fd` becomes readable (one-shot poll, re-armed by the next
  // RunOnce that waits after `ready` was called). At most one fd; -1 ends it. `ready` must drain
  // the fd. It is called last in RunOnce and is no completion: it may wait, and the ring may be
  // handed to another thread meanwhile (RunOnce then touches it no more). A RunOnce inside `ready`
  // runs completions only, until the ring is attached anew.
  void WatchReadable(int fd, std::function<void()> ready);

  // Queues one transfer piece on a file; `done(context, result)` gets the cqe's result (bytes or
  // -errno). Used by UringDevice only. Not submitted to the kernel before RunOnce() or
  // SubmitQueued().
  using CqeFunction = void (*)(void* context, int result);
  void QueueReadv(int fd, const iovec* iov, unsigned count, uint64_t offset_bytes, CqeFunction done,
                  void* context);
  void QueueWritev(int fd, const iovec* iov, unsigned count, uint64_t offset_bytes, int rwf_flags,
                   CqeFunction done, void* context);
  void QueueFdatasync(int fd, CqeFunction done, void* context);
  void QueueFallocate(int fd, int mode, uint64_t offset_bytes, uint64_t length_bytes,
                      CqeFunction done, void* context);
  // A command that `fd`'s driver takes over io_uring: its number, its argument, and up to
  // kCommandBytesMax of its own. It may stay under way for ever, so in_flight() does not count it;
  // one that is under way when the ring ends is cancelled without a call of `done`. kKernelThread:
  // not the thread that submits it hands it to the driver, but a thread of io_uring's own, which
  // may be kept there. REQUIRES: made with `long_commands`.
  enum class Runner { kSubmitter, kKernelThread };
  static constexpr size_t kCommandBytesMax = 32;
  void QueueCommand(int fd, uint32_t command, const void* argument, uint32_t argument_length,
                    const void* body, size_t body_bytes, CqeFunction done, void* context,
                    Runner runner = Runner::kSubmitter);
  // Inside a completion that RunOnce runs it leaves the system call to the end of that RunOnce; on
  // a plugged ring, to the next RunOnce, Reap or Detach.
  void SubmitQueued();
  // Until then, what is queued is held back, so that it goes to the kernel in one system call (as
  // the block layer's plug). For the driving thread, when it is about to queue more.
  void Plug();

  // Submits what is queued, waits at most `timeout_ns` (0: does not wait; -1: no limit) for a
  // completion, and runs all completions that are there. Completions may queue more work. Returns
  // the number of completions run, a call of `ready` being one. Not from inside a completion.
  // RunOnce(0) with nothing queued and nothing completed makes no system call.
  int RunOnce(int64_t timeout_ns);
  // The same, but leaves the watched fd alone: the next RunOnce calls `ready`. For waits inside a
  // handler; used by BlockDevice::WaitUntil().
  int Reap(int64_t timeout_ns);

  // Makes a RunOnce that waits (or the next one that would) return. Any thread.
  void Wake();

  // Transfer pieces queued or under way.
  unsigned in_flight() const;

 private:
  struct Impl;
  explicit IoRing(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pbfs
