// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/mutex.h"

namespace pbfs::fuse {

// What we know of the kernel's view of files that it would get wrong by itself. Thread-safe.
class KernelView {
 public:
  // --- Pages that it took from us by READ. It drops them before an O_DIRECT write and, if that is
  // synchronous, after it; but one that is asynchronous ends without it, and a read that came in
  // between has put old pages there.

  void NoteRead(uint64_t nodeid) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    read_.insert(nodeid);
  }
  // True: it may have some, and is now to be told to drop them. REQUIRES: the write is done, so a
  // READ that is noted later takes new data.
  bool TakeRead(uint64_t nodeid) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    return read_.erase(nodeid) > 0;
  }

  // --- Files of which it collected data that the full filesystem did not take.

  void NoteFull(uint64_t nodeid, uint64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    full_[nodeid] = bytes;
  }
  void ForgetFull(uint64_t nodeid) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    full_.erase(nodeid);
  }
  // How much was not taken.
  std::optional<uint64_t> Full(uint64_t nodeid) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    const auto found = full_.find(nodeid);
    return found == full_.end() ? std::nullopt : std::optional(found->second);
  }

  // It has forgotten the file.
  void Forget(uint64_t nodeid) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    read_.erase(nodeid);
    full_.erase(nodeid);
  }

 private:
  Mutex mutex_;
  absl::flat_hash_set<uint64_t> read_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, uint64_t> full_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace pbfs::fuse
