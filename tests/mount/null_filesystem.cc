// SPDX-License-Identifier: Apache-2.0
// A FileSystem that lives in memory and dies with its mount: linked in place of the real one it
// makes a server that measures and tests the FUSE bridge alone. A file's pages are cache frames, so
// a file larger than -o cache= does not fit; with PBFS_NULL_FORGETS_DATA it keeps no data but
// sizes, and files read as zeroes. PBFS_NULL_WAIT_US makes name operations wait that long.
#include <dirent.h>
#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <set>
#include <thread>

#include "base/blocking.h"
#include "base/check.h"
#include "fs/filesystem.h"

namespace pbfs {
namespace {

constexpr InodeNumber kRoot = 64;

Time Now() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  return {now.tv_sec, static_cast<uint32_t>(now.tv_nsec)};
}

struct Node {
  Attributes attributes;
  std::string target;
  std::map<uint64_t, PageBuf*> pages;
  std::map<std::string, std::string> xattrs;
  InodeNumber parent = kRoot;
  struct Name {
    InodeNumber ino;
    uint64_t cookie;
  };
  std::map<std::string, Name> names;
  std::map<uint64_t, std::string> by_cookie;
  uint64_t references = 0;
};

class NullFileSystem : public FileSystem {
 public:
  explicit NullFileSystem(const MountOptions& options) : cache_(options.cache_bytes) {
    const char* wait = getenv("PBFS_NULL_WAIT_US");
    wait_us_ = wait != nullptr ? atoi(wait) : 0;
    Node& root = nodes_[kRoot];
    root.attributes.ino = kRoot;
    root.attributes.mode = S_IFDIR | 0777;
    root.attributes.nlink = 2;
    root.attributes.mtime = root.attributes.ctime = root.attributes.atime = Now();
    if (getenv("PBFS_NULL_REPORT") != nullptr) {
      report_ = {.replayed = true,
                 .checkpoints_replayed = 3,
                 .blocks_replayed = 42,
                 .orphans = 1,
                 .warnings = {"this is not a real filesystem"}};
    }
  }
  ~NullFileSystem() override {
    for (auto& [ino, node] : nodes_) DropPages(node, 0);
  }
  Status Unmount() override {
    if (const char* wait = getenv("PBFS_NULL_UNMOUNT_MS"))
      usleep(static_cast<unsigned>(atoi(wait)) * 1000);
    return OkStatus();
  }
  const MountReport& mount_report() const override { return report_; }
  const Superblock& superblock() const override { return superblock_; }
  InodeNumber root() const override { return kRoot; }
  bool read_only() const override { return false; }
  PageCache& page_cache() override { return cache_; }

