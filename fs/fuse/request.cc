// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/request.h"

#include <algorithm>

#include "base/check.h"

namespace pbfs::fuse {

ReceiveFrames::~ReceiveFrames() {
  for (PageBuf* frame : frames_) cache_.Unpin(*frame);
}

void ReceiveFrames::Refill() {
  if (frames_.size() == kCount) return;
  cache_.AllocateMany(kCount - frames_.size(), frames_, PageUse::kData);
  segments_valid_ = false;
}

void ReceiveFrames::Take(size_t size_bytes, std::vector<PageBuf*>& out) {
  const size_t count = (size_bytes + kPageBytes - 1) / kPageBytes;
  PBFS_CHECK(count <= frames_.size());
  const auto end = frames_.begin() + static_cast<std::ptrdiff_t>(count);
  out.assign(frames_.begin(), end);
  frames_.erase(frames_.begin(), end);
  segments_valid_ = false;
}

void ReceiveFrames::Return(std::vector<PageBuf*>& frames) {
  frames.erase(std::remove(frames.begin(), frames.end(), nullptr), frames.end());
  frames_.insert(frames_.begin(), frames.begin(), frames.end());
  frames.clear();
  segments_valid_ = false;
  PBFS_CHECK(frames_.size() <= kCount);
}

void ReceiveFrames::CopyTo(void* destination, size_t size_bytes) const {
  auto* out = static_cast<std::byte*>(destination);
  for (size_t done = 0; done < size_bytes; done += kPageBytes) {
    std::memcpy(out + done, frames_[done / kPageBytes]->data,
                std::min(kPageBytes, size_bytes - done));
  }
}

// Neighbouring frames become one segment: the kernel copies and checks each entry per receive.
const std::vector<iovec>& ReceiveFrames::Segments(void* head, size_t head_bytes) {
  if (segments_valid_) {
    segments_[0] = {head, head_bytes};
    return segments_;
  }
  segments_.assign(1, {head, head_bytes});
  for (PageBuf* frame : frames_) {
    iovec& last = segments_.back();
    if (segments_.size() > 1 && static_cast<std::byte*>(last.iov_base) + last.iov_len == frame->data) {
      last.iov_len += kPageBytes;
    } else {
      segments_.push_back({frame->data, kPageBytes});
    }
  }
  segments_valid_ = true;
  return segments_;
}

}  // namespace pbfs::fuse
