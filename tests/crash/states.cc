// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/states.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace pbfs {
namespace {

using Kind = RecordedIo::Kind;

const char* NameOf(Cut::Choice choice) {
  switch (choice) {
    case Cut::Choice::kKeepAll:
      return "all writes kept";
    case Cut::Choice::kLoseAll:
      return "unflushed writes lost";
    case Cut::Choice::kLoseOne:
      return "one unflushed write lost";
    case Cut::Choice::kKeepOne:
      return "one unflushed write kept";
    case Cut::Choice::kRandom:
      return "random unflushed writes lost or torn";
    case Cut::Choice::kTearLast:
      return "last write torn";
    case Cut::Choice::kTearLastLoseOthers:
      return "last write torn, other unflushed ones lost";
  }
  return "?";
}

// Some sectors of a write: a random subset, or (as often) all before or behind a point.
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

}  // namespace

CrashStates::CrashStates(const Image& base, const std::vector<RecordedIo>& io)
    : io_(io), durable_at_(io.size(), kNever), durable_(base.Fork()) {
  for (size_t i = 0; i < io.size(); ++i) {
    if (io[i].kind != Kind::kWrite) continue;
    ++write_count_;
    if (io[i].fua) durable_at_[i] = i + 1;
  }
  // A flush covers what completed before it started.
  for (size_t end = 0; end < io.size(); ++end) {
    if (io[end].kind != Kind::kFlushEnd) continue;
    size_t start = end;
    while (start > 0 && !(io[start].kind == Kind::kFlushStart && io[start].id == io[end].id)) {
      --start;
    }
    for (size_t i = start; i-- > 0;) {
      if (io[i].kind == Kind::kWrite) durable_at_[i] = std::min(durable_at_[i], end + 1);
    }
  }
}

std::vector<size_t> CrashStates::PendingAt(size_t position) const {
  std::vector<size_t> pending;
  for (size_t i = 0; i < position; ++i) {
    if (io_[i].kind == Kind::kWrite && durable_at_[i] > position) pending.push_back(i);
  }
  return pending;
}

void CrashStates::AddCuts(size_t position, const Limits& limits, Random& random,
                          std::vector<Cut>& cuts) const {
  const RecordedIo& last = io_[position - 1];
  const bool after_write = last.kind == Kind::kWrite;
  if (!after_write && last.kind != Kind::kMark) return;  // Nothing new.
  const std::vector<size_t> pending = PendingAt(position);
  const auto add = [&](Cut::Choice choice, size_t which = 0) {
    cuts.push_back({position, choice, which, random.Next()});
  };
  if (after_write) {
    add(Cut::Choice::kKeepAll);
    add(Cut::Choice::kTearLast);
    if (last.data.size() > Image::kBlock) add(Cut::Choice::kTearLast);
    if (pending.size() > 1 || (pending.size() == 1 && last.fua)) {
      add(Cut::Choice::kTearLastLoseOthers);
    }
  }
  if (pending.empty()) {
    if (!after_write) add(Cut::Choice::kKeepAll);
    return;
  }
  add(Cut::Choice::kLoseAll);
  if (pending.size() > 1) {
    std::vector<size_t> which(pending.size());
    for (size_t i = 0; i < which.size(); ++i) which[i] = i;
    for (size_t i = which.size(); i > 1; --i) std::swap(which[i - 1], which[random.Below(i)]);
    which.resize(std::min(which.size(), limits.singles_max));
    for (const size_t i : which) {
      add(Cut::Choice::kLoseOne, i);
      add(Cut::Choice::kKeepOne, i);
    }
  }
  for (size_t i = 0; i < limits.randoms; ++i) add(Cut::Choice::kRandom);
}

std::vector<Cut> CrashStates::Enumerate(const Limits& limits, Random& random) const {
  std::vector<Cut> cuts;
  for (size_t position = std::max<size_t>(limits.first_position, 1); position <= io_.size();
       ++position) {
    AddCuts(position, limits, random, cuts);
  }
  if (cuts.size() <= limits.cuts_max) return cuts;
  for (size_t i = 0; i < limits.cuts_max; ++i) {
    std::swap(cuts[i], cuts[i + random.Below(cuts.size() - i)]);
  }
  cuts.resize(limits.cuts_max);
  std::sort(cuts.begin(), cuts.end(),
            [](const Cut& a, const Cut& b) { return a.position < b.position; });
  return cuts;
}

