// SPDX-License-Identifier: Apache-2.0
#include "io/shutdown_device.h"

#include <cerrno>

#include "io/completion_scope.h"

namespace pbfs {

// The count first, then the question; Shutdown() does it the other way round. So either the request
// is refused, or Shutdown() waits for it.
bool ShutdownDevice::Enter(int64_t count) {
  in_flight_.fetch_add(count, std::memory_order_seq_cst);
  if (!is_down_.load(std::memory_order_seq_cst)) return true;
  Leave(count);
  return false;
}

void ShutdownDevice::Leave(int64_t count) {
  if (in_flight_.fetch_sub(count, std::memory_order_seq_cst) != count) return;
  if (!is_down_.load(std::memory_order_seq_cst)) return;
  // Another may have entered before it was shut down: then that one is the last.
  if (in_flight_.load(std::memory_order_seq_cst) == 0) SetDone(drained_);
}

void ShutdownDevice::Submit(IoRequest& request) {
  if (!Enter(1)) return CompleteInline(request, EIO);
  request.PushCompletion(Completed, this);
  below_.Submit(request);
}

void ShutdownDevice::SubmitBatch(std::span<IoRequest* const> requests) {
  const auto count = static_cast<int64_t>(requests.size());
  if (!Enter(count)) {
    for (IoRequest* request : requests) CompleteInline(*request, EIO);
    return;
  }
  for (IoRequest* request : requests) request->PushCompletion(Completed, this);
  below_.SubmitBatch(requests);
}

void ShutdownDevice::Completed(IoRequest& request, void* context, int error) {
  // Its own count goes first: whoever is told of the end may destroy the device.
  static_cast<ShutdownDevice*>(context)->Leave(1);
  request.Complete(error);
}

void ShutdownDevice::Shutdown() {
  is_down_.store(true, std::memory_order_seq_cst);
  if (in_flight_.load(std::memory_order_seq_cst) != 0) WaitUntil(drained_);
}

}  // namespace pbfs
