// SPDX-License-Identifier: Apache-2.0
// fsck.pbfs: finishes what a crash left, checks, says what is wrong. Repairs no structures.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "fs/checker.h"
#include "fs/filesystem.h"
#include "fs/recovery.h"
#include "fs/summary.h"
#include "io/uring_device.h"
#include "tools/common/device_safety.h"
#include "tools/common/terminal.h"
#include "tools/fsck/fsck_options.h"

namespace pbfs {
namespace {

constexpr size_t kCacheBytes = 64 << 20;

std::atomic<bool> g_cancelled{false};

void OnSignal(int) { g_cancelled.store(true, std::memory_order_relaxed); }

// A signal ends the check at the next good place; a second one ends the program.
void CatchSignals() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
}

// Shows how far the check is: as a bar, or in lines "PASS DONE TOTAL DEVICE" as fsck(8) reads them.
class Progress {
 public:
  explicit Progress(const FsckOptions& options)
      : device_(options.device), fd_(options.progress_fd.value_or(0)) {}

  void Update(const char* phase, uint64_t done, uint64_t total) {
    if (phase_ != phase) {
      phase_ = phase;
      ++pass_;
      said_ = 0;
      bar_.reset();
      if (fd_ == 0) bar_.emplace(STDOUT_FILENO, absl::StrCat(Printable(device_), ": ", phase));
    }
    if (bar_) bar_->Update(done, total);
    if (fd_ <= 0 || total == 0 || (done - said_ < total / 100 && done != 0)) return;
    said_ = done;
    dprintf(fd_, "%d %llu %llu %s\n", pass_, static_cast<unsigned long long>(done),
            static_cast<unsigned long long>(total), device_.c_str());
  }
  void End() { bar_.reset(); }

 private:
  const std::string device_;
  const int fd_;
  const char* phase_ = nullptr;
  int pass_ = 0;
  uint64_t said_ = 0;
  std::optional<ProgressBar> bar_;
};

class Fsck {
 public:
  explicit Fsck(const FsckOptions& options)
      : options_(options), name_(Printable(options.device)), progress_(options) {}

  int Run();

 private:
  using Mode = FsckOptions::Mode;

  StatusOr<int> CheckReadOnly(BlockDevice& device);
  StatusOr<int> FinishAndCheck(BlockDevice& device);
  Status FinishOrphans(BlockDevice& device);
  CheckOptions MakeCheckOptions();
  int Print(const CheckReport& report);
  void PrintStats(const CheckReport::Stats& stats) const;
  void PrintSummary(const Superblock& superblock, const FilesystemSummary& summary) const;
  int Fail(const Status& status) const;

