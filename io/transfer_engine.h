// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "io/blocking_pool.h"
#include "io/device_file.h"
#include "io/io_request.h"
#include "io/io_ring.h"
#include "io/uring_device.h"

namespace pbfs {

// Moves the requests of one UringDevice: cuts each into pieces the kernel takes, bounds the pieces
// in flight, continues short transfers, retries interrupted ones, and completes the request when
// its last piece has ended.
//
// A piece runs on the ring attached to the thread that submits it; without one, or when it had to
// wait for others to end, on a ring of the engine's own, whose reaper thread also submits (a
// request submitted by a thread that then exits would be cancelled by the kernel). Where io_uring
// is off, and for ioctls, it runs on a thread pool.
//
// Thread-safe.
class TransferEngine {
 public:
  // `file` is borrowed. Adds a line to `warnings` when io_uring is off.
  TransferEngine(const DeviceFile& file, const UringDeviceOptions& options,
                 std::vector<std::string>& warnings);
  // REQUIRES: every request has completed.
  ~TransferEngine();
  TransferEngine(const TransferEngine&) = delete;
  TransferEngine& operator=(const TransferEngine&) = delete;

  void Submit(std::span<IoRequest* const> requests) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Transfer;
  struct Piece;
  struct PieceList {
    void Append(Piece& piece);
    Piece* Pop();
    bool empty() const { return head == nullptr; }
    Piece* head = nullptr;
    Piece* tail = nullptr;
  };

  int Validate(const IoRequest& request) const;
  PieceList Admit(IoRequest& request) ABSL_LOCKS_EXCLUDED(mutex_);
  PieceList CutLocked(IoRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Piece& NewPieceLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  bool RunsOnPool(const Piece& piece) const;
  void Start(Piece& piece) ABSL_LOCKS_EXCLUDED(mutex_);
  void StartWaited(Piece& piece) ABSL_LOCKS_EXCLUDED(mutex_);
  void GiveToReaper(Piece& piece) ABSL_LOCKS_EXCLUDED(mutex_);
  void StartOnRing(Piece& piece, IoRing& ring);
  int StartBlocking(Piece& piece);
  void PrepareZeros(Piece& piece) const;
  void StepEnded(Piece& piece, int result) ABSL_LOCKS_EXCLUDED(mutex_);
  void PieceEnded(Piece& piece, int error) ABSL_LOCKS_EXCLUDED(mutex_);
  void ReaperLoop() ABSL_LOCKS_EXCLUDED(mutex_);

  static void CqeArrived(void* context, int result);
  static void RunBlocking(BlockingPool::Job& job);

  // Constant after construction.
  const DeviceFile& file_;
  const unsigned in_flight_max_;
  std::unique_ptr<IoRing> ring_;

  BlockingPool pool_;

  Mutex mutex_;
  unsigned in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  // Pieces beyond in_flight_max_, in order.
  PieceList waiting_ ABSL_GUARDED_BY(mutex_);
  // Pieces for the reaper to submit.
  PieceList for_reaper_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  PieceList free_pieces_ ABSL_GUARDED_BY(mutex_);
  Transfer* free_transfers_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // What the free lists were made of.
  std::vector<std::unique_ptr<Piece>> all_pieces_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Transfer>> all_transfers_ ABSL_GUARDED_BY(mutex_);

  std::thread reaper_;
};

}  // namespace pbfs
