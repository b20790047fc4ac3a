// SPDX-License-Identifier: Apache-2.0
// Random operations on FilePages and on a plain model of it, compared after each.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <random>

#include "cache/file_pages.h"
#include "tests/cache/test_support.h"

namespace pbfs {
namespace {

constexpr uint64_t kIndexEnd = 24;

using Bytes = std::array<std::byte, kPageBytes>;

struct ModelPage {
  Bytes bytes{};
  bool dirty = false;
  bool error = false;
  PagePromise promise = PagePromise::kNone;
  // Its contents are being written; or, when dirty, former contents still are.
  bool in_flight = false;
  int64_t dirty_since_ns = 0;
};

struct InFlight {
  FilePages::DirtyPage page;
  Bytes frozen;
  bool replaced = false;
};

class Model {
 public:
  explicit Model(uint64_t seed) : random_(seed) {}
  ~Model() {
    while (!in_flight_.empty()) EndOne(0, false);
  }

  void Step() {
    ++now_ns_;
    switch (Random(14)) {
      case 0:
        return InsertClean();
      case 1:
      case 2:
        return InsertDirty();
      case 3:
      case 4:
      case 5:
        return WritePartial();
      case 6:
        return Collect();
      case 7:
      case 8:
        if (!in_flight_.empty()) EndOne(Random(in_flight_.size()), Random(4) == 0);
        return;
      case 9:
        return ClearPromises();
      case 10:
        return Drop();
      case 11:
        return ZeroTail();
      case 12:
        if (Random(8) == 0) RetryErrors();
        return;
      case 13:
        if (Random(16) == 0) Evict();
        return;
    }
  }

  void Compare() {
    size_t dirty = 0;
    bool errors = false;
    int64_t oldest_ns = INT64_MAX;
    uint64_t next_promised = UINT64_MAX;
    for (auto it = model_.rbegin(); it != model_.rend(); ++it) {
      dirty += it->second.dirty ? 1 : 0;
      errors |= it->second.error;
      if (it->second.dirty && !it->second.error) {
        oldest_ns = std::min(oldest_ns, it->second.dirty_since_ns);
      }
      if (it->second.promise != PagePromise::kNone) next_promised = it->first;
    }
    ASSERT_EQ(file_.page_count(), model_.size());
    ASSERT_EQ(file_.dirty_count(), dirty);
    ASSERT_EQ(file_.writeback_count(), in_flight_.size());
    ASSERT_EQ(pages_.dirty_pages.load(), static_cast<int64_t>(dirty + in_flight_.size()));
    ASSERT_EQ(file_.HasErrors(), errors);
    ASSERT_EQ(file_.oldest_dirty_ns(), oldest_ns);
    ASSERT_EQ(file_.NextPromised(0), next_promised);
    ComparePages();
    for (const InFlight& write : in_flight_) {
      ASSERT_EQ(std::memcmp(write.page.page->data, write.frozen.data(), kPageBytes), 0)
          << "frame in flight changed, index " << write.page.index;
    }
    file_.CheckInvariants();
  }

 private:
  size_t Random(size_t end) { return random_() % end; }
  uint64_t RandomIndex() { return Random(kIndexEnd); }

  PageBuf& RandomFrame(Bytes& bytes) {
    const auto value = static_cast<std::byte>(random_());
    bytes.fill(value);
    PageBuf& frame = *pages_.Allocate();
    std::memcpy(frame.data, bytes.data(), kPageBytes);
    return frame;
  }
  ModelPage* Find(uint64_t index) {
    const auto it = model_.find(index);
    return it == model_.end() ? nullptr : &it->second;
  }
  // What any write does to the state of a page.
  void MarkDirty(ModelPage& page, uint64_t index, PagePromise promise) {
    for (InFlight& write : in_flight_) write.replaced |= write.page.index == index;
    if (page.promise == PagePromise::kNone) page.promise = promise;
    if (!page.dirty || page.error) page.dirty_since_ns = now_ns_;
    page.dirty = true;
    page.error = false;
  }

