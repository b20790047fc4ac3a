// SPDX-License-Identifier: Apache-2.0
#include "io/io_ring.h"

#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#ifdef PBFS_SIMULATION
#include "base/simulation/scheduler.h"
#endif
#include "io/completion_scope.h"

namespace pbfs {
namespace {

thread_local IoRing* t_current_ring = nullptr;
// Its address names the thread.
thread_local char t_thread_token = 0;

constexpr size_t kOpsPerChunk = 64;
constexpr size_t kCommandBytesInSqe = 16;

}  // namespace

// Invariants: an Op is in exactly one of: the free list, the pending list, the kernel's hands (from
// its sqe on to its cqe). in_kernel <= in_kernel_max, so the completion queue cannot overflow.
struct IoRing::Impl {
  enum class OpKind : uint8_t { kPoll, kPiece, kCommand };
  struct Op {
    io_uring_sqe sqe;
    // What of a command's body is behind the 64 bytes of a short sqe.
    std::array<std::byte, kCommandBytesMax - kCommandBytesInSqe> more;
    CqeFunction done;
    void* context;
    Op* next;
    OpKind kind;
  };

  ~Impl();
  int MakeWakeFd();
  int MakeRing(unsigned entries);

  Op& NewOp(OpKind kind, CqeFunction done, void* context);
  void Free(Op& op);
  void Queue(Op& op);
  bool PutInSq(Op& op);
  void FillSq();
  bool SomethingQueued() const { return io_uring_sq_ready(&ring) > 0 || pending_head != nullptr; }
  void SubmitNow();

  void ArmWake();
  void ArmWatch();
  void CancelPoll(Op*& op);
  void PollEnded(Op& op, int result);

  int Run(int64_t timeout_ns, bool serve_watch);
  void Poll(int64_t timeout_ns, bool serve_watch);
  void DrainWake();
  void Enter(int64_t timeout_ns);
  int RunCompletions();

  io_uring ring = {};
  bool ring_made = false;
  bool long_commands = false;
  int wake_fd = -1;
  unsigned in_kernel_max = 0;

  // A wake is on its way: between a Wake() and the drain of wake_fd further ones are no-ops.
  std::atomic<bool> wake_pending{false};

  // The rest belongs to the driving thread.
  const void* owner = nullptr;
  unsigned in_kernel = 0;
  unsigned pieces = 0;
  bool running_completions = false;
  bool plugged = false;
  // The armed polls, nullptr when not armed. Polls armed by a former owner are forgotten: their
  // completion depends on that thread.
  Op* wake_op = nullptr;
  Op* watch_op = nullptr;
  int watch_fd = -1;
  std::function<void()> ready;
  bool ready_pending = false;
  bool in_ready = false;

