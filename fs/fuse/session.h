// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/mutex.h"
#include "base/status.h"
#include "fs/filesystem.h"
#include "fs/fuse/collect_limit.h"
#include "fs/fuse/helper_thread.h"
#include "fs/fuse/in_flight.h"
#include "fs/fuse/kernel_view.h"
#include "fs/fuse/operation_statistics.h"
#include "fs/fuse/protocol.h"
#include "fs/fuse/reply_threads.h"
#include "fs/fuse/spliced_read.h"
#include "fs/fuse/transport.h"
#include "fs/fuse/worker_pool.h"

struct fuse_session;
struct fuse_conn_info;

namespace pbfs::fuse {

// How requests come.
enum class TransportKind : uint8_t {
  kAuto,  // kDev; kUring has not proved to be faster in everything.
  kDev,
  kUring,
};

struct SessionOptions {
  TransportKind transport = TransportKind::kAuto;
  // The kernel collects buffered writes.
  bool writeback_cache = true;
  SplicePolicy splice = SplicePolicy::kAuto;
  // Of what the kernel was told when it mounted (max_read).
  size_t read_bytes_max = kWriteBytesMax;
  // Answer OPEN and OPENDIR instead of telling the kernel to leave them out.
  bool serve_open = false;
  // Access control lists are kept, and the kernel obeys them.
  bool acls = true;
  // Changes of names (dirsync), and of attributes too (sync), are durable when they are answered.
  bool sync_names = false;
  bool sync_attributes = false;
  // Called when somebody says that the mount's flags have changed; may wait for the kernel. Empty:
  // ENOTTY.
  std::function<Status()> remount = {};
  // Asks the kernel to collect at most so much of all writes (CollectLimit). May be empty.
  std::function<void(uint64_t limit_bytes)> limit_collected = {};
  // What is known of the device, as a JSON object. May be empty.
  std::function<std::string()> device_statistics = {};
  WorkerPool::Options workers = {};
};

// One FileSystem served on one mounted FUSE descriptor. The order of calls is the order below; each
// once, by one thread.
//
// The filesystem is mounted between ReceiveInit() and Start(): only a first request that can be
// read proves that the kernel's mount is ours, and the log may be replayed only then.
class Session : private WorkerPool::Processor {
 public:
  // Owns `fd` from now on.
  static StatusOr<std::unique_ptr<Session>> Create(int fd, const SessionOptions& options);
  ~Session() override;

  // Takes the first request. EPERM: the kernel attached the mount to an older one of the same
  // device.
  Status ReceiveInit();
  // Of the protocol that the kernel offered: 7.minor (kernel_behaviour.h).
  uint32_t kernel_minor() const;
  // Answers it; requests are served when it returns. `fs` is borrowed until Stop().
  Status Start(FileSystem& fs);
  // Where the kernel shows us. Opens the root there, so that it learns to leave out later OPENDIRs.
  // Not on a worker thread.
  void NoteMountpoint(const std::string& mountpoint);
  // Blocks until the filesystem is unmounted or the connection is gone, and every request answered.
  void WaitForEnd();
  // Ends the threads and gives the receive frames back. The filesystem is not used any more.
  void Stop();
  // Answers the DESTROY, if there was one: umount(2) of a fuseblk mount returns now. To be called
  // when everything is durable, closed and unlocked.
  void AnswerDestroy();

