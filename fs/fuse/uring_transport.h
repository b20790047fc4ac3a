// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "fs/fuse/dev_transport.h"
#include "fs/fuse/transport.h"

namespace pbfs::fuse {

// FUSE over io_uring (Linux 6.14, Documentation/filesystems/fuse-io-uring.rst). The kernel has a
// queue for each processor, and a request goes to that of its client; we serve it on the same
// processor, so that nobody is woken on another one. Each queue has entries: memory for one request
// and its reply. One system call answers a request and waits for the next.
//
// FORGET, INTERRUPT and notifications still go through /dev/fuse.
//
// An entry belongs to the kernel (fetching), or to whoever handles its request. When all are with
// handlers the kernel keeps further requests back (IsShort()).
class UringTransport : public Transport {
 public:
  // `fd` is borrowed; `loops` channels will be opened. ENOSYS or EINVAL: the kernel cannot.
  static StatusOr<std::unique_ptr<UringTransport>> Create(int fd, unsigned loops);
  ~UringTransport() override;

  StatusOr<std::unique_ptr<IoRing>> MakeRing() override;
  StatusOr<std::unique_ptr<Channel>> OpenChannel(IoRing& ring) override;
  int Send(const iovec* segments, int count, Delivery delivery) override;
  bool delivers_aside() const override { return true; }
  bool has_queues() const override { return true; }
  bool IsShort() const override;

 private:
  struct Entry;
  class UringChannel;

  UringTransport(int fd, unsigned loops, unsigned queues);
  bool MapMemory();

  const int fd_;
  DevTransport dev_;
  const unsigned loops_;
  const unsigned queues_;
  const unsigned entries_per_queue_;
  unsigned channels_opened_ = 0;
  // queues_ * entries_per_queue_.
  std::unique_ptr<Entry[]> entries_;
  // Of each queue, those that are with handlers.
  std::unique_ptr<std::atomic<unsigned>[]> held_;
  // All payloads, then all headers. Not from the heap: if the kernel still wrote here at the very
  // end, it would write nowhere.
  std::byte* memory_ = nullptr;
};

}  // namespace pbfs::fuse
