// SPDX-License-Identifier: Apache-2.0
#include "io/fault_device.h"

#include <utility>

#include "io/completion_scope.h"

namespace pbfs {
namespace {

constexpr uint64_t kBadBlockBytes = 4096;

// An errno as the context of a completion.
void* ToContext(int error) { return reinterpret_cast<void*>(static_cast<intptr_t>(error)); }
int FromContext(void* context) { return static_cast<int>(reinterpret_cast<intptr_t>(context)); }

}  // namespace

FaultDevice::~FaultDevice() { Release(); }

bool FaultDevice::Matches(const Rule& rule, const IoRequest& request) {
  if (rule.op && *rule.op != request.op) return false;
  if (request.op != IoOp::kFlush) {
    if (request.offset_bytes >= rule.end_bytes ||
        request.offset_bytes + request.size_bytes() <= rule.begin_bytes) {
      return false;
    }
  }
  return !rule.matches || rule.matches(request);
}

FaultDevice::Verdict FaultDevice::JudgeLocked(const IoRequest& request) {
  ++counts_[static_cast<size_t>(request.op)];
  if (const int error = op_errors_[static_cast<size_t>(request.op)]; error != 0) {
    return {Action::kFail, error};
  }
  Verdict verdict;
  bool found = false;
  for (ActiveRule& active : rules_) {
    if (!Matches(active.rule, request)) continue;
    ++active.seen;
    const bool hit =
        active.rule.from_then_on ? active.seen >= active.rule.nth : active.seen == active.rule.nth;
    if (hit && active.rule.bad_block && !active.rule.from_then_on) {
      const uint64_t end_bytes = request.offset_bytes + request.size_bytes();
      active.rule.begin_bytes = (end_bytes - 1) / kBadBlockBytes * kBadBlockBytes;
      active.rule.end_bytes = active.rule.begin_bytes + kBadBlockBytes;
      active.rule.from_then_on = true;
    }
    if (hit && !found) verdict = {active.rule.action, active.rule.error};
    found |= hit;
  }
  if (!found && decide_) verdict.error = decide_(request);
  return verdict;
}

void FaultDevice::Submit(IoRequest& request) {
  Verdict verdict;
  {
    MutexLock lock(mutex_);
    verdict = JudgeLocked(request);
    const bool holds = verdict.action == Action::kHold || verdict.action == Action::kHoldCompletion;
    if (verdict.error != 0 && !holds) ++failed_count_;
  }
  request.PushCompletion(Completed, this);
  switch (verdict.action) {
    case Action::kFail:
      if (verdict.error != 0) return CompleteInline(request, verdict.error);
      break;
    case Action::kFailDone:
      request.PushCompletion(FailDone, ToContext(verdict.error));
      break;
    case Action::kHold: {
      MutexLock lock(mutex_);
      held_.push_back({&request, false, 0});
      return;
    }
    case Action::kHoldCompletion:
      request.PushCompletion(HoldDone, this);
      break;
  }
  below_.Submit(request);
}

void FaultDevice::FailDone(IoRequest& request, void* context, int error) {
  request.Complete(error != 0 ? error : FromContext(context));
}

void FaultDevice::HoldDone(IoRequest& request, void* context, int error) {
  auto* self = static_cast<FaultDevice*>(context);
  MutexLock lock(self->mutex_);
  self->held_.push_back({&request, true, error});
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

void FaultDevice::Release() {
  std::vector<Held> held;
  {
    MutexLock lock(mutex_);
    held.swap(held_);
  }
  for (const Held& one : held) {
    if (one.done) {
      CompleteInline(*one.request, one.error);
    } else {
      below_.Submit(*one.request);
    }
  }
}

size_t FaultDevice::held_count() const {
  MutexLock lock(mutex_);
  return held_.size();
}

void FaultDevice::AddRule(Rule rule) {
  MutexLock lock(mutex_);
  rules_.push_back({std::move(rule)});
}

void FaultDevice::Heal() {
  MutexLock lock(mutex_);
  rules_.clear();
  decide_ = nullptr;
  op_errors_ = {};
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

uint64_t FaultDevice::count(IoOp op) const {
  MutexLock lock(mutex_);
  return counts_[static_cast<size_t>(op)];
}

}  // namespace pbfs