  StatusOr<std::optional<Attributes>> Lookup(InodeNumber dir, std::string_view name) override {
    MutexLock lock(mutex_);
    Node* node = Find(dir);
    if (node == nullptr) return ErrnoError(ESTALE, "");
    InodeNumber ino = 0;
    if (name == ".") {
      ino = dir;
    } else if (name == "..") {
      ino = node->parent;
    } else {
      const auto found = node->names.find(std::string(name));
      if (found == node->names.end()) return std::optional<Attributes>();
      ino = found->second.ino;
    }
    ++nodes_[ino].references;
    return std::make_optional(nodes_[ino].attributes);
  }
  StatusOr<Attributes> Create(InodeNumber dir, std::string_view name,
                              const NewInode& request) override {
    MaybeWait();
    MutexLock lock(mutex_);
    Node* parent = Find(dir);
    if (parent == nullptr) return ErrnoError(ESTALE, "");
    if (parent->names.contains(std::string(name))) return ErrnoError(EEXIST, "");
    const InodeNumber ino = next_ino_++;
    Node& node = nodes_[ino];
    node.attributes.ino = ino;
    node.attributes.mode = request.mode;
    node.attributes.uid = request.uid;
    node.attributes.gid = request.gid;
    node.attributes.rdev = request.rdev;
    node.attributes.nlink = S_ISDIR(request.mode) ? 2 : 1;
    node.attributes.generation = 7;
    node.attributes.atime = node.attributes.mtime = node.attributes.ctime = Now();
    node.target = request.symlink_target;
    node.attributes.size_bytes = node.target.size();
    node.parent = dir;
    node.references = 1;
    if (S_ISDIR(request.mode)) ++parent->attributes.nlink;
    AddName(*parent, std::string(name), ino);
    return node.attributes;
  }
  Status SetFlags(InodeNumber, uint32_t, std::optional<uint32_t>) override {
    return ErrnoError(EOPNOTSUPP, "not here");
  }
  StatusOr<Attributes> CreateTemporary(InodeNumber, const NewInode&) override {
    return ErrnoError(EOPNOTSUPP, "not here");
  }
  StatusOr<Attributes> Link(InodeNumber ino, InodeNumber dir, std::string_view name) override {
    MutexLock lock(mutex_);
    Node* node = Find(ino);
    Node* parent = Find(dir);
    if (node == nullptr || parent == nullptr) return ErrnoError(ESTALE, "");
    if (parent->names.contains(std::string(name))) return ErrnoError(EEXIST, "");
    AddName(*parent, std::string(name), ino);
    ++node->attributes.nlink;
    ++node->references;
    return node->attributes;
  }
  Status Unlink(InodeNumber dir, std::string_view name) override {
    MaybeWait();
    MutexLock lock(mutex_);
    return Remove(dir, std::string(name), false);
  }
  Status Rmdir(InodeNumber dir, std::string_view name) override {
    MutexLock lock(mutex_);
    return Remove(dir, std::string(name), true);
  }
  Status Rename(InodeNumber dir, std::string_view name, InodeNumber new_dir,
                std::string_view new_name, unsigned flags, const Owner&) override {
    MutexLock lock(mutex_);
    Node* from = Find(dir);
    Node* to = Find(new_dir);
    if (from == nullptr || to == nullptr) return ErrnoError(ESTALE, "");
    const std::string old_text(name);
    const std::string new_text(new_name);
    if (!from->names.contains(old_text)) return ErrnoError(ENOENT, "");
    const InodeNumber ino = from->names[old_text].ino;
    const bool exists = to->names.contains(new_text);
    if (flags == RENAME_EXCHANGE) {
      if (!exists) return ErrnoError(ENOENT, "");
      std::swap(from->names[old_text].ino, to->names[new_text].ino);
      return OkStatus();
    }
    if (exists && flags == RENAME_NOREPLACE) return ErrnoError(EEXIST, "");
    if (exists) {
      const bool is_dir = S_ISDIR(nodes_[to->names[new_text].ino].attributes.mode);
      PBFS_RETURN_IF_ERROR(Remove(new_dir, new_text, is_dir));
    }
    DropName(*from, old_text);
    AddName(*to, new_text, ino);
    nodes_[ino].parent = new_dir;
    return OkStatus();
  }
  StatusOr<std::string> ReadLink(InodeNumber ino) override {
    MutexLock lock(mutex_);
    Node* node = Find(ino);
    if (node == nullptr) return ErrnoError(ESTALE, "");
    return node->target;
  }
  Status ReadDir(InodeNumber dir, uint64_t after,
                 const std::function<bool(const DirEntry&)>& visit) override {
    MutexLock lock(mutex_);
    Node* node = Find(dir);
    if (node == nullptr) return ErrnoError(ESTALE, "");
    if (after < 1 && !visit({dir, 1, DT_DIR, "."})) return OkStatus();
    if (after < 2 && !visit({node->parent, 2, DT_DIR, ".."})) return OkStatus();
    for (auto it = node->by_cookie.upper_bound(after); it != node->by_cookie.end(); ++it) {
      const InodeNumber ino = node->names[it->second].ino;
      const auto type = static_cast<uint8_t>(nodes_[ino].attributes.mode >> 12);
      if (!visit({ino, it->first, type, it->second})) break;
    }
    return OkStatus();
  }
  StatusOr<std::optional<Attributes>> Reference(InodeNumber ino) override {
    MutexLock lock(mutex_);
    Node* node = Find(ino);
    if (node == nullptr) return std::optional<Attributes>();
    ++node->references;
    return std::make_optional(node->attributes);
  }
  void ReadInodesAhead(std::span<const InodeNumber>) override {}
  void Forget(InodeNumber ino, uint64_t count) override {
    MutexLock lock(mutex_);
    Node* node = Find(ino);
    PBFS_CHECK(node != nullptr && node->references >= count);
    node->references -= count;
    FreeIfUnused(ino);
  }

