// SPDX-License-Identifier: Apache-2.0
#include "io/transfer_engine.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "io/buffer_cursor.h"
#include "io/completion_scope.h"

namespace pbfs {
namespace {

constexpr uint64_t kSectorBytes = 512;
constexpr unsigned kSharedRingEntries = 256;
constexpr unsigned kPoolThreads = 4;
// What one system call takes.
constexpr size_t kSegmentsMax = 1024;
static_assert(kSegmentsMax <= IOV_MAX);
// Interrupted steps of one piece before it fails: a bound, far beyond what signals can cause.
constexpr int kRetriesMax = 1000;

// Source of zeros where the host has no call to write them. Zero-initialized: no space in the file.
constexpr size_t kZeroBytes = 64 << 10;
alignas(4096) std::byte g_zeros[kZeroBytes];

constexpr int kPunchHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZeroRange = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

bool IsRetryable(int error) {
  // ECANCELED: the thread that had submitted the piece has exited.
  return error == EINTR || error == EAGAIN || error == ECANCELED;
}

bool HasNoSuchCall(int error) {
  return error == EOPNOTSUPP || error == ENOSYS || error == ENOTTY || error == EINVAL;
}

}  // namespace

// One request under way. Guarded by the engine's mutex.
struct TransferEngine::Transfer {
  IoRequest* request = nullptr;
  unsigned pieces_left = 0;
  int error = 0;
  Transfer* next = nullptr;
};

// One part of a request, in flight as one system call at a time (a step). Whoever runs the step
// owns it; nobody else looks at it meanwhile.
struct TransferEngine::Piece : BlockingPool::Job {
  TransferEngine* engine = nullptr;
  Transfer* transfer = nullptr;
  IoOp op = IoOp::kRead;
  bool fua = false;
  int pipe = -1;
  // Write-zeroes done by writing zeros, as the host has no call for it.
  bool zeros_by_hand = false;
  int retries = 0;
  uint64_t offset_bytes = 0;
  uint64_t length_bytes = 0;
  uint64_t done_bytes = 0;
  // What is left to transfer: the request's own segments, or the end of `own_segments`.
  std::span<const iovec> segments;
  bool owns_segments = false;
  // Keeps its capacity while the piece is in the free list.
  std::vector<iovec> own_segments;
  Piece* next = nullptr;

