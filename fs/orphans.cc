// SPDX-License-Identifier: Apache-2.0
#include "fs/orphans.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "fs/fork.h"
#include "fs/inode_flags.h"
#include "fs/rules.h"

namespace pbfs {
namespace {

// Tree nodes freed in one step.
constexpr uint32_t kNodesPerStep = 16;
// Small inodes freed in one step. Each may touch its block, a path and a leaf beside it in the
// inode tree, a group entry, and for each extent two bitmap blocks and an entry; all of them a path
// of the orphan tree. Not more than kTransactionBlocksMax.
constexpr size_t kInodesPerTransaction = 6;
constexpr size_t kSmallExtents = 2;
constexpr uint64_t kSmallBlocks = 4096;  // Together; an extent may have a whole group.
// The thread frees inodes in bursts: waking it for each would take a processor from the clients, or
// from the thread that serves them. The first of a burst waits at most this long.
constexpr size_t kBurstInodes = 64;
constexpr int64_t kBurstDelayNs = 10'000'000;
// Forgetting comes right after the unlink, behind other requests.
constexpr int64_t kForgetDelayNs = 50'000'000;
// With less available than this, who deletes waits for the space.
constexpr uint64_t kScarceBlocks = (uint64_t{64} << 20) / kBlockBytes;
// Nothing that frees takes a block: not even a filesystem without any keeps it from going on.
constexpr OperationRunner::Needs kFreeing{.space_blocks = 0, .privileged = true, .retry = false};

bool IsSmall(const DiskInode& disk) {
  return FormatOf(disk, Fork::kData) != ForkFormat::kTree &&
         FormatOf(disk, Fork::kAttributes) != ForkFormat::kTree && disk.blocks <= kSmallBlocks &&
         (!S_ISREG(disk.mode) || disk.data_bytes <= kSmallExtents * sizeof(InlineExtent));
}

}  // namespace

Orphans::Orphans(const MetaReader& reader, SpaceManager& space, InodeAllocator& allocator,
                 InodeTable& inodes, Writeback& writeback, OperationRunner& runner,
                 std::function<void(const std::string&)> log)
    : reader_(reader),
      space_(space),
      allocator_(allocator),
      inodes_(inodes),
      writeback_(writeback),
      runner_(runner),
      log_(std::move(log)) {}

Orphans::~Orphans() { Stop(); }

void Orphans::Start() {
  {
    MutexLock lock(mutex_);
    stopping_ = false;
  }
  thread_ = Thread([this] { Loop(); });
}

void Orphans::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.SignalAll();
  }
  if (thread_.joinable()) thread_.join();
}

Status Orphans::Add(Operation& operation, InodeNumber ino, OrphanKind kind) {
  if (!RuleHolds(Rule::kOrphans)) return OkStatus();
  BlockRef block;
  PBFS_ASSIGN_OR_RETURN(
      block, reader_.Read(reader_.superblock.state_block, kMagicState, kOwnerFilesystem));
  auto* state = operation.transaction().ModifyAs<StateBlock>(block);
  TreeRoot root = state->orphans;
  Tree tree(reader_, space_, kOwnerOrphans, root);
  const auto value = static_cast<uint8_t>(kind);
  PBFS_RETURN_IF_ERROR(tree.Put(operation.transaction(), ino, {&value, 1}));
  state->orphans = root;
  return OkStatus();
}

Status Orphans::Remove(Operation& operation, InodeNumber ino) {
  if (!RuleHolds(Rule::kOrphans)) return OkStatus();
  BlockRef block;
  PBFS_ASSIGN_OR_RETURN(
      block, reader_.Read(reader_.superblock.state_block, kMagicState, kOwnerFilesystem));
  auto* state = operation.transaction().ModifyAs<StateBlock>(block);
  TreeRoot root = state->orphans;
  Tree tree(reader_, space_, kOwnerOrphans, root);
  PBFS_RETURN_IF_ERROR(tree.Erase(operation.transaction(), ino).status());
  state->orphans = root;
  return OkStatus();
}

void Orphans::Unlinked(InodeNumber ino) {
  {
    MutexLock lock(mutex_);
    unlinked_.insert(ino);
    newest_unlinked_ = ino;
    newest_unlinked_ns_ = NowNs();
  }
  if (!inodes_.HasReferences(ino)) Unreferenced(ino);
}

