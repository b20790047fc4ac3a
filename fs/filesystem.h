// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "cache/page_cache.h"
#include "fs/format.h"
#include "io/block_device.h"
#include "io/logical_buffer.h"

namespace pbfs {

// When reading something sets its access time (mount(8): atime options).
struct AccessTimePolicy {
  enum class When : uint16_t {
    kRelative,  // When it is not newer than the last change, or a day old.
    kAlways,
    kNever,
  };
  When when = When::kRelative;
  bool directories = true;
  bool lazy = false;  // Stored with something else, on sync, at unmount, or after an hour.
  friend bool operator==(const AccessTimePolicy&, const AccessTimePolicy&) = default;
};

struct MountOptions {
  size_t cache_bytes = size_t{256} << 20;
  int64_t commit_interval_ns = 5'000'000'000;
  bool read_only = false;
  // Whoever calls refuses changes by itself while the filesystem is read-only, as the kernel does:
  // a change that arrives means that it was remounted read-write, of which the kernel does not
  // tell.
  bool becomes_writable = false;
  // Mount read-only without replaying the log.
  bool no_recovery = false;
  bool discard = false;
  // A part of the space (1/32, at most 16 MiB) is kept for writes from the kernel's page cache,
  // which it accepted without asking.
  bool collects_writes = false;
  AccessTimePolicy access_times = {.when = AccessTimePolicy::When::kNever};
  // How long lazy times are kept, as of now; from any thread. Empty: an hour.
  std::function<int64_t()> lazy_delay_ns;
  // Where warnings of the running filesystem go (one line each, no newline). May be empty.
  std::function<void(const std::string& line)> log;
};

struct Time {
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
  friend auto operator<=>(const Time&, const Time&) = default;
};

struct Attributes {
  InodeNumber ino = 0;
  uint32_t mode = 0;
  uint32_t nlink = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t rdev = 0;
  uint32_t generation = 0;
  uint32_t flags = 0;  // Of kInodeFlagsKnown.
  uint32_t project = 0;
  uint64_t size_bytes = 0;
  uint64_t blocks_512 = 0;  // Delayed allocations included.
  Time atime, mtime, ctime, btime;
};

struct SetAttributes {
  std::optional<uint32_t> mode = {}, uid = {}, gid = {};
  std::optional<uint64_t> size_bytes = {};
  std::optional<Time> atime = {}, mtime = {}, ctime = {};
  bool atime_now = false, mtime_now = false;
  // KILLPRIV_V2: also clear setuid (and setgid if group-executable).
  bool kill_suidgid = false;
  // With it: setgid goes in any case, as the caller is not in the file's group.
  bool kill_setgid = false;
  // The times are those of earlier writes: an inode that has become immutable keeps its own, and
  // that is no error.
  bool of_writes = false;
};

struct Owner {
  uint32_t uid = 0;
  uint32_t gid = 0;
};

struct NewInode {
  uint32_t mode = 0;  // S_IF... and permissions.
  uint32_t uid = 0;
  uint32_t gid = 0;  // The server applies a setgid directory's group.
  uint32_t rdev = 0;
  std::string_view symlink_target = {};
  // Where the directory has a default ACL, that is inherited; else the umask applies. With
  // `no_acls`: the umask in any case.
  uint32_t umask = 0;
  bool no_acls = false;
};

struct DirEntry {
  InodeNumber ino;
  uint64_t cookie;  // Pass as `after` to continue behind this entry.
  uint8_t type;     // DT_*.
  std::string_view name;
};

struct SpaceStats {
  uint64_t blocks_total, blocks_free, blocks_available;
  uint64_t inodes_total, inodes_free;
};

// With the flags of setxattr(2).
inline constexpr int kXattrKillSetgid = 1 << 16;

struct WriteFlags {
  // FUSE_WRITE_CACHE: write(2) ended long ago. Does not touch times, and has the space that is kept
  // for such writes.
  bool from_page_cache = false;
  bool sync_data = false;  // O_DSYNC or O_SYNC: answer when durable.
  // As in SetAttributes.
  bool kill_suidgid = false;
  bool kill_setgid = false;
};

// Where a read's bytes may go without being copied, for whoever passes them on as pages
// (splice(2)).
class ReadPipe {
 public:
  virtual ~ReadPipe() = default;
  // The write end of a pipe with room for so many bytes, -1: not now. Called at most once; the read
  // then has that length, or fails.
  virtual int Open(size_t length_bytes) = 0;
};

// Pages whose bytes a read answers; unpins them when destroyed. Move-only.
class PageHold {
 public:
  PageHold() = default;
  explicit PageHold(PageCache& cache) : cache_(&cache) {}
  PageHold(PageHold&& other) noexcept : cache_(other.cache_), pages_(std::move(other.pages_)) {
    other.pages_.clear();
  }
  PageHold& operator=(PageHold&& other) noexcept {
    Reset();
    cache_ = other.cache_;
    pages_ = std::move(other.pages_);
    other.pages_.clear();
    return *this;
  }
  ~PageHold() { Reset(); }
  void Add(PageBuf& page) { pages_.push_back(&page); }
  void Reset() {
    for (PageBuf* page : pages_) cache_->Unpin(*page);
    pages_.clear();
  }

