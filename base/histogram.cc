// SPDX-License-Identifier: Apache-2.0
#include "base/histogram.h"

#include <sched.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <new>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace pbfs {
namespace {

// More processors than this share.
constexpr unsigned kStripesMax = 16;

}  // namespace

Histogram::Histogram()
    : stripes_(std::clamp(std::thread::hardware_concurrency(), 1u, kStripesMax)) {}

Histogram::~Histogram() {
  for (auto& stripe : stripes_) delete stripe.load();
}

size_t Histogram::ClassOf(uint64_t value) {
  if (value < kClassesPerOctave) return value;
  const auto octave = static_cast<unsigned>(std::bit_width(value)) - 2;  // 4 to 7: the first.
  const auto part = static_cast<size_t>(value >> (octave - 1)) % kClassesPerOctave;
  return std::min(octave * kClassesPerOctave + part, kClassCount - 1);
}

uint64_t Histogram::UpperEnd(size_t index) {
  if (index < kClassesPerOctave) return index;
  const size_t octave = index / kClassesPerOctave;
  const uint64_t part = index % kClassesPerOctave;
  return ((kClassesPerOctave + part + 1) << (octave - 1)) - 1;
}

void Histogram::Add(uint64_t value) {
  const auto processor = static_cast<unsigned>(std::max(sched_getcpu(), 0));
  std::atomic<Stripe*>& place = stripes_[processor % stripes_.size()];
  Stripe* stripe = place.load(std::memory_order_acquire);
  if (stripe == nullptr) {
    std::unique_ptr<Stripe> fresh(new (std::nothrow) Stripe);
    if (fresh == nullptr) return;
    if (place.compare_exchange_strong(stripe, fresh.get(), std::memory_order_acq_rel)) {
      stripe = fresh.release();
    }
  }
  stripe->counts[ClassOf(value)].fetch_add(1, std::memory_order_relaxed);
  stripe->sum.fetch_add(value, std::memory_order_relaxed);
  uint64_t max = stripe->max.load(std::memory_order_relaxed);
  while (value > max && !stripe->max.compare_exchange_weak(max, value, std::memory_order_relaxed)) {
  }
}

Histogram::Snapshot Histogram::Take() const {
  Snapshot all;
  for (const auto& place : stripes_) {
    const Stripe* stripe = place.load(std::memory_order_acquire);
    if (stripe == nullptr) continue;
    for (size_t i = 0; i < kClassCount; ++i) {
      const uint64_t count = stripe->counts[i].load(std::memory_order_relaxed);
      all.counts[i] += count;
      all.count += count;
    }
    all.sum += stripe->sum.load(std::memory_order_relaxed);
    all.max = std::max(all.max, stripe->max.load(std::memory_order_relaxed));
  }
  return all;
}

uint64_t Histogram::Snapshot::Percentile(double percent) const {
  const auto wanted = static_cast<uint64_t>(std::ceil(static_cast<double>(count) * percent / 100));
  uint64_t seen = 0;
  for (size_t i = 0; i < kClassCount; ++i) {
    seen += counts[i];
    if (seen > 0 && seen >= wanted) return std::min(UpperEnd(i), max);
  }
  return max;
}

std::string Histogram::Snapshot::Json() const {
  std::string text = absl::StrCat("{\"count\":", count, ",\"mean\":", mean());
  for (const char* const percent : {"50", "90", "99", "99.9"}) {
    absl::StrAppend(&text, ",\"p", percent, "\":", Percentile(std::atof(percent)));
  }
  absl::StrAppend(&text, ",\"max\":", max, ",\"classes\":[");
  const char* separator = "";
  for (size_t i = 0; i < kClassCount; i += kClassesPerOctave) {
    const uint64_t in_octave = std::accumulate(&counts[i], &counts[i] + kClassesPerOctave, 0ULL);
    if (in_octave == 0) continue;
    absl::StrAppend(&text, std::exchange(separator, ","), "[", UpperEnd(i + kClassesPerOctave - 1),
                    ",", in_octave, "]");
  }
  return text + "]}";
}

}  // namespace pbfs