  StatusOr<Attributes> GetAttributes(InodeNumber ino) override {
    MutexLock lock(mutex_);
    Node* node = Find(ino);
    if (node == nullptr) return ErrnoError(ESTALE, "");
    return node->attributes;
  }
  StatusOr<Attributes> SetAttributesOf(InodeNumber ino, const SetAttributes& request) override {
    MutexLock lock(mutex_);
    Node* node = Find(ino);
    if (node == nullptr) return ErrnoError(ESTALE, "");
    Attributes& attributes = node->attributes;
    if (request.mode) attributes.mode = (attributes.mode & S_IFMT) | (*request.mode & 07777);
    if (request.uid) attributes.uid = *request.uid;
    if (request.gid) attributes.gid = *request.gid;
    if (request.size_bytes) Truncate(*node, *request.size_bytes);
    if (request.atime) attributes.atime = *request.atime;
    if (request.mtime) attributes.mtime = *request.mtime;
    if (request.atime_now) attributes.atime = Now();
    if (request.mtime_now) attributes.mtime = Now();
    if (request.kill_suidgid) KillSuid(attributes);
    attributes.ctime = request.ctime.value_or(Now());
    return attributes;
  }
  StatusOr<std::string> GetXattr(InodeNumber ino, std::string_view name) override {
    MutexLock lock(mutex_);
    Node* node = Find(ino);
    if (node == nullptr) return ErrnoError(ESTALE, "");
    ++getxattr_count_;
    const auto found = node->xattrs.find(std::string(name));
    if (found == node->xattrs.end()) return ErrnoError(ENODATA, "");
    return found->second;
  }
  Status SetXattr(InodeNumber ino, std::string_view name, std::string_view value,
                  int flags) override {
    MutexLock lock(mutex_);
    Node* node = Find(ino);
    if (node == nullptr) return ErrnoError(ESTALE, "");
    const bool exists = node->xattrs.contains(std::string(name));
    if (flags == XATTR_CREATE && exists) return ErrnoError(EEXIST, "");
    if (flags == XATTR_REPLACE && !exists) return ErrnoError(ENODATA, "");
    node->xattrs[std::string(name)] = value;
    return OkStatus();
  }
  StatusOr<std::vector<std::string>> ListXattr(InodeNumber ino) override {
    MutexLock lock(mutex_);
    Node* node = Find(ino);
    if (node == nullptr) return ErrnoError(ESTALE, "");
    std::vector<std::string> names;
    for (const auto& [name, value] : node->xattrs) names.push_back(name);
    return names;
  }
  Status RemoveXattr(InodeNumber ino, std::string_view name) override {
    MutexLock lock(mutex_);
    Node* node = Find(ino);
    if (node == nullptr) return ErrnoError(ESTALE, "");
    return node->xattrs.erase(std::string(name)) > 0 ? OkStatus() : ErrnoError(ENODATA, "");
  }