  const FsckOptions options_;
  const std::string name_;
  Progress progress_;
};

int Fsck::Fail(const Status& status) const {
  const std::string message(status.message());
  std::fprintf(stderr, "fsck.pbfs: %s\n", message.c_str());
  return ErrnoOf(status) == ECANCELED ? kFsckCancelled : kFsckFailed;
}

CheckOptions Fsck::MakeCheckOptions() {
  CheckOptions check;
  check.cache_bytes = kCacheBytes;
  check.cancelled = [] { return g_cancelled.load(std::memory_order_relaxed); };
  check.progress = [this](const char* phase, uint64_t done, uint64_t total) {
    progress_.Update(phase, done, total);
  };
  return check;
}

int Fsck::Print(const CheckReport& report) {
  progress_.End();
  for (const std::string& line : report.problems) std::puts(Printable(line).c_str());
  if (report.problem_count > report.problems.size()) {
    std::printf("... and %llu more\n",
                static_cast<unsigned long long>(report.problem_count - report.problems.size()));
  }
  if (options_.verbose) {
    for (const std::string& note : report.notes) std::printf("note: %s\n", Printable(note).c_str());
    PrintStats(report.stats);
  }
  if (report.io_error_count > 0) {
    std::fprintf(stderr, "fsck.pbfs: %s: %llu blocks cannot be read: the check is not complete\n",
                 name_.c_str(), static_cast<unsigned long long>(report.io_error_count));
    // Contradictions may be there only because something could not be read.
    return kFsckFailed | (report.problem_count > report.io_error_count ? kFsckErrorsLeft : 0);
  }
  if (report.clean()) {
    std::printf("%s: clean, %llu files, %llu directories, %llu of %llu blocks used\n",
                name_.c_str(),
                static_cast<unsigned long long>(report.stats.files + report.stats.symlinks +
                                                report.stats.others),
                static_cast<unsigned long long>(report.stats.directories),
                static_cast<unsigned long long>(report.stats.blocks_used),
                static_cast<unsigned long long>(report.stats.blocks));
    return kFsckClean;
  }
  std::printf(
      "%s: %llu errors. pbfs does not repair structures yet: nothing was changed for them. "
      "Mount it with -o ro,norecovery to save what can be read.\n",
      name_.c_str(), static_cast<unsigned long long>(report.problem_count));
  return kFsckErrorsLeft;
}

void Fsck::PrintStats(const CheckReport::Stats& stats) const {
  const auto line = [](const char* name, uint64_t value) {
    std::printf("  %-20s %llu\n", name, static_cast<unsigned long long>(value));
  };
  line("regular files", stats.files);
  line("directories", stats.directories);
  line("symbolic links", stats.symlinks);
  line("other inodes", stats.others);
  line("orphans", stats.orphans);
  line("inode slots", stats.inode_slots);
  line("extents", stats.extents);
  line("data blocks", stats.data_blocks);
  line("blocks used", stats.blocks_used);
  line("blocks", stats.blocks);
  line("groups", stats.groups);
  line("groups in use", stats.groups_initialized);
}

void Fsck::PrintSummary(const Superblock& superblock, const FilesystemSummary& summary) const {
  std::printf("%s: was unmounted, not checked; %llu inodes, %llu of %llu blocks used\n",
              name_.c_str(),
              static_cast<unsigned long long>(summary.inode_slots - summary.inodes_free),
              static_cast<unsigned long long>(superblock.total_blocks - summary.blocks_free),
              static_cast<unsigned long long>(superblock.total_blocks));
}

StatusOr<int> Fsck::CheckReadOnly(BlockDevice& device) {
  PBFS_ASSIGN_OR_RETURN(const CheckReport report, CheckReplayed(device, MakeCheckOptions()));
  progress_.End();
  if (report.log_was_dirty) {
    std::printf(
        "%s: the log is dirty: checked as the next mount will find it (%llu checkpoints "
        "replayed in memory), nothing was written\n",
        name_.c_str(), static_cast<unsigned long long>(report.checkpoints_replayed));
  }
  return Print(report);
}

// A mount does it, and nothing else.
Status Fsck::FinishOrphans(BlockDevice& device) {
  MountOptions mount;
  mount.cache_bytes = kCacheBytes;
  PBFS_ASSIGN_OR_RETURN(const std::unique_ptr<FileSystem> filesystem,
                        FileSystem::Mount(device, mount));
  return filesystem->Unmount();
}

StatusOr<int> Fsck::FinishAndCheck(BlockDevice& device) {
  PBFS_ASSIGN_OR_RETURN(const FileSystem::ProbeResult probe, FileSystem::Probe(device));
  if (probe.must_be_read_only) {
    return ErrnoError(EOPNOTSUPP, absl::StrCat(name_,
                                               ": uses features that this program does not "
                                               "know: it may not replay the log"));
  }
  // A log that cannot be replayed is an error of the filesystem; nothing was written then.
  const StatusOr<RecoveryResult> replayed = ReplayLog(device, probe.superblock);
  if (IsCorruption(replayed.status())) {
    std::puts(Printable(std::string(replayed.status().message())).c_str());
    return kFsckErrorsLeft;
  }
  PBFS_RETURN_IF_ERROR(replayed.status());
  int code = kFsckClean;
  if (replayed->replayed) {
    code = kFsckFixed;
    std::printf("%s: log replayed: %llu checkpoints, %llu blocks\n", name_.c_str(),
                static_cast<unsigned long long>(replayed->checkpoints),
                static_cast<unsigned long long>(replayed->blocks_written));
  }
  const StatusOr<FilesystemSummary> summary = ReadSummary(device, probe.superblock);
  const bool orphans = summary.ok() && summary->has_orphans;
  if (summary.ok() && !orphans && code == kFsckClean && options_.mode == Mode::kPreen &&
      !options_.force && probe.warnings.empty()) {
    PrintSummary(probe.superblock, *summary);
    return code;
  }
  // Orphans are freed only where all else is right.
  PBFS_ASSIGN_OR_RETURN(CheckReport report, CheckFilesystem(device, MakeCheckOptions()));
  if (report.clean() && orphans) {
    progress_.End();
    PBFS_RETURN_IF_ERROR(FinishOrphans(device));
    code = kFsckFixed;
    std::printf("%s: orphans finished: %llu\n", name_.c_str(),
                static_cast<unsigned long long>(report.stats.orphans));
    PBFS_ASSIGN_OR_RETURN(report, CheckFilesystem(device, MakeCheckOptions()));
  }
  return code | Print(report);
}

int Fsck::Run() {
  const bool read_only = options_.mode == Mode::kReadOnly;
  const StatusOr<DeviceClaim> claim = DeviceClaim::Take(options_.device, {.read_only = read_only});
  if (!claim.ok()) {
    const bool in_use = ErrnoOf(claim.status()) == EBUSY;
    if (!in_use || !options_.skip_mounted) return Fail(claim.status());
    std::printf("%s: in use, not checked\n", name_.c_str());
    return kFsckClean;
  }
  const auto device = UringDevice::Open(options_.device, {.read_only = read_only});
  if (!device.ok()) return Fail(device.status());
  for (const std::string& warning : (*device)->warnings()) {
    std::fprintf(stderr, "fsck.pbfs: %s: %s\n", name_.c_str(), warning.c_str());
  }
  const StatusOr<int> code = read_only ? CheckReadOnly(**device) : FinishAndCheck(**device);
  progress_.End();
  return code.ok() ? *code : Fail(code.status());
}

int Main(int argc, char** argv) {
  const auto options = ParseFsckOptions(argc, argv);
  if (!options.ok()) {
    const std::string message(options.status().message());
    std::fprintf(stderr, "fsck.pbfs: %s\n", message.c_str());
    return kFsckUsage;
  }
  int code = kFsckClean;
  if (options->has_value()) {
    CatchSignals();
    code = Fsck(**options).Run();
  }
  if (std::fflush(stdout) == 0) return code;
  std::perror("fsck.pbfs: standard output");
  return code | kFsckFailed;
}

}  // namespace
}  // namespace pbfs

int main(int argc, char** argv) {
  try {
    return pbfs::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fsck.pbfs: %s\n", error.what());
    return pbfs::kFsckFailed;
  }
}
