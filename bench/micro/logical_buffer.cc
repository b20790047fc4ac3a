// SPDX-License-Identifier: Apache-2.0
// Logical buffers: made from scattered frames, carved, and cut into what one system call takes.
#include "io/logical_buffer.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "base/random.h"
#include "cache/page_cache.h"
#include "io/buffer_cursor.h"

namespace pbfs::micro {
namespace {

// Frames in random order, so that hardly two are neighbours, or as they lie in memory.
class Frames {
 public:
  Frames(size_t count, bool scattered) : memory_(new std::byte[count * kPageBytes]) {
    for (size_t i = 0; i < count; ++i) frames_.push_back(memory_.get() + i * kPageBytes);
    Random random(1);
    for (size_t i = count; scattered && i > 1; --i) {
      std::swap(frames_[i - 1], frames_[random.Below(i)]);
    }
  }
  LogicalBuffer MakeBuffer() const {
    LogicalBuffer buffer;
    for (std::byte* frame : frames_) buffer.Append(frame, kPageBytes);
    return buffer;
  }

 private:
  const std::unique_ptr<std::byte[]> memory_;
  std::vector<std::byte*> frames_;
};

void Make(benchmark::State& state, bool scattered) {
  const Frames frames(static_cast<size_t>(state.range(0)), scattered);
  for (auto _ : state) {
    LogicalBuffer buffer = frames.MakeBuffer();
    benchmark::DoNotOptimize(buffer.segments().data());
  }
}
void MakeFromScattered(benchmark::State& state) { Make(state, /*scattered=*/true); }
void MakeFromAdjacent(benchmark::State& state) { Make(state, /*scattered=*/false); }

// A quarter out of the middle.
void Carve(benchmark::State& state) {
  const Frames frames(static_cast<size_t>(state.range(0)), /*scattered=*/true);
  const LogicalBuffer whole = frames.MakeBuffer();
  const size_t quarter = whole.size_bytes() / 4;
  for (auto _ : state) {
    LogicalBuffer part = whole.Carve(whole.size_bytes() / 2, quarter);
    benchmark::DoNotOptimize(part.segments().data());
  }
}

// Pieces of 128 KiB, each a list of iovecs, as TransferEngine makes them for a device that takes no
// more.
void CutIntoIovecs(benchmark::State& state) {
  constexpr size_t kPieceBytes = 128 << 10;
  constexpr size_t kSegmentsMax = 1024;
  const Frames frames(static_cast<size_t>(state.range(0)), /*scattered=*/true);
  const LogicalBuffer whole = frames.MakeBuffer();
  std::vector<iovec> segments;
  for (auto _ : state) {
    BufferCursor cursor(whole);
    for (size_t left = whole.size_bytes(); left > 0;) {
      segments.clear();
      const size_t piece_bytes = cursor.Measure(kSegmentsMax, kPieceBytes);
      cursor.ForEach(piece_bytes, [&segments](std::byte* memory, size_t bytes) {
        segments.push_back({memory, bytes});
      });
      left -= piece_bytes;
      benchmark::DoNotOptimize(segments.data());
    }
  }
}

BENCHMARK(MakeFromScattered)
    ->Name("logical_buffer/make_from_scattered")
    ->ArgName("frames")
    ->Arg(1)
    ->Arg(32)
    ->Arg(256);
BENCHMARK(MakeFromAdjacent)->Name("logical_buffer/make_from_adjacent")->ArgName("frames")->Arg(256);
BENCHMARK(Carve)->Name("logical_buffer/carve")->ArgName("frames")->Arg(32)->Arg(256);
BENCHMARK(CutIntoIovecs)->Name("logical_buffer/cut_into_iovecs")->ArgName("frames")->Arg(256);

}  // namespace
}  // namespace pbfs::micro
