// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "fs/filesystem.h"
#include "io/fault_device.h"
#include "io/recording_device.h"
#include "tests/crash/client.h"
#include "tests/crash/hold_device.h"
#include "tests/crash/image.h"
#include "tests/crash/oracle.h"

namespace pbfs {

// What a workload did to the device.
struct Recording {
  Image base{0};               // Before the first entry.
  std::vector<RecordedIo> io;  // Marks: MarkOfOp(), MarkOfAck().
  size_t first_position = 0;   // Where the interesting part begins.
};

// A small filesystem just made, with bytes on all free blocks that nobody ever wrote. Made when
// first asked for, always the same, outside of any simulation.
const Image& FreshFilesystem();

// Runs a workload on a filesystem on a memory device, records what reaches the device, and keeps
// the oracle up. What comes before Record() is preparation: it is made durable, and not part of the
// crash states.
//
// The session is a client itself, number 0, who works at the root. Most workloads have no other.
class Session : public Client {
 public:
  enum class Phase : uint8_t { kMounting, kRunning, kUnmounting };
  struct Options {
    size_t cache_bytes = 8 << 20;
    // Operations may fail: that is noted, and what depends on them is left out.
    bool accept_failures = false;
    // From Record() on: called when a phase begins, before its first request.
    std::function<void(Phase phase, FaultDevice& device)> on_phase = {};
    // Called when an operation begins, and when something was acknowledged.
    std::function<void(const std::vector<Bounds>& bounds)> on_progress = {};
  };
  // Thrown by Record() when the mount fails and failures are accepted.
  struct SessionEnded {};
  struct Failure {
    std::string what;
    Status status;
    bool read_only;  // The filesystem had an error that made it so.
  };
  explicit Session(const Options& options);
  ~Session();

  // Ends the preparation: unmounts, and mounts again with recording.
  void Record();
  // What was recorded so far is not worth many crash states.
  void Focus();
  // Ends what runs in the background and unmounts. All is acknowledged when it succeeds.
  Status Unmount();
  // Compares what is there now with the model.
  void CheckLive();
  // Cuts the power (no unmount) and hands over the recording.
  std::unique_ptr<Recording> Finish();

  // Another client, in a new directory of the root that is its own. Only before Record().
  Client& AddClient(const std::string& directory);
  Client& client(size_t number) { return *clients_[number]; }
  size_t client_count() const { return clients_.size(); }
  // Runs the functions at the same time, and returns when all have.
  void RunConcurrently(const std::vector<std::function<void()>>& functions);

  // Makes memory short for a moment: metadata and data are written back in the background. Waits
  // until metadata was written, but not long.
  void Press();

  // From now on an operation may fail with ENOSPC; then it has changed nothing.
  void AllowNoSpace() { no_space_allowed_ = true; }

  // Starts (stops) a thread that makes one checkpoint after the other.
  void StartCommitting();
  void StopCommitting();

  // Fills the free space with files, but for about that many blocks.
  void Fill(uint64_t blocks_left);

  HoldDevice& hold() { return *hold_; }
  FileSystem& filesystem() { return *fs_; }
  const Oracle& oracle() const { return oracle_; }
  const std::vector<std::string>& problems() const { return problems_; }
  FaultDevice& faults() { return *faults_; }
  const Image& image() const { return image_; }
  // If the power went now.
  std::vector<Bounds> bounds() const;
  const std::vector<Failure>& failures() const { return failures_; }
  // Client and file: whose newest fsync failed and whose data was not changed since.
  const std::set<std::pair<size_t, Model::FileId>>& failed_syncs() const { return failed_syncs_; }
  // What the filesystem said.
  std::string Log();
  uint64_t FreeBlocks() { return fs_->StatFs()->blocks_available; }
  // Something went wrong.
  bool Broken();
  // Metadata blocks changed and not yet written back.
  uint64_t DirtyMetadata() { return Statistic("dirty_blocks"); }

  // --- For clients
  void Problem(const std::string& text);
  bool accepts_failures() const { return options_.accept_failures; }
  // A problem, or one of the failures.
  void Failed(const Status& status, const std::string& what);
  // Whether the file's fsync must fail from now on.
  void NoteSync(const Client& client, Model::FileId id, const Status& status);
  bool MayFail(const Status& status) const {
    return no_space_allowed_ && ErrnoOf(status) == ENOSPC;
  }
  // Held while models change, so that a sync sees all of them at one moment.
  Mutex& models_mutex() { return models_mutex_; }
  void MarkBegin(Client& client);
  void MarkEnd(Client& client);  // Models are locked.
  void MarkAcknowledged(Client& client, const Model::Promise& promise);
  void SyncAll();
  // Read-only, then read-write again; what all clients did is durable. Nothing else may run.
  void Remount();

 private:
  void EnterPhase(Phase phase);
  void Mount();
  void LookUpClients();
  uint64_t Statistic(std::string_view name);

  const Options options_;
  std::unique_ptr<Recording> recording_;
  Image image_;  // What is on the device.
  ImageDevice device_;
  std::unique_ptr<HoldDevice> hold_;
  std::unique_ptr<RecordingDevice> recorder_;
  std::unique_ptr<FaultDevice> faults_;
  std::unique_ptr<FileSystem> fs_;
  std::vector<Client*> clients_;                // All, this one first.
  std::vector<std::unique_ptr<Client>> added_;  // The others.
  Mutex models_mutex_;
  Oracle oracle_;
  bool no_space_allowed_ = false;
  int fill_files_ = 0;
  bool recording_begun_ = false;
  std::vector<size_t> acks_;  // Of each client.
  std::vector<Failure> failures_;
  std::set<std::pair<size_t, Model::FileId>> failed_syncs_;
  Thread committer_;
  std::atomic<bool> committing_{false};
  Mutex problems_mutex_;
  std::vector<std::string> problems_;
  std::string log_;
};

}  // namespace pbfs
