// SPDX-License-Identifier: Apache-2.0
#include "cache/write_batch.h"

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "cache/page_cache.h"

namespace pbfs {

WriteBatch::WriteBatch(BlockDevice& device, size_t request_bytes_max)
    : device_(device), request_bytes_max_(request_bytes_max) {
  PBFS_CHECK(request_bytes_max >= kPageBytes);
}

WriteBatch::~WriteBatch() { PBFS_CHECK(pending_.load(std::memory_order_acquire) == 0); }

void WriteBatch::Add(uint64_t block, std::byte* data, uint64_t cookie) {
  PBFS_CHECK(!done_ && requests_.empty());
  pieces_.push_back({.block = block, .data = data, .cookie = cookie});
}

void WriteBatch::Start(Done done) {
  PBFS_CHECK(done != nullptr);
  PBFS_CHECK(!done_ && requests_.empty());
  done_ = std::move(done);
  MakeRequests();
  std::vector<IoRequest*> ios;
  ios.reserve(requests_.size());
  for (const auto& request : requests_) ios.push_back(&request->io);
  pending_.store(ios.size() + 1, std::memory_order_release);
  if (!ios.empty()) device_.SubmitBatch(ios);
  EndOne();
}

void WriteBatch::OrderPieces() {
  order_.resize(pieces_.size());
  std::iota(order_.begin(), order_.end(), size_t{0});
  std::sort(order_.begin(), order_.end(), [this](size_t a, size_t b) {
    return std::pair(pieces_[a].block, a) < std::pair(pieces_[b].block, b);
  });
  size_t kept = 0;
  for (const size_t index : order_) {
    if (kept > 0 && pieces_[order_[kept - 1]].block == pieces_[index].block) {
      pieces_[index].error = EUCLEAN;
    } else {
      order_[kept++] = index;
    }
  }
  order_.resize(kept);
}

void WriteBatch::MakeRequests() {
  OrderPieces();
  for (size_t i = 0; i < order_.size(); ++i) {
    const Piece& piece = pieces_[order_[i]];
    Request* request = requests_.empty() ? nullptr : requests_.back().get();
    const bool extends = request != nullptr && pieces_[order_[i - 1]].block + 1 == piece.block &&
                         request->io.buffer.size_bytes() + kPageBytes <= request_bytes_max_ &&
                         request->io.buffer.segments().size() < kSegmentsMax;
    if (!extends) {
      requests_.push_back(MakeRequest(i));
      request = requests_.back().get();
    }
    request->io.buffer.Append(piece.data, kPageBytes);
    ++request->count;
  }
}

// Begins at the piece order_[first], without data yet.
std::unique_ptr<WriteBatch::Request> WriteBatch::MakeRequest(size_t first) {
  auto request = std::make_unique<Request>();
  request->batch = this;
  request->first = first;
  request->count = 0;
  request->io.op = IoOp::kWrite;
  request->io.offset_bytes = pieces_[order_[first]].block * kPageBytes;
  request->io.PushCompletion(&Completed, request.get());
  return request;
}

// Runs as a completion.
void WriteBatch::RetryEach(Request& request) {
  std::vector<IoRequest*> ios;
  ios.reserve(request.count);
  for (size_t i = request.first; i < request.first + request.count; ++i) {
    std::unique_ptr<Request> single = MakeRequest(i);
    single->io.buffer.Append(pieces_[order_[i]].data, kPageBytes);
    single->count = 1;
    ios.push_back(&single->io);
    request.retries.push_back(std::move(single));
  }
  pending_.fetch_add(ios.size(), std::memory_order_relaxed);
  device_.SubmitBatch(ios);
}

void WriteBatch::Completed(IoRequest&, void* context, int error) {
  auto* request = static_cast<Request*>(context);
  WriteBatch* batch = request->batch;
  if (error != 0 && request->count > 1) {
    batch->RetryEach(*request);
  } else if (request->count == 1) {
    batch->pieces_[batch->order_[request->first]].error = error;
  }
  batch->EndOne();
}

void WriteBatch::EndOne() {
  if (pending_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  // `done` may delete the batch, and with it done_.
  const Done done = std::move(done_);
  done(*this);
}

bool WriteBatch::any_failed() const {
  return std::any_of(pieces_.begin(), pieces_.end(),
                     [](const Piece& piece) { return piece.error != 0; });
}

size_t WriteBatch::request_count() const { return requests_.size(); }

}  // namespace pbfs
