// SPDX-License-Identifier: Apache-2.0
// How requests come from the kernel and how replies go back. Parsing and reply formats are
// libfuse's in every case; a transport moves bytes.
#pragma once

#include <sys/uio.h>

#include <memory>

#include "base/status.h"
#include "fs/fuse/request.h"
#include "io/io_ring.h"

namespace pbfs::fuse {

// A source of requests that belongs to one loop. Used by the thread that drives the loop's ring.
class Channel {
 public:
  enum class Received { kRequest, kNothing, kClosed };

  virtual ~Channel() = default;
  // Takes one request into `request` without waiting; a WRITE's payload stays in frames taken from
  // `frames`. kClosed: unmounted or aborted, nothing comes any more. REQUIRES: `frames` is
  // complete.
  virtual Received TryReceive(Request& request, ReceiveFrames& frames) = 0;
  // Another request waits.
  virtual bool HasMore() = 0;
};

// Thread-safe.
class Transport {
 public:
  virtual ~Transport() = default;
  // From now on a RunOnce (not a Reap) of `ring` that waits returns when a request may be there.
  // The ring is borrowed and outlives the channel.
  virtual StatusOr<std::unique_ptr<Channel>> OpenChannel(IoRing& ring) = 0;
  // Sends one reply or notification: a fuse_out_header, then its body. 0 or a positive errno
  // (ENOENT: the request was aborted). From any thread.
  virtual int Send(const iovec* segments, int count) = 0;
};

}  // namespace pbfs::fuse
