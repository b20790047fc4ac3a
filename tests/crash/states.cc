// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/states.h"

#include <algorithm>
#include <map>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace pbfs {
namespace {

using Kind = RecordedIo::Kind;

constexpr Fate kKept{};
constexpr Fate kLost{Fate::Kind::kLost, 0};

// Some sectors of a write: all before or behind a point, or any.
void WriteTorn(Image& image, const RecordedIo& write, uint64_t seed) {
  Random random(seed);
  const uint64_t sectors = write.data.size() / Image::kSector;
  const uint64_t point = random.Below(sectors + 1);
  const uint64_t shape = random.Below(4);
  for (uint64_t i = 0; i < sectors; ++i) {
    const bool keep = shape == 0 ? i < point : shape == 1 ? i >= point : random.OneIn(2);
    if (!keep) continue;
    image.Write(write.offset_bytes + i * Image::kSector, write.data.data() + i * Image::kSector,
                Image::kSector);
  }
}

std::string DescribeWrite(const RecordedIo& write) {
  return absl::StrCat(write.fua ? "FUA " : "", "write of ", write.data.size(), " bytes at block ",
                      write.offset_bytes / Image::kBlock);
}

}  // namespace

CrashStates::CrashStates(const Image& base, const std::vector<RecordedIo>& io)
    : io_(io), durable_at_(io.size(), kNever), durable_(base.Fork()) {
  std::map<uint64_t, size_t> writes;   // Under way, by id.
  std::map<uint64_t, size_t> flushes;  // Under way: how many had ended before.
  std::vector<size_t> ended;           // Not durable yet, in the order they ended.
  for (size_t i = 0; i < io.size(); ++i) {
    switch (io[i].kind) {
      case Kind::kWrite:
        writes[io[i].id] = i;
        break;
      case Kind::kWriteEnd: {
        const size_t write = writes.at(io[i].id);
        if (io[write].fua) durable_at_[write] = i + 1;
        ended.push_back(write);
        break;
      }
      case Kind::kFlushStart:
        flushes[io[i].id] = ended.size();
        break;
      case Kind::kFlushEnd:
        for (size_t j = flushes.at(io[i].id); j-- > 0;) {
          durable_at_[ended[j]] = std::min(durable_at_[ended[j]], i + 1);
        }
        break;
      case Kind::kMark:
        break;
    }
  }
}

std::vector<size_t> CrashStates::UncertainAt(size_t position) const {
  std::vector<size_t> uncertain;
  for (size_t i = applied_; i < position; ++i) {
    if (io_[i].kind == Kind::kWrite && durable_at_[i] > position) uncertain.push_back(i);
  }
  return uncertain;
}

std::vector<uint64_t> CrashStates::MarksBefore(size_t position) const {
  std::vector<uint64_t> marks;
  for (size_t i = 0; i < position; ++i) {
    if (io_[i].kind == Kind::kMark) marks.push_back(io_[i].id);
  }
  return marks;
}

// ---- Enumeration --------------------------------------------------------------------------------

// Takes cuts of one position after the other, leaves out what is there already.
class CrashStates::Collector {
 public:
  Collector(const CrashStates& states, Random& random) : states_(states), random_(random) {}

  Random& random() { return random_; }
  void MoveTo(size_t position) {
    for (; position_ < position; ++position_) {
      const RecordedIo& entry = states_.io_[position_];
      if (entry.kind == Kind::kWrite) present_ ^= KeyOf(position_, kKept);
      if (entry.kind == Kind::kMark) ++marks_;
    }
    uncertain_ = states_.UncertainAt(position);
  }
  void Add(std::vector<Fate> fates) {
    uint64_t key = present_ ^ Random(marks_).Next();
    for (size_t i = 0; i < fates.size(); ++i) {
      if (fates[i] == kKept) continue;
      key ^= KeyOf(uncertain_[i], kKept);
      if (fates[i].kind == Fate::Kind::kTorn) key ^= KeyOf(uncertain_[i], fates[i]);
    }
    if (seen_.insert(key).second) cuts_.push_back({position_, std::move(fates)});
  }
  std::vector<Cut> Take() { return std::move(cuts_); }

 private:
  static uint64_t KeyOf(size_t entry, const Fate& fate) {
    return Random(Random(entry).Next() ^ fate.seed).Next();
  }

  const CrashStates& states_;
  Random& random_;
  size_t position_ = 0;
  uint64_t present_ = 0;  // Combines the keys of all writes before position_.
  uint64_t marks_ = 0;
  std::vector<size_t> uncertain_;
  absl::flat_hash_set<uint64_t> seen_;
  std::vector<Cut> cuts_;
};

// No further write begins before a flush ends or something was acknowledged.
bool CrashStates::IsBoundary(size_t position) const {
  if (io_[position - 1].kind == Kind::kMark) return true;
  for (size_t i = position; i < io_.size(); ++i) {
    if (io_[i].kind == Kind::kFlushEnd) return true;
    if (io_[i].kind == Kind::kWrite) return false;
  }
  return true;
}