void Orphans::NoteTemporary(InodeNumber ino) {
  MutexLock lock(mutex_);
  unlinked_.insert(ino);
  temporary_.insert(ino);
}

bool Orphans::IsTemporary(InodeNumber ino) {
  MutexLock lock(mutex_);
  return temporary_.contains(ino);
}

void Orphans::NoteNamed(InodeNumber ino) {
  MutexLock lock(mutex_);
  unlinked_.erase(ino);
  temporary_.erase(ino);
}

void Orphans::Unreferenced(InodeNumber ino) {
  MutexLock lock(mutex_);
  if (unlinked_.erase(ino) == 0) return;
  temporary_.erase(ino);
  queue_.push_back(ino);
  ++queued_;
  if (queue_.size() == 1 || queue_.size() == kBurstInodes || forgotten_waiters_ > 0) {
    changed_.SignalAll();
  }
}

Status Orphans::FinishTruncate(const InodeRef& inode, uint64_t first_block, bool on_tree) {
  for (bool done = false; !done;) {
    PBFS_RETURN_IF_ERROR(runner_.Run(kFreeing, [&](Operation& operation) -> Status {
      DiskInode& disk = operation.Edit(inode);
      ExtentMap map(reader_, space_, disk);
      PBFS_ASSIGN_OR_RETURN(done, map.RemoveTail(operation.transaction(), first_block));
      // Unlinked meanwhile: it is on the tree for that now.
      if (done && on_tree && disk.nlink > 0) return Remove(operation, inode->ino);
      return OkStatus();
    }));
  }
  return OkStatus();
}

// One transaction's worth of freeing; *done when the inode itself is gone.
Status Orphans::FreeStep(Operation& operation, const InodeRef& inode, bool* done) {
  Transaction& transaction = operation.transaction();
  DiskInode& disk = operation.Edit(inode);
  *done = false;
  if (S_ISREG(disk.mode)) {
    ExtentMap map(reader_, space_, disk);
    bool empty = false;
    PBFS_ASSIGN_OR_RETURN(empty, map.RemoveTail(transaction, 0));
    if (!empty) return OkStatus();
  }
  for (const Fork fork : {Fork::kData, Fork::kAttributes}) {
    if (FormatOf(disk, fork) != ForkFormat::kTree) continue;
    TreeRoot root = GetTreeRoot(disk, fork);
    Tree tree(reader_, space_, inode->ino, root);
    bool empty = false;
    PBFS_ASSIGN_OR_RETURN(empty, tree.DestroySome(transaction, kNodesPerStep));
    SetTreeRoot(disk, fork, root);
    AddBlocks(disk, tree.node_delta());
    if (!empty) return OkStatus();
    ClearFork(disk, fork);
  }
  PBFS_RETURN_IF_ERROR(Remove(operation, inode->ino));
  if (IsWatched(disk)) PBFS_RETURN_IF_ERROR(CountWatchedInode(transaction, reader_, -1));
  PBFS_RETURN_IF_ERROR(allocator_.Free(transaction, inode->ino));
  disk.mode = 0;
  // Not later: the next transaction may use the number again.
  transaction.OnCommit([this, ino = inode->ino] { inodes_.Drop(ino); });
  *done = true;
  return OkStatus();
}

// An inode that is to be freed, for that alone: nobody reads or writes it, nothing of it is dirty.
class Orphans::Claim {
 public:
  // Adopts the lock of its whole range.
  explicit Claim(InodeRef inode) : inode_(std::move(inode)) {}
  Claim(Claim&& other) = default;
  ~Claim() {
    if (inode_) inode_->range.Unlock(0, UINT64_MAX, RangeLock::Mode::kExclusive);
  }
  const InodeRef& inode() const { return inode_; }
  // Its freeing takes few blocks.
  bool is_small() const {
    ReaderLock lock(inode_->lock);
    return IsSmall(inode_->disk);
  }

 private:
  InodeRef inode_;
};

