// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <thread>

namespace pbfs {

// Says when the table of mounts has changed: the kernel tells a FUSE server of no remount
// (proc(5), "/proc/pid/mounts" on poll).
class MountWatch {
 public:
  // `changed` runs on the watch's own thread, once at the start and then after each change.
  explicit MountWatch(std::function<void()> changed);
  // Waits for a call that is under way.
  ~MountWatch();
  MountWatch(const MountWatch&) = delete;
  MountWatch& operator=(const MountWatch&) = delete;

 private:
  void Main(const std::function<void()>& changed) const;

  int table_ = -1;
  int stop_ = -1;
  std::thread thread_;
};

}  // namespace pbfs
