// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "base/thread.h"
#include "fs/inode.h"
#include "fs/operation.h"

namespace pbfs {

// Access times, which would be the dearest part of a read if each were logged at once: a new one is
// kept in the inode (`Inode::pending_atime`), which stays in memory meanwhile, until an operation
// stores the inode for whatever reason, or a thread stores those that are some seconds old,
// several in a transaction. A power cut loses them, as POSIX allows.
//
// Reads that the kernel answers from its own cache are not seen. Thread-safe.
class AccessTimes {
 public:
  struct Options {
    AccessTimePolicy policy;
    int64_t delay_ns = 2'000'000'000;
    // Instead when they are lazy; asked for every second. Empty: an hour.
    std::function<int64_t()> lazy_delay_ns;
    std::function<void(const std::string&)> log;
  };

  // Borrowed.
  AccessTimes(OperationRunner& runner, Options options);
  ~AccessTimes();
  void Start();
  // What has not been stored is forgotten.
  void Stop();

  // Something of the inode was read, just now. The caller holds none of its locks. Does nothing
  // while stopped: a read-only filesystem changes no time.
  void Note(const InodeRef& inode) ABSL_LOCKS_EXCLUDED(mutex_);
  // Stores all that were noted before the call.
  Status StoreAll() ABSL_LOCKS_EXCLUDED(mutex_);
  // Stores that of one inode, if it has one to store.
  Status Store(const InodeRef& inode);

  // The kernel has forgotten an inode: lazy times are stored soon, as a filesystem of the kernel
  // stores them when it drops an inode from memory.
  void NoteForgotten() ABSL_LOCKS_EXCLUDED(mutex_);

  void SetPolicy(const AccessTimePolicy& policy) { policy_.store(policy); }
  AccessTimePolicy policy() const { return policy_.load(); }

 private:
  void Loop();
  bool IsDue(Inode& inode, const AccessTimePolicy& policy, Time now);
  // How long times are kept now.
  int64_t DelayNs() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  OperationRunner& runner_;
  const Options options_;
  std::atomic<AccessTimePolicy> policy_;

  Mutex mutex_;
  CondVar wake_;
  std::vector<InodeRef> noted_ ABSL_GUARDED_BY(mutex_);
  bool forgotten_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> stopping_{true};  // Changed with mutex_ held.
  Thread thread_;
};

}  // namespace pbfs