void CrashStates::Apply(Image& image, size_t entry, const Cut& cut, size_t pending_index,
                        size_t pending_count) const {
  const RecordedIo& write = io_[entry];
  const bool last = entry + 1 == cut.position;
  const bool pending = pending_index < pending_count;
  bool keep = true;
  bool torn = false;
  switch (cut.choice) {
    case Cut::Choice::kKeepAll:
      break;
    case Cut::Choice::kLoseAll:
      keep = !pending;
      break;
    case Cut::Choice::kLoseOne:
      keep = !pending || pending_index != cut.which;
      break;
    case Cut::Choice::kKeepOne:
      keep = !pending || pending_index == cut.which;
      break;
    case Cut::Choice::kRandom:
      if (pending) {
        const uint64_t draw = Random(cut.seed + entry).Below(5);
        keep = draw >= 2;
        torn = draw == 4;
      }
      break;
    case Cut::Choice::kTearLast:
      torn = last;
      break;
    case Cut::Choice::kTearLastLoseOthers:
      keep = last || !pending;
      torn = last;
      break;
  }
  if (torn) {
    WriteTorn(image, write, cut.seed ^ entry);
  } else if (keep) {
    image.Write(write.offset_bytes, write.data.data(), write.data.size());
  }
}

Image CrashStates::Build(const Cut& cut) {
  const std::vector<size_t> pending = PendingAt(cut.position);
  // The last write may be torn though it is durable at the end: it was under way.
  const size_t all_durable =
      std::min(pending.empty() ? cut.position : pending.front(), cut.position - 1);
  PBFS_CHECK(applied_ <= all_durable);
  for (; applied_ < all_durable; ++applied_) {
    const RecordedIo& entry = io_[applied_];
    if (entry.kind == Kind::kWrite) {
      durable_.Write(entry.offset_bytes, entry.data.data(), entry.data.size());
    }
  }
  Image image = durable_.Fork();
  size_t next = 0;
  for (size_t i = applied_; i < cut.position; ++i) {
    if (io_[i].kind != Kind::kWrite) continue;
    const bool is_pending = next < pending.size() && pending[next] == i;
    Apply(image, i, cut, is_pending ? next : SIZE_MAX, pending.size());
    next += is_pending ? 1 : 0;
  }
  return image;
}

std::string CrashStates::Describe(const Cut& cut) const {
  const std::vector<size_t> pending = PendingAt(cut.position);
  const RecordedIo& last = io_[cut.position - 1];
  std::string text = absl::StrCat("cut after entry ", cut.position - 1, " of ", io_.size());
  if (last.kind == Kind::kWrite) {
    absl::StrAppend(&text, " (", last.fua ? "FUA " : "", "write of ", last.data.size(),
                    " bytes at block ", last.offset_bytes / Image::kBlock, ")");
  }
  absl::StrAppend(&text, ", ", pending.size(), " unflushed: ", NameOf(cut.choice));
  if (cut.choice == Cut::Choice::kLoseOne || cut.choice == Cut::Choice::kKeepOne) {
    const RecordedIo& write = io_[pending[cut.which]];
    absl::StrAppend(&text, " (entry ", pending[cut.which], ", ", write.data.size(),
                    " bytes at block ", write.offset_bytes / Image::kBlock, ")");
  }
  absl::StrAppend(&text, "; op ", LastMark(cut, false) / 2, ", ack ", LastMark(cut, true) / 2);
  return text;
}

uint64_t CrashStates::LastMark(const Cut& cut, bool odd) const {
  for (size_t i = cut.position; i-- > 0;) {
    if (io_[i].kind == Kind::kMark && io_[i].id % 2 == (odd ? 1 : 0)) return io_[i].id;
  }
  return odd ? 1 : 0;
}

}  // namespace pbfs
