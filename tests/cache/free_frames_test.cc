// SPDX-License-Identifier: Apache-2.0
#include "cache/free_frames.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <set>
#include <vector>

#include "base/random.h"

namespace pbfs {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;

std::vector<size_t> Take(FreeFrames& frames, size_t count) {
  std::vector<size_t> taken(count);
  frames.Take(taken);
  return taken;
}

// All but the first of them follow the one before.
size_t Neighbours(const std::vector<size_t>& taken) {
  size_t neighbours = 0;
  for (size_t i = 1; i < taken.size(); ++i) neighbours += taken[i] == taken[i - 1] + 1 ? 1 : 0;
  return neighbours;
}

TEST(FreeFramesTest, GivesTheLowest) {
  FreeFrames frames(1000);
  for (const size_t frame : {700, 3, 999, 64}) frames.Put(frame);
  EXPECT_EQ(frames.count(), 4u);
  EXPECT_THAT(Take(frames, 3), ElementsAre(3, 64, 700));
  EXPECT_TRUE(frames.Has(999));
  EXPECT_FALSE(frames.Has(64));
  frames.Put(5);
  EXPECT_THAT(Take(frames, 2), ElementsAre(5, 999));
  EXPECT_EQ(frames.count(), 0u);
}

TEST(FreeFramesTest, WhoTakesManyGetsNeighboursAlsoWhenOthersHaveHoles) {
  FreeFrames frames(4096);
  for (size_t frame = 0; frame < 4096; ++frame) frames.Put(frame);
  const std::vector<size_t> all = Take(frames, 1024);
  EXPECT_EQ(Neighbours(all), 1023u);
  for (size_t i = 0; i < all.size(); i += 2) frames.Put(all[i]);
  const std::vector<size_t> many = Take(frames, 256);
  EXPECT_EQ(Neighbours(many), 255u);
  EXPECT_THAT(many, Each(Ge(1024u)));
  // Few: of what is broken up already.
  EXPECT_THAT(Take(frames, 3), ElementsAre(0, 2, 4));
}

TEST(FreeFramesTest, TakesApartWhatIsWholeOnlyWhenNothingElseIsLeft) {
  FreeFrames frames(256);
  for (size_t frame = 0; frame < 128; ++frame) frames.Put(frame);
  frames.Put(130);
  EXPECT_THAT(Take(frames, 2), ElementsAre(130, 0));
}

TEST(FreeFramesTest, IsASet) {
  constexpr size_t kFrames = 777;  // The last group is no whole one.
  FreeFrames frames(kFrames);
  std::set<size_t> free;
  std::vector<size_t> held(kFrames);
  for (size_t i = 0; i < kFrames; ++i) held[i] = i;
  Random random(1);
  for (int step = 0; step < 20000; ++step) {
    if (random.Below(2) == 0 && !held.empty()) {
      const size_t at = random.Below(held.size());
      frames.Put(held[at]);
      free.insert(held[at]);
      held[at] = held.back();
      held.pop_back();
    } else {
      const size_t count = random.Below(std::min<size_t>(free.size(), 200) + 1);
      for (const size_t frame : Take(frames, count)) {
        ASSERT_EQ(free.erase(frame), 1u);
        held.push_back(frame);
      }
    }
    ASSERT_EQ(frames.count(), free.size());
  }
  for (size_t frame = 0; frame < kFrames; ++frame) {
    ASSERT_EQ(frames.Has(frame), free.count(frame) != 0);
  }
}

}  // namespace
}  // namespace pbfs
