// SPDX-License-Identifier: Apache-2.0
#include "fs/tree.h"

#include <map>
#include <optional>
#include <random>

#include "tests/support/meta_fixture.h"

namespace pbfs {
namespace {

using Value = std::vector<uint8_t>;
using Model = std::map<uint64_t, Value>;

constexpr uint64_t kOwner = 800;

Value MakeValue(uint64_t seed, size_t length) {
  Value value(length);
  for (size_t i = 0; i < length; ++i) value[i] = static_cast<uint8_t>(seed * 31 + i * 7);
  return value;
}

class TreeTest : public MetaFixture {
 protected:
  // A tree object lives as long as one operation, as with the owners in fs/.
  Status Insert(uint64_t key, const Value& value) {
    return Change(
        [&](Transaction& transaction, Tree& tree) { return tree.Insert(transaction, key, value); });
  }
  Status Put(uint64_t key, const Value& value) {
    return Change(
        [&](Transaction& transaction, Tree& tree) { return tree.Put(transaction, key, value); });
  }
  StatusOr<bool> Erase(uint64_t key) {
    bool erased = false;
    Status status = Change([&](Transaction& transaction, Tree& tree) -> Status {
      PBFS_ASSIGN_OR_RETURN(erased, tree.Erase(transaction, key));
      return OkStatus();
    });
    if (!status.ok()) return status;
    return erased;
  }
  Status Change(const std::function<Status(Transaction&, Tree&)>& change) {
    const TreeRoot old_root = root_;
    Tree tree(reader_, space_, kOwner, root_);
    const Status status =
        Commit([&](Transaction& transaction) { return change(transaction, tree); });
    if (status.ok()) {
      nodes_ += tree.node_delta();
    } else {
      root_ = old_root;
    }
    return status;
  }
  Tree Reading() { return Tree(reader_, space_, kOwner, root_); }

  // Same records, no node leaked or lost.
  void Compare(const Model& model) {
    Model found;
    PBFS_EXPECT_OK(Reading().Scan(0, [&](uint64_t key, std::span<const uint8_t> value) {
      EXPECT_TRUE(found.emplace(key, Value(value.begin(), value.end())).second);
      return true;
    }));
    EXPECT_TRUE(found == model) << found.size() << " records, model has " << model.size();
    shape_ = {};
    CheckTree(kOwner, root_, shape_);
    EXPECT_EQ(shape_.records, model.size());
    EXPECT_TRUE(shape_.blocks == space_.live());
    EXPECT_EQ(nodes_, static_cast<int64_t>(shape_.blocks.size()));
    EXPECT_EQ(root_.block == 0, model.empty());
  }
  void CompareLookups(const Model& model, uint64_t key) {
    const Tree tree = Reading();
    const auto expect = [&](const StatusOr<std::optional<Tree::Record>>& got,
                            Model::const_iterator wanted) {
      ASSERT_TRUE(got.ok()) << got.status().ToString();
      ASSERT_EQ(got->has_value(), wanted != model.end());
      if (!got->has_value()) return;
      EXPECT_EQ((*got)->key, wanted->first);
      EXPECT_TRUE((*got)->value == wanted->second);
    };
    expect(tree.Find(key), model.find(key));
    expect(tree.LowerBound(key), model.lower_bound(key));
    const auto above = model.upper_bound(key);
    expect(tree.FindLast(key), above == model.begin() ? model.end() : std::prev(above));
  }

