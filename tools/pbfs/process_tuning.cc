// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfs/process_tuning.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "tools/pbfs/daemon.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace pbfs {
namespace {

// READs of the greatest length under way while others are consumed. (A window that is no multiple
// of that length would end with a short one each time.)
constexpr size_t kReadsAhead = 4;

// Of malloc(3).
constexpr int kArenasMax = 4;

bool WriteFile(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const ssize_t bytes = write(fd, text.data(), text.size());
  close(fd);
  return bytes >= 0;
}

std::string BackingDevice(dev_t mount_device, bool fuseblk) {
  return absl::StrCat("/sys/class/bdi/", major(mount_device), ":", minor(mount_device),
                      fuseblk ? "-fuseblk" : "", "/");
}

// How much the kernel collects of writes to all filesystems before it stops the writers.
uint64_t DirtyThresholdBytes() {
  std::ifstream file("/proc/vmstat");
  std::string name;
  for (uint64_t value; file >> name >> value;) {
    if (name == "nr_dirty_threshold") return value * static_cast<uint64_t>(getpagesize());
  }
  return 0;
}

}  // namespace

void TuneProcess() {
  InstallOutOfMemoryHandler(kExitSystem);
  // Each keeps what was free in it at its worst; by default there are eight for each processor.
  mallopt(M_ARENA_MAX, kArenasMax);
  // Not what mount(8) started it as: mkfs and fsck tell the server from other programs by its name.
  prctl(PR_SET_NAME, "pbfs", 0, 0, 0);
  // Memory reclaim on our behalf must not wait for pages that we ourselves have to write.
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  if (geteuid() != 0) return;
  WriteFile("/proc/self/oom_score_adj", "-1000");
  // What is touched stays; what is only reserved (most of the cache's arena, stacks) costs nothing.
  mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
}

int64_t LazyTimesDelayNs() {
  int64_t seconds = 0;
  std::ifstream file("/proc/sys/vm/dirtytime_expire_seconds");
  // 0: never, in which a day is no less lazy.
  if (!(file >> seconds) || seconds <= 0) seconds = 24 * 3600;
  return seconds * 1'000'000'000;
}

void TuneBackingDevice(dev_t mount_device, bool fuseblk, size_t read_bytes_max) {
  if (geteuid() != 0) return;
  const std::string directory = BackingDevice(mount_device, fuseblk);
  WriteFile(directory + "read_ahead_kb", absl::StrCat(kReadsAhead * read_bytes_max / 1024));
  WriteFile(directory + "max_ratio", "100");
  WriteFile(directory + "strict_limit", "0");
}

void LimitBackingDevice(dev_t mount_device, bool fuseblk, uint64_t limit_bytes) {
  if (geteuid() != 0) return;
  const std::string directory = BackingDevice(mount_device, fuseblk);
  const uint64_t all = DirtyThresholdBytes();
  const bool limited = limit_bytes < all;
  if (!limited) {
    WriteFile(directory + "max_ratio", "100");
  } else if (!WriteFile(directory + "max_bytes", absl::StrCat(limit_bytes))) {  // Since Linux 6.3.
    WriteFile(directory + "max_ratio",
              absl::StrCat(std::max<uint64_t>(1, limit_bytes * 100 / all)));
  }
  WriteFile(directory + "strict_limit", limited ? "1" : "0");
}

}  // namespace pbfs
