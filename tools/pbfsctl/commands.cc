// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfsctl/commands.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "fs/dump.h"
#include "fs/filesystem.h"
#include "fs/summary.h"
#include "fs/uuid.h"
#include "fs/verify.h"
#include "io/uring_device.h"
#include "tools/common/device_safety.h"
#include "tools/pbfsctl/output.h"

namespace pbfs {
namespace {

constexpr char kStatsName[] = "pbfs.stats";
constexpr char kSyncName[] = "pbfs.sync";
// XFS_IOC_GOINGDOWN.
constexpr unsigned long kGoingDown = _IOR('X', 125, uint32_t);
constexpr size_t kStatsBytesMax = 65536;

Status SystemError(const std::string& path, int error) {
  return ErrnoError(error, absl::StrCat(path, ": ", strerror(error)));
}

// The server answers for the root of its mount only, and to root and its own user.
Status MountError(const std::string& path, int error) {
  switch (error) {
    case ENODATA:
    case EOPNOTSUPP:
      return ErrnoError(error, absl::StrCat(path, ": not the mount point of a pbfs filesystem"));
    case EPERM:
    case EACCES:
      return ErrnoError(error, absl::StrCat(path, ": only root and the user who mounted it may"));
    default:
      return SystemError(path, error);
  }
}

// An ioctl that is for a server of ours. Others know it too, and they are not meant.
Status CallMount(const std::string& mountpoint, unsigned long command, void* argument) {
  const int fd = open(mountpoint.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return SystemError(mountpoint, errno);
  const bool ours = fgetxattr(fd, kStatsName, nullptr, 0) >= 0;
  const int error = ours && ioctl(fd, command, argument) == 0 ? 0 : errno;
  close(fd);
  return error == 0 ? OkStatus() : MountError(mountpoint, error);
}

// Text is for a look: without the classes of histograms.
void DropClasses(Json& json) {
  if (json.is_object()) json.erase("classes");
  if (!json.is_structured()) return;
  for (Json& member : json) DropClasses(member);
}

Status ShowMountStats(const std::string& mountpoint, bool json) {
  std::string text(kStatsBytesMax, '\0');
  const ssize_t size = getxattr(mountpoint.c_str(), kStatsName, text.data(), text.size());
  if (size < 0) return MountError(mountpoint, errno);
  text.resize(static_cast<size_t>(size));
  Json stats = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (stats.is_discarded()) {
    return ErrnoError(EPROTO, absl::StrCat(mountpoint, ": the server's answer is malformed"));
  }
  if (!json) DropClasses(stats);
  Print(FromJson(mountpoint, stats), json);
  return OkStatus();
}

// For a look at what is there: nobody is locked out, nothing is written.
StatusOr<std::unique_ptr<UringDevice>> OpenToLook(const std::string& path) {
  PBFS_ASSIGN_OR_RETURN(std::unique_ptr<UringDevice> device,
                        UringDevice::Open(path, {.read_only = true}));
  if (const std::optional<std::string> user = FindUser(device->fd())) {
    std::fprintf(stderr, "pbfsctl: %s: %s: what is on it is changing\n", path.c_str(),
                 user->c_str());
  }
  return device;
}

Status ShowDeviceStats(const std::string& path, bool json) {
  PBFS_ASSIGN_OR_RETURN(const std::unique_ptr<UringDevice> device, OpenToLook(path));
  PBFS_ASSIGN_OR_RETURN(const FileSystem::ProbeResult probe, FileSystem::Probe(*device));
  for (const std::string& warning : probe.warnings) {
    std::fprintf(stderr, "pbfsctl: %s\n", warning.c_str());
  }
  const Superblock& superblock = probe.superblock;
  PBFS_ASSIGN_OR_RETURN(const FilesystemSummary summary, ReadSummary(*device, superblock));
  DumpNode node = DumpNode::Group(path);
  node.Add("version", absl::StrCat(superblock.version_major, ".", superblock.version_minor));
  node.Add("uuid", FormatUuid(superblock.uuid));
  node.Add("label", EscapeBytes({superblock.label, strnlen(superblock.label, kLabelBytes)}));
  node.Add("block_bytes", kBlockBytes);
  node.Add("blocks", superblock.total_blocks);
  node.Add("blocks_free", summary.blocks_free);
  node.Add("log_blocks", superblock.log_blocks);
  node.Add("groups", superblock.ag_count);
  node.Add("groups_in_use", summary.groups_initialized);
  node.Add("inode_slots", summary.inode_slots);
  node.Add("inodes_used", summary.inode_slots - summary.inodes_free);
  node.Add("log", std::string(summary.log_clean ? "clean" : "dirty: numbers are from before"));
  node.Add("orphans", std::string(summary.has_orphans ? "yes: the next mount frees them" : "no"));
  Print(node, json);
  return OkStatus();
}

// The superblock to interpret a device by. Without a good one, one that allows to look at blocks.
Superblock SuperblockToDump(BlockDevice& device) {
  const StatusOr<FileSystem::ProbeResult> probe = FileSystem::Probe(device);
  if (probe.ok()) return probe->superblock;
  const std::string message(probe.status().message());
  std::fprintf(stderr, "pbfsctl: %s\n", message.c_str());
  Superblock none = {};
  none.total_blocks = device.geometry().size_bytes / kBlockBytes;
  return none;
}

StatusOr<ShutdownMode> ParseShutdownMode(const std::string& text) {
  if (text == "default") return ShutdownMode::kDefault;
  if (text == "logflush") return ShutdownMode::kLogFlush;
  if (text == "nologflush") return ShutdownMode::kNoLogFlush;
  return ErrnoError(EINVAL, absl::StrCat("'", text,
                                         "' is no mode of shutdown: say default, logflush or "
                                         "nologflush"));
}

StatusOr<uint64_t> ParseNumber(const std::string& text) {
  uint64_t number = 0;
  if (absl::SimpleAtoi(text, &number)) return number;
  return ErrnoError(EINVAL, absl::StrCat("'", text, "' is not a number"));
}

StatusOr<DumpNode> DumpWhat(Dumper& dumper, const std::vector<std::string>& what) {
  const std::string first = what.empty() ? "superblock" : what[0];
  if (what.size() == 2 && (first == "ag" || first == "inode")) {
    PBFS_ASSIGN_OR_RETURN(const uint64_t number, ParseNumber(what[1]));
    if (first == "inode") return dumper.Inode(number);
    return dumper.Group(static_cast<uint32_t>(std::min<uint64_t>(number, UINT32_MAX)));
  }
  if (what.size() > 1) return ErrnoError(EINVAL, "dump shows one thing at a time");
  if (first == "superblock") return dumper.Superblocks();
  if (first == "state") return dumper.State();
  if (first == "log") return dumper.Log();
  uint64_t block = 0;
  if (absl::SimpleAtoi(first, &block)) return dumper.Block(block);
  return ErrnoError(EINVAL, absl::StrCat("'", first,
                                         "' is nothing that dump can show: say "
                                         "superblock, state, log, ag N, inode N or a block"));
}

}  // namespace

Status ShowStats(const std::string& path, bool json) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) return SystemError(path, errno);
  return S_ISDIR(status.st_mode) ? ShowMountStats(path, json) : ShowDeviceStats(path, json);
}