 private:
  PageCache* cache_ = nullptr;
  std::vector<PageBuf*> pages_;
};

struct FilePosition {
  InodeNumber ino = 0;
  uint64_t offset_bytes = 0;
};
struct FileRange {
  InodeNumber ino = 0;
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
};

// The payload of a write. `frames` (optional, borrowed) are private pages that hold it, frame i the
// bytes from i * 4096 on; the filesystem may take any of them over and leaves nullptr in its place.
struct WritePayload {
  LogicalBuffer data;
  std::vector<PageBuf*>* frames = nullptr;
};

// What a mount found and did, for messages.
struct MountReport {
  bool replayed = false;
  uint64_t checkpoints_replayed = 0;
  uint64_t blocks_replayed = 0;
  uint64_t orphans = 0;
  uint64_t watched_inodes = 0;  // Of kInodeWatched.
  std::vector<std::string> warnings;
};

// How a filesystem is shut down; the numbers are those of XFS_IOC_GOINGDOWN.
enum class ShutdownMode : uint32_t {
  kDefault = 0,     // Everything is made durable first.
  kLogFlush = 1,    // The log is, with all changes of metadata so far; dirty data is not written.
  kNoLogFlush = 2,  // Nothing is.
};

// A mounted filesystem: the interface of the FUSE bridge, the tools and the tests. Thread-safe.
//
// Every InodeNumber that is passed in is either the root or one on which the caller holds a
// reference; operations that return an inode (Lookup, Create..., Link) add one reference to it,
// Forget() gives references back. An inode without links is freed when its last reference goes.
//
// Functions with a `done` argument may answer on another thread, possibly before they return; the
// others may block (AnnounceBlocking).
class FileSystem {
 public:
  // Reads and checks the superblock only; writes nothing. Falls back to a copy (a warning says so).
  struct ProbeResult {
    Superblock superblock;
    std::vector<std::string> warnings;
    bool must_be_read_only = false;  // Unknown ro_compat features.
  };
  static StatusOr<ProbeResult> Probe(BlockDevice& device);

  // Replays the log, finishes orphans. `device` is borrowed until the object is destroyed.
  static StatusOr<std::unique_ptr<FileSystem>> Mount(BlockDevice& device,
                                                     const MountOptions& options);
  // Without Unmount() first: as a power cut, nothing more is written.
  virtual ~FileSystem() = default;
  // Writes everything back, frees orphans, marks the log clean. No other call may be in progress.
  virtual Status Unmount() = 0;

  virtual const MountReport& mount_report() const = 0;
  virtual const Superblock& superblock() const = 0;
  virtual InodeNumber root() const = 0;
  virtual bool read_only() const = 0;
  virtual PageCache& page_cache() = 0;

  // --- Names. `name` is checked here: EINVAL for "", ".", ".." or '/', ENAMETOOLONG over 255.
  // Lookup also takes "." and "..". nullopt: no such name.
  virtual StatusOr<std::optional<Attributes>> Lookup(InodeNumber dir, std::string_view name) = 0;
  virtual StatusOr<Attributes> Create(InodeNumber dir, std::string_view name,
                                      const NewInode& request) = 0;  // All types but hard links.
  // A regular file without a name (O_TMPFILE), as if it were made in `dir`. Link() may give it one,
  // until then it goes with its last reference.
  virtual StatusOr<Attributes> CreateTemporary(InodeNumber dir, const NewInode& request) = 0;
  // ENOENT when the file had names and has lost them all.
  virtual StatusOr<Attributes> Link(InodeNumber ino, InodeNumber dir, std::string_view name) = 0;
  virtual Status Unlink(InodeNumber dir, std::string_view name) = 0;
  virtual Status Rmdir(InodeNumber dir, std::string_view name) = 0;
  // flags: RENAME_EXCHANGE, or any of RENAME_NOREPLACE and RENAME_WHITEOUT, which leaves a
  // character device 0:0 of `whiteout_owner` in the old place.
  virtual Status Rename(InodeNumber dir, std::string_view name, InodeNumber new_dir,
                        std::string_view new_name, unsigned flags,
                        const Owner& whiteout_owner = {}) = 0;
  virtual StatusOr<std::string> ReadLink(InodeNumber ino) = 0;
  // Visits "." , ".." and the entries with cookie > after, ascending, until `visit` returns false
  // (that entry was not taken). Each entry that exists throughout a scan is seen exactly once.
  virtual Status ReadDir(InodeNumber dir, uint64_t after,
                         const std::function<bool(const DirEntry&)>& visit) = 0;
  // Takes a reference on `ino` as Lookup does, for READDIRPLUS: nullopt when it is gone.
  virtual StatusOr<std::optional<Attributes>> Reference(InodeNumber ino) = 0;
  // These are about to be referenced: has what is not in memory read at once. Does not wait.
  virtual void ReadInodesAhead(std::span<const InodeNumber> inos) = 0;
  virtual void Forget(InodeNumber ino, uint64_t count) = 0;

