// SPDX-License-Identifier: Apache-2.0
// mkfs.pbfs: makes a filesystem, after making sure that it destroys nothing it was not told to.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "fs/filesystem.h"
#include "fs/uuid.h"
#include "io/uring_device.h"
#include "tools/common/device_safety.h"
#include "tools/common/size.h"
#include "tools/common/terminal.h"
#include "tools/mkfs/mkfs_options.h"

namespace pbfs {
namespace {

Status SystemError(const std::string& path) {
  const int error = errno;
  return ErrnoError(error, absl::StrCat(path, ": ", strerror(error)));
}

// Size of a regular file, 0 if there is none; nullopt for anything else (a device).
StatusOr<std::optional<uint64_t>> ImageSize(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return std::make_optional<uint64_t>(0);
    return SystemError(path);
  }
  if (!S_ISREG(status.st_mode)) return std::optional<uint64_t>();
  return std::make_optional(static_cast<uint64_t>(status.st_size));
}

// An image that is to be made or extended: an image file that is shorter than -s.
StatusOr<bool> MustGrowImage(const MkfsOptions& options) {
  PBFS_ASSIGN_OR_RETURN(const std::optional<uint64_t> size_bytes, ImageSize(options.device));
  if (access(options.device.c_str(), F_OK) != 0) {
    if (absl::StartsWith(options.device, "/dev/")) {
      return ErrnoError(ENOENT, absl::StrCat(options.device, ": no such device"));
    }
    if (options.make.size_bytes == 0) {
      return ErrnoError(
          ENOENT, absl::StrCat(options.device, ": no such file; -s SIZE makes an image file"));
    }
  }
  return size_bytes.has_value() && options.make.size_bytes > *size_bytes;
}

Status GrowImage(const MkfsOptions& options) {
  const std::string& path = options.device;
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) return SystemError(path);
  const bool extended = ftruncate(fd, static_cast<off_t>(options.make.size_bytes)) == 0;
  Status status = extended ? OkStatus() : SystemError(path);
  close(fd);
  return status;
}

void PrintLayout(const std::string& path, const Superblock& superblock) {
  const std::string label(superblock.label, strnlen(superblock.label, kLabelBytes));
  const uint64_t log_end = superblock.log_start + superblock.log_blocks;
  std::printf("%s: pbfs %u.%u\n", Printable(path).c_str(), unsigned{superblock.version_major},
              unsigned{superblock.version_minor});
  std::printf("  uuid    %s\n", FormatUuid(superblock.uuid).c_str());
  std::printf("  label   %s\n", label.empty() ? "(none)" : Printable(label).c_str());
  std::printf("  size    %s, %llu blocks of 4 KiB\n",
              FormatSize(superblock.total_blocks * kBlockBytes).c_str(),
              static_cast<unsigned long long>(superblock.total_blocks));
  std::printf("  groups  %u of up to %u blocks; table at block %llu, %u blocks\n",
              superblock.ag_count, superblock.ag_blocks,
              static_cast<unsigned long long>(superblock.ag_table_start),
              superblock.ag_table_blocks);
  std::printf("  log     %s, blocks %llu to %llu\n",
              FormatSize(uint64_t{superblock.log_blocks} * kBlockBytes).c_str(),
              static_cast<unsigned long long>(superblock.log_start),
              static_cast<unsigned long long>(log_end - 1));
}

// Whether a pbfs filesystem can still be mounted, although its first block is gone.
bool HasSuperblockCopy(const std::string& path) {
  const auto device = UringDevice::Open(path, {.read_only = true});
  return device.ok() && FileSystem::Probe(**device).ok();
}

Status CheckSignatures(const MkfsOptions& options, const DeviceClaim& claim) {
  if (options.force) return OkStatus();
  PBFS_ASSIGN_OR_RETURN(std::vector<std::string> found, FindSignatures(claim.fd()));
  if (found.empty() && HasSuperblockCopy(options.device)) {
    found.emplace_back("a pbfs filesystem whose first superblock is damaged (mount uses a copy)");
  }
  if (found.empty()) return OkStatus();
  return ErrnoError(EEXIST, absl::StrCat(options.device, ": it contains ",
                                         absl::StrJoin(found, " and "), "; -f overwrites it"));
}

// Dry run of an image that does not exist yet, or is still too short.
Status PlanImage(const MkfsOptions& options) {
  Geometry geometry;
  geometry.size_bytes = options.make.size_bytes;
  geometry.name = options.device;
  PBFS_ASSIGN_OR_RETURN(const Superblock superblock, PlanFilesystem(geometry, options.make));
  if (options.dry_run) PrintLayout(options.device, superblock);
  return OkStatus();
}

Status Make(const MkfsOptions& options) {
  PBFS_ASSIGN_OR_RETURN(const bool grow, MustGrowImage(options));
  if (grow) {
    PBFS_RETURN_IF_ERROR(PlanImage(options));
    if (options.dry_run) return OkStatus();
  }
  if (grow && access(options.device.c_str(), F_OK) != 0) {
    PBFS_RETURN_IF_ERROR(GrowImage(options));
  }
  PBFS_ASSIGN_OR_RETURN(const DeviceClaim claim,
                        DeviceClaim::Take(options.device, {.read_only = options.dry_run}));
  PBFS_RETURN_IF_ERROR(CheckSignatures(options, claim));
  if (grow) PBFS_RETURN_IF_ERROR(GrowImage(options));

  PBFS_ASSIGN_OR_RETURN(const std::unique_ptr<UringDevice> device,
                        UringDevice::Open(options.device, {.read_only = options.dry_run}));
  PBFS_ASSIGN_OR_RETURN(Superblock superblock, PlanFilesystem(device->geometry(), options.make));
  if (!options.dry_run) {
    PBFS_RETURN_IF_ERROR(EraseSignatures(claim.fd()));
    PBFS_ASSIGN_OR_RETURN(superblock, MakeFilesystem(*device, options.make));
  }
  if (!options.quiet || options.dry_run) PrintLayout(options.device, superblock);
  return OkStatus();
}

int Main(int argc, char** argv) {
  Status status;
  const auto options = ParseMkfsOptions(argc, argv);
  if (!options.ok()) {
    status = options.status();
  } else if (options->has_value()) {
    status = Make(**options);
  }
  if (status.ok() && std::fflush(stdout) == 0) return 0;
  if (status.ok()) status = ErrnoError(errno, "cannot write to standard output");
  const std::string message(status.message());
  std::fprintf(stderr, "mkfs.pbfs: %s\n", message.c_str());
  return 1;
}

}  // namespace
}  // namespace pbfs

int main(int argc, char** argv) { return pbfs::Main(argc, argv); }