Status SyncMount(const std::string& mountpoint) {
  const int fd = open(mountpoint.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return SystemError(mountpoint, errno);
  // Has the kernel send what programs wrote; then the server is asked, which of type fuse it is
  // not.
  syncfs(fd);
  const int error = fsetxattr(fd, kSyncName, "", 0, 0) == 0 ? 0 : errno;
  close(fd);
  // Nothing to do on a read-only mount.
  return error == 0 || error == EROFS ? OkStatus() : MountError(mountpoint, error);
}

Status ShutDownMount(const std::string& mountpoint, const std::string& mode_name) {
  PBFS_ASSIGN_OR_RETURN(ShutdownMode mode, ParseShutdownMode(mode_name));
  return CallMount(mountpoint, kGoingDown, &mode);
}

Status TrimMount(const std::string& mountpoint, bool json) {
  fstrim_range range = {.start = 0, .len = UINT64_MAX, .minlen = 0};
  PBFS_RETURN_IF_ERROR(CallMount(mountpoint, FITRIM, &range));
  DumpNode node = DumpNode::Group(mountpoint);
  node.Add("trimmed_bytes", range.len);
  Print(node, json);
  return OkStatus();
}

Status LabelMount(const std::string& mountpoint, const std::optional<std::string>& label,
                  bool json) {
  char text[FSLABEL_MAX] = {};
  if (label) {
    if (label->size() >= sizeof(text)) return ErrnoError(EINVAL, "the label is too long");
    std::memcpy(text, label->data(), label->size());
    return CallMount(mountpoint, FS_IOC_SETFSLABEL, text);
  }
  PBFS_RETURN_IF_ERROR(CallMount(mountpoint, FS_IOC_GETFSLABEL, text));
  DumpNode node = DumpNode::Group(mountpoint);
  node.Add("label", EscapeBytes({text, strnlen(text, sizeof(text))}));
  Print(node, json);
  return OkStatus();
}

Status DumpDevice(const std::string& path, const std::vector<std::string>& what, bool json) {
  PBFS_ASSIGN_OR_RETURN(const std::unique_ptr<UringDevice> device, OpenToLook(path));
  const Superblock superblock = SuperblockToDump(*device);
  Dumper dumper(*device, superblock);
  PBFS_ASSIGN_OR_RETURN(const DumpNode node, DumpWhat(dumper, what));
  Print(node, json);
  return OkStatus();
}

}  // namespace pbfs
