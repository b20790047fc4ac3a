// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/session.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/probe.h"
#include "fs/fuse/dev_transport.h"
#include "fs/fuse/handlers.h"
#include "fs/fuse/kernel_behaviour.h"
#include "fs/fuse/uring_transport.h"

namespace pbfs::fuse {
namespace {

// Until INIT is answered the kernel asks for FUSE_MIN_READ_BUFFER at least.
constexpr size_t kInitBufferBytes = 64 << 10;

// Receive frames take no more than this part of a small cache.
constexpr size_t kCacheShare = 4;

// A handler of a WRITE keeps the frames of its payload while it waits for as many more, to put them
// into a file at an odd offset. If all of them together could take every frame, none would ever
// end.
unsigned BlockedHandlersMax(const PageCache& cache, const WorkerPool::Options& workers) {
  const size_t kept = cache.error_pages_max() + workers.loops * ReceiveFrames::kCount;
  const size_t left = cache.data_frames_max() - std::min(kept, cache.data_frames_max());
  const size_t handlers = left / (2 * ReceiveFrames::kCount);
  // More of them may wait by one for each loop.
  const size_t most = handlers - std::min<size_t>(handlers, workers.loops);
  return std::clamp<unsigned>(static_cast<unsigned>(most), 1, workers.blocked_handlers_max);
}

// Of what this thread sends. libfuse is in between.
thread_local Transport::Delivery t_delivery = Transport::Delivery::kHere;

// What name_to_handle_at(2) gives for a file of a FUSE mount.
class KernelFileHandle {
 public:
  KernelFileHandle(uint64_t nodeid, uint32_t generation) {
    const uint32_t words[3] = {static_cast<uint32_t>(nodeid >> 32), static_cast<uint32_t>(nodeid),
                               generation};
    get()->handle_bytes = sizeof(words);
    get()->handle_type = kFileIdIno64Gen;
    std::memcpy(get()->f_handle, words, sizeof(words));
  }
  file_handle* get() const { return reinterpret_cast<file_handle*>(bytes_); }