  // Only pieces into pipes and with buffers are that short.
  unsigned left_bytes() const { return static_cast<unsigned>(length_bytes - done_bytes); }
  // Steps over the first `bytes` of what is left.
  void Advance(uint64_t bytes);
};

void TransferEngine::Piece::Advance(uint64_t bytes) {
  if (!owns_segments) {
    own_segments.assign(segments.begin(), segments.end());
    segments = own_segments;
    owns_segments = true;
  }
  size_t first = own_segments.size() - segments.size();
  while (bytes > 0) {
    PBFS_CHECK(first < own_segments.size());
    iovec& segment = own_segments[first];
    const size_t step_bytes = std::min<uint64_t>(bytes, segment.iov_len);
    segment.iov_base = static_cast<std::byte*>(segment.iov_base) + step_bytes;
    segment.iov_len -= step_bytes;
    bytes -= step_bytes;
    if (segment.iov_len == 0) ++first;
  }
  segments = std::span<const iovec>(own_segments).subspan(first);
}

void TransferEngine::PieceList::Append(Piece& piece) {
  piece.next = nullptr;
  (head == nullptr ? head : tail->next) = &piece;
  tail = &piece;
}

TransferEngine::Piece* TransferEngine::PieceList::Pop() {
  Piece* const piece = head;
  if (piece != nullptr) head = std::exchange(piece->next, nullptr);
  return piece;
}

TransferEngine::TransferEngine(const DeviceFile& file, const UringDeviceOptions& options,
                               std::vector<std::string>& warnings)
    : file_(file), in_flight_max_(std::max(1u, options.in_flight_max)), pool_(kPoolThreads) {
  if (!options.force_thread_pool) {
    StatusOr<std::unique_ptr<IoRing>> ring = IoRing::Create(kSharedRingEntries);
    if (ring.ok()) {
      ring_ = *std::move(ring);
      reaper_ = StartThreadWithoutSignals(
          [](void* engine) { static_cast<TransferEngine*>(engine)->ReaperLoop(); }, this);
      return;
    }
    warnings.push_back(std::string("io_uring is refused (") +
                       std::strerror(ErrnoOf(ring.status())) + "), using a thread pool");
    return;
  }
  warnings.push_back("io_uring is switched off, using a thread pool");
}

TransferEngine::~TransferEngine() {
  {
    MutexLock lock(mutex_);
    PBFS_CHECK(in_flight_ == 0);
    PBFS_CHECK(waiting_.empty());
    stopping_ = true;
  }
  if (ring_ == nullptr) return;
  ring_->Wake();
  reaper_.join();
}

void TransferEngine::Submit(std::span<IoRequest* const> requests) {
  for (IoRequest* request : requests) {
    const int error = Validate(*request);
    const bool empty = request->op != IoOp::kFlush && request->size_bytes() == 0;
    if (error != 0 || empty) {
      CompleteInline(*request, error);
      continue;
    }
    // From the first Start() on, the request may end and be gone.
    PieceList pieces = Admit(*request);
    while (Piece* piece = pieces.Pop()) Start(*piece);
  }
  if (IoRing* ring = IoRing::Current(); ring != nullptr && ring_ != nullptr) ring->SubmitQueued();
}

// The errno the request fails with, or 0.
int TransferEngine::Validate(const IoRequest& request) const {
  if (request.op == IoOp::kFlush) return 0;
  const Geometry& geometry = file_.geometry;
  const bool has_buffer = request.has_buffer();
  const uint64_t length_bytes = request.size_bytes();
  PBFS_CHECK(request.offset_bytes % kSectorBytes == 0);
  PBFS_CHECK(length_bytes % kSectorBytes == 0);
  PBFS_CHECK(request.pipe < 0 || request.op == IoOp::kRead);
  PBFS_CHECK(!has_buffer || request.buffer.IsAligned(kSectorBytes));
  PBFS_CHECK(!has_buffer || request.buffer.IsAligned(geometry.dma_alignment_bytes));
  if (request.op != IoOp::kRead && geometry.read_only) return EROFS;
  if (request.op == IoOp::kDiscard && !geometry.can_discard) return EOPNOTSUPP;
  // A write past the end would extend an image file.
  if (length_bytes > geometry.size_bytes) return EIO;
  return request.offset_bytes > geometry.size_bytes - length_bytes ? EIO : 0;
}

// Cuts the request into pieces and returns those that may start now.
TransferEngine::PieceList TransferEngine::Admit(IoRequest& request) {
  MutexLock lock(mutex_);
  PieceList pieces = CutLocked(request);
  PieceList admitted;
  while (Piece* piece = pieces.Pop()) {
    if (in_flight_ < in_flight_max_ && waiting_.empty()) {
      ++in_flight_;
      admitted.Append(*piece);
    } else {
      waiting_.Append(*piece);
    }
  }
  return admitted;
}

TransferEngine::PieceList TransferEngine::CutLocked(IoRequest& request) {
  if (free_transfers_ == nullptr) {
    all_transfers_.push_back(std::make_unique<Transfer>());
    free_transfers_ = all_transfers_.back().get();
  }
  Transfer& transfer = *free_transfers_;
  free_transfers_ = std::exchange(transfer.next, nullptr);
  transfer.request = &request;
  transfer.error = 0;
  transfer.pieces_left = 0;

  const bool has_buffer = request.has_buffer();
  const uint64_t length_bytes = request.size_bytes();
  BufferCursor cursor(request.buffer);
  PieceList pieces;
  uint64_t done_bytes = 0;
  do {
    Piece& piece = NewPieceLocked();
    uint64_t piece_bytes = length_bytes - done_bytes;
    if (has_buffer) {
      piece_bytes = cursor.Measure(kSegmentsMax, file_.geometry.max_transfer_bytes);
      if (piece_bytes == length_bytes) {
        piece.segments = request.buffer.segments();
      } else {
        // Only the last piece may end inside a logical block (and then the device says so).
        if (piece_bytes < length_bytes - done_bytes) {
          piece_bytes -= piece_bytes % file_.geometry.logical_block_bytes;
        }
        PBFS_CHECK(piece_bytes > 0);
        cursor.ForEach(piece_bytes, [&piece](std::byte* memory, size_t bytes) {
          piece.own_segments.push_back({memory, bytes});
        });
        piece.segments = piece.own_segments;
        piece.owns_segments = true;
      }
    }
    piece.transfer = &transfer;
    piece.op = request.op;
    piece.fua = request.fua;
    piece.pipe = request.pipe;
    piece.offset_bytes = request.offset_bytes + done_bytes;
    piece.length_bytes = piece_bytes;
    ++transfer.pieces_left;
    pieces.Append(piece);
    done_bytes += piece_bytes;
  } while (done_bytes < length_bytes);
  return pieces;
}

TransferEngine::Piece& TransferEngine::NewPieceLocked() {
  Piece* piece = free_pieces_.Pop();
  if (piece == nullptr) {
    all_pieces_.push_back(std::make_unique<Piece>());
    piece = all_pieces_.back().get();
    piece->engine = this;
    piece->run = RunBlocking;
  }
  piece->zeros_by_hand = false;
  piece->retries = 0;
  piece->done_bytes = 0;
  piece->segments = {};
  piece->owns_segments = false;
  piece->own_segments.clear();
  return *piece;
}

bool TransferEngine::RunsOnPool(const Piece& piece) const {
  // Into a pipe: io_uring, too, would leave it to a thread that waits, and then wake ours.
  return ring_ == nullptr || piece.pipe >= 0 ||
         (piece.op == IoOp::kDiscard && file_.is_block_device);
}

// Starts the next step of a piece: the first, a retry, or the rest after a short transfer.
void TransferEngine::Start(Piece& piece) {
  if (piece.zeros_by_hand) PrepareZeros(piece);
  if (RunsOnPool(piece)) {
    pool_.Run(piece);
  } else if (IoRing* ring = IoRing::Current(); ring != nullptr && ring->takes_transfers()) {
    StartOnRing(piece, *ring);
  } else {
    GiveToReaper(piece);
  }
}

void TransferEngine::GiveToReaper(Piece& piece) {
  bool wake = false;
  {
    MutexLock lock(mutex_);
    wake = for_reaper_.empty();
    for_reaper_.Append(piece);
  }
  if (wake) ring_->Wake();
}

// Starts a piece that waited for another one to end. Not on the ring of whichever thread saw that
// end: it may stop reaping its ring as soon as its own requests are done.
void TransferEngine::StartWaited(Piece& piece) {
  if (piece.zeros_by_hand) PrepareZeros(piece);
  if (RunsOnPool(piece)) {
    pool_.Run(piece);
  } else if (IoRing::Current() == ring_.get()) {
    StartOnRing(piece, *ring_);
  } else {
    GiveToReaper(piece);
  }
}

void TransferEngine::StartOnRing(Piece& piece, IoRing& ring) {
  const uint64_t offset_bytes = piece.offset_bytes + piece.done_bytes;
  const auto segment_count = static_cast<unsigned>(piece.segments.size());
  switch (piece.op) {
    case IoOp::kRead:
      ring.QueueReadv(file_.fd, piece.segments.data(), segment_count, offset_bytes, CqeArrived,
                      &piece);
      break;
    case IoOp::kWrite:
      ring.QueueWritev(file_.fd, piece.segments.data(), segment_count, offset_bytes,
                       piece.fua ? RWF_DSYNC : 0, CqeArrived, &piece);
      break;
    case IoOp::kFlush:
      ring.QueueFdatasync(file_.fd, CqeArrived, &piece);
      break;
    case IoOp::kDiscard:
      ring.QueueFallocate(file_.fd, kPunchHole, offset_bytes, piece.length_bytes, CqeArrived,
                          &piece);
      break;
    case IoOp::kWriteZeroes:
      if (piece.zeros_by_hand) {
        ring.QueueWritev(file_.fd, piece.segments.data(), segment_count, offset_bytes, 0,
                         CqeArrived, &piece);
      } else {
        ring.QueueFallocate(file_.fd, kZeroRange, offset_bytes, piece.length_bytes, CqeArrived,
                            &piece);
      }
      break;
  }
}

// One step on the calling thread. Returns bytes (0 where none are counted) or -errno.
int TransferEngine::StartBlocking(Piece& piece) {
  const auto offset_bytes = static_cast<off_t>(piece.offset_bytes + piece.done_bytes);
  const auto segment_count = static_cast<int>(piece.segments.size());
  ssize_t result = 0;
  switch (piece.op) {
    case IoOp::kRead:
      if (piece.pipe >= 0) {
        off_t from = offset_bytes;
        result = splice(file_.fd, &from, piece.pipe, nullptr, piece.left_bytes(), 0);
        break;
      }
      result = preadv2(file_.fd, piece.segments.data(), segment_count, offset_bytes, 0);
      break;
    case IoOp::kWrite:
      result = pwritev2(file_.fd, piece.segments.data(), segment_count, offset_bytes,
                        piece.fua ? RWF_DSYNC : 0);
      break;
    case IoOp::kFlush:
      result = fdatasync(file_.fd);
      break;
    case IoOp::kDiscard:
      if (file_.is_block_device) {
        uint64_t range[2] = {piece.offset_bytes, piece.length_bytes};
        result = ioctl(file_.fd, BLKDISCARD, range);
      } else {
        result =
            fallocate(file_.fd, kPunchHole, offset_bytes, static_cast<off_t>(piece.length_bytes));
      }
      break;
    case IoOp::kWriteZeroes:
      result = piece.zeros_by_hand
                   ? pwritev2(file_.fd, piece.segments.data(), segment_count, offset_bytes, 0)
                   : fallocate(file_.fd, kZeroRange, offset_bytes,
                               static_cast<off_t>(piece.length_bytes));
      break;
  }
  // A piece is at most max_transfer_bytes long.
  return result < 0 ? -errno : static_cast<int>(result);
}

// Aims the next step at as many zeros as one step may write.
void TransferEngine::PrepareZeros(Piece& piece) const {
  uint64_t left_bytes =
      std::min<uint64_t>(piece.length_bytes - piece.done_bytes, file_.geometry.max_transfer_bytes);
  piece.own_segments.clear();
  while (left_bytes > 0) {
    const size_t bytes = std::min<uint64_t>(left_bytes, kZeroBytes);
    piece.own_segments.push_back({g_zeros, bytes});
    left_bytes -= bytes;
  }
  piece.segments = piece.own_segments;
  piece.owns_segments = true;
}

void TransferEngine::CqeArrived(void* context, int result) {
  auto* piece = static_cast<Piece*>(context);
  piece->engine->StepEnded(*piece, result);
}

void TransferEngine::RunBlocking(BlockingPool::Job& job) {
  auto& piece = static_cast<Piece&>(job);
  piece.engine->StepEnded(piece, piece.engine->StartBlocking(piece));
}

// `result`: bytes or -errno. Goes on with the piece or ends it.
void TransferEngine::StepEnded(Piece& piece, int result) {
  if (result < 0) {
    const int error = -result;
    // Into a pipe: the kernel had no page at all just now.
    const bool again = IsRetryable(error) || (piece.pipe >= 0 && error == ENOMEM);
    if (again && ++piece.retries <= kRetriesMax) return Start(piece);
    if (piece.op == IoOp::kWriteZeroes && !piece.zeros_by_hand && HasNoSuchCall(error)) {
      piece.zeros_by_hand = true;
      return Start(piece);
    }
    return PieceEnded(piece, error);
  }
  const bool counts_bytes =
      piece.op == IoOp::kRead || piece.op == IoOp::kWrite || piece.zeros_by_hand;
  if (!counts_bytes) return PieceEnded(piece, 0);
  // Part of a sector: the end of an image file that was cut short. Direct I/O could not go on from
  // there.
  const uint64_t step_bytes = static_cast<uint64_t>(result) / kSectorBytes * kSectorBytes;
  if (step_bytes == 0) {
    // Part of a sector was written: the next try says why no more (the host of a file is full).
    const bool may_say = result > 0 && piece.op != IoOp::kRead && ++piece.retries <= kRetriesMax;
    return may_say ? Start(piece) : PieceEnded(piece, EIO);
  }
  piece.done_bytes += step_bytes;
  PBFS_CHECK(piece.done_bytes <= piece.length_bytes);
  if (piece.done_bytes == piece.length_bytes) return PieceEnded(piece, 0);
  if (!piece.zeros_by_hand && piece.pipe < 0) piece.Advance(step_bytes);
  Start(piece);
}

void TransferEngine::PieceEnded(Piece& piece, int error) {
  IoRequest* ended = nullptr;
  int ended_error = 0;
  Piece* next = nullptr;
  {
    MutexLock lock(mutex_);
    Transfer& transfer = *piece.transfer;
    if (transfer.error == 0) transfer.error = error;
    if (--transfer.pieces_left == 0) {
      ended = transfer.request;
      ended_error = transfer.error;
      transfer.next = free_transfers_;
      free_transfers_ = &transfer;
    }
    free_pieces_.Append(piece);
    next = waiting_.Pop();
    if (next == nullptr) --in_flight_;
  }
  if (next != nullptr) StartWaited(*next);
  // The engine may be gone afterwards.
  if (ended != nullptr) ended->Complete(ended_error);
}

void TransferEngine::ReaperLoop() {
  ring_->Attach();
  while (true) {
    PieceList pieces;
    {
      MutexLock lock(mutex_);
      if (stopping_) break;
      std::swap(pieces, for_reaper_);
    }
    while (Piece* piece = pieces.Pop()) StartOnRing(*piece, *ring_);
    ring_->RunOnce(-1);
  }
  IoRing::Detach();
}

}  // namespace pbfs