  void Read(InodeNumber ino, uint64_t offset_bytes, size_t length_bytes, bool, ReadPipe*,
            ReadDone done) override {
    LogicalBuffer data;
    PageHold hold(cache_);
    {
      MutexLock lock(mutex_);
      Node* node = Find(ino);
      if (node == nullptr) return done(ErrnoError(ESTALE, ""), data, std::move(hold));
      const uint64_t size = node->attributes.size_bytes;
      const uint64_t end = std::min(size, offset_bytes + length_bytes);
      for (uint64_t at = offset_bytes; at < end;) {
        const uint64_t in_page = at % kPageBytes;
        const size_t length = std::min<uint64_t>(kPageBytes - in_page, end - at);
        const auto page = node->pages.find(at / kPageBytes);
        std::byte* memory = zeros_;
        if (page != node->pages.end()) {
          memory = page->second->data + in_page;
          PageCache::Pin(*page->second);
          hold.Add(*page->second);
        }
        data.Append(memory, length);
        at += length;
      }
    }
    done(OkStatus(), data, std::move(hold));
  }
  void Write(InodeNumber ino, uint64_t offset_bytes, const WritePayload& payload,
             const WriteFlags& flags, Done done) override {
    {
      MutexLock lock(mutex_);
      Node* node = Find(ino);
      PBFS_CHECK(node != nullptr);
      const size_t length = payload.data.size_bytes();
      for (size_t done_bytes = 0; done_bytes < length && !forgets_data_;) {
        const uint64_t at = offset_bytes + done_bytes;
        const size_t in_page = at % kPageBytes;
        const size_t piece = std::min(kPageBytes - in_page, length - done_bytes);
        PageBuf*& slot = node->pages[at / kPageBytes];
        if (piece == kPageBytes && done_bytes % kPageBytes == 0) {
          PageBuf*& frame = (*payload.frames)[done_bytes / kPageBytes];
          if (slot != nullptr) cache_.Unpin(*slot);
          slot = std::exchange(frame, nullptr);
        } else {
          if (slot == nullptr) slot = NewPage();
          payload.data.CopyTo(done_bytes, slot->data + in_page, piece);
        }
        done_bytes += piece;
      }
      Attributes& attributes = node->attributes;
      attributes.size_bytes = std::max(attributes.size_bytes, offset_bytes + length);
      attributes.blocks_512 = BlocksOf(*node);
      if (!flags.from_page_cache) attributes.mtime = attributes.ctime = Now();
      if (flags.kill_suidgid) KillSuid(attributes);
    }
    done(OkStatus());
  }
  void Fsync(InodeNumber, bool, Done done) override { done(OkStatus()); }
  Status Fallocate(InodeNumber, int, uint64_t, uint64_t, const WriteFlags&) override {
    return ErrnoError(EOPNOTSUPP, "");
  }
  StatusOr<uint64_t> CopyRange(const FileRange&, const FilePosition&, const WriteFlags&) override {
    return ErrnoError(EOPNOTSUPP, "");
  }
  StatusOr<uint64_t> Trim(uint64_t, uint64_t, uint64_t) override {
    return ErrnoError(EOPNOTSUPP, "");
  }
  std::string Label() override { return ""; }
  Status SetLabel(std::string_view) override { return ErrnoError(EOPNOTSUPP, ""); }
  Status Remount(bool) override { return OkStatus(); }
  void SetAccessTimes(const AccessTimePolicy&) override {}
  StatusOr<BlockNumber> BlockOf(InodeNumber, uint64_t) override { return BlockNumber{0}; }
  StatusOr<uint64_t> Seek(InodeNumber ino, uint64_t offset_bytes, int whence) override {
    MutexLock lock(mutex_);
    Node* node = Find(ino);
    if (node == nullptr) return ErrnoError(ESTALE, "");
    const uint64_t size = node->attributes.size_bytes;
    for (uint64_t at = offset_bytes; at < size; at = (at / kPageBytes + 1) * kPageBytes) {
      if (node->pages.contains(at / kPageBytes) == (whence == SEEK_DATA)) return at;
    }
    if (whence == SEEK_HOLE && offset_bytes < size) return size;
    return ErrnoError(ENXIO, "");
  }
  StatusOr<SpaceStats> StatFs() override {
    return SpaceStats{1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19};
  }
  uint64_t AvailableBytes() const override { return uint64_t{1} << 31; }
  bool AwaitAvailable(uint64_t bytes) override { return bytes <= AvailableBytes(); }
  Status Shutdown(ShutdownMode) override { return ErrnoError(EOPNOTSUPP, "not here"); }
  // On another thread, as the real one may.
  void SyncAll(Done done) override {
    std::thread([done = std::move(done)] { done(OkStatus()); }).detach();
  }
  std::string StatsJson() override { return "{}"; }

