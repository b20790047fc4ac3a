// SPDX-License-Identifier: Apache-2.0
#include "fs/xattr.h"

#include <sys/stat.h>
#include <sys/xattr.h>

#include <map>
#include <random>

#include "tests/support/meta_fixture.h"

namespace pbfs {
namespace {

constexpr InodeNumber kInode = 800;
using Attributes = std::map<std::string, std::string>;

std::string MakeValue(uint64_t seed, size_t length) {
  std::string value(length, '\0');
  for (size_t i = 0; i < length; ++i) value[i] = static_cast<char>(seed + i * 13 + i / 251);
  return value;
}

class ConstantHash : public NameHash {
 public:
  using NameHash::NameHash;
  uint64_t Hash(std::string_view) const override { return 0x1234567 << kHashCollisionBits; }
};

class XattrTest : public MetaFixture {
 protected:
  XattrTest() : sip_hash_(superblock_), constant_hash_(superblock_) {
    inode_.ino = kInode;
    inode_.mode = S_IFREG | 0644;
    inode_.nlink = 1;
  }
  Status Change(const std::function<Status(Transaction&, Xattrs&)>& change) {
    DiskInode copy = inode_;
    Xattrs xattrs(reader_, space_, *hash_, copy);
    PBFS_RETURN_IF_ERROR(
        Commit([&](Transaction& transaction) { return change(transaction, xattrs); }));
    inode_ = copy;
    return OkStatus();
  }
  Status Set(const std::string& name, const std::string& value, int flags = 0) {
    return Change([&](Transaction& transaction, Xattrs& xattrs) {
      return xattrs.Set(transaction, name, value, flags);
    });
  }
  Status Remove(const std::string& name) {
    return Change(
        [&](Transaction& transaction, Xattrs& xattrs) { return xattrs.Remove(transaction, name); });
  }
  StatusOr<std::string> Get(const std::string& name) {
    return Xattrs(reader_, space_, *hash_, inode_).Get(name);
  }
  ForkFormat format() const { return FormatOf(inode_, Fork::kAttributes); }

  void Compare(const Attributes& attributes) {
    const auto names = Xattrs(reader_, space_, *hash_, inode_).List();
    ASSERT_TRUE(names.ok()) << names.status().ToString();
    EXPECT_EQ(std::set<std::string>(names->begin(), names->end()).size(), names->size());
    EXPECT_EQ(names->size(), attributes.size());
    for (const auto& [name, value] : attributes) {
      const auto got = Get(name);
      ASSERT_TRUE(got.ok()) << name << ": " << got.status().ToString();
      EXPECT_TRUE(*got == value) << name;
    }
    EXPECT_EQ(ErrnoOf(Get("user.absent").status()), ENODATA);
    PBFS_EXPECT_OK(VerifyInode(inode_, kInode, superblock_));
    TreeShape shape;
    CheckTree(kInode, GetTreeRoot(inode_, Fork::kAttributes), shape);
    EXPECT_TRUE(shape.blocks == space_.live());
    EXPECT_EQ(inode_.blocks, shape.blocks.size());
    EXPECT_EQ(attributes.empty(), format() == ForkFormat::kNone);
  }

