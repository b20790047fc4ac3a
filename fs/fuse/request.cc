// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/request.h"

#include <algorithm>

#include "base/check.h"

namespace pbfs::fuse {

ReceiveFrames::ReceiveFrames(PageCache& cache)
    : cache_(cache),
      behind_(std::make_unique_for_overwrite<std::byte[]>((kCount - kFew) * kPageBytes)) {}

ReceiveFrames::~ReceiveFrames() {
  for (PageBuf* frame : frames_) cache_.Unpin(*frame);
}

void ReceiveFrames::Refill() {
  const size_t count = frames_.size();
  if (count == kCount) return;
  cache_.AllocateMany(kCount - count, frames_, PageUse::kData);
  size_t described = count;
  if (kCount - count > kFew) {
    // Neighbours next to each other.
    std::sort(frames_.begin(), frames_.end(),
              [](const PageBuf* a, const PageBuf* b) { return a->data < b->data; });
    segments_.resize(1);
    described = 0;
  }
  for (size_t i = described; i < kCount; ++i) AppendSegment(*frames_[i]);
}

void ReceiveFrames::AppendSegment(const PageBuf& frame) {
  iovec& last = segments_.back();
  if (segments_.size() > 1 && static_cast<std::byte*>(last.iov_base) + last.iov_len == frame.data) {
    last.iov_len += kPageBytes;
  } else {
    segments_.push_back({frame.data, kPageBytes});
  }
}

void ReceiveFrames::Take(size_t size_bytes, std::vector<PageBuf*>& out) {
  const size_t count = (size_bytes + kPageBytes - 1) / kPageBytes;
  PBFS_CHECK(count <= frames_.size());
  small_in_a_row_ = count > kFew ? 0 : small_in_a_row_ + 1;
  for (size_t i = kFew; received_few_ && i < count; ++i) {
    std::memcpy(frames_[i]->data, PageAt(i), std::min(kPageBytes, size_bytes - i * kPageBytes));
  }
  received_few_ = false;
  const auto end = frames_.begin() + static_cast<std::ptrdiff_t>(count);
  out.assign(frames_.begin(), end);
  frames_.erase(frames_.begin(), end);
  size_t left = count * kPageBytes;
  auto segment = segments_.begin() + 1;
  for (; left > 0 && segment->iov_len <= left; ++segment) left -= segment->iov_len;
  if (left > 0) {
    segment->iov_base = static_cast<std::byte*>(segment->iov_base) + left;
    segment->iov_len -= left;
  }
  segments_.erase(segments_.begin() + 1, segment);
}

void ReceiveFrames::Return(std::vector<PageBuf*>& frames) {
  frames.erase(std::remove(frames.begin(), frames.end(), nullptr), frames.end());
  if (frames.empty()) return;
  frames_.insert(frames_.begin(), frames.begin(), frames.end());
  frames.clear();
  PBFS_CHECK(frames_.size() <= kCount);
  segments_.resize(1);
  for (const PageBuf* frame : frames_) AppendSegment(*frame);
}

void ReceiveFrames::CopyFrom(const void* source, size_t size_bytes) {
  received_few_ = false;
  const auto* in = static_cast<const std::byte*>(source);
  for (size_t done = 0; done < size_bytes; done += kPageBytes) {
    std::memcpy(frames_[done / kPageBytes]->data, in + done,
                std::min(kPageBytes, size_bytes - done));
  }
}

void ReceiveFrames::CopyTo(void* destination, size_t size_bytes) {
  ++small_in_a_row_;
  auto* out = static_cast<std::byte*>(destination);
  for (size_t done = 0; done < size_bytes; done += kPageBytes) {
    std::memcpy(out + done, PageAt(done / kPageBytes), std::min(kPageBytes, size_bytes - done));
  }
}

std::byte* ReceiveFrames::PageAt(size_t index) const {
  if (received_few_ && index >= kFew) return behind_.get() + (index - kFew) * kPageBytes;
  return frames_[index]->data;
}

std::span<const iovec> ReceiveFrames::Segments(void* head, size_t head_bytes) {
  received_few_ = small_in_a_row_ >= kSmallMin && segments_.size() > few_segments_.size();
  if (!received_few_) {
    segments_[0] = {head, head_bytes};
    return segments_;
  }
  few_segments_.front() = {head, head_bytes};
  for (size_t i = 0; i < kFew; ++i) few_segments_[i + 1] = {frames_[i]->data, kPageBytes};
  few_segments_.back() = {behind_.get(), (kCount - kFew) * kPageBytes};
  return few_segments_;
}

}  // namespace pbfs::fuse
