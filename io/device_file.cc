// SPDX-License-Identifier: Apache-2.0
#include "io/device_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <utility>

namespace pbfs {
namespace {

constexpr uint32_t kSectorBytes = 512;
constexpr uint32_t kFileTransferBytesMax = 4 << 20;
constexpr uint32_t kDeviceTransferBytesDefault = 1 << 20;
constexpr uint32_t kDeviceTransferBytesMin = 256 << 10;
constexpr size_t kProbeBytes = 4096;

Status PathError(int error, const std::string& path, const char* what) {
  return ErrnoError(error, path + ": " + what);
}

// The value of a queue attribute of the disk that holds this device; empty when unknown.
std::string QueueAttribute(dev_t device, const char* name) {
  const std::string base =
      "/sys/dev/block/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
  // A partition has no queue of its own; its disk is the directory above.
  for (const char* queue : {"/queue/", "/../queue/"}) {
    std::ifstream file(base + queue + name);
    std::string line;
    if (std::getline(file, line)) return line;
  }
  return "";
}

// Some filesystems take the flag and refuse the transfer, so one block is read.
bool DirectReadWorks(const DeviceFile& file) {
  if (file.geometry.size_bytes < kProbeBytes) return true;
  const std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(kProbeBytes, kProbeBytes),
                                                      std::free);
  return pread(file.fd, memory.get(), kProbeBytes, 0) >= 0 || errno != EINVAL;
}

Status ReadBlockDeviceGeometry(DeviceFile& file, const struct stat& attributes) {
  Geometry& geometry = file.geometry;
  int logical_block_bytes = 0;
  int is_read_only = 0;
  if (ioctl(file.fd, BLKGETSIZE64, &geometry.size_bytes) != 0 ||
      ioctl(file.fd, BLKSSZGET, &logical_block_bytes) != 0 ||
      ioctl(file.fd, BLKROGET, &is_read_only) != 0) {
    return PathError(errno, geometry.name, "cannot read the geometry");
  }
  geometry.logical_block_bytes = static_cast<uint32_t>(logical_block_bytes);
  geometry.read_only = geometry.read_only || is_read_only != 0;
  const dev_t device = attributes.st_rdev;
  geometry.volatile_cache =
      !file.direct || QueueAttribute(device, "write_cache") != "write through";
  const unsigned long long discard_bytes =
      std::strtoull(QueueAttribute(device, "discard_max_bytes").c_str(), nullptr, 10);
  geometry.can_discard = !geometry.read_only && discard_bytes > 0;
  const unsigned long long transfer_kib =
      std::strtoull(QueueAttribute(device, "max_sectors_kb").c_str(), nullptr, 10);
  geometry.max_transfer_bytes = kDeviceTransferBytesDefault;
  if (transfer_kib > 0) {
    // The kernel splits further where it must; pieces much smaller than this only cost calls.
    const unsigned long long clamped_kib = std::clamp<unsigned long long>(
        transfer_kib, kDeviceTransferBytesMin >> 10, kFileTransferBytesMax >> 10);
    geometry.max_transfer_bytes = static_cast<uint32_t>(clamped_kib << 10) & ~4095u;
  }
  return OkStatus();
}

void ReadImageFileGeometry(DeviceFile& file, const struct stat& attributes) {
  Geometry& geometry = file.geometry;
  geometry.size_bytes = static_cast<uint64_t>(attributes.st_size) & ~uint64_t{kSectorBytes - 1};
  geometry.max_transfer_bytes = kFileTransferBytesMax;
  geometry.volatile_cache = true;
#ifdef STATX_DIOALIGN
  struct statx extended = {};
  if (file.direct && statx(file.fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 &&
      (extended.stx_mask & STATX_DIOALIGN) != 0 && extended.stx_dio_offset_align != 0) {
    geometry.logical_block_bytes = std::max(kSectorBytes, extended.stx_dio_offset_align);
    geometry.dma_alignment_bytes = std::max(kSectorBytes, extended.stx_dio_mem_align);
  }
#endif
  // A hole punched past the end changes nothing but says whether the host can.
  geometry.can_discard =
      !geometry.read_only && fallocate(file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                       attributes.st_size, kProbeBytes) == 0;
}

Status ReadGeometry(DeviceFile& file, const UringDeviceOptions& options) {
  struct stat attributes = {};
  if (fstat(file.fd, &attributes) != 0) {
    return PathError(errno, file.geometry.name, "cannot stat");
  }
  const int flags = fcntl(file.fd, F_GETFL);
  file.geometry.read_only = options.read_only || (flags & O_ACCMODE) == O_RDONLY;
  file.is_block_device = S_ISBLK(attributes.st_mode);
  if (file.is_block_device) return ReadBlockDeviceGeometry(file, attributes);
  if (!S_ISREG(attributes.st_mode)) {
    return PathError(ENOTBLK, file.geometry.name, "neither a block device nor a file");
  }
  ReadImageFileGeometry(file, attributes);
  return OkStatus();
}

void GoBuffered(DeviceFile& file, bool by_request) {
  const int flags = fcntl(file.fd, F_GETFL);
  fcntl(file.fd, F_SETFL, flags & ~O_DIRECT);
  file.direct = false;
  file.geometry.volatile_cache = true;
  const std::string why = by_request ? "direct I/O is switched off" : "the host refuses direct I/O";
  file.warnings.push_back(why + ", using buffered I/O");
}

StatusOr<DeviceFile> Finish(DeviceFile file, const UringDeviceOptions& options) {
  if (!file.direct) GoBuffered(file, options.force_buffered);
  PBFS_RETURN_IF_ERROR(ReadGeometry(file, options));
  if (file.direct && !DirectReadWorks(file)) GoBuffered(file, false);
  // Without direct I/O they would be the host's own pages, and change with them.
  file.geometry.reads_into_pipes = file.direct;
  return file;
}

}  // namespace

DeviceFile::~DeviceFile() {
  if (fd >= 0) close(fd);
}

DeviceFile::DeviceFile(DeviceFile&& other) noexcept
    : fd(std::exchange(other.fd, -1)),
      is_block_device(other.is_block_device),
      direct(other.direct),
      geometry(std::move(other.geometry)),
      warnings(std::move(other.warnings)) {}

StatusOr<DeviceFile> OpenDeviceFile(const std::string& path, const UringDeviceOptions& options) {
  struct stat attributes = {};
  if (stat(path.c_str(), &attributes) != 0) return PathError(errno, path, "cannot open");
  int flags = O_CLOEXEC | (options.read_only ? O_RDONLY : O_RDWR);
  if (options.exclusive && S_ISBLK(attributes.st_mode)) flags |= O_EXCL;
  DeviceFile file;
  file.geometry.name = path;
  file.direct = !options.force_buffered;
  file.fd = open(path.c_str(), flags | (file.direct ? O_DIRECT : 0));
  if (file.fd < 0 && errno == EINVAL && file.direct) {
    file.direct = false;
    file.fd = open(path.c_str(), flags);
  }
  if (file.fd < 0) {
    return PathError(errno, path,
                     errno == EBUSY ? "in use by the kernel or a program" : "cannot open");
  }
  return Finish(std::move(file), options);
}

StatusOr<DeviceFile> AdoptDeviceFile(int fd, const std::string& path,
                                     const UringDeviceOptions& options) {
  DeviceFile file;
  file.fd = fd;
  file.geometry.name = path;
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) {
    file.fd = -1;
    return PathError(EBADF, path, "not an open file");
  }
  file.direct = !options.force_buffered &&
                ((flags & O_DIRECT) != 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) == 0);
  return Finish(std::move(file), options);
}

}  // namespace pbfs
