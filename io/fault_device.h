// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "io/block_device.h"

namespace pbfs {

// Wraps a device and lets chosen requests fail, come late or never end. Thread-safe.
//
// What happens to a request is decided once, in order of submission: by FailAll(), else by the
// first rule that it matches, else by `decide`. These run under a lock and must not submit
// requests.
class FaultDevice : public BlockDevice {
 public:
  using Decide = std::function<int(const IoRequest& request)>;

  // Called with the result of every request, also of those that failed; returns the one to pass.
  using OnComplete = std::function<int(const IoRequest& request, int error)>;

  enum class Action : uint8_t {
    kFail,            // Completes with the error, without reaching the device.
    kFailDone,        // Reaches the device and is reported as failed all the same.
    kHold,            // Does not reach the device before Release().
    kHoldCompletion,  // Reaches the device; does not complete before Release().
  };

  // The nth request of this kind, all from the nth on, or it and all later ones that touch the
  // block where it ends.
  struct Rule {
    std::optional<IoOp> op = std::nullopt;  // nullopt: any.
    // Requests that touch this range; a flush lies in every range.
    uint64_t begin_bytes = 0;
    uint64_t end_bytes = UINT64_MAX;
    uint64_t nth = 1;
    bool from_then_on = false;
    bool bad_block = false;
    Action action = Action::kFail;
    int error = EIO;
    // Further conditions; may be empty.
    std::function<bool(const IoRequest& request)> matches = {};
  };

  // `below` is borrowed.
  explicit FaultDevice(BlockDevice& below) : below_(below) {}
  ~FaultDevice() override;  // Releases what it holds.

  const Geometry& geometry() const override { return below_.geometry(); }
  void Submit(IoRequest& request) override;
  void WaitUntil(const std::atomic<uint32_t>& done) override { below_.WaitUntil(done); }

  void AddRule(Rule rule);
  // Ends all rules, `decide` and FailAll(). What is held stays held.
  void Heal();
  // Lets go what is held now.
  void Release();
  size_t held_count() const;

  // Replaces the function; an empty one fails nothing.
  void SetDecide(Decide decide);
  void SetOnComplete(OnComplete on_complete);
  // Fails every request of `op` from now on with `error` (0: stop failing them).
  void FailAll(IoOp op, int error);
  uint64_t failed_count() const;
  // Requests submitted so far.
  uint64_t count(IoOp op) const;

 private:
  struct ActiveRule {
    Rule rule;
    uint64_t seen = 0;
  };
  struct Held {
    IoRequest* request;
    bool done;  // Was at the device.
    int error;
  };
  struct Verdict {
    Action action = Action::kFail;
    int error = 0;  // 0 with kFail: nothing happens to it.
  };
  Verdict JudgeLocked(const IoRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static bool Matches(const Rule& rule, const IoRequest& request);
  static void Completed(IoRequest& request, void* context, int error);
  static void FailDone(IoRequest& request, void* context, int error);
  static void HoldDone(IoRequest& request, void* context, int error);

  BlockDevice& below_;
  mutable Mutex mutex_;
  std::array<int, 5> op_errors_ ABSL_GUARDED_BY(mutex_) = {};  // By IoOp.
  std::array<uint64_t, 5> counts_ ABSL_GUARDED_BY(mutex_) = {};
  std::vector<ActiveRule> rules_ ABSL_GUARDED_BY(mutex_);
  std::vector<Held> held_ ABSL_GUARDED_BY(mutex_);
  OnComplete on_complete_ ABSL_GUARDED_BY(mutex_);
  Decide decide_ ABSL_GUARDED_BY(mutex_);
  uint64_t failed_count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace pbfs
