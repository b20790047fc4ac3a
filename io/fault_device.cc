// SPDX-License-Identifier: Apache-2.0
#include "io/fault_device.h"

#include <utility>

#include "io/completion_scope.h"

namespace pbfs {

void FaultDevice::Submit(IoRequest& request) {
  int error = 0;
  {
    MutexLock lock(mutex_);
    error = op_errors_[static_cast<size_t>(request.op)];
    if (error == 0 && decide_) error = decide_(request);
    if (error != 0) ++failed_count_;
  }
  request.PushCompletion(Completed, this);
  if (error != 0) {
    CompleteInline(request, error);
  } else {
    below_.Submit(request);
  }
}

void FaultDevice::Completed(IoRequest& request, void* context, int error) {
  auto* self = static_cast<FaultDevice*>(context);
  {
    MutexLock lock(self->mutex_);
    if (self->on_complete_) {
      const int replaced = self->on_complete_(request, error);
      if (error == 0 && replaced != 0) ++self->failed_count_;
      error = replaced;
    }
  }
  request.Complete(error);
}

void FaultDevice::SetDecide(Decide decide) {
  MutexLock lock(mutex_);
  decide_ = std::move(decide);
}

void FaultDevice::SetOnComplete(OnComplete on_complete) {
  MutexLock lock(mutex_);
  on_complete_ = std::move(on_complete);
}

void FaultDevice::FailAll(IoOp op, int error) {
  MutexLock lock(mutex_);
  op_errors_[static_cast<size_t>(op)] = error;
}

uint64_t FaultDevice::failed_count() const {
  MutexLock lock(mutex_);
  return failed_count_;
}

}  // namespace pbfs
