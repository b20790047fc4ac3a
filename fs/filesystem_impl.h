// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "fs/access_times.h"
#include "fs/acl.h"
#include "fs/directory.h"
#include "fs/discards.h"
#include "fs/filesystem.h"
#include "fs/inode.h"
#include "fs/inode_alloc.h"
#include "fs/log.h"
#include "fs/name_hash.h"
#include "fs/neighbour_reads.h"
#include "fs/operation.h"
#include "fs/orphans.h"
#include "fs/space.h"
#include "fs/writeback.h"
#include "fs/xattr.h"
#include "io/shutdown_device.h"

namespace pbfs {

// The mounted filesystem: puts the parts together. Its member functions are in mount.cc,
// name_ops.cc, attribute_ops.cc, acl_ops.cc, flag_ops.cc, data_ops.cc, size_ops.cc,
// fallocate_ops.cc and copy_ops.cc.
class FileSystemImpl final : public FileSystem {
 public:
  FileSystemImpl(BlockDevice& device, const MountOptions& options, const Superblock& superblock);
  ~FileSystemImpl() override;

  // After replay. `anchor_generation` and `next_sequence` are what recovery left.
  Status Start(uint64_t anchor_generation, uint64_t next_sequence);
  MountReport& report() { return report_; }
  // For as long as it is mounted.
  void ForceReadOnly() { read_only_ = must_be_read_only_ = true; }

  Status Unmount() override;
  const MountReport& mount_report() const override { return report_; }
  const Superblock& superblock() const override { return superblock_; }
  InodeNumber root() const override { return superblock_.root_inode; }
  bool read_only() const override { return read_only_ || !log_->error().ok(); }
  PageCache& page_cache() override { return pages_; }

  StatusOr<std::optional<Attributes>> Lookup(InodeNumber dir, std::string_view name) override;
  StatusOr<Attributes> Create(InodeNumber dir, std::string_view name,
                              const NewInode& request) override;
  StatusOr<Attributes> CreateTemporary(InodeNumber dir, const NewInode& request) override;
  StatusOr<Attributes> Link(InodeNumber ino, InodeNumber dir, std::string_view name) override;
  Status Unlink(InodeNumber dir, std::string_view name) override;
  Status Rmdir(InodeNumber dir, std::string_view name) override;
  Status Rename(InodeNumber dir, std::string_view name, InodeNumber new_dir,
                std::string_view new_name, unsigned flags,
                const Owner& whiteout_owner = {}) override;
  StatusOr<std::string> ReadLink(InodeNumber ino) override;
  Status ReadDir(InodeNumber dir, uint64_t after,
                 const std::function<bool(const DirEntry&)>& visit) override;
  StatusOr<std::optional<Attributes>> Reference(InodeNumber ino) override;
  void ReadInodesAhead(std::span<const InodeNumber> inos) override;
  // Whether the number, which comes from outside, is that of an inode.
  StatusOr<bool> IsInUse(InodeNumber ino);
  void Forget(InodeNumber ino, uint64_t count) override;

  StatusOr<Attributes> GetAttributes(InodeNumber ino) override;
  StatusOr<Attributes> SetAttributesOf(InodeNumber ino, const SetAttributes& request) override;
  Status SetFlags(InodeNumber ino, uint32_t flags, std::optional<uint32_t> project) override;
  StatusOr<std::string> GetXattr(InodeNumber ino, std::string_view name) override;
  Status SetXattr(InodeNumber ino, std::string_view name, std::string_view value,
                  int flags) override;
  StatusOr<std::vector<std::string>> ListXattr(InodeNumber ino) override;
  Status RemoveXattr(InodeNumber ino, std::string_view name) override;

  void Read(InodeNumber ino, uint64_t offset_bytes, size_t length_bytes, bool leaves_atime,
            ReadPipe* pipe, ReadDone done) override;
  void Write(InodeNumber ino, uint64_t offset_bytes, const WritePayload& payload,
             const WriteFlags& flags, Done done) override;
  void Fsync(InodeNumber ino, bool datasync, Done done) override;
  StatusOr<uint64_t> Seek(InodeNumber ino, uint64_t offset_bytes, int whence) override;
  Status Fallocate(InodeNumber ino, int mode, uint64_t offset_bytes, uint64_t length_bytes,
                   const WriteFlags& flags) override;
  StatusOr<uint64_t> CopyRange(const FileRange& from, const FilePosition& to,
                               const WriteFlags& flags) override;
  StatusOr<BlockNumber> BlockOf(InodeNumber ino, uint64_t file_block) override;