// nullopt: somebody reads or writes it still, and it was not to wait.
StatusOr<std::optional<Orphans::Claim>> Orphans::ClaimInode(InodeNumber ino, bool wait) {
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, inodes_.Get(ino));
  {
    ReaderLock lock(inode->lock);
    if (inode->disk.nlink != 0) {
      return CorruptionError(
          absl::StrCat("inode ", ino, ": nlink is ", inode->disk.nlink, ", but it is an orphan"));
    }
  }
  if (wait) {
    inode->range.Lock(0, UINT64_MAX, RangeLock::Mode::kExclusive);
  } else if (!inode->range.TryLock(0, UINT64_MAX, RangeLock::Mode::kExclusive)) {
    return std::nullopt;
  }
  Claim claim(inode.Clone());
  writeback_.BeginExclusive(inode);
  writeback_.Unpromise(*inode, inode->pages.Drop(0, UINT64_MAX));
  // A round that begins from now on finds nothing to store: when it ends, the number may be another
  // file's.
  inode->size.store(0, std::memory_order_release);
  {
    MutexLock lock(inode->writeback_lock);
    inode->pending_mtime.reset();
    inode->pending_atime.reset();
  }
  writeback_.EndExclusive(inode);
  return std::optional<Claim>(std::move(claim));
}

Status Orphans::FreeClaimed(const Claim& claim) {
  Status status;
  for (bool done = false; !done && status.ok();) {
    status = runner_.Run(
        kFreeing, [&](Operation& operation) { return FreeStep(operation, claim.inode(), &done); });
  }
  return status;
}

Status Orphans::FreeInode(InodeNumber ino) {
  auto claim = ClaimInode(ino, /*wait=*/true);
  return claim.ok() ? FreeClaimed(**claim) : claim.status();
}

// In one transaction. Not OK: nothing has happened.
Status Orphans::FreeTogether(const std::vector<Claim>& claims) {
  if (claims.empty()) return OkStatus();
  return runner_.Run(kFreeing, [&](Operation& operation) -> Status {
    for (const Claim& claim : claims) {
      bool done = false;
      PBFS_RETURN_IF_ERROR(FreeStep(operation, claim.inode(), &done));
      if (!done) return ErrnoError(EFBIG, "not as small as it seemed");
    }
    return OkStatus();
  });
}

void Orphans::Report(InodeNumber ino, const Status& status) {
  if (status.ok() || !log_ || ErrnoOf(status) == EROFS) return;
  log_(absl::StrCat("inode ", ino, ": freeing: ", std::string(status.message())));
}

// Small ones share a transaction: most of what one costs does not depend on what is in it. Whoever
// holds one claim does not wait for another.
void Orphans::FreeSome(std::span<const InodeNumber> inodes) {
  std::vector<Claim> small;
  std::vector<InodeNumber> others;
  for (const InodeNumber ino : inodes) {
    auto claim = ClaimInode(ino, /*wait=*/false);
    if (!claim.ok()) {
      Report(ino, claim.status());
    } else if (*claim && (*claim)->is_small()) {
      small.push_back(*std::move(*claim));
    } else {
      others.push_back(ino);
    }
  }
  if (small.size() == 1 || !FreeTogether(small).ok()) {
    for (; !small.empty(); small.pop_back()) {
      Report(small.back().inode()->ino, FreeClaimed(small.back()));
    }
  }
  small.clear();
  for (const InodeNumber ino : others) Report(ino, FreeInode(ino));
}

void Orphans::Loop() {
  for (;;) {
    std::vector<InodeNumber> work;
    {
      MutexLock lock(mutex_);
      AwaitBurstLocked();
      if (stopping_) return;  // What is left is on the tree: the next mount frees it.
      work.swap(queue_);
    }
    std::span<const InodeNumber> left = work;
    while (!left.empty()) {
      const auto some = left.first(std::min(left.size(), kInodesPerTransaction));
      left = left.subspan(some.size());
      FreeSome(some);
      MutexLock lock(mutex_);
      if (stopping_) return;
      finished_ += some.size();
      if (drainers_ > 0) changed_.SignalAll();
    }
  }
}

void Orphans::AwaitBurstLocked() {
  while (queue_.empty() && !stopping_) changed_.Wait(mutex_);
  const int64_t end_ns = NowNs() + kBurstDelayNs;
  while (queue_.size() < kBurstInodes && drainers_ == 0 && !stopping_ &&
         space_.available_blocks() > kScarceBlocks) {
    const int64_t left_ns = end_ns - NowNs();
    if (left_ns <= 0) return;
    changed_.WaitFor(mutex_, std::chrono::nanoseconds(left_ns));
  }
}

