// SPDX-License-Identifier: Apache-2.0
#include "tools/common/device_safety.h"

#include <blkid/blkid.h>
#include <dirent.h>
#include <fcntl.h>
#include <libmount/libmount.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "fs/format.h"
#include "tools/common/terminal.h"

namespace pbfs {
namespace {

Status SystemError(const std::string& path) {
  const int error = errno;
  return ErrnoError(error, absl::StrCat(path, ": ", strerror(error)));
}

std::vector<std::string> ListDirectory(const std::string& path) {
  std::vector<std::string> names;
  DIR* const dir = opendir(path.c_str());
  if (dir == nullptr) return names;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  closedir(dir);
  return names;
}

std::string ReadLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string DeviceNumber(dev_t device) { return absl::StrCat(major(device), ":", minor(device)); }

// The device and its partitions.
std::vector<std::string> DeviceAndPartitions(dev_t device) {
  const std::string sys = absl::StrCat("/sys/dev/block/", DeviceNumber(device));
  std::vector<std::string> numbers = {DeviceNumber(device)};
  for (const std::string& name : ListDirectory(sys)) {
    const std::string entry = absl::StrCat(sys, "/", name);
    if (!ReadLine(absl::StrCat(entry, "/partition")).empty()) {
      numbers.push_back(ReadLine(absl::StrCat(entry, "/dev")));
    }
  }
  return numbers;
}

// The mountpoint of the first mounted filesystem for which `matches` holds.
std::optional<std::string> FindMounted(const std::function<bool(libmnt_fs*)>& matches) {
  libmnt_table* const table = mnt_new_table();
  libmnt_iter* const iter = mnt_new_iter(MNT_ITER_FORWARD);
  const absl::Cleanup release = [&] {
    mnt_free_iter(iter);
    mnt_unref_table(table);
  };
  if (mnt_table_parse_mtab(table, "/proc/self/mountinfo") != 0) return std::nullopt;
  libmnt_fs* entry = nullptr;
  while (mnt_table_next_fs(table, iter, &entry) == 0) {
    if (matches(entry)) return mnt_fs_get_target(entry);
  }
  return std::nullopt;
}

// By the device number the kernel knows, so fuseblk mounts are found too.
std::optional<std::string> FindMount(const std::string& number) {
  const auto target = FindMounted(
      [&](libmnt_fs* entry) { return DeviceNumber(mnt_fs_get_devno(entry)) == number; });
  if (!target) return std::nullopt;
  return absl::StrCat("it is mounted on ", Printable(*target));
}

// A mount of pbfs names the device or image as its source.
bool IsMountedAsPbfs(const struct stat& device) {
  return FindMounted([&](libmnt_fs* entry) {
           const std::string type = mnt_fs_get_fstype(entry);
           const char* const source = mnt_fs_get_srcpath(entry);
           struct stat status = {};
           return (type == "fuse.pbfs" || type == "fuseblk.pbfs") && source != nullptr &&
                  stat(source, &status) == 0 && status.st_dev == device.st_dev &&
                  status.st_ino == device.st_ino;
         })
      .has_value();
}

std::optional<std::string> FindSwap(const std::string& number) {
  std::ifstream swaps("/proc/swaps");
  std::string line;
  std::getline(swaps, line);  // Head of the table.
  while (std::getline(swaps, line)) {
    const std::string path = line.substr(0, line.find_first_of(" \t"));
    struct stat status = {};
    if (stat(path.c_str(), &status) == 0 && S_ISBLK(status.st_mode) &&
        DeviceNumber(status.st_rdev) == number) {
      return "it is in use as swap";
    }
  }
  return std::nullopt;
}

std::optional<std::string> FindDeviceUser(dev_t device) {
  for (const std::string& number : DeviceAndPartitions(device)) {
    if (auto user = FindMount(number)) return user;
    if (auto user = FindSwap(number)) return user;
    const auto holders = ListDirectory(absl::StrCat("/sys/dev/block/", number, "/holders"));
    if (!holders.empty()) return absl::StrCat("it is a member of ", holders.front());
  }
  return std::nullopt;
}

std::optional<std::string> FindLoopDevice(const struct stat& file) {
  for (const std::string& name : ListDirectory("/sys/block")) {
    const std::string path = ReadLine(absl::StrCat("/sys/block/", name, "/loop/backing_file"));
    struct stat status = {};
    if (!path.empty() && stat(path.c_str(), &status) == 0 && status.st_dev == file.st_dev &&
        status.st_ino == file.st_ino) {
      return absl::StrCat("it is attached to /dev/", name);
    }
  }
  return std::nullopt;
}

// "unknown filesystem"-style words of what a probe found.
std::string DescribeSignature(blkid_probe probe) {
  const char* value = nullptr;
  if (blkid_probe_lookup_value(probe, "PTTYPE", &value, nullptr) == 0) {
    return absl::StrCat("a ", value, " partition table");
  }
  if (blkid_probe_lookup_value(probe, "TYPE", &value, nullptr) != 0) return "an unknown signature";
  const std::string type = value;
  std::string text = absl::StrCat("'", type, "'");
  if (blkid_probe_lookup_value(probe, "USAGE", &value, nullptr) == 0 &&
      strcmp(value, "filesystem") == 0) {
    text = absl::StrCat("a filesystem of type ", type);
  }
  if (blkid_probe_lookup_value(probe, "LABEL", &value, nullptr) == 0) {
    text = absl::StrCat(text, " labelled '", Printable(value), "'");
  }
  return text;
}

bool HasPbfsSuperblock(int fd) {
  uint32_t magic = 0;
  return pread(fd, &magic, sizeof magic, 0) == sizeof magic && magic == kMagicSuperblock;
}

// umount(8) of a plain fuse mount does not wait for the server to end.
constexpr auto kEndingMax = std::chrono::seconds(20);
constexpr auto kEndingStep = std::chrono::milliseconds(20);

struct Holder {
  pid_t pid = 0;
  std::string name;  // Empty: it is gone, or the system does not say.
};

Holder FindFlockHolder(const struct stat& file) {
  // "1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF"; the inode number suffices: the device part
  // is not stat's on every filesystem.
  std::ifstream locks("/proc/locks");
  std::string line;
  while (std::getline(locks, line)) {
    std::istringstream words(line);
    std::string number, kind, mode, access, place;
    int64_t pid = 0;
    if (!(words >> number >> kind >> mode >> access >> pid >> place) || kind != "FLOCK") continue;
    if (pid <= 0 || place.substr(place.rfind(':') + 1) != std::to_string(file.st_ino)) continue;
    return {static_cast<pid_t>(pid), ReadLine(absl::StrCat("/proc/", pid, "/comm"))};
  }
  return {};
}

// Takes the lock; waits for a server that is unmounted already and has still to end.
Status LockFile(int fd, const std::string& path) {
  const auto end = std::chrono::steady_clock::now() + kEndingMax;
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    struct stat status = {};
    if (errno != EWOULDBLOCK || fstat(fd, &status) != 0) return SystemError(path);
    const std::string holder = FindFlockHolder(status).name;
    const bool ends = (holder.empty() || holder == "pbfs") && !IsMountedAsPbfs(status);
    if (!ends || std::chrono::steady_clock::now() >= end) {
      return ErrnoError(EBUSY, absl::StrCat(path, ": it is in use by ", FlockHolder(fd)));
    }
    std::this_thread::sleep_for(kEndingStep);
  }
  return OkStatus();
}

// For a block device that cannot be opened exclusively: EBUSY when somebody uses it; OK when a
// server of it may have been unmounted, and has ended now.
Status WaitForEndOfServer(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return SystemError(path);
  const auto user = FindUser(fd);
  const Status status =
      user ? ErrnoError(EBUSY, absl::StrCat(path, ": ", *user)) : LockFile(fd, path);
  close(fd);
  return status;
}

using Probe = std::unique_ptr<blkid_struct_probe, decltype(&blkid_free_probe)>;

StatusOr<Probe> NewProbe(int fd) {
  Probe probe(blkid_new_probe(), blkid_free_probe);
  if (probe == nullptr || blkid_probe_set_device(probe.get(), fd, 0, 0) != 0) {
    return ErrnoError(EIO, "cannot look for signatures on the device");
  }
  blkid_probe_enable_superblocks(probe.get(), 1);
  blkid_probe_set_superblocks_flags(probe.get(), BLKID_SUBLKS_MAGIC | BLKID_SUBLKS_TYPE |
                                                     BLKID_SUBLKS_USAGE | BLKID_SUBLKS_LABEL |
                                                     BLKID_SUBLKS_BADCSUM);
  blkid_probe_enable_partitions(probe.get(), 1);
  blkid_probe_set_partitions_flags(probe.get(), BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT);
  return probe;
}

}  // namespace