  StatusOr<SpaceStats> StatFs() override;
  uint64_t AvailableBytes() const override;
  bool AwaitAvailable(uint64_t bytes) override;
  StatusOr<uint64_t> Trim(uint64_t start_bytes, uint64_t length_bytes,
                          uint64_t minimum_bytes) override;
  std::string Label() override;
  Status SetLabel(std::string_view label) override;
  void SyncAll(Done done) override;
  Status Remount(bool read_only) override;
  void SetAccessTimes(const AccessTimePolicy& policy) override { access_times_->SetPolicy(policy); }
  Status Shutdown(ShutdownMode mode) override;
  std::string StatsJson() override;

 private:
  struct ReadOperation;

  // Makes the parts that change the filesystem; StartWriting() starts them.
  void MakeParts();
  Status StartWriting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(remount_mutex_);
  // What an fsync says while nothing is written: an error, if what was written before did not all
  // become durable.
  Status SyncedWhileReadOnly() ABSL_LOCKS_EXCLUDED(end_mutex_);
  void NoteEnd(const Status& status) ABSL_LOCKS_EXCLUDED(end_mutex_);
  void SayReadOnly(std::string_view what, const Status& status);
  // Everything is written back; the log is clean, unless it had failed itself.
  Status StopWriting();

  bool DiscardsFreed() const { return options_.discard && device_.geometry().can_discard; }

  // EIO when the filesystem is shut down.
  Status CheckRunning() const;
  Status CheckWritable();
  // The inode that an operation names.
  StatusOr<InodeRef> GetInode(InodeNumber ino);
  Attributes AttributesLocked(Inode& inode) ABSL_SHARED_LOCKS_REQUIRED(inode.lock);
  Attributes AttributesOfInode(Inode& inode) ABSL_LOCKS_EXCLUDED(inode.lock);
  Status Run(const OperationRunner::Needs& needs, const OperationRunner::Body& body);
  void MakeRoom();
  // For who found no space: OK when it is worth another look.
  Status SearchRoom(RoomSearch& search);
  // Passes on what the parts have to say, but not after a shutdown, which all of them notice.
  MountOptions WithQuietEnd(MountOptions options);
  SpaceStats Space();

  // Names (name_ops.cc).
  Status FillNewInode(Operation& operation, const InodeRef& child, const DiskInode& parent,
                      const NewInode& request, const InodeAllocator::Slot& slot);
  // A new inode for a name in `parent`; its links are set as if it had that name already.
  StatusOr<InodeRef> MakeInode(Operation& operation, const DiskInode& parent,
                               const NewInode& request);
  Status RemoveName(InodeNumber dir, std::string_view name, bool directory);
  Status DropLink(Operation& operation, const InodeRef& inode, bool directory);
  Status RenameOver(Operation& operation, const InodeRef& dir, std::string_view name,
                    const InodeRef& new_dir, std::string_view new_name, unsigned flags,
                    const Owner& whiteout_owner, InodeNumber* unlinked);
  Status LeaveWhiteout(Operation& operation, const DiskInode& dir, std::string_view name,
                       Directory& names, const Owner& owner);
  Status RenameExchange(Operation& operation, const InodeRef& dir, std::string_view name,
                        const InodeRef& new_dir, std::string_view new_name);
  Status CheckNotBelow(InodeNumber moved, InodeNumber new_dir);
  void MoveParent(Operation& operation, const InodeRef& child, const InodeRef& dir,
                  const InodeRef& new_dir);

  // Copies (copy_ops.cc).
  struct CopiedPiece {
    uint64_t length_bytes = 0;
    bool hole = false;
  };
  Status CopyPiece(const FileRange& from, const FilePosition& to, CopiedPiece* piece);
  StatusOr<uint64_t> SizeOf(InodeNumber ino);
  Status CopyHole(const FilePosition& to, uint64_t length_bytes);

  // Access control lists (acl_ops.cc).
  // The list that an attribute of the inode has; empty: none.
  StatusOr<Acl> GetAcl(DiskInode& disk, std::string_view name);
  // An empty list removes it.
  Status PutAcl(Operation& operation, DiskInode& disk, std::string_view name, const Acl& acl);
  Status SetAcl(const InodeRef& inode, std::string_view name, std::string_view value, int flags);
  // The mode has changed.
  Status UpdateAccessAcl(Operation& operation, DiskInode& disk);
  // Mode and lists of a new inode, from the request and its directory's default list.
  Status InheritAcls(Operation& operation, const DiskInode& parent, const NewInode& request,
                     DiskInode& disk);

  // Flags (flag_ops.cc).
  Status LoadWatched();
  static StatusOr<WritePayload> AppendedPart(uint64_t size_bytes, uint64_t offset_bytes,
                                             const WritePayload& payload, const WriteFlags& flags);