  // --- Attributes
  virtual StatusOr<Attributes> GetAttributes(InodeNumber ino) = 0;
  virtual StatusOr<Attributes> SetAttributesOf(InodeNumber ino, const SetAttributes& request) = 0;
  // Of files and directories; EOPNOTSUPP for flags that pbfs does not keep. Who may is the caller's
  // to check.
  virtual Status SetFlags(InodeNumber ino, uint32_t flags, std::optional<uint32_t> project) = 0;
  // ENODATA when absent. flags: XATTR_CREATE, XATTR_REPLACE or 0.
  virtual StatusOr<std::string> GetXattr(InodeNumber ino, std::string_view name) = 0;
  // An access ACL (system.posix_acl_access) sets the mode, too, and is not stored when it says no
  // more than that; with kXattrKillSetgid also the setgid bit goes. EACCES for a default ACL on
  // anything but a directory, EINVAL for an illegal one.
  virtual Status SetXattr(InodeNumber ino, std::string_view name, std::string_view value,
                          int flags) = 0;
  virtual StatusOr<std::vector<std::string>> ListXattr(InodeNumber ino) = 0;
  virtual Status RemoveXattr(InodeNumber ino, std::string_view name) = 0;

  // --- Data
  // `data` has the bytes up to end of file (shorter there); `hold` keeps them.
  using ReadDone =
      std::function<void(const Status& status, const LogicalBuffer& data, PageHold hold)>;
  // `leaves_atime`: the caller asked for that (O_NOATIME). `pipe`: where the bytes may go instead,
  // if they all have to be read from one place of the device and are whole pages; then `data` is
  // empty. Borrowed until `done` is called; may be nullptr.
  virtual void Read(InodeNumber ino, uint64_t offset_bytes, size_t length_bytes, bool leaves_atime,
                    ReadPipe* pipe, ReadDone done) = 0;
  // All of the payload or an error. The reply may be delayed to throttle the writer.
  using Done = std::function<void(const Status& status)>;
  virtual void Write(InodeNumber ino, uint64_t offset_bytes, const WritePayload& payload,
                     const WriteFlags& flags, Done done) = 0;
  virtual void Fsync(InodeNumber ino, bool datasync, Done done) = 0;
  // SEEK_DATA or SEEK_HOLE; ENXIO past the end.
  virtual StatusOr<uint64_t> Seek(InodeNumber ino, uint64_t offset_bytes, int whence) = 0;
  // fallocate(2): mode 0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE;
  // EOPNOTSUPP for others. ENOSPC comes before anything is changed, but when free space is in
  // pieces and all but gone: then a part may stay allocated.
  // Of the flags, set-id bits count, here and below.
  virtual Status Fallocate(InodeNumber ino, int mode, uint64_t offset_bytes, uint64_t length_bytes,
                           const WriteFlags& flags) = 0;
  // copy_file_range(2): returns how much was copied, which may be less than asked for; 0 at the end
  // of the source. Holes stay holes. EINVAL when the ranges overlap.
  virtual StatusOr<uint64_t> CopyRange(const FileRange& from, const FilePosition& to,
                                       const WriteFlags& flags) = 0;
  // Where a file block's data lies on the device, after all dirty data was written; 0: nowhere.
  virtual StatusOr<BlockNumber> BlockOf(InodeNumber ino, uint64_t file_block) = 0;

  // --- Whole filesystem
  virtual StatusOr<SpaceStats> StatFs() = 0;
  // Of StatFs(). Reads one number, without a lock.
  virtual uint64_t AvailableBytes() const = 0;
  // Whether there are so many, once what was deleted lately is freed. May wait for that.
  virtual bool AwaitAvailable(uint64_t bytes) = 0;
  // Tells the device of free space in [start, start + length) of it, in runs of at least
  // `minimum_bytes`; returns how many bytes. EINVAL: out of range; EOPNOTSUPP: the device cannot.
  virtual StatusOr<uint64_t> Trim(uint64_t start_bytes, uint64_t length_bytes,
                                  uint64_t minimum_bytes) = 0;
  virtual std::string Label() = 0;
  // At once, on the device. EINVAL: longer than kLabelBytes.
  virtual Status SetLabel(std::string_view label) = 0;
  // Everything accepted so far is durable.
  virtual void SyncAll(Done done) = 0;
  // Read-only: everything is written back and the log marked clean, as by Unmount(); nothing was
  // done if that fails. Read-write: as by Mount(); EROFS where the device, or how it was mounted,
  // forbids it. No change may be in progress.
  virtual Status Remount(bool read_only) = 0;
  virtual void SetAccessTimes(const AccessTimePolicy& policy) = 0;
  // Nothing is read from the device or written to it any more when this returns. What is in
  // progress and what is called later fails with EIO; Unmount() does nothing, and the next mount
  // replays. An error: the filesystem is shut down, but not all was made durable that `mode`
  // promises.
  virtual Status Shutdown(ShutdownMode mode) = 0;
  // Counters and gauges as a JSON object.
  virtual std::string StatsJson() = 0;
};

}  // namespace pbfs
