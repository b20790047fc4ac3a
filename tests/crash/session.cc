// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/session.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/simulation/scheduler.h"
#include "fs/make_filesystem.h"
#include "tests/support/fs_client.h"

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE (1 << 1)
#endif

namespace pbfs {
namespace {

constexpr uint32_t kRootMode = S_IFDIR | 0755;
constexpr int64_t kPressWaitMaxNs = 60'000'000;
// Longer ones are cut up, as the kernel does.
constexpr size_t kWriteBytesMax = 512 << 10;

constexpr uint64_t kDeviceBytes = 16 << 20;

// What was on the device before: whatever shows up in a file must have been written there.
void FillWithGarbage(Image& image) {
  const std::string garbage = PatternOf(~Model::FileId{0}, 1, 0, 1 << 20);
  for (uint64_t at = 0; at < image.size_bytes(); at += garbage.size()) {
    image.Write(at, reinterpret_cast<const std::byte*>(garbage.data()), garbage.size());
  }
}

}  // namespace

const Image& FreshFilesystem() {
  static const Image& fresh = *[] {
    auto* image = new Image(kDeviceBytes);
    FillWithGarbage(*image);
    simulation::Scheduler({}).Run([&] {
      ImageDevice device(*image);
      MakeOptions make;
      make.discard = false;
      make.log_bytes = kLogBytesAutoMin;
      PBFS_CHECK(MakeFilesystem(device, make).ok());
    });
    return image;
  }();
  return fresh;
}

Session::Session(const Options& options)
    : options_(options),
      recording_(std::make_unique<Recording>()),
      image_(FreshFilesystem().Fork()),
      device_(image_),
      model_(kRootMode) {
  inodes_[Model::kRoot] = 0;
  Mount();
}

Session::~Session() {
  StopCommitting();
  if (hold_ != nullptr) hold_->Release();
  fs_.reset();
}

void Session::Mount() {
  auto probe = FileSystem::Probe(device_);
  PBFS_CHECK(probe.ok());
  const Superblock& superblock = probe->superblock;
  hold_ = std::make_unique<HoldDevice>(device_, superblock.log_start,
                                       superblock.log_start + superblock.log_blocks);
  recorder_ = std::make_unique<RecordingDevice>(*hold_);
  // What was before is there in every state.
  recorder_->Mark(MarkOfOp(model_.op()));
  recorder_->Mark(MarkOfAck(model_.Acknowledge(model_.PromiseOfAll())));
  MountOptions options;
  options.cache_bytes = options_.cache_bytes;
  options.commit_interval_ns = int64_t{3600} * 1'000'000'000;
  options.log = [this](const std::string& line) { Problem(absl::StrCat("log: ", line)); };
  auto mounted = FileSystem::Mount(*recorder_, options);
  PBFS_CHECK(mounted.ok());
  fs_ = *std::move(mounted);
  inodes_[Model::kRoot] = fs_->root();
  LookUpAll(Model::kRoot);
}

// Takes a reference on everything, after a mount.
void Session::LookUpAll(Model::FileId dir) {
  if (dir == Model::kRoot) inodes_ = {{Model::kRoot, fs_->root()}};
  const Model::Tree& tree = std::as_const(model_).tree();
  for (const auto& [name, id] : tree.at(dir).entries) {
    auto found = fs_->Lookup(inodes_.at(dir), name);
    PBFS_CHECK(found.ok() && *found);
    if (!inodes_.emplace(id, (*found)->ino).second) fs_->Forget((*found)->ino, 1);
    if (S_ISDIR(tree.at(id).mode)) LookUpAll(id);
  }
}

void Session::Record() {
  Sync();
  if (const Status status = fs_->Unmount(); !status.ok()) {
    Problem(absl::StrCat("unmount: ", status.ToString()));
  }
  fs_.reset();
  recording_->base = std::move(image_);
  image_ = recording_->base.Fork();
  Mount();
}

void Session::Focus() {
  std::vector<RecordedIo> so_far = recorder_->TakeRecording();
  recording_->io.insert(recording_->io.end(), std::make_move_iterator(so_far.begin()),
                        std::make_move_iterator(so_far.end()));
  recording_->first_position = recording_->io.size();
}

std::unique_ptr<Recording> Session::Finish() {
  StopCommitting();
  hold_->DelayAtRandom(0, std::chrono::microseconds(0));
  hold_->Release();
  fs_.reset();
  const size_t focus = recording_->first_position;
  Focus();
  recording_->first_position = focus;
  recorder_.reset();
  hold_.reset();
  return std::move(recording_);
}

void Session::CheckLive() {
  if (Broken()) return;
  auto observed = Observe(*fs_);
  if (!observed.ok()) {
    Problem(absl::StrCat("live: ", observed.status().ToString()));
    return;
  }
  const std::string problem = model_.ExplainLive(*observed);
  if (!problem.empty()) Problem(absl::StrCat("live: ", problem));
}

bool Session::Broken() {
  MutexLock lock(problems_mutex_);
  return !problems_.empty();
}

void Session::Problem(const std::string& text) {
  MutexLock lock(problems_mutex_);
  if (problems_.size() < 10) problems_.push_back(text);
}

// ---- Names --------------------------------------------------------------------------------------

Session::Place Session::Find(std::string_view path) {
  const Model::Tree& tree = std::as_const(model_).tree();
  Place place{Model::kRoot, "", Model::kRoot};
  bool first = true;
  for (const auto part : absl::StrSplit(absl::string_view(path.data(), path.size()), '/')) {
    if (!first) {
      PBFS_CHECK(place.id != Model::kRoot);
      place.dir = place.id;
    }
    first = false;
    place.name = std::string(part);
    const auto& entries = tree.at(place.dir).entries;
    const auto found = entries.find(place.name);
    place.id = found == entries.end() ? Model::kRoot : found->second;
  }
  return place;
}

bool Session::Exists(std::string_view path) { return Find(path).id != Model::kRoot; }

uint64_t Session::Size(std::string_view path) {
  return Broken() ? 0 : model_.Bytes(Find(path).id).size();
}

void Session::Begin() { recorder_->Mark(MarkOfOp(model_.Begin())); }

void Session::End(const Status& status, std::string_view what) {
  if (!status.ok()) {
    Problem(
        absl::StrCat("operation ", model_.op(), ", ", std::string(what), ": ", status.ToString()));
  }
  model_.End();
}

void Session::Create(std::string_view path, uint32_t mode, std::string_view target) {
  if (Broken()) return;
  const Place place = Find(path);
  PBFS_CHECK(place.id == Model::kRoot);
  Begin();
  const auto made = FsClient(*fs_).Create(InodeOf(place.dir), place.name, mode, target);
  if (made.ok()) {
    const Model::FileId id = model_.NewFile();
    inodes_[id] = *made;
    Model::Node& node = model_.tree()[id];
    node.mode = mode;
    node.nlink = S_ISDIR(mode) ? 2 : 1;
    node.target = std::string(target);
    node.opaque = absl::StartsWith(place.name, kOpaquePrefix);
    NodeOf(place.dir).entries[place.name] = id;
    if (S_ISDIR(mode)) ++NodeOf(place.dir).nlink;
    if (S_ISREG(mode)) model_.SetBytes(id, "", /*resized=*/true);
    model_.Touch(id);
    model_.Touch(place.dir);
  }
  End(made.status(), "create");
}

void Session::Link(std::string_view from, std::string_view to) {
  if (Broken()) return;
  const Place source = Find(from);
  const Place target = Find(to);
  Begin();
  const auto linked = fs_->Link(InodeOf(source.id), InodeOf(target.dir), target.name);
  if (linked.ok()) {
    fs_->Forget(linked->ino, 1);
    NodeOf(target.dir).entries[target.name] = source.id;
    ++NodeOf(source.id).nlink;
    model_.Touch(source.id);
    model_.Touch(target.dir);
  }
  End(linked.status(), "link");
}

// A name of `id` is gone already.
void Session::DropName(Model::FileId id, bool keep_open) {
  Model::Node& node = NodeOf(id);
  node.nlink -= S_ISDIR(node.mode) ? 2 : 1;
  model_.Touch(id);
  if (node.nlink > 0 || keep_open) return;
  fs_->Forget(InodeOf(id), 1);
}

void Session::Unlink(std::string_view path, bool keep_open) {
  if (Broken()) return;
  const Place place = Find(path);
  Begin();
  const Status status = fs_->Unlink(InodeOf(place.dir), place.name);
  if (status.ok()) {
    NodeOf(place.dir).entries.erase(place.name);
    model_.Touch(place.dir);
    DropName(place.id, keep_open);
  }
  End(status, "unlink");
}

void Session::Rmdir(std::string_view path) {
  if (Broken()) return;
  const Place place = Find(path);
  Begin();
  const Status status = fs_->Rmdir(InodeOf(place.dir), place.name);
  if (status.ok()) {
    NodeOf(place.dir).entries.erase(place.name);
    --NodeOf(place.dir).nlink;
    model_.Touch(place.dir);
    DropName(place.id, false);
  }
  End(status, "rmdir");
}

void Session::Rename(std::string_view from, std::string_view to, unsigned flags) {
  if (Broken()) return;
  const Place source = Find(from);
  const Place target = Find(to);
  Begin();
  const Status status =
      fs_->Rename(InodeOf(source.dir), source.name, InodeOf(target.dir), target.name, flags);
  if (status.ok()) {
    const bool exchange = (flags & RENAME_EXCHANGE) != 0;
    const bool replaces = target.id != Model::kRoot && !exchange;
    const auto move = [&](Model::FileId id, Model::FileId out, Model::FileId in) {
      model_.Touch(id);
      if (!S_ISDIR(NodeOf(id).mode)) return;
      --NodeOf(out).nlink;
      ++NodeOf(in).nlink;
    };
    NodeOf(source.dir).entries.erase(source.name);
    if (exchange) NodeOf(source.dir).entries[source.name] = target.id;
    NodeOf(target.dir).entries[target.name] = source.id;
    move(source.id, source.dir, target.dir);
    if (exchange) move(target.id, target.dir, source.dir);
    if (replaces && S_ISDIR(NodeOf(target.id).mode)) --NodeOf(target.dir).nlink;
    model_.Touch(source.dir);
    model_.Touch(target.dir);
    if (replaces) DropName(target.id, false);
  }
  End(status, "rename");
}

// ---- Attributes ---------------------------------------------------------------------------------

void Session::Chmod(std::string_view path, uint32_t mode) {
  if (Broken()) return;
  const Place place = Find(path);
  Begin();
  SetAttributes request;
  request.mode = mode;
  const auto set = fs_->SetAttributesOf(InodeOf(place.id), request);
  if (set.ok()) {
    NodeOf(place.id).mode = (NodeOf(place.id).mode & S_IFMT) | mode;
    model_.Touch(place.id);
  }
  End(set.status(), "chmod");
}

void Session::SetXattr(std::string_view path, const std::string& name, size_t bytes) {
  if (Broken()) return;
  const Place place = Find(path);
  Begin();
  std::string value = PatternOf(place.id, 0x80000000u + model_.op(), 0, bytes);
  const Status status = fs_->SetXattr(InodeOf(place.id), name, value, 0);
  if (status.ok()) {
    NodeOf(place.id).xattrs[name] = std::make_shared<std::string>(std::move(value));
    model_.Touch(place.id);
  }
  End(status, "setxattr");
}

void Session::RemoveXattr(std::string_view path, const std::string& name) {
  if (Broken()) return;
  const Place place = Find(path);
  Begin();
  const Status status = fs_->RemoveXattr(InodeOf(place.id), name);
  if (status.ok()) {
    NodeOf(place.id).xattrs.erase(name);
    model_.Touch(place.id);
  }
  End(status, "removexattr");
}

// ---- Data ---------------------------------------------------------------------------------------

void Session::DoWrite(std::string_view path, uint64_t offset, size_t length,
                      const WriteFlags& flags) {
  if (Broken()) return;
  const Place place = Find(path);
  Begin();
  const uint32_t write = ++writes_[place.id];
  std::string bytes = PatternOf(place.id, write, offset, length);
  // Every other aligned write hands its frames over, as the FUSE bridge does.
  std::vector<PageBuf*> frames;
  WritePayload payload;
  if (offset % kPageBytes == 0 && write % 2 == 0) {
    fs_->page_cache().AllocateMany((length + kPageBytes - 1) / kPageBytes, frames);
    for (size_t at = 0; at < length; at += kPageBytes) {
      const size_t count = std::min(length - at, kPageBytes);
      std::memcpy(frames[at / kPageBytes]->data, bytes.data() + at, count);
      payload.data.Append(frames[at / kPageBytes]->data, count);
    }
    payload.frames = &frames;
  } else {
    payload.data.Append(bytes.data(), bytes.size());
  }
  Event done;
  Status status;
  fs_->Write(InodeOf(place.id), offset, payload, flags, [&](const Status& result) {
    status = result;
    done.Set();
  });
  done.Wait();
  for (PageBuf* frame : frames) {
    if (frame != nullptr) fs_->page_cache().Unpin(*frame);
  }
  if (status.ok()) {
    std::string after = model_.Bytes(place.id);
    if (after.size() < offset + length) after.resize(offset + length, '\0');
    after.replace(offset, length, bytes);
    model_.SetBytes(place.id, std::move(after), /*resized=*/false);
  }
  End(status, "write");
  if (flags.sync_data) Acknowledge(status, model_.PromiseOf(place.id), "O_DSYNC write");
}

void Session::Write(std::string_view path, uint64_t offset, size_t length, bool from_page_cache) {
  for (size_t done = 0; done < length; done += kWriteBytesMax) {
    DoWrite(path, offset + done, std::min(length - done, kWriteBytesMax),
            {.from_page_cache = from_page_cache});
  }
}

void Session::WriteSync(std::string_view path, uint64_t offset, size_t length) {
  DoWrite(path, offset, length, {.sync_data = true});
}

void Session::Append(std::string_view path, size_t length) {
  if (Broken()) return;
  Write(path, Size(path), length);
}

void Session::Truncate(std::string_view path, uint64_t size) {
  if (Broken()) return;
  const Place place = Find(path);
  Begin();
  const Status status = FsClient(*fs_).Truncate(InodeOf(place.id), size);
  if (status.ok()) {
    std::string after = model_.Bytes(place.id);
    after.resize(size, '\0');
    model_.SetBytes(place.id, std::move(after), /*resized=*/true);
  }
  End(status, "truncate");
}

void Session::Fill(uint64_t blocks_left) {
  for (int attempt = 0; attempt < 50 && FreeBlocks() > blocks_left && !Broken(); ++attempt) {
    const std::string name = absl::StrCat(kOpaquePrefix, fill_files_++);
    Create(name);
    const uint64_t blocks = FreeBlocks() - blocks_left;
    // A little less: the map of the file takes some, too.
    Append(name, (blocks - std::min<uint64_t>(blocks / 8, 40)) * kBlockBytes);
    Sync();
  }
}

// ---- Persistence --------------------------------------------------------------------------------

void Session::Acknowledge(const Status& status, const Model::Promise& promise,
                          std::string_view what) {
  if (!status.ok()) {
    Problem(
        absl::StrCat(std::string(what), " after operation ", model_.op(), ": ", status.ToString()));
    return;
  }
  recorder_->Mark(MarkOfAck(model_.Acknowledge(promise)));
}

void Session::Fsync(std::string_view path, bool datasync) {
  const std::unique_ptr<PendingSync> pending = FsyncStart(path, datasync);
  Await(*pending);
}

std::unique_ptr<Session::PendingSync> Session::FsyncStart(std::string_view path, bool datasync) {
  auto pending = std::make_unique<PendingSync>();
  if (Broken()) {
    pending->status = ErrnoError(EIO, "an operation failed before");
    pending->done.Set();
    return pending;
  }
  const Model::FileId id = path == "/" ? Model::kRoot : Find(path).id;
  pending->promise = model_.PromiseOf(id);
  fs_->Fsync(InodeOf(id), datasync, [raw = pending.get()](const Status& status) {
    raw->status = status;
    raw->done.Set();
  });
  return pending;
}

void Session::Await(PendingSync& pending) {
  pending.done.Wait();
  Acknowledge(pending.status, pending.promise, "fsync");
}

void Session::Sync() {
  if (Broken()) return;
  const Model::Promise promise = model_.PromiseOfAll();
  Acknowledge(FsClient(*fs_).Sync(), promise, "sync");
}

void Session::StartCommitting() {
  committing_ = true;
  committer_ = Thread([this] {
    FsClient client(*fs_);
    while (committing_) {
      SetAttributes now;
      now.atime_now = true;
      if (!fs_->SetAttributesOf(fs_->root(), now).ok() || !client.Fsync(fs_->root()).ok()) return;
    }
  });
}

void Session::StopCommitting() {
  committing_ = false;
  if (committer_.joinable()) committer_.join();
}

uint64_t Session::Statistic(std::string_view name) {
  const std::string all = fs_->StatsJson();
  const std::string key = absl::StrCat("\"", std::string(name), "\":");
  const size_t at = all.find(key);
  PBFS_CHECK(at != std::string::npos);
  return std::strtoull(all.c_str() + at + key.size(), nullptr, 10);
}

void Session::Press() {
  if (Broken()) return;
  PageCache& pages = fs_->page_cache();
  const uint64_t writes_before = Statistic("metadata_writes");
  const uint64_t waits_before = pages.stats().allocation_waits;
  std::vector<PageBuf*> taken;
  while (PageBuf* page = pages.TryAllocate()) taken.push_back(page);
  Thread waiter([&pages] { pages.Unpin(*pages.Allocate()); });
  const int64_t end = NowNs() + kPressWaitMaxNs;
  while (pages.stats().allocation_waits == waits_before && NowNs() < end) {
    SleepFor(std::chrono::microseconds(100));
  }
  for (PageBuf* page : taken) pages.Unpin(*page);
  waiter.join();
  while (Statistic("metadata_writes") == writes_before && NowNs() < end) {
    SleepFor(std::chrono::microseconds(100));
  }
}

}  // namespace pbfs
