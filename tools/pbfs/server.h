// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "base/status.h"
#include "fs/filesystem.h"
#include "fs/fuse/session.h"
#include "io/uring_device.h"
#include "io/watched_device.h"
#include "tools/pbfs/device_lock.h"
#include "tools/pbfs/logger.h"
#include "tools/pbfs/mount_options.h"
#include "tools/pbfs/mount_table.h"

namespace pbfs {

// One mount, from the lock on the device to its release.
class Server {
 public:
  // Mounted, log replayed, requests served when it returns. nullptr: the device was mounted
  // elsewhere already and is now bind-mounted here. `mountpoint` is absolute and without symbolic
  // links.
  static StatusOr<std::unique_ptr<Server>> Mount(const std::string& device,
                                                 const std::string& mountpoint,
                                                 const PbfsOptions& options, Logger& logger);
  ~Server();

  // Serves until the filesystem is unmounted, then commits. An error: not everything was written.
  Status Run();
  // Unmounts, lazily where it is busy; Run() then ends. Any thread.
  void RequestUnmount();
  // It is unmounted; Run() commits, or is done. Any thread.
  bool has_ended() const { return ended_.load(); }

 private:
  Server(std::string device, std::string mountpoint, PbfsOptions options, Logger& logger);

  // The steps of Mount(), in order.
  Status LockDevice();
  Status CheckNobodyElseMounted();
  Status OpenDevice();
  Status MountKernel();
  Status MountKernelAs(bool fuseblk);
  Status MountFileSystem();
  Status Serve();

  void MountReadOnly(const std::string& reason);
  // Does as the kernel's mount is flagged if that has changed, or `again` what failed then.
  Status FollowMount(bool again);
  // Its line in the mount table: that which Mount() made, or if that is gone, any other.
  std::optional<MountEntry> OwnMount() const;
  StatusOr<bool> AttachToMount(const MountEntry& entry);
  StatusOr<bool> BindIfMountedElsewhere();
  void AbandonMount();
  void DetachDeadMounts();
  unsigned LoopCount() const;

  const std::string device_path_;
  const std::string mountpoint_;
  PbfsOptions options_;
  Logger& logger_;

  // Destroyed from the last to the first.
  DeviceLock lock_;
  std::unique_ptr<UringDevice> device_;
  std::unique_ptr<WatchedDevice> watched_;  // device_, for fs_.
  std::unique_ptr<FileSystem> fs_;
  std::unique_ptr<fuse::Session> session_;

  std::vector<std::string> said_when_mounted_;
  std::atomic<bool> ended_{false};
  bool bound_ = false;
  bool fuseblk_ = false;
  dev_t mount_device_ = 0;
  int mount_id_ = 0;

  Mutex follow_mutex_;
  unsigned long followed_flags_ ABSL_GUARDED_BY(follow_mutex_) = 0;
  bool could_follow_ ABSL_GUARDED_BY(follow_mutex_) = true;
};

}  // namespace pbfs