  Op* free_head = nullptr;
  Op* pending_head = nullptr;
  Op* pending_tail = nullptr;
  std::vector<std::unique_ptr<std::array<Op, kOpsPerChunk>>> chunks;
};

IoRing::Impl::~Impl() {
  if (ring_made) io_uring_queue_exit(&ring);
  if (wake_fd >= 0) close(wake_fd);
}

int IoRing::Impl::MakeWakeFd() {
  wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return wake_fd < 0 ? errno : 0;
}

int IoRing::Impl::MakeRing(unsigned entries) {
  // COOP_TASKRUN spares the interrupt a completion otherwise sends to a submitter that runs in user
  // mode (dear in a virtual machine). It stays correct on a ring that changes hands: a submitter
  // that sleeps interruptibly is still woken, and one that runs finishes its requests at its next
  // system call or timer tick. TASKRUN_FLAG makes RunOnce(0) see them without a system call.
  io_uring_params params = {};
  const unsigned wanted = IORING_SETUP_CLAMP | (long_commands ? IORING_SETUP_SQE128 : 0);
  params.flags = wanted | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  int result = io_uring_queue_init_params(entries, &ring, &params);
  if (result == -EINVAL) {
    params = {};
    params.flags = wanted;
    result = io_uring_queue_init_params(entries, &ring, &params);
  }
  if (result < 0) return -result;
  ring_made = true;
  in_kernel_max = params.cq_entries;
  return 0;
}

IoRing::Impl::Op& IoRing::Impl::NewOp(OpKind kind, CqeFunction done, void* context) {
  if (free_head == nullptr) {
    chunks.push_back(std::make_unique<std::array<Op, kOpsPerChunk>>());
    for (Op& op : *chunks.back()) {
      op.next = free_head;
      free_head = &op;
    }
  }
  Op& op = *free_head;
  free_head = op.next;
  op.done = done;
  op.context = context;
  op.next = nullptr;
  op.kind = kind;
  if (kind == OpKind::kPiece) ++pieces;
  return op;
}

void IoRing::Impl::Free(Op& op) {
  if (op.kind == OpKind::kPiece) --pieces;
  op.next = free_head;
  free_head = &op;
}

void IoRing::Impl::Queue(Op& op) {
  io_uring_sqe_set_data(&op.sqe, &op);
  if (pending_head == nullptr && PutInSq(op)) return;
  (pending_head == nullptr ? pending_head : pending_tail->next) = &op;
  pending_tail = &op;
}

// False when there is no room now.
bool IoRing::Impl::PutInSq(Op& op) {
  if (in_kernel >= in_kernel_max) return false;
  io_uring_sqe* sqe = io_uring_get_sqe(&ring);
  if (sqe == nullptr) {
    io_uring_submit(&ring);
    sqe = io_uring_get_sqe(&ring);
    if (sqe == nullptr) return false;
  }
  std::memcpy(sqe, &op.sqe, sizeof(io_uring_sqe));
  if (op.kind == OpKind::kCommand) std::memcpy(sqe + 1, op.more.data(), op.more.size());
  ++in_kernel;
  return true;
}

void IoRing::Impl::FillSq() {
  while (pending_head != nullptr && PutInSq(*pending_head)) {
    pending_head = std::exchange(pending_head->next, nullptr);
  }
}

void IoRing::Impl::SubmitNow() {
  if (!ring_made) return;
  FillSq();
  // What the kernel does not take now (EAGAIN, EBUSY) stays queued for the next RunOnce.
  if (io_uring_sq_ready(&ring) > 0) io_uring_submit(&ring);
}

void IoRing::Impl::ArmWake() {
  if (wake_op != nullptr) return;
  wake_op = &NewOp(OpKind::kPoll, nullptr, nullptr);
  io_uring_prep_poll_add(&wake_op->sqe, wake_fd, POLLIN);
  Queue(*wake_op);
}

void IoRing::Impl::ArmWatch() {
  if (watch_fd < 0 || watch_op != nullptr || in_ready) return;
  watch_op = &NewOp(OpKind::kPoll, nullptr, nullptr);
  io_uring_prep_poll_add(&watch_op->sqe, watch_fd, POLLIN);
  Queue(*watch_op);
}

// Forgets an armed poll and asks the kernel to end it; its late completion is ignored.
void IoRing::Impl::CancelPoll(Op*& op) {
  if (op == nullptr) return;
  Op& cancel = NewOp(OpKind::kPoll, nullptr, nullptr);
  io_uring_prep_poll_remove(&cancel.sqe, reinterpret_cast<uintptr_t>(op));
  op = nullptr;
  Queue(cancel);
}

// First drain, then clear: the other way round a Wake() between the two would leave wake_pending
// set over a drained wake_fd, and later ones would be lost.
void IoRing::Impl::DrainWake() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t bytes = read(wake_fd, &count, sizeof(count));
  wake_pending.exchange(false, std::memory_order_acq_rel);
}

void IoRing::Impl::PollEnded(Op& op, int result) {
  if (&op == wake_op) {
    wake_op = nullptr;
    if (result >= 0) DrainWake();
  } else if (&op == watch_op) {
    watch_op = nullptr;
    // ECANCELED: the thread that armed it has exited.
    if (result != -ECANCELED) ready_pending = true;
  }
}

// What Run() does without an io_uring.
void IoRing::Impl::Poll(int64_t timeout_ns, bool serve_watch) {
  if (timeout_ns == 0) return;
  const timespec timeout = {timeout_ns / 1'000'000'000, timeout_ns % 1'000'000'000};
  pollfd fds[] = {{wake_fd, POLLIN, 0}, {serve_watch && !in_ready ? watch_fd : -1, POLLIN, 0}};
  if (ppoll(fds, 2, timeout_ns < 0 ? nullptr : &timeout, nullptr) <= 0) return;
  if (fds[0].revents != 0) DrainWake();
  if (fds[1].revents != 0) ready_pending = true;
}