  void InsertClean() {
    const uint64_t index = RandomIndex();
    Bytes bytes;
    file_.InsertClean(index, RandomFrame(bytes));
    if (Find(index) == nullptr) model_[index].bytes = bytes;
  }
  void InsertDirty() {
    const uint64_t index = RandomIndex();
    const auto promise = static_cast<PagePromise>(Random(3));
    Bytes bytes;
    file_.InsertDirty(index, RandomFrame(bytes), promise, now_ns_);
    model_[index].bytes = bytes;
    MarkDirty(model_[index], index, promise);
  }
  void WritePartial() {
    const uint64_t index = RandomIndex();
    const auto promise = static_cast<PagePromise>(Random(3));
    const size_t offset = Random(kPageBytes);
    const size_t length = 1 + Random(kPageBytes - offset);
    Bytes source;
    Bytes ignored;
    std::generate(source.begin(), source.end(),
                  [this] { return static_cast<std::byte>(random_()); });
    const size_t source_offset = Random(kPageBytes - length + 1);
    const size_t split = 1 + Random(kPageBytes - 1);
    LogicalBuffer buffer(source.data(), split);
    buffer.Append(source.data() + split, kPageBytes - split);
    file_.WritePartial(index, offset, buffer, source_offset, length, promise, RandomFrame(ignored),
                       now_ns_);
    std::memcpy(model_[index].bytes.data() + offset, source.data() + source_offset, length);
    MarkDirty(model_[index], index, promise);
  }
  void Collect() {
    const uint64_t first = RandomIndex();
    const uint64_t last = first + Random(kIndexEnd);
    const size_t max_pages = 1 + Random(6);
    std::vector<FilePages::DirtyPage> round;
    file_.CollectDirty(first, last, max_pages, round);
    size_t taken = 0;
    for (auto& [index, page] : model_) {
      if (index < first || index > last || taken == max_pages) continue;
      if (!page.dirty || page.error || page.in_flight) continue;
      ASSERT_LT(taken, round.size());
      ASSERT_EQ(round[taken].index, index);
      ASSERT_EQ(round[taken].promise, page.promise);
      page.dirty = false;
      page.in_flight = true;
      in_flight_.push_back({round[taken], page.bytes});
      ++taken;
    }
    ASSERT_EQ(taken, round.size());
  }
  void EndOne(size_t position, bool failed) {
    const InFlight write = in_flight_[position];
    in_flight_.erase(in_flight_.begin() + static_cast<ptrdiff_t>(position));
    file_.EndWriteback(write.page, failed);
    ModelPage* page = Find(write.page.index);
    ASSERT_NE(page, nullptr);
    page->in_flight = false;
    if (!write.replaced && failed) page->dirty = page->error = true;
  }
  static void Count(PromiseCounts& counts, PagePromise promise) {
    counts.blocks += promise == PagePromise::kBlock ? 1 : 0;
    counts.conversions += promise == PagePromise::kConversion ? 1 : 0;
  }
  void ClearPromises() {
    const uint64_t first = RandomIndex();
    const size_t count = Random(kIndexEnd);
    PromiseCounts cleared;
    for (auto& [index, page] : model_) {
      if (index < first || index >= first + count) continue;
      Count(cleared, std::exchange(page.promise, PagePromise::kNone));
    }
    ASSERT_EQ(file_.CountPromised(first, count), cleared.sum());
    ASSERT_EQ(file_.ClearPromises(first, count), cleared);
  }
  void Drop() {
    const uint64_t first = RandomIndex();
    const uint64_t last = first + Random(4);
    for (const auto& [index, page] : model_) {
      if (index >= first && index <= last && page.in_flight) return;
    }
    PromiseCounts promised;
    std::erase_if(model_, [&](const auto& entry) {
      if (entry.first < first || entry.first > last) return false;
      Count(promised, entry.second.promise);
      return true;
    });
    ASSERT_EQ(file_.Drop(first, last), promised);
  }
  void ZeroTail() {
    const uint64_t index = RandomIndex();
    const size_t offset = Random(kPageBytes);
    Bytes ignored;
    ModelPage* page = Find(index);
    ASSERT_EQ(file_.ZeroTail(index, offset, RandomFrame(ignored), now_ns_), page != nullptr);
    if (page == nullptr) return;
    std::fill(page->bytes.begin() + static_cast<ptrdiff_t>(offset), page->bytes.end(),
              std::byte{0});
    MarkDirty(*page, index, PagePromise::kNone);
  }
  void RetryErrors() {
    file_.RetryErrors();
    for (auto& [index, page] : model_) page.error = false;
  }
  void Evict() {
    EvictAll(pages_);
    std::erase_if(model_, [](const auto& entry) {
      return !entry.second.dirty && entry.second.promise == PagePromise::kNone &&
             !entry.second.in_flight;
    });
  }

  void ComparePages() {
    std::vector<PageBuf*> found;
    file_.Lookup(0, kIndexEnd, found);
    for (uint64_t index = 0; index < kIndexEnd; ++index) {
      const ModelPage* page = Find(index);
      ASSERT_EQ(found[index] != nullptr, page != nullptr) << index;
      ASSERT_EQ(file_.Contains(index), page != nullptr);
      ASSERT_EQ(file_.IsDirtyOrPromised(index),
                page != nullptr && (page->dirty || page->promise != PagePromise::kNone));
      if (page == nullptr) continue;
      ASSERT_EQ(std::memcmp(found[index]->data, page->bytes.data(), kPageBytes), 0) << index;
    }
    UnpinAll(pages_, found);
  }

  std::mt19937_64 random_;
  int64_t now_ns_ = 0;
  PageCache pages_{PageCache::kFramesMin * kPageBytes};
  FilePages file_{pages_, 7};
  std::map<uint64_t, ModelPage> model_;
  std::vector<InFlight> in_flight_;
};

class FilePagesModelTest : public testing::TestWithParam<uint64_t> {};

TEST_P(FilePagesModelTest, BehavesAsTheModel) {
  Model model(GetParam());
  for (int step = 0; step < 2500; ++step) {
    model.Step();
    model.Compare();
    if (HasFatalFailure()) FAIL() << "seed " << GetParam() << " step " << step;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, FilePagesModelTest, testing::Range(uint64_t{1}, uint64_t{9}));

}  // namespace
}  // namespace pbfs
