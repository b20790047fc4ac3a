// SPDX-License-Identifier: Apache-2.0
#include "io/watched_device.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/probe.h"
#include "io/blocking_pool.h"

namespace pbfs {
namespace {

constexpr uint64_t kBlockBytes = 4096;  // What messages count in, as all of pbfs.

const char* NameOf(IoOp op) {
  switch (op) {
    case IoOp::kRead:
      return "read";
    case IoOp::kWrite:
      return "write";
    case IoOp::kFlush:
      return "flush";
    case IoOp::kDiscard:
      return "discard";
    case IoOp::kWriteZeroes:
      return "zeroing";
  }
  return "request";
}

}  // namespace

WatchedDevice::WatchedDevice(BlockDevice& below, Options options)
    : below_(below),
      options_(std::move(options)),
      thread_(StartThreadWithoutSignals(
          [](void* self) { static_cast<WatchedDevice*>(self)->Run(); }, this)) {}

WatchedDevice::~WatchedDevice() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.SignalAll();
  thread_.join();
  for (Shard& shard : shards_) {
    MutexLock lock(shard.mutex);
    PBFS_CHECK(shard.oldest == nullptr);
  }
}

WatchedDevice::Shard& WatchedDevice::ShardOf(const IoRequest& request) {
  const auto address = reinterpret_cast<uintptr_t>(&request);
  return shards_[((address >> 6) ^ (address >> 12)) % kShardCount];
}

void WatchedDevice::Link(IoRequest& request) {
  IoRequest::Watch& watch = request.watch;
  watch = {.started_ns = NowNs()};
  PBFS_PROBE(io_submit, &request, static_cast<int>(request.op), request.offset_bytes,
             request.size_bytes(), request.buffer.segments().size());
  requests_in_flight_.fetch_add(1, std::memory_order_relaxed);
  bytes_in_flight_.fetch_add(request.size_bytes(), std::memory_order_relaxed);
  Shard& shard = ShardOf(request);
  MutexLock lock(shard.mutex);
  watch.older = shard.newest;
  (shard.newest == nullptr ? shard.oldest : shard.newest->watch.newer) = &request;
  shard.newest = &request;
}

int64_t WatchedDevice::Unlink(IoRequest& request, bool* was_said) {
  const IoRequest::Watch& watch = request.watch;
  Shard& shard = ShardOf(request);
  MutexLock lock(shard.mutex);
  (watch.older == nullptr ? shard.oldest : watch.older->watch.newer) = watch.newer;
  (watch.newer == nullptr ? shard.newest : watch.newer->watch.older) = watch.older;
  *was_said = watch.said;
  return NowNs() - watch.started_ns;
}

void WatchedDevice::Submit(IoRequest& request) {
  request.PushCompletion(Completed, this);
  Link(request);
  below_.Submit(request);
}

void WatchedDevice::SubmitBatch(std::span<IoRequest* const> requests) {
  for (IoRequest* request : requests) {
    request->PushCompletion(Completed, this);
    Link(*request);
  }
  below_.SubmitBatch(requests);
}

void WatchedDevice::Completed(IoRequest& request, void* context, int error) {
  auto* self = static_cast<WatchedDevice*>(context);
  bool was_said = false;
  const int64_t taken_ns = self->Unlink(request, &was_said);
  const uint64_t size_bytes = request.size_bytes();
  Measured& measured = self->measured_[static_cast<size_t>(request.op)];
  measured.latency_ns.Add(static_cast<uint64_t>(taken_ns));
  measured.size_bytes.Add(size_bytes);
  self->requests_in_flight_.fetch_sub(1, std::memory_order_relaxed);
  self->bytes_in_flight_.fetch_sub(size_bytes, std::memory_order_relaxed);
  if (was_said && self->options_.log) {
    self->options_.log(absl::StrCat(self->Describe(request, taken_ns), ", and has ended now"));
  }
  PBFS_PROBE(io_done, &request, static_cast<int>(request.op), taken_ns, error);
  request.Complete(error);
}

std::string WatchedDevice::Describe(const IoRequest& request, int64_t taken_ns) const {
  std::string text = absl::StrCat(geometry().name, ": ");
  if (request.op == IoOp::kFlush) {
    absl::StrAppend(&text, "flush");
  } else {
    absl::StrAppend(&text, "block ", request.offset_bytes / kBlockBytes, ": ", NameOf(request.op),
                    " of ", request.size_bytes(), " bytes");
  }
  absl::StrAppend(&text, " has taken ", taken_ns / 1'000'000'000, " s");
  return text;
}

std::string WatchedDevice::StatsJson() const {
  std::string text =
      absl::StrCat("{\"requests_in_flight\":", requests_in_flight_.load(std::memory_order_relaxed),
                   ",\"bytes_in_flight\":", bytes_in_flight_.load(std::memory_order_relaxed));
  for (size_t op = 0; op < kOps; ++op) {
    const Histogram::Snapshot latency_ns = measured_[op].latency_ns.Take();
    if (latency_ns.count == 0) continue;
    absl::StrAppend(&text, ",\"", NameOf(static_cast<IoOp>(op)),
                    "\":{\"latency_ns\":", latency_ns.Json(),
                    ",\"size_bytes\":", measured_[op].size_bytes.Take().Json(), "}");
  }
  return text + "}";
}

void WatchedDevice::Look(int64_t now_ns) {
  const int64_t latest_ns = now_ns - options_.limit.count();
  std::vector<std::string> lines;
  for (Shard& shard : shards_) {
    MutexLock lock(shard.mutex);
    for (IoRequest* at = shard.oldest; at != nullptr && at->watch.started_ns <= latest_ns;
         at = at->watch.newer) {
      if (std::exchange(at->watch.said, true)) continue;
      lines.push_back(absl::StrCat(Describe(*at, now_ns - at->watch.started_ns),
                                   " so far: the device does not answer"));
    }
  }
  if (!options_.log) return;
  for (const std::string& line : lines) options_.log(line);
}

void WatchedDevice::Run() {
  for (;;) {
    {
      MutexLock lock(mutex_);
      if (!stopping_) changed_.WaitFor(mutex_, options_.interval);
      if (stopping_) return;
    }
    Look(NowNs());
  }
}

}  // namespace pbfs