  const NameHash sip_hash_;
  const ConstantHash constant_hash_;
  const NameHash* hash_ = &sip_hash_;
  DiskInode inode_ = {};
};

TEST_F(XattrTest, SmallAttributesAreInline) {
  Attributes model;
  Compare(model);
  for (const char* name : {"user.a", "security.capability", "system.posix_acl_access"}) {
    model[name] = MakeValue(1, 20);
    PBFS_EXPECT_OK(Set(name, model[name]));
    Compare(model);
  }
  EXPECT_EQ(format(), ForkFormat::kInline);
  model["user.a"] = "";
  PBFS_EXPECT_OK(Set("user.a", ""));
  Compare(model);
  for (const char* name : {"security.capability", "user.a", "system.posix_acl_access"}) {
    model.erase(name);
    PBFS_EXPECT_OK(Remove(name));
    Compare(model);
  }
  EXPECT_TRUE(space_.live().empty());
}

TEST_F(XattrTest, FlagsSayWhatMustExist) {
  for (const size_t length : {10, 5000}) {
    EXPECT_EQ(ErrnoOf(Set("user.x", MakeValue(0, length), XATTR_REPLACE)), ENODATA);
    EXPECT_EQ(ErrnoOf(Remove("user.x")), ENODATA);
    PBFS_EXPECT_OK(Set("user.x", MakeValue(1, length), XATTR_CREATE));
    EXPECT_EQ(ErrnoOf(Set("user.x", MakeValue(2, length), XATTR_CREATE)), EEXIST);
    EXPECT_EQ(Get("user.x").value(), MakeValue(1, length));
    PBFS_EXPECT_OK(Set("user.x", MakeValue(3, length), XATTR_REPLACE));
    EXPECT_EQ(Get("user.x").value(), MakeValue(3, length));
    PBFS_EXPECT_OK(Remove("user.x"));
    Compare({});
  }
}

TEST_F(XattrTest, ImpossibleNamesAndValuesAreRefused) {
  EXPECT_EQ(ErrnoOf(Set("", "v")), ERANGE);
  EXPECT_EQ(ErrnoOf(Set(std::string(256, 'n'), "v")), ERANGE);
  EXPECT_EQ(ErrnoOf(Set(std::string("user.\0x", 7), "v")), EINVAL);
  EXPECT_EQ(ErrnoOf(Set("user.x", std::string(65537, 'v'))), E2BIG);
  EXPECT_EQ(ErrnoOf(Get("").status()), ERANGE);
  EXPECT_EQ(ErrnoOf(Remove(std::string(256, 'n'))), ERANGE);
  Compare({});
}

TEST_F(XattrTest, ValuesOfAllLengthsComeBack) {
  const std::string name(kNameBytesMax, 'n');
  // Around the ends of the inline room, of one piece and of several, and the longest.
  for (const size_t length : {0, 1, 699, 700, 701, 1659, 1660, 1661, 30000, 65535, 65536}) {
    PBFS_EXPECT_OK(Set(name, MakeValue(length, length)));
    Compare({{name, MakeValue(length, length)}});
    Remount();
    Compare({{name, MakeValue(length, length)}});
    PBFS_EXPECT_OK(Set("user.other", "x"));
    Compare({{name, MakeValue(length, length)}, {"user.other", "x"}});
    PBFS_EXPECT_OK(Remove("user.other"));
    PBFS_EXPECT_OK(Remove(name));
    Compare({});
    EXPECT_TRUE(space_.live().empty());
  }
}

TEST_F(XattrTest, ReplacingFreesOldPieces) {
  Attributes model = {{"user.small", "s"}};
  PBFS_EXPECT_OK(Set("user.small", "s"));
  for (const size_t length : {65536, 100, 65536, 2000, 1999, 2001, 0, 50000, 3}) {
    model["user.big"] = MakeValue(length, length);
    PBFS_EXPECT_OK(Set("user.big", model["user.big"]));
    Compare(model);
  }
  EXPECT_EQ(format(), ForkFormat::kInline);
  EXPECT_TRUE(space_.live().empty());
}

TEST_F(XattrTest, KeepsOffTheDataFork) {
  const std::vector<uint8_t> extents(240, 7);
  SetInline(inode_, Fork::kData, extents);
  inode_.mode = S_IFLNK | 0777;  // Whose content may be anything.
  inode_.size_bytes = 240;
  Attributes model;
  for (int i = 0; i < 20; ++i) {
    const std::string name = absl::StrCat("user.", i);
    model[name] = MakeValue(1, 30);
    PBFS_EXPECT_OK(Set(name, model[name]));
    Compare(model);
    EXPECT_TRUE(std::ranges::equal(ForkBytes(inode_, Fork::kData), extents));
  }
  for (int i = 0; i < 20; ++i) {
    PBFS_EXPECT_OK(Remove(absl::StrCat("user.", i)));
    model.erase(absl::StrCat("user.", i));
    Compare(model);
    EXPECT_TRUE(std::ranges::equal(ForkBytes(inode_, Fork::kData), extents));
  }
}

TEST_F(XattrTest, CollidingNamesLiveTogether) {
  hash_ = &constant_hash_;
  Attributes model;
  for (uint32_t i = 0; i < kNameCollisionsMax; ++i) {
    const std::string name = absl::StrCat("user.", i);
    model[name] = MakeValue(i, i % 10 == 0 ? 4000 : 20);
    PBFS_EXPECT_OK(Set(name, model[name]));
  }
  Compare(model);
  EXPECT_EQ(ErrnoOf(Set("user.one-more", "x")), ENOSPC);
  for (uint32_t i = 0; i < kNameCollisionsMax; i += 4) {
    PBFS_EXPECT_OK(Remove(absl::StrCat("user.", i)));
    model.erase(absl::StrCat("user.", i));
  }
  Compare(model);
  model["user.one-more"] = MakeValue(5, 10000);
  PBFS_EXPECT_OK(Set("user.one-more", model["user.one-more"]));
  Compare(model);
}

TEST_F(XattrTest, BehavesAsAMapAndAbortsLeaveNoTrace) {
  std::mt19937_64 random(17);
  Attributes model;
  for (int i = 0; i < 1500; ++i) {
    const std::string name = absl::StrCat("user.", random() % (i % 600 < 300 ? 4 : 40));
    const size_t length = std::vector<size_t>{
        random() % 40, random() % 400, random() % 3000,
        random() % (kXattrValueBytesMax + 1)}[random() % (i % 300 < 150 ? 2 : 4)];
    const std::string value = MakeValue(random(), length);
    if (random() % 8 == 0) {
      DiskInode copy = inode_;
      std::unique_ptr<Transaction> transaction = Begin();
      PBFS_EXPECT_OK(Xattrs(reader_, space_, *hash_, copy).Set(*transaction, name, value, 0));
    } else if (random() % 5 < 2) {
      EXPECT_EQ(ErrnoOf(Remove(name)), model.count(name) != 0 ? 0 : ENODATA);
      model.erase(name);
    } else {
      PBFS_EXPECT_OK(Set(name, value));
      model[name] = value;
    }
    if (i % 25 == 0) Compare(model);
    if (HasFailure()) FAIL() << "step " << i;
  }
  Compare(model);
}

// Replaces, removes and grows the largest values among many small ones, the worst for the number of
// nodes in one transaction: a change that came near kXattrChangeBlocksMax would get ENOSPC.
TEST_F(XattrTest, LargestChangesKeepToTheReservation) {
  std::mt19937_64 random(23);
  for (int i = 0; i < 300; ++i) {
    PBFS_EXPECT_OK(Set(absl::StrCat("user.small", i), MakeValue(1, random() % 900)));
  }
  for (int i = 0; i < 60; ++i) {
    const std::string name = absl::StrCat("user.big", random() % 8);
    const size_t length = random() % 3 == 0 ? random() % 65536 : 65536 - random() % 3;
    PBFS_EXPECT_OK(Set(name, MakeValue(1, length)));
    if (i % 7 == 6) {
      PBFS_EXPECT_OK(Remove(name));
    }
  }
  for (int i = 0; i < 300; i += 2) PBFS_EXPECT_OK(Remove(absl::StrCat("user.small", i)));
}

// ---- Damage -------------------------------------------------------------------------------------

class DamagedXattrTest : public XattrTest {
 protected:
  void SetUp() override {
    PBFS_EXPECT_OK(Set("user.big", MakeValue(1, 3000)));
    ASSERT_EQ(format(), ForkFormat::kTree);
    PBFS_EXPECT_OK(MakeTree().Scan(0, [&](uint64_t key, std::span<const uint8_t> value) {
      keys_.push_back(key);
      values_.emplace_back(value.begin(), value.end());
      return true;
    }));
    ASSERT_EQ(keys_.size(), 4u);
  }
  Tree MakeTree() {
    root_ = GetTreeRoot(inode_, Fork::kAttributes);
    return Tree(reader_, space_, kInode, root_);
  }
  void PutPiece(size_t index, const std::vector<uint8_t>& value) {
    Tree tree = MakeTree();
    PBFS_EXPECT_OK(Commit(
        [&](Transaction& transaction) { return tree.Put(transaction, keys_[index], value); }));
    SetTreeRoot(inode_, Fork::kAttributes, root_);
  }
  void ErasePiece(size_t index) {
    Tree tree = MakeTree();
    PBFS_EXPECT_OK(Commit(
        [&](Transaction& transaction) { return tree.Erase(transaction, keys_[index]).status(); }));
    SetTreeRoot(inode_, Fork::kAttributes, root_);
  }

