// SPDX-License-Identifier: Apache-2.0
// How requests come from the kernel and how replies go back. Parsing and reply formats are
// libfuse's in every case; a transport moves bytes.
#pragma once

#include <sys/uio.h>

#include <cerrno>
#include <memory>

#include "base/status.h"
#include "fs/fuse/request.h"
#include "io/io_ring.h"

namespace pbfs::fuse {

// Of a channel's ring. Its completion queue is twice as long.
inline constexpr unsigned kRingEntries = 256;

// A source of requests that belongs to one loop. Used by the thread that drives the loop's ring.
class Channel {
 public:
  enum class Received { kRequest, kNothing, kClosed };

  virtual ~Channel() = default;
  // Takes one request into `request` without waiting; a WRITE's payload stays in frames taken from
  // `frames`. kClosed: unmounted or aborted, nothing comes any more. REQUIRES: `frames` is
  // complete.
  virtual Received TryReceive(Request& request, ReceiveFrames& frames) = 0;
  // Another request waits that a loop of any channel could take.
  virtual bool HasMore() = 0;
  // A request was taken from the ring and waits for TryReceive().
  virtual bool HasFetched() const { return false; }
  // Passes on what other threads have sent. To be called again and again by the thread that drives
  // the ring; the first time when the kernel has the reply to INIT.
  virtual void Flush() {}
};

// Thread-safe.
class Transport {
 public:
  // kAside: the answer may keep whoever hands it to the kernel there for long (ReplyThreads says
  // why), so that must be nobody who is needed.
  enum class Delivery { kHere, kAside };

  virtual ~Transport() = default;
  // A ring for a channel.
  virtual StatusOr<std::unique_ptr<IoRing>> MakeRing() = 0;
  // A RunOnce (not a Reap) of `ring` that waits returns when a request may be there. The ring is
  // borrowed and outlives the channel; so does the transport.
  virtual StatusOr<std::unique_ptr<Channel>> OpenChannel(IoRing& ring) = 0;
  // Whether every loop has requests of its own (those of a processor, on which it is then to run).
  // If not, any loop can take any request.
  virtual bool has_queues() const { return false; }
  // So many requests are with handlers that the kernel may soon keep others back: none of them may
  // then wait for what the kernel sends (dirty pages).
  virtual bool IsShort() const { return false; }
  // Sends one reply or notification: a fuse_out_header, then its body. 0 or a positive errno
  // (ENOENT: the request was aborted). From any thread.
  virtual int Send(const iovec* segments, int count, Delivery delivery) = 0;
  // Sends a reply that lies in a pipe, `size_bytes` long, by moving its pages: those of a READ for
  // the kernel's cache become part of it. 0 or a positive errno; then the pipe may not be empty.
  // Only of a transport that takes pipes.
  virtual int SendPipe(int /*read_end*/, size_t /*size_bytes*/) { return EOPNOTSUPP; }
  virtual bool takes_pipes() const { return false; }
  // Whether it knows kAside. If not, such answers are for ReplyThreads to send.
  virtual bool delivers_aside() const { return false; }
};

}  // namespace pbfs::fuse