 private:
  void MaybeWait() {
    if (wait_us_ == 0) return;
    AnnounceBlocking();
    usleep(static_cast<unsigned>(wait_us_));
  }
  Node* Find(InodeNumber ino) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = nodes_.find(ino);
    return found == nodes_.end() ? nullptr : &found->second;
  }
  void AddName(Node& directory, const std::string& name, InodeNumber ino) {
    directory.names[name] = {ino, next_cookie_};
    directory.by_cookie[next_cookie_++] = name;
    directory.attributes.mtime = directory.attributes.ctime = Now();
  }
  void DropName(Node& directory, const std::string& name) {
    directory.by_cookie.erase(directory.names[name].cookie);
    directory.names.erase(name);
    directory.attributes.mtime = directory.attributes.ctime = Now();
  }
  Status Remove(InodeNumber dir, const std::string& name, bool want_directory)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Node* parent = Find(dir);
    if (parent == nullptr) return ErrnoError(ESTALE, "");
    if (!parent->names.contains(name)) return ErrnoError(ENOENT, "");
    const InodeNumber ino = parent->names[name].ino;
    Node& node = nodes_[ino];
    const bool is_directory = S_ISDIR(node.attributes.mode);
    if (is_directory != want_directory) return ErrnoError(is_directory ? EISDIR : ENOTDIR, "");
    if (!node.names.empty()) return ErrnoError(ENOTEMPTY, "");
    DropName(*parent, name);
    node.attributes.nlink = is_directory ? 0 : node.attributes.nlink - 1;
    if (is_directory) --parent->attributes.nlink;
    FreeIfUnused(ino);
    return OkStatus();
  }
  void FreeIfUnused(InodeNumber ino) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Node& node = nodes_[ino];
    if (node.references != 0 || node.attributes.nlink != 0) return;
    DropPages(node, 0);
    nodes_.erase(ino);
  }
  void DropPages(Node& node, uint64_t first) {
    auto from = node.pages.lower_bound(first);
    for (auto it = from; it != node.pages.end(); ++it) cache_.Unpin(*it->second);
    node.pages.erase(from, node.pages.end());
  }
  uint64_t BlocksOf(const Node& node) const {
    const uint64_t pages = forgets_data_
                               ? (node.attributes.size_bytes + kPageBytes - 1) / kPageBytes
                               : node.pages.size();
    return pages * (kPageBytes / 512);
  }
  void Truncate(Node& node, uint64_t size) {
    DropPages(node, (size + kPageBytes - 1) / kPageBytes);
    const auto last = node.pages.find(size / kPageBytes);
    if (last != node.pages.end() && size % kPageBytes != 0) {
      memset(last->second->data + size % kPageBytes, 0, kPageBytes - size % kPageBytes);
    }
    node.attributes.size_bytes = size;
    node.attributes.blocks_512 = BlocksOf(node);
    node.attributes.mtime = Now();
  }
  PageBuf* NewPage() {
    PageBuf* page = cache_.Allocate();
    memset(page->data, 0, kPageBytes);
    return page;
  }
  static void KillSuid(Attributes& attributes) {
    attributes.mode &= ~static_cast<uint32_t>(S_ISUID);
    if (attributes.mode & S_IXGRP) attributes.mode &= ~static_cast<uint32_t>(S_ISGID);
  }

  PageCache cache_;
  MountReport report_;
  Superblock superblock_ = {};
  alignas(4096) std::byte zeros_[kPageBytes] = {};
  int wait_us_ = 0;
  const bool forgets_data_ = getenv("PBFS_NULL_FORGETS_DATA") != nullptr;
  Mutex mutex_;
  std::map<InodeNumber, Node> nodes_;
  InodeNumber next_ino_ = kRoot + 1;
  uint64_t next_cookie_ = 3;
  uint64_t getxattr_count_ = 0;
};

}  // namespace

StatusOr<FileSystem::ProbeResult> FileSystem::Probe(BlockDevice&) { return ProbeResult{}; }

StatusOr<std::unique_ptr<FileSystem>> FileSystem::Mount(BlockDevice&, const MountOptions& options) {
  return std::make_unique<NullFileSystem>(options);
}

}  // namespace pbfs
