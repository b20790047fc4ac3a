// SPDX-License-Identifier: Apache-2.0
#include "fs/access_times.h"

#include <linux/fs.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace pbfs {
namespace {

using When = AccessTimePolicy::When;

// Inodes stored by one transaction; each may touch a block.
constexpr size_t kInodesPerTransaction = 32;
// So many are stored at once, however lazy: they are pinned in memory.
constexpr size_t kNotedMax = 4096;
constexpr int64_t kSecondNs = 1'000'000'000;
constexpr int64_t kLazyDelayNs = 3600 * kSecondNs;
// Many are forgotten one after another.
constexpr int64_t kForgottenDelayNs = kSecondNs / 4;
constexpr int64_t kRelativeSeconds = 24 * 3600;

constexpr OperationRunner::Needs kStoring{.space_blocks = 0, .privileged = true, .retry = false};

bool HasPending(Inode& inode) {
  MutexLock lock(inode.writeback_lock);
  return inode.pending_atime.has_value();
}

}  // namespace

AccessTimes::AccessTimes(OperationRunner& runner, Options options)
    : runner_(runner), options_(std::move(options)), policy_(options_.policy) {}

AccessTimes::~AccessTimes() { Stop(); }

void AccessTimes::Start() {
  {
    MutexLock lock(mutex_);
    stopping_ = false;
  }
  thread_ = Thread([this] { Loop(); });
}

void AccessTimes::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    wake_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
  std::vector<InodeRef> forgotten;  // Unpinned after the lock.
  MutexLock lock(mutex_);
  forgotten.swap(noted_);
  for (const InodeRef& inode : forgotten) inode->access_noted = false;
}

bool AccessTimes::IsDue(Inode& inode, const AccessTimePolicy& policy, Time now) {
  ReaderLock lock(inode.lock);
  if ((inode.disk.flags & FS_NOATIME_FL) != 0) return false;
  if (S_ISDIR(inode.disk.mode) && !policy.directories) return false;
  MutexLock pending_lock(inode.writeback_lock);
  if (policy.when == When::kRelative) {
    const Time accessed =
        inode.pending_atime.value_or(Time{inode.disk.atime_seconds, inode.disk.atime_nanoseconds});
    Time changed = std::max(Time{inode.disk.mtime_seconds, inode.disk.mtime_nanoseconds},
                            Time{inode.disk.ctime_seconds, inode.disk.ctime_nanoseconds});
    if (inode.pending_mtime) changed = std::max(changed, *inode.pending_mtime);
    if (accessed > changed && now.seconds - accessed.seconds < kRelativeSeconds) return false;
  }
  inode.pending_atime = now;
  return true;
}

void AccessTimes::Note(const InodeRef& inode) {
  const AccessTimePolicy policy = policy_.load(std::memory_order_relaxed);
  if (policy.when == When::kNever || stopping_ || !IsDue(*inode, policy, CurrentTime())) return;
  if (inode->access_noted.exchange(true)) return;
  InodeRef noted = inode.Clone();
  MutexLock lock(mutex_);
  if (stopping_) {
    inode->access_noted = false;
    return;
  }
  noted_.push_back(std::move(noted));
  if (noted_.size() == 1 || noted_.size() >= kNotedMax) wake_.Signal();
}

Status AccessTimes::StoreAll() {
  std::vector<InodeRef> all;
  {
    MutexLock lock(mutex_);
    all.swap(noted_);
  }
  // From here on each may be noted again; its time is stored by one of the two.
  for (const InodeRef& inode : all) inode->access_noted = false;
  Status first_error;
  for (size_t at = 0; at < all.size(); at += kInodesPerTransaction) {
    const auto some = std::span(all).subspan(at, std::min(kInodesPerTransaction, all.size() - at));
    const Status status = runner_.Run(kStoring, [&](Operation& operation) -> Status {
      operation.SetTimesOnly();
      for (const InodeRef& inode : some) {
        // The operation takes the time along with the inode.
        if (HasPending(*inode)) operation.Edit(inode);
      }
      return OkStatus();
    });
    if (first_error.ok()) first_error = status;
  }
  return first_error;
}

Status AccessTimes::Store(const InodeRef& inode) {
  if (!HasPending(*inode)) return OkStatus();
  return runner_.Run(kStoring, [&](Operation& operation) -> Status {
    operation.SetTimesOnly();
    operation.Edit(inode);
    return OkStatus();
  });
}

void AccessTimes::NoteForgotten() {
  if (!policy().lazy) return;
  MutexLock lock(mutex_);
  if (noted_.empty() || forgotten_) return;
  forgotten_ = true;
  wake_.Signal();
}

int64_t AccessTimes::DelayNs() const {
  if (!policy().lazy) return options_.delay_ns;
  if (forgotten_) return kForgottenDelayNs;
  return options_.lazy_delay_ns ? options_.lazy_delay_ns() : kLazyDelayNs;
}

void AccessTimes::Loop() {
  for (;;) {
    {
      MutexLock lock(mutex_);
      while (noted_.empty() && !stopping_) wake_.Wait(mutex_);
      const int64_t begin = NowNs();
      while (!stopping_ && noted_.size() < kNotedMax) {
        const int64_t left_ns = DelayNs() - (NowNs() - begin);
        if (left_ns <= 0) break;
        wake_.WaitFor(mutex_,
                      std::chrono::milliseconds(std::min(left_ns, kSecondNs) / 1'000'000 + 1));
      }
      if (stopping_) return;
      forgotten_ = false;
    }
    const Status status = StoreAll();
    if (!status.ok() && ErrnoOf(status) != EROFS && options_.log) {
      options_.log(absl::StrCat("storing access times: ", std::string(status.message())));
    }
  }
}

}  // namespace pbfs