int IoRing::Impl::Run(int64_t timeout_ns, bool serve_watch) {
  PBFS_CHECK(!InCompletion());
  if (serve_watch && ready_pending && !in_ready) timeout_ns = 0;
  plugged = false;
  if (!ring_made) {
    Poll(timeout_ns, serve_watch);
    return 0;
  }
  if (timeout_ns != 0) {
    ArmWake();
    if (serve_watch) ArmWatch();
  }
  FillSq();
  Enter(timeout_ns);
  const int count = RunCompletions();
  if (SomethingQueued()) SubmitNow();
  return count;
}

void IoRing::Impl::Enter(int64_t timeout_ns) {
  int result = 0;
  if (timeout_ns == 0 || io_uring_cq_ready(&ring) > 0) {
    const unsigned flags = __atomic_load_n(ring.sq.kflags, __ATOMIC_RELAXED);
    if (io_uring_sq_ready(&ring) > 0) {
      result = io_uring_submit(&ring);
    } else if ((flags & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) != 0) {
      result = io_uring_get_events(&ring);
    }
  } else if (timeout_ns < 0) {
    result = io_uring_submit_and_wait(&ring, 1);
  } else {
    __kernel_timespec timeout = {timeout_ns / 1'000'000'000, timeout_ns % 1'000'000'000};
    io_uring_cqe* cqe = nullptr;
    result = io_uring_submit_and_wait_timeout(&ring, &cqe, 1, &timeout, nullptr);
  }
  // Anything else would make a waiting loop spin forever.
  PBFS_CHECK(result >= 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY ||
             result == -ETIME);
}

// Runs those there are at the start, so that completions which bring forth completions do not keep
// the caller here.
int IoRing::Impl::RunCompletions() {
  const unsigned ready_count = io_uring_cq_ready(&ring);
  if (ready_count == 0) return 0;
  int run_count = 0;
  CompletionScope scope;
  running_completions = true;
  for (unsigned index = 0; index < ready_count; ++index) {
    io_uring_cqe* cqe = nullptr;
    if (io_uring_peek_cqe(&ring, &cqe) != 0) break;
    auto* op = static_cast<Op*>(io_uring_cqe_get_data(cqe));
    const int result = cqe->res;
    io_uring_cqe_seen(&ring, cqe);
    --in_kernel;
    if (op->kind == OpKind::kPoll) {
      PollEnded(*op, result);
      Free(*op);
      continue;
    }
    const CqeFunction done = op->done;
    void* const context = op->context;
    Free(*op);
    done(context, result);
    ++run_count;
  }
  running_completions = false;
  return run_count;
}