std::optional<std::string> FindUser(int fd) {
  struct stat status = {};
  if (fstat(fd, &status) != 0) return std::nullopt;
  if (S_ISBLK(status.st_mode)) return FindDeviceUser(status.st_rdev);
  return FindLoopDevice(status);
}

std::string FlockHolder(int fd) {
  struct stat status = {};
  if (fstat(fd, &status) != 0) return "another program";
  const Holder holder = FindFlockHolder(status);
  if (holder.name.empty()) return "another program";
  return absl::StrCat(Printable(holder.name), ", process ", holder.pid);
}

StatusOr<DeviceClaim> DeviceClaim::Take(const std::string& path, const Options& options) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) return SystemError(path);
  const bool is_block_device = S_ISBLK(status.st_mode);
  if (!is_block_device && !S_ISREG(status.st_mode)) {
    return ErrnoError(ENOTBLK, absl::StrCat(path, ": neither a block device nor an image file"));
  }
  const int flags = (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY |
                    (is_block_device ? O_EXCL : 0);
  int fd = open(path.c_str(), flags);
  if (fd < 0 && errno == EBUSY) {
    PBFS_RETURN_IF_ERROR(WaitForEndOfServer(path));
    fd = open(path.c_str(), flags);
    if (fd < 0 && errno == EBUSY) {
      return ErrnoError(EBUSY, absl::StrCat(path, ": the kernel says it is in use"));
    }
  }
  if (fd < 0) return SystemError(path);
  DeviceClaim claim(fd, is_block_device, static_cast<uint64_t>(status.st_size));
  if (is_block_device && ioctl(fd, BLKGETSIZE64, &claim.size_bytes_) != 0) {
    return SystemError(path);
  }
  if (const auto user = FindUser(fd)) return ErrnoError(EBUSY, absl::StrCat(path, ": ", *user));
  PBFS_RETURN_IF_ERROR(LockFile(fd, path));
  return claim;
}