  // --- For the handlers.
  FileSystem& fs() { return *fs_; }
  const SessionOptions& options() const { return options_; }
  HelperThread& helper() { return *helper_; }
  // For what takes long, and nobody else waits for.
  HelperThread& slow_helper() { return *slow_helper_; }
  KernelView& kernel_view() { return kernel_view_; }
  // Answers a READ or WRITE. `direct`: it may be the program's asynchronous direct I/O.
  void Answer(bool direct, std::function<void()> send);
  // Of a READ for the kernel's cache: the place for its answer, if it is to be spliced.
  std::shared_ptr<SplicedRead> MakeSplicedRead(uint64_t unique, size_t size_bytes);
  void SendSpliced(SplicedRead& answer);
  // The kernel was told to leave its cache out, for whoever opens some file.
  void NoteDirectOpen() { direct_opens_ = true; }
  bool direct_opens() const { return direct_opens_.load(std::memory_order_relaxed); }
  // Whoever answers a request must not wait for requests.
  bool must_not_wait_for_kernel() const { return transport_->IsShort(); }
  // To be called when a request may have taken space.
  void NoteSpaceTaken();
  InFlight::Token NewToken() { return in_flight_.Begin(); }
  InodeNumber InodeOf(uint64_t nodeid) const { return nodeid == kRootNodeId ? root_ : nodeid; }
  uint64_t NodeIdOf(InodeNumber ino) const { return ino == root_ ? kRootNodeId : ino; }
  // Has the kernel send us the file's dirty pages, and waits until they are answered: never on a
  // worker thread.
  void CollectDirtyPages(uint64_t nodeid);
  // Has the kernel drop its pages of the file, or ask for its attributes again when it needs them;
  // never on a worker thread.
  void DropKernelPages(uint64_t nodeid);
  void DropKernelAttributes(uint64_t nodeid);
  // CollectDirtyPages() for all files, as syncfs(2) does it.
  Status CollectAllDirtyPages();
  // A reply without a body, and one with, past libfuse. `error`: 0 or a positive errno. Returns 0
  // or a positive errno when the kernel does not take it.
  void SendError(uint64_t unique, int error);
  int SendReply(uint64_t unique, const void* body, size_t size_bytes);
  // Counters of the session, the device and the filesystem, as a JSON object.
  std::string StatsJson();
  // Agrees on the connection's features.
  void Negotiate(fuse_conn_info& connection);
  // OPEN and OPENDIR are answered: wanted, or there are inodes that are to be watched.
  bool serves_open() const { return serve_open_; }
  // False: the kernel is to leave OPENs out from now on. That saves a request for each, but then
  // nobody refuses to open an immutable file for writing; so the first ones are served, for as long
  // as somebody who sets such a flag may be setting the filesystem up.
  bool ServesThisOpen() {
    return serve_open_ || opens_served_.fetch_add(1) < kOpensServedMax || serve_open_;
  }
  // There is an inode with one of kInodeWatched. False: the kernel leaves out OPENs already.
  bool NoteWatched() {
    serve_open_ = true;
    return opens_served_ <= kOpensServedMax;
  }
  // As SessionOptions has them, until a remount changes them.
  bool sync_names() const { return sync_names_.load(std::memory_order_relaxed); }
  bool sync_attributes() const { return sync_attributes_.load(std::memory_order_relaxed); }
  void SetSync(bool names, bool attributes) {
    sync_names_ = names;
    sync_attributes_ = attributes;
  }
  // Access control lists are in use: wanted, and the kernel can.
  bool acls() const { return acls_; }
  // SETXATTR comes with the longer struct.
  bool long_setxattr() const { return long_setxattr_; }

 private:
  static constexpr uint32_t kOpensServedMax = 256;

  struct Deleter {
    void operator()(fuse_session* session) const;
  };

  explicit Session(const SessionOptions& options);
  Status CreateLibfuseSession(int fd);
  Status MakeTransport(unsigned loops);
  void Process(Request& request) override;
  void Dispatch(Request& request);
  // What libfuse sends: replies and notifications. 0 or a positive errno.
  int Send(iovec* segments, int count);
  int Transmit(const iovec* segments, int count);
  void SyncFs(uint64_t unique);
  bool SyncThroughMount(uint64_t nodeid);
  // A descriptor of the root as the kernel shows it; -1 when we are not (or no longer) there.
  int OpenMount();

  static ssize_t WritevHook(int fd, iovec* segments, int count, void* session);
  static ssize_t ReadHook(int fd, void* buffer, size_t length, void* session);

  const SessionOptions options_;
  int fd_ = -1;
  std::unique_ptr<fuse_session, Deleter> libfuse_;
  std::unique_ptr<Transport> transport_;
  const fuse_init_in& InitOffer() const;
  std::vector<std::byte> init_request_;  // As long as fuse_init_in at least.
  std::optional<int> init_error_;
  uint32_t init_flags2_ = kInitFlags2Patched;
  // Known when INIT is answered.
  std::atomic<bool> serve_open_{false};
  std::atomic<uint32_t> opens_served_{0};
  std::atomic<bool> direct_opens_{false};
  std::atomic<bool> sync_names_{false};
  std::atomic<bool> sync_attributes_{false};
  bool acls_ = false;
  bool long_setxattr_ = false;
  FileSystem* fs_ = nullptr;
  InodeNumber root_ = 0;
  InFlight in_flight_;
  ReadPipes read_pipes_{options_.read_bytes_max};
  std::atomic<uint64_t> spliced_reads_{0};
  KernelView kernel_view_;
  OperationStatistics operations_;
  std::unique_ptr<CollectLimit> collect_limit_;
  std::unique_ptr<HelperThread> helper_;
  std::unique_ptr<HelperThread> slow_helper_;
  std::unique_ptr<ReplyThreads> reply_threads_;
  std::unique_ptr<WorkerPool> workers_;
  // Where we are mounted, and the device number there; set by NoteMountpoint().
  struct Place {
    std::string mountpoint;
    dev_t device = 0;
  };
  Mutex place_mutex_;
  Place place_ ABSL_GUARDED_BY(place_mutex_);
  // The unique number of the DESTROY request; 0: none (yet).
  std::atomic<uint64_t> destroy_unique_{0};
};

}  // namespace pbfs::fuse
