// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

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
  // Telling it to drop them: once for all writes that end before it is told.
  struct Drop {
    bool begun = false;
    std::vector<std::function<void()>> then;
  };
  // A direct write is done, so a READ that is noted later takes new data. False: it has no old
  // pages, and `then` is not needed. True: `then` runs when it has dropped them; if `*drop` is set,
  // the caller is to call BeginDrop(), have them dropped, and call what EndDrop() returns.
  template <typename Then>  // Becomes a function only where it is needed.
  bool AwaitDrop(uint64_t nodeid, const Then& then, std::shared_ptr<Drop>* drop)
      ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    const bool read = read_.erase(nodeid) > 0;
    const auto found = drops_.find(nodeid);
    // One that has begun covers what was read before it did.
    const bool covered = found != drops_.end() && !(read && found->second->begun);
    if (!read && !covered) return false;
    if (!covered) drops_[nodeid] = *drop = std::make_shared<Drop>();
    drops_[nodeid]->then.emplace_back(then);
    return true;
  }
  void BeginDrop(Drop& drop) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    drop.begun = true;
  }
  std::vector<std::function<void()>> EndDrop(uint64_t nodeid, Drop& drop)
      ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    if (const auto found = drops_.find(nodeid);
        found != drops_.end() && found->second.get() == &drop) {
      drops_.erase(found);
    }
    return std::move(drop.then);
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

  // --- Files that have other blocks than it was told, because data that it collected came. It asks
  // for st_blocks again only when the file is closed; but tar, for one, takes a file without blocks
  // for one hole.

  // `had_none`: it may believe that there are none. True: DropWritten() is to be arranged.
  bool NoteWritten(uint64_t nodeid, bool had_none) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    bool& none = written_[nodeid];
    none |= had_none;
    any_written_.store(true, std::memory_order_relaxed);
    return !std::exchange(drop_arranged_, true);
  }
  // It is about to be told.
  void ForgetWritten(uint64_t nodeid) ABSL_LOCKS_EXCLUDED(mutex_) {
    if (!any_written_.load(std::memory_order_relaxed)) return;
    MutexLock lock(mutex_);
    written_.erase(nodeid);
  }
  // True: it may believe that the file has no blocks, and is now to be told otherwise.
  bool TakeWithoutBlocks(uint64_t nodeid) ABSL_LOCKS_EXCLUDED(mutex_) {
    if (!any_written_.load(std::memory_order_relaxed)) return false;
    MutexLock lock(mutex_);
    const auto found = written_.find(nodeid);
    if (found == written_.end() || !found->second) return false;
    written_.erase(found);
    return true;
  }
  std::vector<uint64_t> TakeWritten() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    std::vector<uint64_t> nodeids;
    for (const auto& [nodeid, none] : written_) nodeids.push_back(nodeid);
    written_.clear();
    any_written_.store(false, std::memory_order_relaxed);
    drop_arranged_ = false;
    return nodeids;
  }

  // It has forgotten the file.
  void Forget(uint64_t nodeid) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    read_.erase(nodeid);
    full_.erase(nodeid);
    written_.erase(nodeid);
  }

 private:
  Mutex mutex_;
  absl::flat_hash_set<uint64_t> read_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, std::shared_ptr<Drop>> drops_ ABSL_GUARDED_BY(mutex_);  // Newest.
  absl::flat_hash_map<uint64_t, uint64_t> full_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, bool> written_ ABSL_GUARDED_BY(mutex_);
  bool drop_arranged_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> any_written_{false};  // Changed with mutex_ held.
};

}  // namespace pbfs::fuse
