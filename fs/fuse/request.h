// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "cache/page_cache.h"
#include "fs/fuse/protocol.h"

namespace pbfs::fuse {

// The free frames a loop receives payloads into. Single thread at a time.
//
// The kernel wants room for the longest WRITE with every receive, and copies and checks each
// segment of it: 257 of them, when frames are scattered, take longer than a small request. So when
// no large WRITE came of late it is shown a few frames, and one long buffer behind them; a large
// WRITE that comes nevertheless is copied from there.
class ReceiveFrames {
 public:
  // One more than a WRITE of the greatest length needs, as the kernel may count an unaligned one
  // so.
  static constexpr size_t kCount = kWriteBytesMax / kPageBytes + 1;

  // `cache` is borrowed.
  explicit ReceiveFrames(PageCache& cache);
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
  // Copies the first `size_bytes` of what was received out.
  void CopyTo(void* destination, size_t size_bytes);

  // What to receive into: `head` first, then the rest. Valid until the next change. Only the last
  // one given may be received into.
  std::span<const iovec> Segments(void* head, size_t head_bytes);

 private:
  static constexpr size_t kFew = 8;
  // So many receives without a large WRITE until few frames are shown.
  static constexpr unsigned kSmallMin = 16;

  void AppendSegment(const PageBuf& frame);
  // Where the payload received last has its page `index`.
  std::byte* PageAt(size_t index) const;

  PageCache& cache_;
  std::vector<PageBuf*> frames_;
  // [0] is the head's place, the rest describes frames_; neighbouring frames share one, as the
  // kernel copies and checks each per receive.
  std::vector<iovec> segments_{1};

  // The other way to receive.
  std::unique_ptr<std::byte[]> behind_;
  std::array<iovec, kFew + 2> few_segments_;
  bool received_few_ = false;
  unsigned small_in_a_row_ = 0;
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