void Orphans::ForgetReferences() {
  MutexLock lock(mutex_);
  queue_.insert(queue_.end(), unlinked_.begin(), unlinked_.end());
  queued_ += unlinked_.size();
  unlinked_.clear();
  temporary_.clear();
  changed_.SignalAll();
}

bool Orphans::MayFree() {
  MutexLock lock(mutex_);
  if (finished_ != queued_) return true;
  return unlinked_.contains(newest_unlinked_) && NowNs() < newest_unlinked_ns_ + kForgetDelayNs;
}

void Orphans::AwaitForgotten() {
  InodeNumber ino = 0;
  int64_t end_ns = 0;
  {
    MutexLock lock(mutex_);
    ino = newest_unlinked_;
    end_ns = newest_unlinked_ns_ + kForgetDelayNs;
    if (!unlinked_.contains(ino) || NowNs() >= end_ns) return;
  }
  AnnounceBlocking();
  MutexLock lock(mutex_);
  ++forgotten_waiters_;
  while (unlinked_.contains(ino) && !stopping_) {
    const int64_t left_ns = end_ns - NowNs();
    if (left_ns <= 0) break;
    changed_.WaitFor(mutex_, std::chrono::nanoseconds(left_ns));
  }
  --forgotten_waiters_;
}

void Orphans::Drain() {
  uint64_t wanted = 0;
  {
    MutexLock lock(mutex_);
    wanted = queued_;
    if (finished_ == wanted) return;
  }
  AnnounceBlocking();
  MutexLock lock(mutex_);
  ++drainers_;
  changed_.SignalAll();
  while (finished_ < wanted && !stopping_ && thread_.joinable()) changed_.Wait(mutex_);
  --drainers_;
}

Status Orphans::FinishOne(InodeNumber ino, OrphanKind kind) {
  if (kind == OrphanKind::kUnlinked) return FreeInode(ino);
  InodeRef inode;
  PBFS_ASSIGN_OR_RETURN(inode, inodes_.Get(ino));
  bool is_file = false;
  {
    ReaderLock lock(inode->lock);
    is_file = S_ISREG(inode->disk.mode);
  }
  if (kind != OrphanKind::kTruncate || !is_file) {
    return CorruptionError(absl::StrCat(
        "block ", reader_.superblock.state_block, ": orphans: kind of inode ", ino, " is ",
        static_cast<uint32_t>(kind), is_file ? "" : ", but it is no regular file"));
  }
  const uint64_t size = inode->size.load(std::memory_order_relaxed);
  return FinishTruncate(inode, (size + kBlockBytes - 1) / kBlockBytes, true);
}

StatusOr<uint64_t> Orphans::Recover() {
  struct Entry {
    InodeNumber ino;
    OrphanKind kind;
  };
  std::vector<Entry> entries;
  {
    BlockRef block;
    PBFS_ASSIGN_OR_RETURN(
        block, reader_.Read(reader_.superblock.state_block, kMagicState, kOwnerFilesystem));
    TreeRoot root = block.as<StateBlock>()->orphans;
    Tree tree(reader_, space_, kOwnerOrphans, root);
    PBFS_RETURN_IF_ERROR(tree.Scan(0, [&](uint64_t key, std::span<const uint8_t> value) {
      entries.push_back({key, value.empty() ? OrphanKind{} : static_cast<OrphanKind>(value[0])});
      return true;
    }));
  }
  {
    MutexLock lock(mutex_);
    queue_.clear();  // On the tree, too.
    finished_ = queued_;
    std::erase_if(entries, [this](const Entry& entry) {
      mutex_.AssertHeld();
      return entry.kind == OrphanKind::kUnlinked && unlinked_.contains(entry.ino);
    });
  }
  uint64_t finished = 0;
  for (const Entry& entry : entries) {
    const Status status = FinishOne(entry.ino, entry.kind);
    if (status.ok()) {
      ++finished;
      continue;
    }
    // What nobody can reach any more costs its space, not the others' files. A file that has a name
    // is another matter: behind its end is what must not show when it grows.
    const int error = ErrnoOf(status);
    const bool unreadable = error == EUCLEAN || error == EIO;
    if (entry.kind != OrphanKind::kUnlinked || !unreadable || !runner_.writable()) return status;
    Report(entry.ino, status);
  }
  return finished;
}

}  // namespace pbfs