  // Data (data_ops.cc, size_ops.cc).
  static Status CheckRegular(Inode& inode);  // EISDIR, EINVAL.
  Status PrepareRead(ReadOperation& operation, ReadPipe* pipe);
  bool PrepareReadIntoPipe(ReadOperation& operation, const Extent& extent, ReadPipe& pipe);
  // What a failed read answers; says it in the log, too.
  Status DataReadError(InodeNumber ino, BlockNumber block, int error) const;
  Status WriteLocked(const InodeRef& inode, uint64_t offset_bytes, const WritePayload& payload,
                     const WriteFlags& flags, bool* sync);
  Status WritePages(const InodeRef& inode, uint64_t offset_bytes, const WritePayload& payload,
                    const WriteFlags& flags);
  // A file that is written, cut or given away loses its capabilities, and on request set-id bits.
  Status KillPrivileges(const InodeRef& inode, const WriteFlags& flags);
  static bool HasTimesOfChange(Inode& inode, const SetAttributes& request)
      ABSL_LOCKS_EXCLUDED(inode.lock);
  bool HasCapability(DiskInode& disk);
  Status DropCapability(Operation& operation, DiskInode& disk);
  // Promises the pages of the range what they need and do not have yet, and says what.
  StatusOr<std::vector<PagePromise>> ReserveRange(const InodeRef& inode, uint64_t first,
                                                  uint64_t count, SpaceClass by);
  void InsertPages(const InodeRef& inode, uint64_t offset_bytes, const WritePayload& payload,
                   uint64_t size, const std::vector<PagePromise>& promises);
  StatusOr<std::vector<PagePromise>> MissingPromises(Inode& inode, uint64_t first, uint64_t count);
  // Makes sure the page is cached if it has data on disk, zeroed behind the end of file; `hold`
  // keeps it there.
  Status FillPage(const InodeRef& inode, uint64_t index, PageHold& hold);
  // Zeroes the rest of the last block, before the size is raised.
  Status ZeroOldTail(const InodeRef& inode);
  Status SetSize(const InodeRef& inode, uint64_t size);
  Status Shrink(const InodeRef& inode, uint64_t size);
  void CutPages(const InodeRef& inode, uint64_t size, PageBuf& spare);
  void FinishShrink(const InodeRef& inode, uint64_t first_gone, bool on_tree);
  Status Grow(const InodeRef& inode, uint64_t size);

  // Ranges (fallocate_ops.cc).
  struct RangeChange;
  struct StepResult {
    uint64_t next;    // File block the step came to.
    uint64_t filled;  // Blocks it allocated.
  };
  Status FallocateLocked(const InodeRef& inode, int mode, uint64_t start, uint64_t end);
  StatusOr<uint64_t> BeginChange(const InodeRef& inode, const RangeChange& change);
  StatusOr<uint64_t> CountBlocksToFill(Inode& inode, const RangeChange& change);
  Status ChangeRange(const InodeRef& inode, const RangeChange& change);
  StatusOr<StepResult> ChangeStep(Operation& operation, const InodeRef& inode,
                                  const RangeChange& change, uint64_t at);
  StatusOr<uint32_t> FillHole(Transaction& transaction, ExtentMap& map, uint64_t file_block,
                              uint32_t wanted);

  ShutdownDevice device_;
  const std::function<void(const std::string&)> log_line_;
  const MountOptions options_;
  const Superblock superblock_;
  MountReport report_;
  std::atomic<bool> read_only_;
  bool must_be_read_only_ = false;
  // Between StartWriting() and StopWriting().
  std::atomic<bool> writing_{false};
  Mutex remount_mutex_;
  Mutex end_mutex_;
  Status end_of_writing_ ABSL_GUARDED_BY(end_mutex_);  // By a remount.
  Mutex label_mutex_;
  std::string label_ ABSL_GUARDED_BY(label_mutex_);
  uint64_t anchor_generation_ = 0;
  uint64_t next_sequence_ = 0;
  std::atomic<bool> shut_down_{false};

  PageCache pages_;
  BlockCache cache_;
  const MetaReader reader_;
  const NameHash hash_;
  SpaceManager space_;
  Discards discards_;
  InodeAllocator inode_allocator_;
  InodeTable inodes_;
  std::unique_ptr<Log> log_;
  std::unique_ptr<OperationRunner> runner_;
  std::unique_ptr<Writeback> writeback_;
  std::unique_ptr<Orphans> orphans_;
  std::unique_ptr<AccessTimes> access_times_;
  // 4 KiB of zeroes that holes read.
  PageBuf* zero_page_ = nullptr;
  // Reads that still touch this object.
  std::atomic<uint64_t> reads_in_flight_{0};
  NeighbourReads neighbour_reads_;
};

}  // namespace pbfs
