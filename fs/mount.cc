// SPDX-License-Identifier: Apache-2.0
// Finding a filesystem on a device, bringing it up and taking it down.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/event.h"
#include "fs/aligned_buffer.h"
#include "fs/filesystem_impl.h"
#include "fs/label.h"
#include "fs/recovery.h"
#include "fs/verify.h"

namespace pbfs {
namespace {

Status CheckFeatures(const std::string& name, const Superblock& superblock) {
  const uint64_t unknown = superblock.feature_incompat & ~kIncompatKnown;
  if (unknown != 0) {
    return ErrnoError(EOPNOTSUPP, absl::StrCat(name, ": unknown incompatible features 0x",
                                               absl::Hex(unknown), ": needs a newer pbfs"));
  }
  return OkStatus();
}

const char* NameOf(ShutdownMode mode) {
  switch (mode) {
    case ShutdownMode::kDefault:
      return "default";
    case ShutdownMode::kLogFlush:
      return "logflush";
    case ShutdownMode::kNoLogFlush:
      return "nologflush";
  }
  return "?";
}

}  // namespace

StatusOr<FileSystem::ProbeResult> FileSystem::Probe(BlockDevice& device) {
  const std::string& name = device.geometry().name;
  const uint64_t device_blocks = device.geometry().size_bytes / kBlockBytes;
  if (device.geometry().size_bytes < kDeviceBytesMin) {
    return ErrnoError(EINVAL, absl::StrCat(name, ": too small for a pbfs filesystem"));
  }
  ProbeResult result;
  StatusOr<Superblock> superblock = ReadSuperblock(device, 0);
  if (!superblock.ok()) {
    const int error = ErrnoOf(superblock.status());
    if (error == EOPNOTSUPP || error == ENOMEM) return superblock.status();
    for (const BlockNumber copy : {device_blocks - 1, AgStart(1), AgStart(3)}) {
      if (copy >= device_blocks) continue;
      StatusOr<Superblock> other = ReadSuperblock(device, copy);
      if (!other.ok()) continue;
      result.warnings.push_back(absl::StrCat(name, ": bad superblock (",
                                             std::string(superblock.status().message()),
                                             "), using the copy in block ", copy));
      superblock = std::move(other);
      break;
    }
  }
  if (ErrnoOf(superblock.status()) == EIO) return superblock.status();
  if (!superblock.ok()) {
    return ErrnoError(EINVAL, absl::StrCat(name, ": not a pbfs filesystem: ",
                                           std::string(superblock.status().message())));
  }
  PBFS_RETURN_IF_ERROR(CheckFeatures(name, *superblock));
  if (superblock->total_blocks > device_blocks) {
    return ErrnoError(
        EINVAL, absl::StrCat(name, ": truncated: the filesystem has ", superblock->total_blocks,
                             " blocks, the device ", device_blocks));
  }
  if ((superblock->feature_ro_compat & ~kRoCompatKnown) != 0) {
    result.must_be_read_only = true;
    result.warnings.push_back(
        absl::StrCat(name, ": unknown features 0x",
                     absl::Hex(superblock->feature_ro_compat & ~kRoCompatKnown), ": read-only"));
  }
  result.superblock = *superblock;
  return result;
}

StatusOr<std::unique_ptr<FileSystem>> FileSystem::Mount(BlockDevice& device,
                                                        const MountOptions& options) {
  ProbeResult probe;
  PBFS_ASSIGN_OR_RETURN(probe, Probe(device));
  const std::string& name = device.geometry().name;
  LogAnchor anchor;
  PBFS_ASSIGN_OR_RETURN(anchor, ReadLogAnchor(device, probe.superblock));
  RecoveryResult recovery;
  recovery.anchor_generation = anchor.generation;
  recovery.next_sequence = anchor.first_sequence;
  if (!options.no_recovery) {
    if (anchor.clean == 0 && probe.must_be_read_only) {
      return ErrnoError(EROFS, absl::StrCat(name,
                                            ": the log is dirty, and features that this "
                                            "version does not know forbid replaying it"));
    }
    if (anchor.clean == 0 && device.geometry().read_only) {
      return ErrnoError(EROFS,
                        absl::StrCat(name,
                                     ": cannot mount it read-only without replaying the log, "
                                     "which the write-protected device does not allow (try "
                                     "-o norecovery)"));
    }
    PBFS_ASSIGN_OR_RETURN(recovery, ReplayLog(device, probe.superblock));
  }
  auto filesystem = std::make_unique<FileSystemImpl>(device, options, probe.superblock);
  if (!filesystem->page_cache().has_memory()) {
    return ErrnoError(
        ENOMEM, absl::StrCat(name, ": no memory for a cache of ", options.cache_bytes, " bytes"));
  }
  if (probe.must_be_read_only || device.geometry().read_only) filesystem->ForceReadOnly();
  MountReport& report = filesystem->report();
  report.warnings = probe.warnings;
  report.replayed = recovery.replayed;
  report.checkpoints_replayed = recovery.checkpoints;
  report.blocks_replayed = recovery.blocks_written;
  PBFS_RETURN_IF_ERROR(filesystem->Start(recovery.anchor_generation, recovery.next_sequence));
  return std::unique_ptr<FileSystem>(std::move(filesystem));
}

FileSystemImpl::FileSystemImpl(BlockDevice& device, const MountOptions& options,
                               const Superblock& superblock)
    : device_(device),
      log_line_(options.log),
      options_(WithQuietEnd(options)),
      superblock_(superblock),
      read_only_(options.read_only || options.no_recovery),
      must_be_read_only_(options.no_recovery),
      label_(LabelOf(superblock)),
      pages_(options.cache_bytes),
      cache_(pages_, device_),
      reader_{cache_, superblock_, options_.log ? &options_.log : nullptr},
      hash_(superblock_),
      space_(reader_),
      discards_(device_, space_),
      inode_allocator_(reader_, space_),
      inodes_(reader_, pages_, std::clamp<size_t>(options.cache_bytes >> 15, 1024, 16384)),
      neighbour_reads_(device_, reader_, space_, pages_, inodes_, reads_in_flight_,
                       [this](InodeNumber ino) {
                         return log_->WhileStill([&] { return inode_allocator_.UsedBeside(ino); });
                       }) {}

FileSystemImpl::~FileSystemImpl() {
  // Those that were answered a moment ago, on another thread.
  while (reads_in_flight_.load(std::memory_order_acquire) != 0) {
    SleepFor(std::chrono::microseconds(50));
  }
  if (access_times_) access_times_->Stop();
  if (orphans_) orphans_->Stop();
  if (writeback_) writeback_->Stop();
  access_times_.reset();
  orphans_.reset();
  writeback_.reset();
  log_.reset();
  if (zero_page_ != nullptr) pages_.Unpin(*zero_page_);
}

void FileSystemImpl::MakeParts() {
  const size_t frames = pages_.frames_total();
  Log::Options log_options;
  // Data waits for writeback, then its metadata for a commit; the rest is for the I/O and the
  // ticks.
  log_options.commit_interval_ns = options_.commit_interval_ns * 2 / 5;
  log_options.dirty_blocks_max = std::max<size_t>(frames * 2 / 5, 2 * kTransactionBlocksMax);
  log_options.log = options_.log;
  log_options.release_freed = [this](const std::vector<Transaction::Freed>& freed) {
    discards_.Add(freed);
  };
  log_ = std::make_unique<Log>(device_, superblock_, cache_, pages_, log_options);
  runner_ = std::make_unique<OperationRunner>(
      reader_, space_, *log_, [this](RoomSearch& search) { return SearchRoom(search); });
  Writeback::Options writeback_options;
  writeback_options.age_max_ns = options_.commit_interval_ns * 2 / 5;
  writeback_options.dirty_background_pages = frames / 8;
  writeback_options.dirty_max_pages = frames / 4;
  writeback_options.log = options_.log;
  writeback_ = std::make_unique<Writeback>(device_, reader_, pages_, space_, *log_, *runner_,
                                           writeback_options);
  orphans_ = std::make_unique<Orphans>(reader_, space_, inode_allocator_, inodes_, *writeback_,
                                       *runner_, options_.log);
  AccessTimes::Options access_options;
  access_options.policy = options_.access_times;
  access_options.delay_ns = options_.commit_interval_ns * 2 / 5;
  access_options.lazy_delay_ns = options_.lazy_delay_ns;
  access_options.log = options_.log;
  access_times_ = std::make_unique<AccessTimes>(*runner_, access_options);
}

Status FileSystemImpl::Start(uint64_t anchor_generation, uint64_t next_sequence) {
  zero_page_ = pages_.Allocate();
  std::memset(zero_page_->data, 0, kPageBytes);
  space_.SetReport(options_.log);
  PBFS_RETURN_IF_ERROR(space_.Load());
  if (options_.collects_writes) space_.KeepForCollected();
  PBFS_RETURN_IF_ERROR(inode_allocator_.Load());
  PBFS_RETURN_IF_ERROR(LoadWatched());
  MakeParts();
  pages_.SetPressureHandler(
      [](void* context) {
        auto* self = static_cast<FileSystemImpl*>(context);
        self->writeback_->Kick();
        self->log_->RequestWriteback();
      },
      this);
  MutexLock lock(remount_mutex_);
  anchor_generation_ = anchor_generation;
  next_sequence_ = next_sequence;
  if (!read_only_) PBFS_RETURN_IF_ERROR(StartWriting());
  return inodes_.Get(root()).status();
}

Status FileSystemImpl::StartWriting() {
  PBFS_RETURN_IF_ERROR(log_->Start(anchor_generation_, next_sequence_));
  if (DiscardsFreed()) discards_.Start();
  writeback_->Start();
  writing_ = true;
  PBFS_ASSIGN_OR_RETURN(report_.orphans, orphans_->Recover());
  orphans_->Start();
  access_times_->Start();
  return OkStatus();
}

Status FileSystemImpl::StopWriting() {
  orphans_->Drain();
  (void)access_times_->StoreAll();
  access_times_->Stop();
  if (log_->error().ok()) writeback_->RetryErrors();
  Status status = writeback_->FlushAll();
  orphans_->Stop();
  writeback_->Stop();
  const Status stopped = log_->Stop();
  discards_.Stop();
  writing_ = false;
  anchor_generation_ = log_->anchor_generation();
  next_sequence_ = log_->open_sequence();
  return stopped.ok() ? status : stopped;
}

Status FileSystemImpl::Unmount() {
  MutexLock lock(remount_mutex_);
  if (shut_down_) return OkStatus();
  if (!writing_) return SyncedWhileReadOnly();
  orphans_->ForgetReferences();
  return StopWriting();
}

Status FileSystemImpl::Remount(bool read_only) {
  LongMutexLock lock(remount_mutex_);
  PBFS_RETURN_IF_ERROR(CheckRunning());
  if (read_only == read_only_) return read_only ? SyncedWhileReadOnly() : OkStatus();
  PBFS_RETURN_IF_ERROR(log_->error());
  if (!read_only) {
    if (must_be_read_only_) return ErrnoError(EROFS, "it can only be mounted read-only");
    const Status started = StartWriting();
    if (started.ok()) {
      read_only_ = false;
    } else {
      SayReadOnly("remount, read-write", started);
      if (writing_) (void)StopWriting();
      NoteEnd(started);
    }
    return started;
  }
  read_only_ = true;
  Status status = writeback_->FlushAll();
  if (!status.ok()) {
    read_only_ = false;
    return status;
  }
  status = StopWriting();
  if (!status.ok()) SayReadOnly("remount, read-only", status);
  NoteEnd(status);
  return status;
}

void FileSystemImpl::NoteEnd(const Status& status) {
  MutexLock lock(end_mutex_);
  end_of_writing_ = status;
}

void FileSystemImpl::SayReadOnly(std::string_view what, const Status& status) {
  if (!options_.log) return;
  options_.log(absl::StrCat(absl::string_view(what.data(), what.size()), ": ", status.message(),
                            "; the filesystem is read-only now"));
}

Status FileSystemImpl::SyncedWhileReadOnly() {
  PBFS_RETURN_IF_ERROR(CheckRunning());
  PBFS_RETURN_IF_ERROR(log_->error());
  MutexLock lock(end_mutex_);
  return end_of_writing_;
}

void FileSystemImpl::MakeRoom() {
  orphans_->AwaitForgotten();
  orphans_->Drain();
  (void)writeback_->FlushAll();
}

Status FileSystemImpl::SearchRoom(RoomSearch& search) {
  constexpr int kAttemptsMax = 4;
  const uint64_t freed = space_.freed_blocks();
  // What was freed for us others may have taken; then there may be more.
  if (search.attempts > 0 && (freed == search.freed_blocks || search.attempts == kAttemptsMax)) {
    return ErrnoError(ENOSPC, "no space left");
  }
  ++search.attempts;
  search.freed_blocks = freed;
  MakeRoom();
  return log_->ForceAll();
}

MountOptions FileSystemImpl::WithQuietEnd(MountOptions options) {
  if (!options.log) return options;
  options.log = [this, log = std::move(options.log)](const std::string& line) {
    if (!shut_down_) log(line);
  };
  return options;
}

Status FileSystemImpl::CheckRunning() const {
  if (shut_down_) return ErrnoError(EIO, "the filesystem is shut down");
  return OkStatus();
}

StatusOr<InodeRef> FileSystemImpl::GetInode(InodeNumber ino) {
  PBFS_RETURN_IF_ERROR(CheckRunning());
  return inodes_.Get(ino);
}

Status FileSystemImpl::CheckWritable() {
  PBFS_RETURN_IF_ERROR(CheckRunning());
  if (!read_only_) return OkStatus();
  if (!options_.becomes_writable) return ErrnoError(EROFS, "mounted read-only");
  return Remount(/*read_only=*/false);
}

Status FileSystemImpl::Run(const OperationRunner::Needs& needs, const OperationRunner::Body& body) {
  PBFS_RETURN_IF_ERROR(CheckWritable());
  return runner_->Run(needs, body);
}

StatusOr<SpaceStats> FileSystemImpl::StatFs() {
  PBFS_RETURN_IF_ERROR(CheckRunning());
  return Space();
}

uint64_t FileSystemImpl::AvailableBytes() const {
  const uint64_t blocks = space_.available_blocks();
  const uint64_t kept = space_.kept_blocks();
  return blocks > kept ? (blocks - kept) * kBlockBytes : 0;
}

bool FileSystemImpl::AwaitAvailable(uint64_t bytes) {
  constexpr int kAttemptsMax = 4;
  for (int i = 0; AvailableBytes() < bytes && i < kAttemptsMax && orphans_->MayFree(); ++i) {
    orphans_->AwaitForgotten();
    orphans_->Drain();
  }
  return AvailableBytes() >= bytes;
}

SpaceStats FileSystemImpl::Space() {
  SpaceStats stats{};
  stats.blocks_total = superblock_.total_blocks - superblock_.log_blocks;
  stats.blocks_free = space_.available_blocks();
  stats.blocks_available = AvailableBytes() / kBlockBytes;
  const uint64_t inodes_used = inode_allocator_.used_count();
  stats.inodes_free = stats.blocks_available * kInodesPerBlock;
  stats.inodes_total = inodes_used + stats.inodes_free;
  return stats;
}

StatusOr<uint64_t> FileSystemImpl::Trim(uint64_t start_bytes, uint64_t length_bytes,
                                        uint64_t minimum_bytes) {
  PBFS_RETURN_IF_ERROR(CheckRunning());
  if (read_only()) return ErrnoError(EROFS, "mounted read-only");
  return discards_.Trim(start_bytes, length_bytes, minimum_bytes);
}

std::string FileSystemImpl::Label() {
  MutexLock lock(label_mutex_);
  return label_;
}

Status FileSystemImpl::SetLabel(std::string_view label) {
  PBFS_RETURN_IF_ERROR(CheckRunning());
  if (read_only()) return ErrnoError(EROFS, "mounted read-only");
  LongMutexLock lock(label_mutex_);
  PBFS_RETURN_IF_ERROR(WriteLabel(device_, superblock_, label));
  label_ = std::string(label);
  return OkStatus();
}

void FileSystemImpl::SyncAll(Done done) {
  if (!writing_) return done(SyncedWhileReadOnly());
  (void)access_times_->StoreAll();  // An error of the log is met below.
  // What was deleted before is not to fail this, and its space is free afterwards.
  orphans_->Drain();
  // One file that cannot be written leaves the others their due: the error comes at the end.
  writeback_->FlushAllAsync([this, done = std::move(done)](const Status& written) {
    // In-place overwrites need a flush even when no checkpoint is due.
    log_->FlushAsync([this, written, done](const Status& flushed) {
      if (!flushed.ok()) return done(flushed);
      log_->ForceAsync(log_->open_sequence(), [written, done](const Status& forced) {
        done(written.ok() ? forced : written);
      });
    });
  });
}

Status FileSystemImpl::Shutdown(ShutdownMode mode) {
  Status status;
  if (!shut_down_ && mode == ShutdownMode::kDefault) {
    Event synced;
    SyncAll([&](const Status& result) {
      status = result;
      synced.Set();
    });
    synced.Wait();
  } else if (!shut_down_ && mode == ShutdownMode::kLogFlush && writing_) {
    status = log_->ForceAll();
  }
  if (!shut_down_.exchange(true) && log_line_) {
    log_line_(absl::StrCat("shut down (", NameOf(mode), "): nothing more is written"));
  }
  // First those who wait for the log: what they wait for may become durable, but they are not told.
  log_->Shutdown(CheckRunning());
  device_.Shutdown();
  // Then those who wait for frames, or for less dirty data: what is dirty fails at once and stays.
  pages_.LiftDataLimit();
  writeback_->Kick();
  return status;
}

std::string FileSystemImpl::StatsJson() {
  const PageCache::Stats pages = pages_.stats();
  const BlockCache::Stats blocks = cache_.stats();
  const SpaceStats space = Space();
  const Log::Stats log = log_->stats();
  return absl::StrCat(
      "{\"cache\":{\"frames\":", pages.frames_total, ",\"free\":", pages.frames_free,
      ",\"evictions\":", pages.evictions, ",\"allocation_waits\":", pages.allocation_waits,
      ",\"dirty_pages\":", pages_.dirty_pages.load(), ",\"data_hits\":", pages_.data_hits.load(),
      ",\"data_misses\":", pages_.data_misses.load(), ",\"metadata_hits\":", blocks.hits,
      ",\"metadata_misses\":", blocks.misses, "},\"log\":{\"checkpoints\":", log.checkpoints,
      ",\"blocks\":", log.checkpoint_blocks, ",\"flushes\":", log.flushes,
      ",\"images\":", log.images, ",\"ranges\":", log.ranges,
      ",\"metadata_writes\":", log.metadata_writes, ",\"ring_blocks\":", log.ring_blocks,
      ",\"ring_used\":", log.ring_used, ",\"dirty_blocks\":", log.dirty_blocks,
      ",\"space_waits\":", log.space_waits, "},\"space\":{\"blocks\":", space.blocks_total,
      ",\"free\":", space.blocks_free, ",\"inodes\":", space.inodes_total,
      ",\"inodes_free\":", space.inodes_free, "},\"inodes_referenced\":", inodes_.reference_count(),
      "}");
}

}  // namespace pbfs