  TreeRoot root_ = {};
  std::vector<uint64_t> keys_;
  std::vector<std::vector<uint8_t>> values_;
};

TEST_F(DamagedXattrTest, MissingPieceIsFound) {
  ErasePiece(2);
  EXPECT_TRUE(IsCorruption(Get("user.big").status()));
  EXPECT_TRUE(IsCorruption(Remove("user.big")));
  EXPECT_TRUE(IsCorruption(Set("user.big", "short")));
}

TEST_F(DamagedXattrTest, MissingFirstPieceIsFound) {
  ErasePiece(0);
  EXPECT_TRUE(IsCorruption(Get("user.big").status()));
  EXPECT_TRUE(IsCorruption(Xattrs(reader_, space_, *hash_, inode_).List().status()));
  EXPECT_TRUE(IsCorruption(Remove("user.big")));
}

TEST_F(DamagedXattrTest, PieceOfWrongLengthIsFound) {
  values_[1].pop_back();
  PutPiece(1, values_[1]);
  EXPECT_TRUE(IsCorruption(Get("user.big").status()));
}

TEST_F(DamagedXattrTest, BadHeadsAreFound) {
  const auto expect_corrupt = [&](const std::vector<uint8_t>& value) {
    PutPiece(0, value);
    EXPECT_TRUE(IsCorruption(Get("user.big").status()));
    EXPECT_TRUE(IsCorruption(Xattrs(reader_, space_, *hash_, inode_).List().status()));
  };
  expect_corrupt({1, 0, 0});                     // Shorter than the head.
  expect_corrupt({1, 0, 0, 0, 200, 'a', 'b'});   // Name longer than the piece.
  expect_corrupt({0, 0, 0, 0, 0});               // No name.
  expect_corrupt({1, 0, 1, 0, 1, 'a', 'b'});     // Value longer than the limit.
  expect_corrupt({1, 0, 0, 0, 2, 'a', 0, 'b'});  // NUL in the name.
}

// An inode that its verifier accepts does no harm, whatever it holds.
TEST_F(XattrTest, MutilatedInlineContentIsSurvived) {
  space_.TolerateDamage();
  std::mt19937_64 random(41);
  for (int i = 0; i < 8; ++i) PBFS_EXPECT_OK(Set(absl::StrCat("user.", i), MakeValue(1, 10)));
  int accepted = 0;
  for (int round = 0; round < 3000; ++round) {
    DiskInode copy = inode_;
    uint8_t* const area = copy.inline_area + kInlineBytes - copy.attr_bytes;
    Mutilate(random, area, copy.attr_bytes);
    if (random() % 4 == 0) {
      copy.attr_format = static_cast<uint8_t>(random() % 3);
      copy.attr_bytes = static_cast<uint16_t>(random() % 2 == 0 ? 16 : random() % 440);
    }
    if (!VerifyInode(copy, kInode, superblock_).ok()) continue;
    ++accepted;
    std::unique_ptr<Transaction> transaction = Begin();
    Xattrs xattrs(reader_, space_, *hash_, copy);
    (void)xattrs.List();
    (void)xattrs.Get("user.3");
    (void)xattrs.Set(*transaction, "user.4", MakeValue(1, 40), 0);
    (void)xattrs.Set(*transaction, "user.5", MakeValue(1, 3000), 0);
    for (int i = 0; i < 8; ++i) (void)xattrs.Remove(*transaction, absl::StrCat("user.", i));
  }
  EXPECT_GT(accepted, 100);
}

}  // namespace
}  // namespace pbfs