 private:
  static constexpr int kFileIdIno64Gen = 0x81;
  alignas(file_handle) mutable std::byte bytes_[sizeof(file_handle) + 3 * sizeof(uint32_t)];
};

// Nobody is left to read the answer; whoever served the request need not care.
bool IsConnectionGone(int error) { return error == ENODEV || error == ECONNABORTED; }

}  // namespace

void Session::Deleter::operator()(fuse_session* session) const { fuse_session_destroy(session); }

Session::Session(const SessionOptions& options) : options_(options) {}

Session::~Session() { PBFS_CHECK(fs_ == nullptr); }

StatusOr<std::unique_ptr<Session>> Session::Create(int fd, const SessionOptions& options) {
  std::unique_ptr<Session> session(new Session(options));
  PBFS_RETURN_IF_ERROR(session->CreateLibfuseSession(fd));
  return session;
}

Status Session::CreateLibfuseSession(int fd) {
  fd_ = fd;
  char name[] = "pbfs";
  char* argv[] = {name, nullptr};
  fuse_args args = FUSE_ARGS_INIT(1, argv);
  const fuse_lowlevel_ops operations = MakeOperations();
  libfuse_.reset(fuse_session_new(&args, &operations, sizeof(operations), this));
  fuse_opt_free_args(&args);  // libfuse has parsed into a copy of its own.
  fuse_custom_io io = {};
  io.writev = &Session::WritevHook;
  io.read = &Session::ReadHook;
  if (libfuse_ == nullptr || fuse_session_custom_io(libfuse_.get(), &io, fd) != 0) {
    close(fd);
    return ErrnoError(ENOMEM, "libfuse refuses to make a session");
  }
  return OkStatus();
}

Status Session::ReceiveInit() {
  init_request_.resize(kInitBufferBytes);
  ssize_t bytes;
  do {
    bytes = read(fd_, init_request_.data(), init_request_.size());
  } while (bytes < 0 && (errno == EINTR || errno == ENOENT));
  if (bytes < 0) return ErrnoError(errno, "cannot read from the FUSE device");
  const auto& header = *reinterpret_cast<const fuse_in_header*>(init_request_.data());
  if (static_cast<size_t>(bytes) < sizeof(header) || header.opcode != FUSE_INIT) {
    return ErrnoError(EPROTO, "the kernel's first request is not INIT");
  }
  init_request_.resize(std::max(static_cast<size_t>(bytes), sizeof(header) + sizeof(fuse_init_in)));
  return OkStatus();
}

uint32_t Session::kernel_minor() const { return InitOffer().minor; }

const fuse_init_in& Session::InitOffer() const {
  return *reinterpret_cast<const fuse_init_in*>(init_request_.data() + sizeof(fuse_in_header));
}

Status Session::Start(FileSystem& fs) {
  const auto space = fs.StatFs();
  if (!space.ok()) return space.status();
  fs_ = &fs;
  root_ = fs.root();
  collect_limit_ = std::make_unique<CollectLimit>(space->blocks_total * kBlockBytes);
  serve_open_ = options_.serve_open || fs.mount_report().watched_inodes > 0;
  WorkerPool::Options workers = options_.workers;
  const size_t loops_max = fs.page_cache().frames_total() / kCacheShare / ReceiveFrames::kCount;
  workers.loops = std::clamp<unsigned>(static_cast<unsigned>(loops_max), 1, workers.loops);
  if (Status status = MakeTransport(workers.loops); !status.ok()) {
    fs_ = nullptr;
    return status;
  }
  workers.blocked_handlers_max = BlockedHandlersMax(fs.page_cache(), workers);
  auto pool = WorkerPool::Create(*transport_, fs.page_cache(), *this, in_flight_, workers);
  if (!pool.ok()) {
    fs_ = nullptr;
    return pool.status();
  }
  workers_ = *std::move(pool);
  helper_ = std::make_unique<HelperThread>();
  slow_helper_ = std::make_unique<HelperThread>();
  reply_threads_ = std::make_unique<ReplyThreads>();
  SetSync(options_.sync_names, options_.sync_attributes);
  fuse_buf buffer = {};
  buffer.mem = init_request_.data();
  buffer.size = init_request_.size();
  fuse_session_process_buf(libfuse_.get(), &buffer);
  if (init_error_ != 0) {
    Stop();
    return ErrnoError(init_error_.value_or(EPROTO), "the kernel and libfuse cannot agree (INIT)");
  }
  Status status = workers_->Run();
  if (!status.ok()) Stop();
  return status;
}

Status Session::MakeTransport(unsigned loops) {
  const fuse_init_in& offer = InitOffer();
  if (options_.transport != TransportKind::kUring) {
    transport_ = std::make_unique<DevTransport>(fd_);
    return OkStatus();
  }
  if ((offer.flags & FUSE_INIT_EXT) == 0 || (offer.flags2 & kInitOverUring) == 0) {
    return ErrnoError(EOPNOTSUPP,
                      "transport=uring: the kernel does not offer FUSE over io_uring "
                      "(/sys/module/fuse/parameters/enable_uring)");
  }
  PBFS_ASSIGN_OR_RETURN(transport_, UringTransport::Create(fd_, loops));
  init_flags2_ |= kInitOverUring;
  return OkStatus();
}

void Session::NoteMountpoint(const std::string& mountpoint) {
  const int directory = open(mountpoint.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return;
  struct stat status = {};
  if (fstat(directory, &status) == 0) {
    MutexLock lock(place_mutex_);
    place_ = {mountpoint, status.st_dev};
  }
  close(directory);
}

void Session::WaitForEnd() {
  workers_->WaitForEnd();
  in_flight_.WaitUntilNone();
}

void Session::Stop() {
  workers_->StopReceiving();
  workers_->Stop();
  helper_.reset();
  slow_helper_.reset();
  reply_threads_.reset();
  fs_ = nullptr;
}

void Session::AnswerDestroy() {
  if (const uint64_t unique = destroy_unique_.exchange(0); unique != 0) {
    SendError(unique, 0);
    workers_->Flush();
  }
}

void Session::Process(Request& request) {
  const uint64_t unique = request.header().unique;
  const uint32_t opcode = request.header().opcode;
  operations_.Began(unique, opcode);
  PBFS_PROBE(operation_begin, unique, opcode, request.header().nodeid);
  Dispatch(request);
  // These are not answered.
  if (opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET) {
    operations_.Ended(operations_.Find(unique));
  }
}

void Session::Dispatch(Request& request) {
  const fuse_in_header& header = request.header();
  switch (header.opcode) {
    case FUSE_SYNCFS:
      return SyncFs(header.unique);
    case FUSE_INTERRUPT:
      // Nothing we do can be interrupted; this answer spares further ones.
      return SendError(header.unique, ENOSYS);
    case FUSE_DESTROY:
      destroy_unique_ = header.unique;
      return workers_->StopReceiving();
    case kOpStatx:
      return HandleStatx(*this, request);
    case FUSE_TMPFILE:
      return HandleTmpfile(*this, request);
    case FUSE_SETXATTR:
      if (IsSyncCommand(*this, request)) return SyncFs(header.unique);
      return HandleSetXattr(*this, request);
    default:
      break;
  }
  fuse_buf buffer = {};
  buffer.mem = const_cast<std::byte*>(request.bytes());
  buffer.size = request.size_bytes;
  fuse_session_process_buf(libfuse_.get(), &buffer);
}

int Session::OpenMount() {
  const Place place = [this] {
    MutexLock lock(place_mutex_);
    return place_;
  }();
  if (place.mountpoint.empty()) return -1;
  const int mount = open(place.mountpoint.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct stat status = {};
  if (mount < 0 || (fstat(mount, &status) == 0 && status.st_dev == place.device)) return mount;
  close(mount);
  return -1;
}

void Session::CollectDirtyPages(uint64_t nodeid) {
  if (SyncThroughMount(nodeid)) return;
  DropKernelPages(nodeid);  // It sends them first, page by page.
}

void Session::DropKernelPages(uint64_t nodeid) {
  fuse_lowlevel_notify_inval_inode(libfuse_.get(), nodeid, 0, 0);
}

void Session::DropKernelAttributes(uint64_t nodeid) {
  fuse_lowlevel_notify_inval_inode(libfuse_.get(), nodeid, -1, 0);
}

void Session::NoteSpaceTaken() {
  if (!options_.limit_collected || !collect_limit_->Update(fs_->AvailableBytes())) return;
  helper_->Queue(
      [this, token = NewToken()] { options_.limit_collected(collect_limit_->limit_bytes()); });
}

// Without its write cache the kernel waits for nothing when it closes a file.
void Session::Answer(bool direct, std::function<void()> send) {
  if (!direct || !options_.writeback_cache) return send();
  if (!transport_->delivers_aside()) return reply_threads_->Queue(std::move(send));
  t_delivery = Transport::Delivery::kAside;
  send();
  t_delivery = Transport::Delivery::kHere;
}

std::shared_ptr<SplicedRead> Session::MakeSplicedRead(uint64_t unique, size_t size_bytes) {
  if (options_.splice != SplicePolicy::kAlways || !transport_->takes_pipes() ||
      size_bytes < kSplicedBytesMin) {
    return nullptr;
  }
  return std::make_shared<SplicedRead>(read_pipes_, NewToken(), unique);
}

void Session::SendSpliced(SplicedRead& answer) {
  const uint64_t begin = operations_.Find(answer.unique());
  PBFS_PROBE(operation_end, answer.unique(), 0, answer.size_bytes());
  const int error = transport_->SendPipe(answer.read_end(), answer.size_bytes());
  if (error == 0) {
    answer.NoteEmpty();
    spliced_reads_.fetch_add(1, std::memory_order_relaxed);
  }
  // Else the kernel would wait for it for ever.
  if (error != 0 && error != ENOENT && !IsConnectionGone(error)) {
    return SendError(answer.unique(), EIO);
  }
  operations_.Ended(begin);
}

// The better way, for root: opens the file by its handle, as an NFS server would, and writes its
// pages as sync_file_range(2) does, in large requests and without an FSYNC. False: did not work.
bool Session::SyncThroughMount(uint64_t nodeid) {
  if (!WritebackLastsUntilAnswered(kernel_minor())) return false;
  const auto attributes = fs_->GetAttributes(InodeOf(nodeid));
  if (geteuid() != 0 || !attributes.ok()) return false;
  const int mount = OpenMount();
  if (mount < 0) return false;
  const KernelFileHandle handle(nodeid, attributes->generation);
  const int file = open_by_handle_at(mount, handle.get(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  close(mount);
  if (file < 0) return false;
  const bool written = sync_file_range(file, 0, 0,
                                       SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                           SYNC_FILE_RANGE_WAIT_AFTER) == 0;
  close(file);
  return written;
}

Status Session::CollectAllDirtyPages() {
  if (!fs_->StatFs().ok()) return OkStatus();  // Shut down: nothing is taken any more.
  const int mount = OpenMount();
  if (mount < 0) return ErrnoError(EIO, "the mount point cannot be opened");
  const int error = syncfs(mount) == 0 ? 0 : errno;
  close(mount);
  return error == 0 ? OkStatus() : ErrnoError(error, "syncfs failed");
}

void Session::SyncFs(uint64_t unique) {
  fs_->SyncAll([this, unique, token = NewToken()](const Status& status) {
    SendError(unique, ErrnoOf(status));
  });
}

void Session::SendError(uint64_t unique, int error) {
  fuse_out_header header = {};
  header.len = sizeof(header);
  header.error = -error;
  header.unique = unique;
  const iovec segment = {&header, sizeof(header)};
  Transmit(&segment, 1);
}

int Session::SendReply(uint64_t unique, const void* body, size_t size_bytes) {
  fuse_out_header header = {};
  header.len = static_cast<uint32_t>(sizeof(header) + size_bytes);
  header.unique = unique;
  const iovec segments[] = {{&header, sizeof(header)}, {const_cast<void*>(body), size_bytes}};
  return Transmit(segments, 2);
}

int Session::Transmit(const iovec* segments, int count) {
  const uint64_t unique = static_cast<const fuse_out_header*>(segments[0].iov_base)->unique;
  const uint64_t begin = operations_.Find(unique);
  PBFS_PROBE(operation_end, unique,
             static_cast<const fuse_out_header*>(segments[0].iov_base)->error,
             static_cast<const fuse_out_header*>(segments[0].iov_base)->len);
  const int error = transport_->Send(segments, count, t_delivery);
  operations_.Ended(begin);
  return error;
}

std::string Session::StatsJson() {
  return absl::StrCat(
      "{\"operations_ns\":", operations_.Json(),
      ",\"spliced_reads\":", spliced_reads_.load(std::memory_order_relaxed),
      ",\"device\":", options_.device_statistics ? options_.device_statistics() : "{}", ",",
      fs_->StatsJson().substr(1));
}

int Session::Send(iovec* segments, int count) {
  if (!init_error_.has_value()) {
    const auto& header = *static_cast<const fuse_out_header*>(segments[0].iov_base);
    init_error_ = -header.error;
    if (header.error == 0 && count == 2 && segments[1].iov_len >= sizeof(fuse_init_out)) {
      const fuse_init_in& offer = InitOffer();
      auto& answer = *static_cast<fuse_init_out*>(segments[1].iov_base);
      answer.flags |= offer.flags & kInitFlagsPatched;
      if ((offer.flags & FUSE_INIT_EXT) != 0) {
        answer.flags |= FUSE_INIT_EXT;
        answer.flags2 |= offer.flags2 & init_flags2_;
      }
      long_setxattr_ = (offer.flags & kInitFlagsPatched & FUSE_SETXATTR_EXT) != 0;
    }
  }
  const int error = Transmit(segments, count);
  return IsConnectionGone(error) ? 0 : error;
}

ssize_t Session::WritevHook(int, iovec* segments, int count, void* session) {
  errno = static_cast<Session*>(session)->Send(segments, count);
  return errno == 0 ? 0 : -1;
}

// libfuse receives nothing: the workers do.
ssize_t Session::ReadHook(int, void*, size_t, void*) {
  errno = ENOSYS;
  return -1;
}

}  // namespace pbfs::fuse
