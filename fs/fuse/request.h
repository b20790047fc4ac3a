// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <vector>

#include "cache/page_cache.h"
#include "fs/fuse/protocol.h"

namespace pbfs::fuse {

// The free frames a loop receives payloads into. Single thread at a time.
class ReceiveFrames {
 public:
  // One more than a WRITE of the greatest length needs, as the kernel may count an unaligned one
  // so.
  static constexpr size_t kCount = kWriteBytesMax / kPageBytes + 1;

  // `cache` is borrowed.
  explicit ReceiveFrames(PageCache& cache) : cache_(cache) {}
  ~ReceiveFrames();
  ReceiveFrames(const ReceiveFrames&) = delete;
  ReceiveFrames& operator=(const ReceiveFrames&) = delete;

  // Complete again; waits for the cache where needed (and reaps the ring of this thread meanwhile).
  void Refill();
  // Moves the frames that hold the first `size_bytes` of what was received to `out`.
  void Take(size_t size_bytes, std::vector<PageBuf*>& out);
  // Takes back those of `frames` that were left (not nullptr); empties it.
  void Return(std::vector<PageBuf*>& frames);
  // As if the frames had received that.
  void CopyFrom(const void* source, size_t size_bytes);
  // Copies the first `size_bytes` out.
  void CopyTo(void* destination, size_t size_bytes) const;

  // A segment list: `head` first, then the frames. Valid until the next change.
  const std::vector<iovec>& Segments(void* head, size_t head_bytes);

 private:
  void AppendSegment(const PageBuf& frame);

  PageCache& cache_;
  std::vector<PageBuf*> frames_;
  // [0] is the head's place, the rest describes frames_; neighbouring frames share one, as the
  // kernel copies and checks each per receive.
  std::vector<iovec> segments_{1};
};

// One request, owned by the thread that processes it. WRITE: `head` and the payload in `frames`.
// Everything else: contiguous in `flat`.
struct Request {
  alignas(8) std::array<std::byte, kHeadBytes> head;
  std::vector<std::byte> flat;
  std::vector<PageBuf*> frames;
  size_t size_bytes = 0;
  bool is_write = false;

  const std::byte* bytes() const { return is_write ? head.data() : flat.data(); }
  const fuse_in_header& header() const { return *reinterpret_cast<const fuse_in_header*>(bytes()); }
  // The opcode's own struct behind the header. REQUIRES: size_bytes covers it.
  template <typename T>
  const T& body() const {
    return *reinterpret_cast<const T*>(bytes() + sizeof(fuse_in_header));
  }
};

// The request whose handler runs on this thread; nullptr outside. Handlers read from it what
// libfuse's parsed arguments drop.
inline thread_local Request* t_request = nullptr;

}  // namespace pbfs::fuse
