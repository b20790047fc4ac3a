// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/event.h"
#include "base/thread.h"
#include "fs/filesystem.h"
#include "io/recording_device.h"
#include "tests/crash/hold_device.h"
#include "tests/crash/image.h"
#include "tests/crash/model.h"

namespace pbfs {

// What a workload did to the device.
struct Recording {
  Image base{0};               // Before the first entry.
  std::vector<RecordedIo> io;  // Marks: MarkOfOp(), MarkOfAck().
  size_t first_position = 0;   // Where the interesting part begins.
};
inline uint64_t MarkOfOp(uint32_t op) { return uint64_t{op} * 2; }
inline uint64_t MarkOfAck(size_t acks) { return uint64_t{acks} * 2 + 1; }

// A small filesystem just made, with bytes on all free blocks that nobody ever wrote. Made when
// first asked for, always the same, outside of any simulation.
const Image& FreshFilesystem();

// Runs a workload on a filesystem on a memory device, records what reaches the device, and keeps
// the model up. What comes before Record() is preparation: it is made durable, and not part of the
// crash states. An operation that fails on this sound device, or what reads wrong, is noted as a
// problem; after that nothing more is done.
//
// Paths are relative to the root: "a", "d/e". Sessions hold one reference on each file, given back
// when its last name goes, unless it is kept open. One thread, besides the filesystem's.
class Session {
 public:
  struct Options {
    size_t cache_bytes = 8 << 20;
  };
  explicit Session(const Options& options);
  ~Session();

  // Ends the preparation: unmounts, and mounts again with recording.
  void Record();
  // What was recorded so far is not worth many crash states.
  void Focus();
  // Compares what is there now with the model.
  void CheckLive();
  // Cuts the power (no unmount) and hands over the recording.
  std::unique_ptr<Recording> Finish();

  // --- Operations
  void Create(std::string_view path, uint32_t mode = S_IFREG | 0644, std::string_view target = {});
  void Mkdir(std::string_view path) { Create(path, S_IFDIR | 0755); }
  void Symlink(std::string_view target, std::string_view path) {
    Create(path, S_IFLNK | 0777, target);
  }
  void Link(std::string_view from, std::string_view to);
  void Unlink(std::string_view path, bool keep_open = false);
  void Rmdir(std::string_view path);
  void Rename(std::string_view from, std::string_view to, unsigned flags = 0);
  void Chmod(std::string_view path, uint32_t mode);
  // Values are made up. `bytes` up to 65536.
  void SetXattr(std::string_view path, const std::string& name, size_t bytes);
  void RemoveXattr(std::string_view path, const std::string& name);
  // From the kernel's page cache: no times are changed. Long writes are several operations.
  void Write(std::string_view path, uint64_t offset, size_t length, bool from_page_cache = false);
  void WriteSync(std::string_view path, uint64_t offset, size_t length);  // O_DSYNC.
  void Append(std::string_view path, size_t length);
  void Truncate(std::string_view path, uint64_t size);

  void Fsync(std::string_view path, bool datasync = false);
  void Sync();
  // An fsync that may wait for held requests; it counts as acknowledged by Await().
  struct PendingSync {
    Event done;
    Status status;
    Model::Promise promise;
  };
  std::unique_ptr<PendingSync> FsyncStart(std::string_view path, bool datasync = false);
  void Await(PendingSync& pending);

  // Makes memory short for a moment: metadata and data are written back in the background. Waits
  // until metadata was written, but not long.
  void Press();

  // Starts (stops) a thread that makes one checkpoint after the other.
  void StartCommitting();
  void StopCommitting();

  // Fills the free space with files, but for about that many blocks.
  void Fill(uint64_t blocks_left);

  HoldDevice& hold() { return *hold_; }
  FileSystem& filesystem() { return *fs_; }
  const Model& model() const { return model_; }
  const std::vector<std::string>& problems() const { return problems_; }
  uint64_t FreeBlocks() { return fs_->StatFs()->blocks_available; }
  // Something went wrong.
  bool Broken();
  // Metadata blocks changed and not yet written back.
  uint64_t DirtyMetadata() { return Statistic("dirty_blocks"); }
  bool Exists(std::string_view path);
  uint64_t Size(std::string_view path);

 private:
  struct Place {  // A name in its directory.
    Model::FileId dir;
    std::string name;
    Model::FileId id;  // kRoot: no such name.
  };
  Place Find(std::string_view path);
  Model::Node& NodeOf(Model::FileId id) { return model_.tree().at(id); }
  InodeNumber InodeOf(Model::FileId id) const { return inodes_.at(id); }
  void Mount();
  void LookUpAll(Model::FileId dir);
  void Begin();
  void End(const Status& status, std::string_view what);
  void DropName(Model::FileId id, bool keep_open);
  void DoWrite(std::string_view path, uint64_t offset, size_t length, const WriteFlags& flags);
  void Acknowledge(const Status& status, const Model::Promise& promise, std::string_view what);
  uint64_t Statistic(std::string_view name);
  void Problem(const std::string& text);

  const Options options_;
  std::unique_ptr<Recording> recording_;
  Image image_;  // What is on the device.
  ImageDevice device_;
  std::unique_ptr<HoldDevice> hold_;
  std::unique_ptr<RecordingDevice> recorder_;
  std::unique_ptr<FileSystem> fs_;
  Model model_;
  std::map<Model::FileId, InodeNumber> inodes_;
  std::map<Model::FileId, uint32_t> writes_;
  Thread committer_;
  std::atomic<bool> committing_{false};
  int fill_files_ = 0;
  Mutex problems_mutex_;
  std::vector<std::string> problems_;
};

}  // namespace pbfs
