// SPDX-License-Identifier: Apache-2.0
#include "io/block_device.h"

#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/blocking.h"
#include "base/bulk_memory.h"
#include "base/check.h"
#include "base/mutex.h"
#include "io/completion_scope.h"
#include "io/io_ring.h"

namespace pbfs {
namespace {

// Waiters are found by the address of the word they wait on, in a table that outlives every word:
// so the setter's last touch of the word is the store, and a waiter may destroy it as soon as it
// reads nonzero. (With std::atomic::notify_all the setter would touch it once more.)
struct Waiter {
  const std::atomic<uint32_t>* done;
  // The ring the waiter reaps, or nullptr when it sleeps on `changed`.
  IoRing* ring;
  CondVar changed;
  Waiter* next = nullptr;
};

struct Bucket {
  Mutex mutex;
  Waiter* head ABSL_GUARDED_BY(mutex) = nullptr;
};

// 64: far more than the threads that wait at one time.
constexpr size_t kBucketCount = 64;

Bucket& BucketOf(const std::atomic<uint32_t>& done) {
  static auto* buckets = new std::array<Bucket, kBucketCount>;
  const auto address = reinterpret_cast<uintptr_t>(&done);
  return (*buckets)[((address >> 4) ^ (address >> 12)) % kBucketCount];
}

void LinkLocked(Bucket& bucket, Waiter& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(bucket.mutex) {
  waiter.next = bucket.head;
  bucket.head = &waiter;
}

void UnlinkLocked(Bucket& bucket, Waiter& waiter) ABSL_EXCLUSIVE_LOCKS_REQUIRED(bucket.mutex) {
  Waiter** link = &bucket.head;
  while (*link != &waiter) link = &(*link)->next;
  *link = waiter.next;
}

// Reaps the calling thread's ring until done or the deadline.
void ReapUntil(IoRing& ring, const std::atomic<uint32_t>& done,
               std::chrono::steady_clock::time_point deadline) {
  Bucket& bucket = BucketOf(done);
  Waiter waiter{&done, &ring, {}};
  {
    MutexLock lock(bucket.mutex);
    LinkLocked(bucket, waiter);
  }
  while (done.load(std::memory_order_acquire) == 0) {
    int64_t timeout_ns = -1;
    if (deadline != std::chrono::steady_clock::time_point::max()) {
      timeout_ns = std::chrono::nanoseconds(deadline - std::chrono::steady_clock::now()).count();
      if (timeout_ns <= 0) break;
    }
    ring.Reap(timeout_ns);
  }
  MutexLock lock(bucket.mutex);
  UnlinkLocked(bucket, waiter);
}

void SleepUntil(const std::atomic<uint32_t>& done) {
  Bucket& bucket = BucketOf(done);
  Waiter waiter{&done, nullptr, {}};
  MutexLock lock(bucket.mutex);
  if (done.load(std::memory_order_acquire) != 0) return;
  LinkLocked(bucket, waiter);
  while (done.load(std::memory_order_acquire) == 0) waiter.changed.Wait(bucket.mutex);
  UnlinkLocked(bucket, waiter);
}

// How long a thread reaps its own ring before it hands its loop to another: about two device reads.
constexpr std::chrono::microseconds kReapBeforeBlocking{200};

// What RunSync waits for. The frame that brings `left` to zero sets `done`; no other frame touches
// the state after its decrement.
struct SyncState {
  std::atomic<size_t> left;
  std::atomic<int> error{0};
  std::atomic<uint32_t> done{0};
};

void SyncCompleted(IoRequest&, void* context, int error) {
  auto* state = static_cast<SyncState*>(context);
  if (error != 0) {
    int none = 0;
    state->error.compare_exchange_strong(none, error, std::memory_order_relaxed);
  }
  if (state->left.fetch_sub(1, std::memory_order_acq_rel) == 1) BlockDevice::SetDone(state->done);
}

struct FreeDeleter {
  void operator()(void* memory) const { std::free(memory); }
};
using AlignedMemory = std::unique_ptr<void, FreeDeleter>;

AlignedMemory AllocateAligned(size_t length_bytes, size_t alignment) {
  const size_t rounded_bytes = (length_bytes + alignment - 1) / alignment * alignment;
  return AlignedMemory(AllocateBulk(alignment, rounded_bytes));
}

bool IsAlignedFor(const BlockDevice& device, const void* memory) {
  return reinterpret_cast<uintptr_t>(memory) % device.geometry().dma_alignment_bytes == 0;
}

}  // namespace

void BlockDevice::SetDone(std::atomic<uint32_t>& done) {
  Bucket& bucket = BucketOf(done);
  const std::atomic<uint32_t>* const address = &done;
  MutexLock lock(bucket.mutex);
  done.store(1, std::memory_order_release);
  for (Waiter* waiter = bucket.head; waiter != nullptr; waiter = waiter->next) {
    if (waiter->done != address) continue;
    if (waiter->ring == nullptr) {
      waiter->changed.Signal();
    } else if (waiter->ring != IoRing::Current()) {
      waiter->ring->Wake();
    }
  }
}

void BlockDevice::WaitUntil(const std::atomic<uint32_t>& done) {
  using Clock = std::chrono::steady_clock;
  if (done.load(std::memory_order_acquire) != 0) return;
  PBFS_CHECK(!InCompletion());
  // Without an observer there is nobody to hand the ring to.
  if (IoRing* ring = IoRing::Current(); ring != nullptr && t_blocking_observer != nullptr) {
    ReapUntil(*ring, done, Clock::now() + kReapBeforeBlocking);
    if (done.load(std::memory_order_acquire) != 0) return;
  }
  AnnounceBlocking();
  if (IoRing* ring = IoRing::Current(); ring != nullptr) {
    ReapUntil(*ring, done, Clock::time_point::max());
  } else {
    SleepUntil(done);
  }
}

int RunSync(BlockDevice& device, IoRequest& request) {
  IoRequest* const one[] = {&request};
  return RunSync(device, one);
}

int RunSync(BlockDevice& device, std::span<IoRequest* const> requests) {
  if (requests.empty()) return 0;
  SyncState state{{requests.size()}};
  for (IoRequest* request : requests) request->PushCompletion(SyncCompleted, &state);
  if (requests.size() == 1) {
    device.Submit(*requests[0]);
  } else {
    device.SubmitBatch(requests);
  }
  device.WaitUntil(state.done);
  return state.error.load(std::memory_order_relaxed);
}

int ReadSync(BlockDevice& device, uint64_t offset_bytes, void* memory, size_t length_bytes) {
  AlignedMemory bounce;
  if (!IsAlignedFor(device, memory)) {
    bounce = AllocateAligned(length_bytes, device.geometry().dma_alignment_bytes);
    if (bounce == nullptr) return ENOMEM;
  }
  IoRequest request;
  request.op = IoOp::kRead;
  request.offset_bytes = offset_bytes;
  request.buffer.Append(bounce ? bounce.get() : memory, length_bytes);
  const int error = RunSync(device, request);
  if (error == 0 && bounce) std::memcpy(memory, bounce.get(), length_bytes);
  return error;
}

int WriteSync(BlockDevice& device, uint64_t offset_bytes, const void* memory, size_t length_bytes,
              bool fua) {
  AlignedMemory bounce;
  if (!IsAlignedFor(device, memory)) {
    bounce = AllocateAligned(length_bytes, device.geometry().dma_alignment_bytes);
    if (bounce == nullptr) return ENOMEM;
    std::memcpy(bounce.get(), memory, length_bytes);
  }
  IoRequest request;
  request.op = IoOp::kWrite;
  request.fua = fua;
  request.offset_bytes = offset_bytes;
  // A write does not change the memory; iovec knows no const.
  request.buffer.Append(bounce ? bounce.get() : const_cast<void*>(memory), length_bytes);
  return RunSync(device, request);
}

int DiscardSync(BlockDevice& device, uint64_t offset_bytes, uint64_t length_bytes) {
  IoRequest request;
  request.op = IoOp::kDiscard;
  request.offset_bytes = offset_bytes;
  request.length_bytes = length_bytes;
  return RunSync(device, request);
}

int FlushSync(BlockDevice& device) {
  IoRequest request;
  request.op = IoOp::kFlush;
  return RunSync(device, request);
}

}  // namespace pbfs