// Of `count` uncertain writes some are lost, the others there.
void CrashStates::AddSubsets(size_t position, size_t count, const Limits& limits,
                             Collector& cuts) const {
  PBFS_CHECK(position > 0);
  if (count <= limits.subset_writes) {
    for (uint64_t lost = 0; lost < uint64_t{1} << count; ++lost) {
      std::vector<Fate> fates(count);
      for (size_t i = 0; i < count; ++i) fates[i] = (lost >> i & 1) != 0 ? kLost : kKept;
      cuts.Add(std::move(fates));
    }
    return;
  }
  cuts.Add(std::vector<Fate>(count, kLost));
  for (size_t i = 0; i < limits.singles_max; ++i) {
    const uint64_t one = cuts.random().Below(count);
    // As often as not the same: a single one.
    const uint64_t other = cuts.random().OneIn(2) ? one : cuts.random().Below(count);
    std::vector<Fate> without(count, kKept);
    without[one] = without[other] = kLost;
    cuts.Add(std::move(without));
    std::vector<Fate> only(count, kLost);
    only[one] = only[other] = kKept;
    cuts.Add(std::move(only));
  }
}

void CrashStates::AddCuts(size_t position, const Limits& limits, Collector& cuts) const {
  const bool after_write = io_[position - 1].kind == Kind::kWrite;
  if (!after_write && io_[position - 1].kind != Kind::kMark) return;  // Nothing new.
  cuts.MoveTo(position);
  const size_t count = UncertainAt(position).size();
  Random& random = cuts.random();
  cuts.Add(std::vector<Fate>(count, kKept));
  if (after_write) {
    // It is under way.
    for (const Fate& others : {kKept, kLost}) {
      std::vector<Fate> fates(count, others);
      fates.back() = {Fate::Kind::kTorn, random.Next()};
      cuts.Add(std::move(fates));
    }
  }
  if (IsBoundary(position)) AddSubsets(position, count, limits, cuts);
  for (size_t n = 0; n < limits.randoms && count > 0; ++n) {
    std::vector<Fate> fates(count);
    for (Fate& fate : fates) {
      const uint64_t draw = random.Below(5);
      fate = draw == 0 ? Fate{Fate::Kind::kTorn, random.Next()} : draw < 3 ? kLost : kKept;
    }
    cuts.Add(std::move(fates));
  }
}

std::vector<Cut> CrashStates::Enumerate(const Limits& limits, Random& random) const {
  Collector collector(*this, random);
  for (size_t position = std::max<size_t>(limits.first_position, 1); position <= io_.size();
       ++position) {
    AddCuts(position, limits, collector);
  }
  std::vector<Cut> cuts = collector.Take();
  if (cuts.size() <= limits.cuts_max) return cuts;
  for (size_t i = 0; i < limits.cuts_max; ++i) {
    std::swap(cuts[i], cuts[i + random.Below(cuts.size() - i)]);
  }
  cuts.resize(limits.cuts_max);
  std::stable_sort(cuts.begin(), cuts.end(),
                   [](const Cut& a, const Cut& b) { return a.position < b.position; });
  return cuts;
}

// ---- States -------------------------------------------------------------------------------------

Image CrashStates::Build(const Cut& cut) {
  const std::vector<size_t> uncertain = UncertainAt(cut.position);
  PBFS_CHECK(uncertain.size() == cut.fates.size());
  const size_t all_durable = uncertain.empty() ? cut.position : uncertain.front();
  PBFS_CHECK(applied_ <= all_durable);
  for (; applied_ < all_durable; ++applied_) {
    const RecordedIo& entry = io_[applied_];
    if (entry.kind != Kind::kWrite) continue;
    durable_.Write(entry.offset_bytes, entry.data.data(), entry.data.size());
  }
  Image image = durable_.Fork();
  size_t next = 0;
  for (size_t i = applied_; i < cut.position; ++i) {
    const RecordedIo& entry = io_[i];
    if (entry.kind != Kind::kWrite) continue;
    const bool is_uncertain = next < uncertain.size() && uncertain[next] == i;
    const Fate fate = is_uncertain ? cut.fates[next++] : kKept;
    if (fate.kind == Fate::Kind::kTorn) WriteTorn(image, entry, fate.seed);
    if (fate.kind == Fate::Kind::kKept) {
      image.Write(entry.offset_bytes, entry.data.data(), entry.data.size());
    }
  }
  return image;
}

std::string CrashStates::Describe(const Cut& cut) const {
  size_t lost = 0;
  size_t torn = 0;
  for (const Fate& fate : cut.fates) {
    lost += fate.kind == Fate::Kind::kLost ? 1 : 0;
    torn += fate.kind == Fate::Kind::kTorn ? 1 : 0;
  }
  std::string text = absl::StrCat("cut after entry ", cut.position, " of ", io_.size());
  const RecordedIo& last = io_[cut.position - 1];
  if (last.kind == Kind::kWrite) absl::StrAppend(&text, " (", DescribeWrite(last), ")");
  absl::StrAppend(&text, ", of ", cut.fates.size(), " uncertain writes ", lost, " lost, ", torn,
                  " torn");
  return text;
}

std::string CrashStates::ListWrites(const Cut& cut) const {
  const std::vector<size_t> uncertain = UncertainAt(cut.position);
  std::string text;
  for (size_t i = 0; i < uncertain.size(); ++i) {
    static constexpr const char* kNames[] = {"kept", "lost", "torn"};
    absl::StrAppend(&text, kNames[static_cast<size_t>(cut.fates[i].kind)], "  entry ", uncertain[i],
                    ": ", DescribeWrite(io_[uncertain[i]]), "\n");
  }
  return text;
}

}  // namespace pbfs