DeviceClaim::DeviceClaim(DeviceClaim&& other) noexcept
    : fd_(other.fd_), is_block_device_(other.is_block_device_), size_bytes_(other.size_bytes_) {
  other.fd_ = -1;
}

DeviceClaim::~DeviceClaim() {
  if (fd_ >= 0) close(fd_);
}

StatusOr<std::vector<std::string>> FindSignatures(int fd) {
  std::vector<std::string> found;
  if (HasPbfsSuperblock(fd)) found.emplace_back("a pbfs filesystem");
  PBFS_ASSIGN_OR_RETURN(const Probe probe, NewProbe(fd));
  while (blkid_do_probe(probe.get()) == 0) found.push_back(DescribeSignature(probe.get()));
  return found;
}

Status EraseSignatures(int fd) {
  PBFS_ASSIGN_OR_RETURN(const Probe probe, NewProbe(fd));
  while (blkid_do_probe(probe.get()) == 0) {
    if (blkid_do_wipe(probe.get(), 0) != 0) {
      return ErrnoError(EIO, absl::StrCat("cannot erase ", DescribeSignature(probe.get())));
    }
  }
  if (fsync(fd) != 0) return ErrnoError(errno, absl::StrCat("cannot flush: ", strerror(errno)));
  return OkStatus();
}

}  // namespace pbfs