IoRing::IoRing(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

StatusOr<std::unique_ptr<IoRing>> IoRing::Create(unsigned entries, bool long_commands) {
#ifdef PBFS_SIMULATION
  // A simulated device has no use for one.
  if (simulation::Scheduler::Current() != nullptr) return ErrnoError(ENOSYS, "no io_uring");
#endif
  auto impl = std::make_unique<Impl>();
  impl->long_commands = long_commands;
  int error = impl->MakeWakeFd();
  if (error == 0) error = impl->MakeRing(entries);
  if (error != 0) return ErrnoError(error, "cannot set up an io_uring");
  return std::unique_ptr<IoRing>(new IoRing(std::move(impl)));
}

StatusOr<std::unique_ptr<IoRing>> IoRing::CreateWithoutTransfers() {
  auto impl = std::make_unique<Impl>();
  if (const int error = impl->MakeWakeFd(); error != 0) return ErrnoError(error, "no eventfd");
  return std::unique_ptr<IoRing>(new IoRing(std::move(impl)));
}

bool IoRing::takes_transfers() const { return impl_->ring_made; }

IoRing::~IoRing() {
  // The kernel would still write into memory of requests that nobody completes.
  PBFS_CHECK(impl_->pieces == 0);
  if (t_current_ring == this) t_current_ring = nullptr;
}

IoRing* IoRing::Current() { return t_current_ring; }

void IoRing::Attach() {
  PBFS_CHECK(t_current_ring == nullptr);
  t_current_ring = this;
  impl_->in_ready = false;
  if (impl_->owner == &t_thread_token) return;
  impl_->CancelPoll(impl_->wake_op);
  impl_->CancelPoll(impl_->watch_op);
  impl_->owner = &t_thread_token;
}

void IoRing::Detach() {
  PBFS_CHECK(t_current_ring != nullptr);
  Impl& impl = *t_current_ring->impl_;
  PBFS_CHECK(!impl.running_completions);
  if (std::exchange(impl.plugged, false)) impl.SubmitNow();
  t_current_ring = nullptr;
}

IoRing::DetachedScope::DetachedScope() : ring_(t_current_ring) {
  if (ring_ != nullptr) Detach();
}

IoRing::DetachedScope::~DetachedScope() {
  if (ring_ != nullptr) ring_->Attach();
}

void IoRing::WatchReadable(int fd, std::function<void()> ready) {
  impl_->CancelPoll(impl_->watch_op);
  impl_->watch_fd = fd;
  impl_->ready = std::move(ready);
  impl_->ready_pending = false;
}

void IoRing::QueueReadv(int fd, const iovec* iov, unsigned count, uint64_t offset_bytes,
                        CqeFunction done, void* context) {
  PBFS_CHECK(takes_transfers());
  Impl::Op& op = impl_->NewOp(Impl::OpKind::kPiece, done, context);
  io_uring_prep_readv(&op.sqe, fd, iov, count, offset_bytes);
  impl_->Queue(op);
}

void IoRing::QueueWritev(int fd, const iovec* iov, unsigned count, uint64_t offset_bytes,
                         int rwf_flags, CqeFunction done, void* context) {
  Impl::Op& op = impl_->NewOp(Impl::OpKind::kPiece, done, context);
  io_uring_prep_writev2(&op.sqe, fd, iov, count, offset_bytes, rwf_flags);
  impl_->Queue(op);
}

void IoRing::QueueFdatasync(int fd, CqeFunction done, void* context) {
  Impl::Op& op = impl_->NewOp(Impl::OpKind::kPiece, done, context);
  io_uring_prep_fsync(&op.sqe, fd, IORING_FSYNC_DATASYNC);
  impl_->Queue(op);
}

void IoRing::QueueFallocate(int fd, int mode, uint64_t offset_bytes, uint64_t length_bytes,
                            CqeFunction done, void* context) {
  Impl::Op& op = impl_->NewOp(Impl::OpKind::kPiece, done, context);
  io_uring_prep_fallocate(&op.sqe, fd, mode, static_cast<off_t>(offset_bytes),
                          static_cast<off_t>(length_bytes));
  impl_->Queue(op);
}

void IoRing::QueueCommand(int fd, uint32_t command, const void* argument, uint32_t argument_length,
                          const void* body, size_t body_bytes, CqeFunction done, void* context,
                          Runner runner) {
  PBFS_CHECK(impl_->long_commands && body_bytes <= kCommandBytesMax);
  Impl::Op& op = impl_->NewOp(Impl::OpKind::kCommand, done, context);
  io_uring_prep_rw(IORING_OP_URING_CMD, &op.sqe, fd, argument, argument_length, 0);
  op.sqe.cmd_op = command;
  if (runner == Runner::kKernelThread) op.sqe.flags |= IOSQE_ASYNC;
  std::array<std::byte, kCommandBytesMax> bytes = {};
  std::memcpy(bytes.data(), body, body_bytes);
  std::memcpy(op.sqe.cmd, bytes.data(), kCommandBytesInSqe);
  std::memcpy(op.more.data(), bytes.data() + kCommandBytesInSqe, op.more.size());
  impl_->Queue(op);
}

void IoRing::SubmitQueued() {
  if (!impl_->running_completions && !impl_->plugged) impl_->SubmitNow();
}

void IoRing::Plug() { impl_->plugged = true; }

int IoRing::RunOnce(int64_t timeout_ns) {
  int count = impl_->Run(timeout_ns, true);
  if (!impl_->ready_pending || impl_->in_ready) return count;
  impl_->ready_pending = false;
  impl_->in_ready = true;
  const IoRing* const attached = t_current_ring;
  impl_->ready();
  // Still ours? If not, the new driver's Attach() has taken over, and nothing here may be touched.
  if (t_current_ring == attached) impl_->in_ready = false;
  return count + 1;
}

int IoRing::Reap(int64_t timeout_ns) { return impl_->Run(timeout_ns, false); }

void IoRing::Wake() {
  if (impl_->wake_pending.exchange(true, std::memory_order_acq_rel)) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t bytes = write(impl_->wake_fd, &one, sizeof(one));
}

unsigned IoRing::in_flight() const { return impl_->pieces; }

}  // namespace pbfs