  TreeRoot root_ = {};
  int64_t nodes_ = 0;
  TreeShape shape_;
};

// One step of the model test; `aborted` runs the same changes without effect.
struct Step {
  uint64_t key;
  size_t length;
  int kind;  // 0..4 insert, 5..6 put, 7..9 erase.
};

void ApplyToModel(Model& model, const Step& step) {
  if (step.kind < 5) {
    model.emplace(step.key, MakeValue(step.key, step.length));
  } else if (step.kind < 7) {
    model[step.key] = MakeValue(step.key + 1, step.length);
  } else {
    model.erase(step.key);
  }
}

Status ApplyToTree(Tree& tree, Transaction& transaction, const Model& model, const Step& step) {
  const bool present = model.count(step.key) != 0;
  if (step.kind < 5) {
    const Status status = tree.Insert(transaction, step.key, MakeValue(step.key, step.length));
    EXPECT_EQ(ErrnoOf(status), present ? EEXIST : 0) << status.ToString();
    return present ? OkStatus() : status;
  }
  if (step.kind < 7) return tree.Put(transaction, step.key, MakeValue(step.key + 1, step.length));
  PBFS_ASSIGN_OR_RETURN(const bool erased, tree.Erase(transaction, step.key));
  EXPECT_EQ(erased, present);
  return OkStatus();
}

class TreeModelTest : public TreeTest, public testing::WithParamInterface<uint64_t> {};

TEST_P(TreeModelTest, BehavesAsAMapAndAbortsLeaveNoTrace) {
  std::mt19937_64 random(GetParam());
  // Each seed has its own mix of keys and lengths: dense or sparse, tiny or large values.
  const uint64_t key_space = uint64_t{1} << (6 + random() % 7);
  const size_t length_max = std::vector<size_t>{0, 16, 200, 960}[random() % 4];
  Model model;
  bool growing = true;
  // For a while all keys come from one part of the key space, so that whole leaves come and go.
  uint64_t window_start = 0;
  uint64_t window = key_space;
  const auto any_key = [&] { return (window_start + random() % window) * 977; };
  for (int i = 0; i < 2500; ++i) {
    if (random() % 300 == 0) growing = !growing;
    if (random() % 200 == 0) {
      window = std::max<uint64_t>(key_space >> random() % 6, 1);
      window_start = random() % 3 == 0 ? 0 : random() % (key_space - window + 1);
    }
    const bool abort = random() % 8 == 0;
    const Model before = abort ? model : Model();
    const TreeRoot root_before = root_;
    Tree tree(reader_, space_, kOwner, root_);
    std::unique_ptr<Transaction> transaction = Begin();
    const uint64_t first_key = any_key();
    const uint64_t stride = std::vector<uint64_t>{0, 977, -uint64_t{977}}[random() % 3];
    const auto kind = static_cast<int>(growing ? random() % 8 : 3 + random() % 7);
    for (uint64_t n = 0, steps = 1 + random() % 12; n < steps; ++n) {
      // One place, or a run of neighbouring keys up or down.
      const Step step = {.key = (first_key + n * stride) % (key_space * 977),
                         .length = length_max == 0 ? 0 : random() % (length_max + 1),
                         .kind = kind};
      PBFS_EXPECT_OK(ApplyToTree(tree, *transaction, model, step));
      ApplyToModel(model, step);
    }
    if (abort) {
      transaction.reset();
      root_ = root_before;
      model = before;
    } else {
      PBFS_EXPECT_OK(transaction->Commit().status());
      nodes_ += tree.node_delta();
    }
    if (i % 16 == 0) CompareLookups(model, any_key() + random() % 3 - 1);
    if (i % 250 == 0) Compare(model);
    if (HasFailure()) FAIL() << "seed " << GetParam() << ", step " << i;
  }
  Compare(model);
  Remount();
  Compare(model);
}

INSTANTIATE_TEST_SUITE_P(Seeds, TreeModelTest, testing::Range<uint64_t>(1, 13));

TEST_F(TreeTest, AscendingInsertsFillLeaves) {
  Model model;
  for (uint64_t key = 0; key < 20000; ++key) {
    PBFS_EXPECT_OK(Insert(key * 3, MakeValue(key, 16)));
    model[key * 3] = MakeValue(key, 16);
  }
  Compare(model);
  EXPECT_GE(root_.level, 1);
  EXPECT_GT(shape_.leaf_bytes, (shape_.leaves - 1) * (kTreeLeafSpace - 28));
}

TEST_F(TreeTest, DescendingInsertsStayHalfFull) {
  Model model;
  for (uint64_t key = 20000; key > 0; --key) {
    PBFS_EXPECT_OK(Insert(key, MakeValue(key, 16)));
    model[key] = MakeValue(key, 16);
  }
  Compare(model);
  EXPECT_GT(shape_.leaf_bytes, shape_.leaves * kTreeLeafSpace * 45 / 100);
}

TEST_F(TreeTest, InnerNodesSplitAndJoin) {
  Model model;
  std::mt19937_64 random(5);
  std::vector<uint64_t> keys;
  // Large values make many leaves, so that the root is two levels above them.
  for (uint64_t key = 0; key < 3000; ++key) keys.push_back(key * 17);
  std::shuffle(keys.begin(), keys.end(), random);
  for (const uint64_t key : keys) {
    PBFS_EXPECT_OK(Insert(key, MakeValue(key, 960)));
    model[key] = MakeValue(key, 960);
  }
  EXPECT_GE(root_.level, 2);
  Compare(model);
  std::shuffle(keys.begin(), keys.end(), random);
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto erased = Erase(keys[i]);
    ASSERT_TRUE(erased.ok() && *erased);
    model.erase(keys[i]);
    if (i % 500 == 0) Compare(model);
  }
  Compare(model);
  EXPECT_TRUE(space_.live().empty());
}

TEST_F(TreeTest, ErasingFromEitherEndFreesEverything) {
  for (const bool ascending : {true, false}) {
    Model model;
    for (uint64_t key = 1; key <= 2000; ++key) {
      PBFS_EXPECT_OK(Insert(key, MakeValue(key, 500)));
      model[key] = MakeValue(key, 500);
    }
    Compare(model);
    for (uint64_t i = 1; i <= 2000; ++i) {
      const uint64_t key = ascending ? i : 2001 - i;
      ASSERT_TRUE(Erase(key).value());
      model.erase(key);
      if (i % 400 == 0) Compare(model);
    }
    EXPECT_TRUE(space_.live().empty());
  }
}

// The first children of the nodes go, so that those that follow hold keys below their own, and
// split among these.
TEST_F(TreeTest, KeysBelowTheFirstSeparatorAreOrdinary) {
  Model model;
  for (uint64_t key = 100000; key < 104000; ++key) {
    PBFS_EXPECT_OK(Insert(key, MakeValue(key, 960)));
    model[key] = MakeValue(key, 960);
  }
  ASSERT_EQ(root_.level, 2);
  for (uint64_t key = 100000; key < 103000; ++key) {
    ASSERT_TRUE(Erase(key).value());
    model.erase(key);
  }
  for (uint64_t key = 95000; key > 92000; --key) {
    PBFS_EXPECT_OK(Insert(key, MakeValue(key, 960)));
    model[key] = MakeValue(key, 960);
    if (key % 200 == 0) Compare(model);
  }
  Compare(model);
}

TEST_F(TreeTest, EraseKeepsNeighboursJoined) {
  Model model;
  for (uint64_t key = 0; key < 10000; ++key) {
    PBFS_EXPECT_OK(Insert(key, MakeValue(key, 100)));
    model[key] = MakeValue(key, 100);
  }
  // Nine of ten go: the leaves must not stay as they were.
  for (uint64_t key = 0; key < 10000; ++key) {
    if (key % 10 == 0) continue;
    ASSERT_TRUE(Erase(key).value());
    model.erase(key);
  }
  Compare(model);
  EXPECT_GT(shape_.leaf_bytes, shape_.leaves * kTreeLeafSpace / 3);
}

TEST_F(TreeTest, ExtremeKeysAreOrdinary) {
  Model model;
  for (const uint64_t key : {uint64_t{0}, uint64_t{1}, UINT64_MAX - 1, UINT64_MAX}) {
    PBFS_EXPECT_OK(Insert(key, MakeValue(key, 960)));
    model[key] = MakeValue(key, 960);
  }
  for (uint64_t key = 2; key < 60; ++key) {
    PBFS_EXPECT_OK(Insert(UINT64_MAX - key, MakeValue(key, 960)));
    PBFS_EXPECT_OK(Insert(key, MakeValue(key, 960)));
    model[UINT64_MAX - key] = model[key] = MakeValue(key, 960);
  }
  for (const auto& [key, value] : model) CompareLookups(model, key);
  EXPECT_EQ(Erase(UINT64_MAX).value(), true);
  EXPECT_EQ(Erase(UINT64_MAX).value(), false);
}

TEST_F(TreeTest, ScanStopsWhenTold) {
  for (uint64_t key = 0; key < 1000; ++key) PBFS_EXPECT_OK(Insert(key, MakeValue(key, 50)));
  uint64_t visited = 0;
  PBFS_EXPECT_OK(Reading().Scan(500, [&](uint64_t key, std::span<const uint8_t>) {
    EXPECT_EQ(key, 500 + visited);
    return ++visited < 300;
  }));
  EXPECT_EQ(visited, 300u);
}

TEST_F(TreeTest, OneChangeStaysWithinItsBound) {
  std::mt19937_64 random(9);
  for (int i = 0; i < 3000; ++i) {
    const TreeRoot before = root_;
    size_t touched = 0;
    PBFS_EXPECT_OK(Change([&](Transaction& transaction, Tree& tree) -> Status {
      tree.CountTouched();
      const uint64_t key = random() % 1500;
      Status status = i < 2000 || random() % 4 == 0
                          ? tree.Put(transaction, key, MakeValue(key, random() % 961))
                          : tree.Erase(transaction, key).status();
      touched = tree.touched_nodes();
      return status;
    }));
    EXPECT_LE(touched, TreeChangeBlocks(before));
  }
}

TEST_F(TreeTest, DestroySomeFreesInSteps) {
  for (uint64_t key = 0; key < 3000; ++key) PBFS_EXPECT_OK(Insert(key, MakeValue(key, 960)));
  const size_t nodes = space_.live().size();
  EXPECT_GE(root_.level, 2);
  size_t steps = 0;
  for (bool gone = false; !gone; ++steps) {
    const size_t before = space_.live().size();
    PBFS_EXPECT_OK(Change([&](Transaction& transaction, Tree& tree) -> Status {
      PBFS_ASSIGN_OR_RETURN(gone, tree.DestroySome(transaction, 20));
      return OkStatus();
    }));
    ASSERT_LT(space_.live().size(), before);
    EXPECT_LE(before - space_.live().size(), 20u);
    TreeShape shape;
    CheckTree(kOwner, root_, shape, /*root_may_be_thin=*/true);
    EXPECT_TRUE(shape.blocks == space_.live());
  }
  EXPECT_GE(steps, nodes / 20);
  EXPECT_TRUE(space_.live().empty());
  EXPECT_EQ(root_, TreeRoot{});
  EXPECT_EQ(nodes_, 0);
}

TEST_F(TreeTest, RunningOutOfSpaceAnywhereLeavesTheOldTree) {
  Model model;
  // Full leaves under a full inner node: one more record splits all of them.
  for (uint64_t key = 0; key < uint64_t{4} * kTreeChildrenMax; ++key) {
    PBFS_EXPECT_OK(Insert(key * 2, MakeValue(key, 960)));
    model[key * 2] = MakeValue(key, 960);
  }
  ASSERT_EQ(root_.level, 1);
  for (const uint64_t allocations : {0, 1, 2}) {
    space_.LimitAllocations(allocations);
    EXPECT_EQ(ErrnoOf(Insert(5, MakeValue(5, 960))), ENOSPC);
    Compare(model);
  }
  space_.LimitAllocations(3);
  PBFS_EXPECT_OK(Insert(5, MakeValue(5, 960)));
  model[5] = MakeValue(5, 960);
  EXPECT_EQ(root_.level, 2);
  Compare(model);
}

// ---- Damaged trees ------------------------------------------------------------------------------

class DamagedTreeTest : public TreeTest {
 protected:
  void SetUp() override {
    for (uint64_t key = 10; key < 2010; ++key) PBFS_EXPECT_OK(Insert(key, MakeValue(key, 400)));
    ASSERT_EQ(root_.level, 1);
    Remount();
  }
  BlockNumber Child(uint32_t index) {
    auto root = reader_.Read(root_.block, kMagicTree, kOwner);
    PBFS_CHECK(root.ok());
    return NodeChildren(root->data())[index].block;
  }
  // Whatever is done with it: an error, no crash, no endless loop.
  void ExpectCorrupt() {
    const auto scan = [](const Tree& tree) {
      return tree.Scan(0, [](uint64_t, std::span<const uint8_t>) { return true; });
    };
    EXPECT_TRUE(IsCorruption(scan(Reading()))) << scan(Reading()).ToString();
    EXPECT_TRUE(IsCorruption(
        Reading().VisitNodes([](BlockNumber, const TreeNodeHeader&) { return OkStatus(); })));
    Status change;
    for (uint64_t key = 10; key < 2010 && change.ok(); key += 5) {
      change = Put(key, MakeValue(key, 900));
    }
    EXPECT_TRUE(IsCorruption(change)) << change.ToString();
    change = OkStatus();
    for (uint64_t key = 10; key < 2010 && change.ok(); ++key) change = Erase(key).status();
    EXPECT_TRUE(IsCorruption(change)) << change.ToString();
  }
};

TEST_F(DamagedTreeTest, ChildOfWrongLevelIsFound) {
  Damage(root_.block, [](std::byte* data) { reinterpret_cast<TreeNodeHeader*>(data)->level = 2; });
  root_.level = 2;
  ExpectCorrupt();
}

TEST_F(DamagedTreeTest, RootLevelThatIsNotTheNodesIsFound) {
  root_.level = 0;
  ExpectCorrupt();
  root_.level = kTreeLevelMax + 1;
  ExpectCorrupt();
}

TEST_F(DamagedTreeTest, CycleIsFound) {
  // The root's fourth child is an inner node that leads back to the root.
  const BlockNumber root = root_.block;
  Damage(Child(3), [root](std::byte* data) {
    const uint64_t key = NodeKey(data, 0);
    std::memset(data + sizeof(BlockHeader), 0, kBlockBytes - sizeof(BlockHeader));
    InitTreeNode(data, 1);
    InsertChild(data, 0, {key, root});
  });
  ExpectCorrupt();
}

TEST_F(DamagedTreeTest, NodeInTwoPlacesIsFound) {
  Damage(root_.block,
         [](std::byte* data) { NodeChildren(data)[3].block = NodeChildren(data)[7].block; });
  ExpectCorrupt();
}

TEST_F(DamagedTreeTest, KeysOutsideTheParentsRangeAreFound) {
  Damage(Child(5), [](std::byte* data) {
    TreeSlot slot;
    std::memcpy(&slot, data + sizeof(TreeNodeHeader), sizeof slot);
    slot.key = 1;
    std::memcpy(data + sizeof(TreeNodeHeader), &slot, sizeof slot);
  });
  ExpectCorrupt();
}

TEST_F(DamagedTreeTest, ForeignOwnerIsFound) {
  Damage(Child(2),
         [](std::byte* data) { reinterpret_cast<BlockHeader*>(data)->owner = kOwner + 8; });
  ExpectCorrupt();
}

TEST_F(DamagedTreeTest, ChildPastTheDeviceIsFound) {
  const BlockNumber past = superblock_.total_blocks;
  Damage(root_.block, [past](std::byte* data) { NodeChildren(data)[4].block = past; });
  ExpectCorrupt();
}

TEST_F(DamagedTreeTest, ChildThatIsNoTreeNodeIsFound) {
  const BlockNumber state = superblock_.state_block;
  Damage(root_.block, [state](std::byte* data) { NodeChildren(data)[4].block = state; });
  ExpectCorrupt();
}

TEST_F(DamagedTreeTest, RootPastTheDeviceIsFound) {
  root_.block = UINT64_MAX;
  ExpectCorrupt();
  root_.block = superblock_.total_blocks;
  ExpectCorrupt();
}

TEST_F(DamagedTreeTest, NodeMarkedFreeIsNotHandedOutAgain) {
  space_.ForceNext(root_.block);
  Status status;
  for (uint64_t key = 5000; status.ok(); ++key) {
    ASSERT_LT(key, 5100u);
    status = Insert(key, MakeValue(key, 900));
  }
  EXPECT_TRUE(IsCorruption(status)) << status.ToString();
}

// Whatever the bytes of a node are: errors or wrong answers, but no crash and no endless loop.
TEST_F(DamagedTreeTest, RandomDamageIsSurvived) {
  space_.TolerateDamage();
  std::mt19937_64 random(31);
  const std::vector<BlockNumber> blocks(space_.live().begin(), space_.live().end());
  for (int round = 0; round < 150; ++round) {
    const BlockNumber block = random() % 3 == 0 ? root_.block : blocks[random() % blocks.size()];
    alignas(kBlockBytes) std::byte saved[kBlockBytes];
    ASSERT_EQ(ReadSync(device_, block * kBlockBytes, saved, kBlockBytes), 0);
    Damage(block, [&](std::byte* data) {
      Mutilate(random, reinterpret_cast<uint8_t*>(data) + sizeof(BlockHeader),
               kBlockBytes - sizeof(BlockHeader));
    });
    const Tree reading = Reading();
    (void)reading.Scan(0, [](uint64_t, std::span<const uint8_t>) { return true; });
    (void)reading.FindLast(random() % 2100);
    std::unique_ptr<Transaction> transaction = Begin();
    TreeRoot root = root_;
    Tree tree(reader_, space_, kOwner, root);
    for (int i = 0; i < 12; ++i) {
      const uint64_t key = random() % 2100;
      (void)tree.Put(*transaction, key, MakeValue(key, random() % 961));
      (void)tree.Erase(*transaction, random() % 2100);
    }
    (void)tree.DestroySome(*transaction, 20);
    transaction.reset();
    Damage(block, [&](std::byte* data) { std::memcpy(data, saved, kBlockBytes); });
  }
}

TEST_F(TreeTest, HeightIsLimited) {
  // A chain of nodes with one child each, as high as allowed, under a full root: hostile, but
  // legal. Splitting the root would need one more level.
  std::vector<BlockNumber> chain;
  PBFS_EXPECT_OK(Commit([&](Transaction& transaction) -> Status {
    for (uint8_t level = 0; level <= kTreeLevelMax; ++level) {
      PBFS_ASSIGN_OR_RETURN(const BlockNumber block, space_.AllocateNode(transaction, 0));
      const BlockRef node = transaction.Create(block, kMagicTree, kOwner);
      InitTreeNode(node.data(), level);
      if (level == 0) {
        for (uint64_t i = 0; i < 4; ++i) {
          LeafInsert(node.data(), static_cast<uint32_t>(i), i * 10, MakeValue(i, 960));
        }
      } else {
        InsertChild(node.data(), 0, {0, chain.back()});
        // Never looked at: nothing in this test has such a key.
        for (uint32_t i = 1; i < kTreeChildrenMax; ++i) {
          InsertChild(node.data(), i, {(uint64_t{level} << 40) + i, 9});
        }
      }
      chain.push_back(block);
    }
    return OkStatus();
  }));
  root_.block = chain.back();
  root_.level = kTreeLevelMax;
  EXPECT_EQ(ErrnoOf(Insert(15, MakeValue(1, 960))), EFBIG);
  EXPECT_EQ(root_.block, chain.back());
}

}  // namespace
}  // namespace pbfs
