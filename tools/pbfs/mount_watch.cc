// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfs/mount_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace pbfs {

MountWatch::MountWatch(std::function<void()> changed)
    : table_(open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC)), stop_(eventfd(0, EFD_CLOEXEC)) {
  if (table_ < 0 || stop_ < 0) return;
  try {
    thread_ = std::thread([this, changed = std::move(changed)] { Main(changed); });
  } catch (const std::system_error&) {
    // Only the helper's ioctl is followed then.
  }
}

MountWatch::~MountWatch() {
  if (thread_.joinable()) {
    eventfd_write(stop_, 1);
    thread_.join();
  }
  if (table_ >= 0) close(table_);
  if (stop_ >= 0) close(stop_);
}

void MountWatch::Main(const std::function<void()>& changed) const {
  for (;;) {
    changed();
    pollfd waits[] = {{table_, POLLPRI, 0}, {stop_, POLLIN, 0}};
    while (poll(waits, 2, -1) < 0) {
      if (errno != EINTR) return;
    }
    if (waits[1].revents != 0) return;
  }
}

}  // namespace pbfs
