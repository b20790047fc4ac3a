// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfs/server.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "fs/fuse/kernel_behaviour.h"
#include "fs/uuid.h"
#include "tools/common/device_safety.h"
#include "tools/pbfs/daemon.h"
#include "tools/pbfs/kernel_mount.h"
#include "tools/pbfs/mount_table.h"
#include "tools/pbfs/mount_watch.h"
#include "tools/pbfs/process_tuning.h"

namespace pbfs {
namespace {

constexpr unsigned kLoopsMax = 4;
// Where sync(2) does not reach us, what was accepted is committed sooner.
constexpr int64_t kUntoldCommitIntervalNs = 1'000'000'000;
// How long a dead mount's claim on its block device may outlive it.
constexpr int kClaimTriesMax = 50;
constexpr auto kClaimStep = std::chrono::milliseconds(20);

constexpr char kWriteProtected[] = "the device is write-protected";
constexpr char kMountingReadOnly[] = ", mounting read-only";

bool IsWriteProtected(int fd) {
  int is = 0;
  return ioctl(fd, BLKROGET, &is) == 0 && is != 0;
}

Status WithContext(const Status& status, const std::string& context) {
  return ErrnoError(ErrnoOf(status), absl::StrCat(context, ": ", status.message()));
}

// What mount(2) answers where fuseblk cannot be had, but plain fuse may.
bool MayTryPlainFuse(int error) {
  return error == ENODEV || error == EINVAL || error == EBUSY || error == EPERM || error == ENOTBLK;
}

}  // namespace

Server::Server(std::string device, std::string mountpoint, PbfsOptions options, Logger& logger)
    : device_path_(std::move(device)),
      mountpoint_(std::move(mountpoint)),
      options_(std::move(options)),
      logger_(logger) {}

Server::~Server() = default;

StatusOr<std::unique_ptr<Server>> Server::Mount(const std::string& device,
                                                const std::string& mountpoint,
                                                const PbfsOptions& options, Logger& logger) {
  std::unique_ptr<Server> server(new Server(device, mountpoint, options, logger));
  PBFS_RETURN_IF_ERROR(server->LockDevice());
  if (server->bound_) return std::unique_ptr<Server>();
  PBFS_RETURN_IF_ERROR(server->CheckNobodyElseMounted());
  PBFS_RETURN_IF_ERROR(server->OpenDevice());
  PBFS_RETURN_IF_ERROR(server->MountKernel());
  Status status = server->MountFileSystem();
  if (status.ok()) status = server->Serve();
  if (!status.ok()) {
    server->AbandonMount();
    return status;
  }
  return server;
}

Status Server::LockDevice() {
  StatusOr<bool> bound = false;
  const auto give_up = [&] {
    bound = EndingSignalPending() ? ErrnoError(EINTR, "interrupted") : BindIfMountedElsewhere();
    return !bound.ok() || *bound;
  };
  StatusOr<DeviceLock> lock =
      DeviceLock::Take(device_path_, options_.filesystem.no_recovery, give_up);
  PBFS_RETURN_IF_ERROR(bound.status());
  bound_ = *bound;
  if (bound_) return OkStatus();
  const int error = ErrnoOf(lock.status());
  if (error == EROFS) MountReadOnly(kWriteProtected);
  if (options_.filesystem.read_only && (error == EROFS || error == EACCES)) {
    lock = DeviceLock::Take(device_path_, true, give_up);
  }
  PBFS_RETURN_IF_ERROR(lock.status());
  lock_ = *std::move(lock);
  return OkStatus();
}

void Server::MountReadOnly(const std::string& reason) {
  if (options_.filesystem.read_only) return;
  said_when_mounted_.push_back(reason + kMountingReadOnly);
  options_.filesystem.read_only = true;
  options_.kernel_flags |= MS_RDONLY;
}

// The holder of the lock may be a live mount of this device, which ends when its user wishes.
StatusOr<bool> Server::BindIfMountedElsewhere() {
  struct stat status = {};
  const bool is_block = stat(device_path_.c_str(), &status) == 0 && S_ISBLK(status.st_mode);
  for (const MountEntry& entry : ReadMountTable()) {
    const bool ours = entry.source == device_path_ || (is_block && entry.device == status.st_rdev);
    if (!ours || !entry.is_pbfs() || entry.root != "/") continue;
    if (geteuid() == 0 && !entry.is_roots) {
      return ErrnoError(EBUSY,
                        absl::StrCat("an ordinary user has it mounted on ", entry.mountpoint));
    }
    if (entry.is_dead()) continue;
    if (entry.mountpoint == mountpoint_ || geteuid() != 0) {
      return ErrnoError(EBUSY, absl::StrCat("it is already mounted on ", entry.mountpoint));
    }
    return AttachToMount(entry);
  }
  return false;
}

// Shows a filesystem that is mounted already at our mountpoint, too.
StatusOr<bool> Server::AttachToMount(const MountEntry& entry) {
  const char* const target = mountpoint_.c_str();
  const auto failed = [&] {
    return ErrnoError(errno, absl::StrCat("cannot mount it on ", mountpoint_, " as on ",
                                          entry.mountpoint, ": ", strerror(errno)));
  };
  if (entry.type == "fuseblk.pbfs") {
    // For the kernel it is one more mount of the device: ours is not asked for anything. EBUSY: it
    // is to be read-only here and is not there; that is a bind mount's matter.
    const StatusOr<int> fd = MountKernelSide({.device = device_path_,
                                              .mountpoint = mountpoint_,
                                              .fuseblk = true,
                                              .allow_other = options_.allow_other,
                                              .flags = options_.kernel_flags,
                                              .words = options_.kernel_words});
    if (!fd.ok() && ErrnoOf(fd.status()) != EBUSY) return fd.status();
    if (fd.ok()) {
      char byte;
      fcntl(*fd, F_SETFL, O_NONBLOCK);
      const bool attached = read(*fd, &byte, 1) < 0 && errno == EPERM;
      close(*fd);
      if (attached) return true;
      // It was unmounted in this very moment.
      UnmountKernelSide(mountpoint_, true).IgnoreError();
      return false;
    }
  }
  if (mount(entry.mountpoint.c_str(), target, nullptr, MS_BIND, nullptr) != 0) return failed();
  // As a mount of its own: what is mounted below one of the two does not show below the other.
  mount(nullptr, target, nullptr, MS_PRIVATE, nullptr);
  // The flags of a bind mount are set in a second step, which takes those away that it does not
  // name.
  constexpr unsigned long kGuards = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  const unsigned long flags = options_.kernel_flags | (entry.flags & kGuards);
  if (options_.kernel_flags != 0 &&
      mount(nullptr, target, nullptr, MS_BIND | MS_REMOUNT | flags, nullptr) != 0) {
    return failed();
  }
  return true;
}

// Whether another filesystem, a mirror or the like has the block device. A dead mount of ours is
// cleared away.
Status Server::CheckNobodyElseMounted() {
  if (!lock_.is_block_device()) return OkStatus();
  mount_device_ = lock_.device_number();
  Status status = lock_.Claim();
  for (int tries = 0; ErrnoOf(status) == EBUSY && tries < kClaimTriesMax; ++tries) {
    DetachDeadMounts();
    std::this_thread::sleep_for(kClaimStep);
    status = lock_.Claim();
  }
  return status;
}

Status Server::OpenDevice() {
  const bool read_only = (fcntl(lock_.fd(), F_GETFL) & O_ACCMODE) == O_RDONLY;
  PBFS_ASSIGN_OR_RETURN(device_, UringDevice::Open(device_path_, {.read_only = read_only}));
  for (const std::string& warning : device_->warnings()) logger_.Write(warning);
  // Without recovery it would be mounted read-only anyway, but nobody has asked for that.
  if (options_.filesystem.no_recovery && !options_.read_only_asked &&
      IsWriteProtected(lock_.fd())) {
    said_when_mounted_.push_back(absl::StrCat(kWriteProtected, kMountingReadOnly));
  }
  PBFS_ASSIGN_OR_RETURN(const FileSystem::ProbeResult probe, FileSystem::Probe(*device_));
  for (const std::string& warning : probe.warnings) logger_.Write(warning);
  if (probe.must_be_read_only) MountReadOnly("it has features that can only be read here");
  logger_.SetUuid(FormatUuid(probe.superblock.uuid));
  return OkStatus();
}

Status Server::MountKernel() {
  const bool can = lock_.is_block_device() && geteuid() == 0;
  if (options_.type == MountType::kFuseblk && !can) {
    return ErrnoError(ENOTBLK, "type=fuseblk takes root and a block device");
  }
  if (options_.type == MountType::kFuse || !can) return MountKernelAs(false);
  Status status = MountKernelAs(true);
  if (options_.type == MountType::kFuseblk || !MayTryPlainFuse(ErrnoOf(status))) return status;
  if (status.ok()) return status;
  logger_.Write(absl::StrCat("no fuseblk mount (", status.message(), "), using plain fuse"));
  return MountKernelAs(false);
}

Status Server::MountKernelAs(bool fuseblk) {
  fuseblk_ = fuseblk;
  // A fuseblk mount claims the device itself.
  if (fuseblk) lock_.Disclaim();
  if (!fuseblk && lock_.is_block_device()) PBFS_RETURN_IF_ERROR(lock_.Claim());
  const bool splices = options_.session.splice == fuse::SplicePolicy::kAlways &&
                       options_.session.transport != fuse::TransportKind::kUring;
  if (const size_t most = splices ? fuse::SplicedBytesMax() : 0; most != 0) {
    options_.session.read_bytes_max = most;
  }
  PBFS_ASSIGN_OR_RETURN(const int fd,
                        MountKernelSide({.device = device_path_,
                                         .mountpoint = mountpoint_,
                                         .fuseblk = fuseblk,
                                         .allow_other = options_.allow_other,
                                         .read_bytes_max = options_.session.read_bytes_max,
                                         .flags = options_.kernel_flags,
                                         .words = options_.kernel_words}));
  options_.session.workers.loops = LoopCount();
  options_.session.limit_collected = [this](uint64_t limit_bytes) {
    LimitBackingDevice(mount_device_, fuseblk_, limit_bytes);
  };
  options_.session.remount = [this] { return FollowMount(true); };
  options_.session.device_statistics = [this] { return watched_->StatsJson(); };
  auto session = fuse::Session::Create(fd, options_.session);
  Status status = session.status();
  if (status.ok()) {
    session_ = *std::move(session);
    status = session_->ReceiveInit();
  }
  if (status.ok()) return OkStatus();
  AbandonMount();
  if (ErrnoOf(status) != EPERM) return status;
  // The kernel gave us the superblock of another server.
  return ErrnoError(EALREADY, "it is already mounted elsewhere");
}

Status Server::MountFileSystem() {
  if (const auto entry = FindMountAt(mountpoint_)) {
    mount_device_ = entry->device;
    mount_id_ = entry->id;
    MutexLock lock(follow_mutex_);
    followed_flags_ = entry->flags;
  }
  MountOptions& options = options_.filesystem;
  const bool told_of_sync = fuseblk_ && fuse::SyncReachesFuseblk(session_->kernel_minor());
  if (!told_of_sync && !options_.commit_interval_given) {
    options.commit_interval_ns = kUntoldCommitIntervalNs;
  }
  options.log = [this](const std::string& line) { logger_.Write(line); };
  options.becomes_writable = true;
  options.collects_writes = options_.session.writeback_cache;
  options.lazy_delay_ns = LazyTimesDelayNs;
  watched_ = std::make_unique<WatchedDevice>(*device_, WatchedDevice::Options{.log = options.log});
  PBFS_ASSIGN_OR_RETURN(fs_, FileSystem::Mount(*watched_, options));
  const MountReport& report = fs_->mount_report();
  if (report.replayed) {
    logger_.Note(absl::StrCat("replayed ", report.checkpoints_replayed, " checkpoints (",
                              report.blocks_replayed, " blocks), ", report.orphans,
                              " orphaned files"));
  }
  for (const std::string& warning : report.warnings) logger_.Write(warning);
  return OkStatus();
}

std::optional<MountEntry> Server::OwnMount() const {
  std::optional<MountEntry> own;
  for (MountEntry& entry : ReadMountTable()) {
    if (entry.device != mount_device_ || !entry.is_pbfs()) continue;
    if (!own || entry.id == mount_id_) own = std::move(entry);
  }
  return own;
}

Status Server::FollowMount(bool again) {
  MutexLock lock(follow_mutex_);
  const auto mount = OwnMount();
  if (!mount) {
    return again ? ErrnoError(ENOENT, "not in the server's mount namespace") : OkStatus();
  }
  if (mount->flags == followed_flags_ && (could_follow_ || !again)) return OkStatus();
  followed_flags_ = mount->flags;
  fs_->SetAccessTimes(AccessTimesOf(mount->flags));
  session_->SetSync((mount->flags & (MS_SYNCHRONOUS | MS_DIRSYNC)) != 0,
                    (mount->flags & MS_SYNCHRONOUS) != 0);
  Status status = fs_->Remount(mount->is_read_only());
  could_follow_ = status.ok();
  return status;
}

Status Server::Serve() {
  PBFS_RETURN_IF_ERROR(session_->Start(*fs_));
  TuneBackingDevice(mount_device_, fuseblk_, options_.session.read_bytes_max);
  session_->NoteSpaceTaken();
  session_->NoteMountpoint(mountpoint_);
  for (const std::string& line : said_when_mounted_) logger_.Write(line);
  return OkStatus();
}

Status Server::Run() {
  {
    const MountWatch watch([this] {
      const Status status = FollowMount(false);
      if (!status.ok()) logger_.Write(WithContext(status, "remount").ToString());
    });
    session_->WaitForEnd();
  }
  ended_.store(true);
  Status status = fs_->Unmount();
  if (!status.ok()) logger_.Write(WithContext(status, "unmount").ToString());
  session_->Stop();
  fs_.reset();
  watched_.reset();
  device_.reset();
  lock_.Release();
  session_->AnswerDestroy();
  session_.reset();
  // An aborted connection leaves its mounts behind.
  DetachDeadMounts();
  return status;
}

void Server::RequestUnmount() {
  for (const MountEntry& entry : ReadMountTable()) {
    if (ended_.load()) return;  // The device number may be another mount's soon.
    if (entry.device != mount_device_ || !entry.is_pbfs()) continue;
    if (UnmountKernelSide(entry.mountpoint, false).ok()) continue;
    if (const Status status = UnmountKernelSide(entry.mountpoint, true); !status.ok()) {
      logger_.Write(std::string(status.message()));
    }
  }
}

// Ends a mount whose INIT was not answered. First the connection: without a server the kernel must
// not wait for one while it unmounts.
void Server::AbandonMount() {
  session_.reset();
  UnmountKernelSide(mountpoint_, true).IgnoreError();
}

void Server::DetachDeadMounts() {
  for (const MountEntry& entry : ReadMountTable()) {
    if (entry.device == mount_device_ && entry.is_pbfs() && entry.is_dead()) {
      UnmountKernelSide(entry.mountpoint, true).IgnoreError();
    }
  }
}

unsigned Server::LoopCount() const {
  if (options_.workers != 0) return options_.workers;
  return std::clamp(std::thread::hardware_concurrency(), 1u, kLoopsMax);
}

}  // namespace pbfs
