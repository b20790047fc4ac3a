// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/session.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/simulation/scheduler.h"
#include "fs/make_filesystem.h"
#include "tests/support/fs_client.h"

namespace pbfs {
namespace {

constexpr int64_t kPressWaitMaxNs = 60'000'000;
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
    : Client(*this, 0),
      options_(options),
      recording_(std::make_unique<Recording>()),
      image_(FreshFilesystem().Fork()),
      device_(image_) {
  Mount();
  const auto root = fs_->GetAttributes(fs_->root());
  PBFS_CHECK(root.ok());
  model_.SetRoot(*root);
  clients_ = {this};
  acks_.resize(1);
  oracle_.Add(model(), "");
  LookUpClients();
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
  recorder_ = std::make_unique<RecordingDevice>(*hold_, /*with_discards=*/true);
  faults_ = std::make_unique<FaultDevice>(*recorder_);
  MountOptions options;
  options.cache_bytes = options_.cache_bytes;
  options.commit_interval_ns = int64_t{3600} * 1'000'000'000;
  options.discard = true;
  options.log = [this](const std::string& line) {
    if (!accepts_failures()) return Problem(absl::StrCat("log: ", line));
    MutexLock lock(problems_mutex_);
    log_ += line + "\n";
  };
  // What was before is there in every state.
  for (Client* client : clients_) {
    recorder_->Mark(MarkOfOp(client->number(), client->model().op()));
    MarkAcknowledged(*client, client->model().PromiseOfAll());
  }
  EnterPhase(Phase::kMounting);
  auto mounted = FileSystem::Mount(*faults_, options);
  faults_->Heal();
  if (!mounted.ok() && accepts_failures()) {
    failures_.push_back({"mount", mounted.status(), /*read_only=*/false});
    throw SessionEnded();
  }
  PBFS_CHECK(mounted.ok());
  fs_ = *std::move(mounted);
}

void Session::Record() {
  Sync();
  if (const Status status = fs_->Unmount(); !status.ok()) {
    Problem(absl::StrCat("unmount: ", status.ToString()));
  }
  fs_.reset();
  recording_->base = std::move(image_);
  image_ = recording_->base.Fork();
  recording_begun_ = true;
  Mount();
  LookUpClients();
  recording_->first_position = 2 * clients_.size();  // The first marks.
  EnterPhase(Phase::kRunning);
}

void Session::EnterPhase(Phase phase) {
  if (recording_begun_ && options_.on_phase) options_.on_phase(phase, *faults_);
}

Status Session::Unmount() {
  StopCommitting();
  hold_->DelayAtRandom(0, std::chrono::microseconds(0));
  hold_->Release();
  EnterPhase(Phase::kUnmounting);
  const Status status = fs_->Unmount();
  if (!status.ok()) {
    failures_.push_back({"unmount", status, fs_->read_only()});
    return status;
  }
  for (Client* client : clients_) MarkAcknowledged(*client, client->model().PromiseOfAll());
  return status;
}

std::string Session::Log() {
  MutexLock lock(problems_mutex_);
  return log_;
}

std::vector<Bounds> Session::bounds() const {
  std::vector<Bounds> bounds;
  for (size_t i = 0; i < clients_.size(); ++i) {
    bounds.push_back({clients_[i]->model().op(), acks_[i]});
  }
  return bounds;
}

void Session::Failed(const Status& status, const std::string& what) {
  if (!accepts_failures()) return Problem(absl::StrCat(what, ": ", status.ToString()));
  const bool read_only = fs_->read_only();
  MutexLock lock(problems_mutex_);
  failures_.push_back({what, status, read_only});
}

void Session::NoteSync(const Client& client, Model::FileId id, const Status& status) {
  MutexLock lock(problems_mutex_);
  if (status.ok()) {
    failed_syncs_.erase({client.number(), id});
  } else {
    failed_syncs_.insert({client.number(), id});
  }
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
  faults_.reset();
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
  const std::string problem = oracle_.ExplainLive(*observed);
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

// ---- Clients ------------------------------------------------------------------------------------

Client& Session::AddClient(const std::string& directory) {
  Mkdir(directory);
  GiveAway(directory);
  const auto attributes = fs_->Lookup(fs_->root(), directory);
  PBFS_CHECK(attributes.ok() && *attributes);
  added_.push_back(std::make_unique<Client>(*this, clients_.size()));
  Client& client = *added_.back();
  client.model_.SetRoot(**attributes);
  client.LookUp((*attributes)->ino);
  clients_.push_back(&client);
  acks_.resize(clients_.size());
  oracle_.Add(client.model(), directory);
  return client;
}

// After a mount.
void Session::LookUpClients() {
  LookUp(fs_->root());
  for (const auto& client : added_) {
    const auto attributes = fs_->Lookup(fs_->root(), oracle_.DirectoryOf(client->number()));
    PBFS_CHECK(attributes.ok() && *attributes);
    client->LookUp((*attributes)->ino);
  }
}

void Session::RunConcurrently(const std::vector<std::function<void()>>& functions) {
  std::vector<Thread> threads;
  for (const auto& function : functions) threads.emplace_back(function);
  for (Thread& thread : threads) thread.join();
}

void Session::MarkBegin(Client& client) {
  simulation::Scheduler::NoteProgress();
  MutexLock lock(models_mutex_);
  const uint32_t op = client.model_.Begin();
  oracle_.NoteBegin(client.number(), op);
  recorder_->Mark(MarkOfOp(client.number(), op));
  if (options_.on_progress) options_.on_progress(bounds());
}

void Session::MarkEnd(Client& client) { client.model_.End(); }

void Session::MarkAcknowledged(Client& client, const Model::Promise& promise) {
  MutexLock lock(models_mutex_);
  const size_t acks = client.model_.Acknowledge(promise);
  acks_.resize(std::max(acks_.size(), client.number() + 1));
  acks_[client.number()] = acks;
  recorder_->Mark(MarkOfAck(client.number(), acks));
  if (options_.on_progress) options_.on_progress(bounds());
}

void Session::SyncAll() {
  std::vector<Model::Promise> promises;
  {
    MutexLock lock(models_mutex_);
    for (const Client* client : clients_) promises.push_back(client->model().PromiseOfAll());
  }
  if (const Status status = FsClient(*fs_).Sync(); !status.ok()) {
    return Failed(status, "sync");
  }
  for (size_t i = 0; i < promises.size(); ++i) MarkAcknowledged(*clients_[i], promises[i]);
}

void Session::Remount() {
  std::vector<Model::Promise> promises;
  {
    MutexLock lock(models_mutex_);
    for (const Client* client : clients_) promises.push_back(client->model().PromiseOfAll());
  }
  if (const Status status = fs_->Remount(/*read_only=*/true); !status.ok()) {
    return Failed(status, "remount, read-only");
  }
  for (size_t i = 0; i < promises.size(); ++i) MarkAcknowledged(*clients_[i], promises[i]);
  if (const Status status = fs_->Remount(/*read_only=*/false); !status.ok()) {
    Failed(status, "remount, read-write");
  }
}

// ---- What is special ----------------------------------------------------------------------------

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

void Session::StartCommitting() {
  IgnoreRootTimes();
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
