// SPDX-License-Identifier: Apache-2.0
#include "fs/directory.h"

#include <dirent.h>
#include <sys/stat.h>

#include <map>
#include <random>

#include "tests/support/meta_fixture.h"

namespace pbfs {
namespace {

constexpr InodeNumber kDirectory = 800;

// The number after the last '#' is the hash; other names are hashed as usual.
class ChosenHash : public NameHash {
 public:
  using NameHash::NameHash;
  uint64_t Hash(std::string_view name) const override {
    const size_t mark = name.rfind('#');
    if (mark == std::string_view::npos) return NameHash::Hash(name);
    return std::stoull(std::string(name.substr(mark + 1)));
  }
};

struct Entry {
  InodeNumber ino;
  uint8_t type;
  friend bool operator==(const Entry&, const Entry&) = default;
};
using Names = std::map<std::string, Entry>;

class DirectoryTest : public MetaFixture {
 protected:
  DirectoryTest() : hash_(superblock_) {
    inode_.ino = kDirectory;
    inode_.mode = S_IFDIR | 0755;
    inode_.nlink = 2;
    inode_.parent = superblock_.root_inode;
  }
  // As an operation of the filesystem does it: on a copy that counts only after the commit.
  Status Change(const std::function<Status(Transaction&, Directory&)>& change) {
    DiskInode copy = inode_;
    Directory directory(reader_, space_, hash_, copy);
    PBFS_RETURN_IF_ERROR(
        Commit([&](Transaction& transaction) { return change(transaction, directory); }));
    inode_ = copy;
    return OkStatus();
  }
  Status Insert(const std::string& name, InodeNumber ino, uint8_t type = DT_REG) {
    return Change([&](Transaction& transaction, Directory& directory) {
      return directory.Insert(transaction, name, ino, type);
    });
  }
  Status Replace(const std::string& name, InodeNumber ino, uint8_t type = DT_REG) {
    return Change([&](Transaction& transaction, Directory& directory) {
      return directory.Replace(transaction, name, ino, type);
    });
  }
  StatusOr<bool> Remove(const std::string& name) {
    bool removed = false;
    Status status = Change([&](Transaction& transaction, Directory& directory) -> Status {
      PBFS_ASSIGN_OR_RETURN(removed, directory.Remove(transaction, name));
      return OkStatus();
    });
    if (!status.ok()) return status;
    return removed;
  }
  std::optional<Directory::Found> Find(const std::string& name) {
    auto found = Directory(reader_, space_, hash_, inode_).Find(name);
    PBFS_EXPECT_OK(found.status());
    return found.ok() ? *found : std::nullopt;
  }
  Status Scan(uint64_t after, const Directory::Visitor& visit) {
    return Directory(reader_, space_, hash_, inode_).Scan(after, visit);
  }
  ForkFormat format() const { return FormatOf(inode_, Fork::kData); }

  void Compare(const Names& names) {
    Names found;
    uint64_t last_key = kCookieFirst - 1;
    PBFS_EXPECT_OK(Scan(0, [&](uint64_t key, InodeNumber ino, uint8_t type, std::string_view name) {
      EXPECT_GT(key, last_key);
      EXPECT_EQ(key >> 63, 0u);
      last_key = key;
      EXPECT_TRUE(found.emplace(std::string(name), Entry{ino, type}).second);
      return true;
    }));
    EXPECT_TRUE(found == names) << found.size() << " names, model has " << names.size();
    EXPECT_EQ(inode_.entries, names.size());
    PBFS_EXPECT_OK(VerifyInode(inode_, kDirectory, superblock_));
    TreeShape shape;
    CheckTree(kDirectory, GetTreeRoot(inode_, Fork::kData), shape);
    EXPECT_TRUE(shape.blocks == space_.live());
    EXPECT_EQ(inode_.blocks, shape.blocks.size());
  }
  static InodeNumber Ino(uint64_t i) {
    return MakeInodeNumber(1000 + i / 7, static_cast<uint32_t>(i % 7));
  }

  const ChosenHash hash_;
  DiskInode inode_ = {};
};

TEST_F(DirectoryTest, EmptyDirectoryHasNothing) {
  EXPECT_FALSE(Find("a").has_value());
  EXPECT_EQ(Remove("a").value(), false);
  EXPECT_EQ(ErrnoOf(Replace("a", Ino(1))), ENOENT);
  // mkfs leaves an empty inline fork.
  inode_.data_format = static_cast<uint8_t>(ForkFormat::kInline);
  Compare({});
}

TEST_F(DirectoryTest, NamesAreFoundReplacedAndRemoved) {
  PBFS_EXPECT_OK(Insert("one", Ino(1), DT_DIR));
  EXPECT_EQ(ErrnoOf(Insert("one", Ino(2))), EEXIST);
  const auto one = Find("one");
  ASSERT_TRUE(one.has_value());
  EXPECT_EQ(one->ino, Ino(1));
  EXPECT_EQ(one->type, DT_DIR);
  EXPECT_FALSE(Find("on").has_value());
  EXPECT_FALSE(Find("onee").has_value());
  PBFS_EXPECT_OK(Replace("one", Ino(3), DT_LNK));
  EXPECT_EQ(Find("one")->ino, Ino(3));
  EXPECT_EQ(Find("one")->key, one->key);
  EXPECT_EQ(Remove("one").value(), true);
  Compare({});
  EXPECT_EQ(format(), ForkFormat::kNone);
}

TEST_F(DirectoryTest, GoesFromInlineToTreeAndBackWithSameKeys) {
  Names names;
  std::map<std::string, uint64_t> keys;
  for (uint64_t i = 0; i < 60; ++i) {
    const std::string name = absl::StrCat("file-", i);
    PBFS_EXPECT_OK(Insert(name, Ino(i)));
    names[name] = {Ino(i), DT_REG};
    keys[name] = Find(name)->key;
    for (const auto& [known, key] : keys) EXPECT_EQ(Find(known)->key, key);
    EXPECT_EQ(format() == ForkFormat::kTree, i > 16) << i;
    Compare(names);
  }
  bool was_inline = false;
  for (uint64_t i = 0; i < 60; ++i) {
    const std::string name = absl::StrCat("file-", i);
    EXPECT_EQ(Remove(name).value(), true);
    names.erase(name);
    keys.erase(name);
    for (const auto& [known, key] : keys) EXPECT_EQ(Find(known)->key, key);
    was_inline |= format() == ForkFormat::kInline;
    Compare(names);
  }
  EXPECT_TRUE(was_inline);
  EXPECT_EQ(format(), ForkFormat::kNone);
}

TEST_F(DirectoryTest, LongestNamesFit) {
  Names names;
  for (uint64_t i = 0; i < 40; ++i) {
    const std::string name = absl::StrCat(i, std::string(253, 'x')).substr(0, kNameBytesMax);
    PBFS_EXPECT_OK(Insert(name, Ino(i)));
    names[name] = {Ino(i), DT_REG};
    Compare(names);
  }
}

TEST_F(DirectoryTest, LeavesRoomForAttributes) {
  inode_.attr_format = static_cast<uint8_t>(ForkFormat::kInline);
  inode_.attr_bytes = 256;
  for (uint64_t i = 0; i < 20; ++i) PBFS_EXPECT_OK(Insert(absl::StrCat("name", i), Ino(i)));
  EXPECT_EQ(format(), ForkFormat::kTree);
  EXPECT_EQ(inode_.attr_bytes, 256);
  EXPECT_LE(inode_.data_bytes + inode_.attr_bytes, int{kInlineBytes});
}

TEST_F(DirectoryTest, TwentyThousandNames) {
  std::mt19937_64 random(3);
  Names names;
  for (uint64_t i = 0; i < 20000; ++i) {
    const std::string name = absl::StrCat("some-name-", i);
    PBFS_EXPECT_OK(Insert(name, Ino(i)));
    names[name] = {Ino(i), DT_REG};
  }
  Compare(names);
  Remount();
  Compare(names);
  for (uint64_t i = 0; i < 20000; ++i) {
    const auto found = Find(absl::StrCat("some-name-", i));
    ASSERT_TRUE(found && found->ino == Ino(i));
  }
  std::vector<std::string> order;
  for (const auto& [name, entry] : names) order.push_back(name);
  std::shuffle(order.begin(), order.end(), random);
  for (size_t i = 0; i < order.size(); ++i) {
    ASSERT_TRUE(Remove(order[i]).value());
    names.erase(order[i]);
    if (i % 4000 == 0) Compare(names);
  }
  Compare(names);
  EXPECT_EQ(format(), ForkFormat::kNone);
  EXPECT_EQ(inode_.blocks, 0u);
}

TEST_F(DirectoryTest, BehavesAsAMapAndAbortsLeaveNoTrace) {
  std::mt19937_64 random(11);
  Names names;
  for (int i = 0; i < 6000; ++i) {
    // The number of names in use wanders over the border between inline and tree.
    const uint64_t space = i / 1000 % 2 == 0 ? 12 : 300;
    const std::string name = absl::StrCat("n", random() % space, std::string(random() % 5, 'y'));
    const InodeNumber ino = Ino(random() % 100);
    const bool present = names.count(name) != 0;
    switch (random() % 8) {
      case 0: {
        DiskInode copy = inode_;
        std::unique_ptr<Transaction> transaction = Begin();
        Directory directory(reader_, space_, hash_, copy);
        for (int k = 0; k < 3; ++k) {
          (void)directory.Insert(*transaction, absl::StrCat(name, k), ino, DT_REG);
        }
        PBFS_EXPECT_OK(directory.Remove(*transaction, name).status());
        break;  // Not committed.
      }
      case 1:
        EXPECT_EQ(ErrnoOf(Replace(name, ino)), present ? 0 : ENOENT);
        if (present) names[name] = {ino, DT_REG};
        break;
      case 2:
      case 3:
      case 4:
        EXPECT_EQ(Remove(name).value(), present);
        names.erase(name);
        break;
      default:
        EXPECT_EQ(ErrnoOf(Insert(name, ino)), present ? EEXIST : 0);
        names.emplace(name, Entry{ino, DT_REG});
    }
    EXPECT_EQ(Find(name).has_value(), names.count(name) != 0);
    if (i % 100 == 0) Compare(names);
    if (HasFailure()) FAIL() << "step " << i;
  }
  Compare(names);
}

// ---- Readdir ------------------------------------------------------------------------------------

TEST_F(DirectoryTest, EntriesThatStayAreSeenOnceWhateverElseHappens) {
  for (const uint64_t stable_count : {5, 500}) {
    std::mt19937_64 random(stable_count);
    for (uint64_t i = 0; i < stable_count; ++i) {
      PBFS_EXPECT_OK(Insert(absl::StrCat("stable", i), Ino(i)));
    }
    for (int round = 0; round < 5; ++round) {
      std::map<std::string, int> seen;
      std::vector<std::string> extra;
      uint64_t cookie = 0;
      for (bool more = true; more;) {
        more = false;
        uint64_t taken = 0;
        PBFS_EXPECT_OK(Scan(cookie, [&](uint64_t key, InodeNumber, uint8_t, std::string_view name) {
          if (taken++ == 7) return !(more = true);
          cookie = key;
          ++seen[std::string(name)];
          return true;
        }));
        // Between two calls others come and go, over the border of inline and tree too.
        for (int i = 0; i < 12; ++i) {
          if (extra.size() < 60 && random() % 5 < 3) {
            extra.push_back(absl::StrCat("extra", random()));
            PBFS_EXPECT_OK(Insert(extra.back(), Ino(1)));
          } else if (!extra.empty()) {
            const size_t victim = random() % extra.size();
            EXPECT_TRUE(Remove(extra[victim]).value());
            extra.erase(extra.begin() + static_cast<ptrdiff_t>(victim));
          }
        }
      }
      for (uint64_t i = 0; i < stable_count; ++i) {
        EXPECT_EQ(seen[absl::StrCat("stable", i)], 1);
      }
      for (const auto& [name, count] : seen) EXPECT_EQ(count, 1) << name;
      for (const std::string& name : extra) EXPECT_TRUE(Remove(name).value());
    }
    for (uint64_t i = 0; i < stable_count; ++i) {
      EXPECT_TRUE(Remove(absl::StrCat("stable", i)).value());
    }
  }
}

TEST_F(DirectoryTest, ScanAfterTheLastKeySeesNothing) {
  for (uint64_t i = 0; i < 100; ++i) PBFS_EXPECT_OK(Insert(absl::StrCat(i), Ino(i)));
  uint64_t last = 0;
  PBFS_EXPECT_OK(Scan(0, [&](uint64_t key, InodeNumber, uint8_t, std::string_view) {
    last = key;
    return true;
  }));
  const auto none = [](uint64_t, InodeNumber, uint8_t, std::string_view) {
    ADD_FAILURE();
    return false;
  };
  PBFS_EXPECT_OK(Scan(last, none));
  PBFS_EXPECT_OK(Scan(UINT64_MAX, none));
}

// ---- Collisions ---------------------------------------------------------------------------------

TEST_F(DirectoryTest, CollidingNamesLiveTogether) {
  Names names;
  PBFS_EXPECT_OK(Insert("before#6", Ino(500)));
  PBFS_EXPECT_OK(Insert("after#8", Ino(501)));
  names["before#6"] = {Ino(500), DT_REG};
  names["after#8"] = {Ino(501), DT_REG};
  for (uint64_t i = 0; i < kNameCollisionsMax; ++i) {
    const std::string name = absl::StrCat(i, "#7");
    PBFS_EXPECT_OK(Insert(name, Ino(i)));
    names[name] = {Ino(i), DT_REG};
  }
  Compare(names);
  EXPECT_EQ(ErrnoOf(Insert("one-more#7", Ino(0))), ENOSPC);
  EXPECT_EQ(ErrnoOf(Insert("5#7", Ino(0))), EEXIST);
  // Removing some hides none of the others, and makes room.
  for (uint64_t i = 0; i < kNameCollisionsMax; i += 3) {
    EXPECT_TRUE(Remove(absl::StrCat(i, "#7")).value());
    names.erase(absl::StrCat(i, "#7"));
  }
  for (uint64_t i = 0; i < kNameCollisionsMax; ++i) {
    EXPECT_EQ(Find(absl::StrCat(i, "#7")).has_value(), i % 3 != 0) << i;
  }
  PBFS_EXPECT_OK(Insert("one-more#7", Ino(7)));
  names["one-more#7"] = {Ino(7), DT_REG};
  EXPECT_EQ(Find("one-more#7")->key >> kHashCollisionBits, 7u);
  Compare(names);
}

TEST_F(DirectoryTest, ExtremeHashesMakeLegalCookies) {
  const uint64_t largest = (uint64_t{1} << kNameHashBits) - 1;
  Names names;
  for (const uint64_t hash : {uint64_t{1}, largest}) {
    for (int i = 0; i < 20; ++i) {
      const std::string name = absl::StrCat(i, "#", hash);
      PBFS_EXPECT_OK(Insert(name, Ino(1)));
      names[name] = {Ino(1), DT_REG};
    }
  }
  Compare(names);
}

TEST(NameHashTest, IsSipHash24) {
  // The reference vectors of the SipHash paper: key 00..0f, text 00, 00 01, ...
  const uint64_t key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
  std::string text;
  for (int i = 0; i < 15; ++i) text.push_back(static_cast<char>(i));
  EXPECT_EQ(SipHash24(key, text), 0xa129ca6149be45e5u);
  EXPECT_EQ(SipHash24(key, ""), 0x726fdb47dd0e0e31u);
  EXPECT_EQ(SipHash24(key, text.substr(0, 8)), 0x93f5f5799a932462u);
}

TEST(NameHashTest, IsNeverZeroAndDependsOnTheSeed) {
  Superblock superblock = {};
  const NameHash plain(superblock);
  superblock.hash_seed[0] = 1;
  const NameHash seeded(superblock);
  EXPECT_NE(plain.Hash("name"), seeded.Hash("name"));
  EXPECT_LT(plain.Hash("name"), uint64_t{1} << kNameHashBits);
  EXPECT_GE(plain.FirstKey("name"), kCookieFirst);
}

// ---- Damage -------------------------------------------------------------------------------------

TEST_F(DirectoryTest, BadTreeRecordsAreFound) {
  for (uint64_t i = 0; i < 100; ++i) PBFS_EXPECT_OK(Insert(absl::StrCat("name", i), Ino(i)));
  const uint64_t key = Find("name7")->key;
  const std::vector<uint8_t> bad_values[] = {
      {},                                                     // Nothing at all.
      {1, 0, 0, 0, 0, 0, 0, 0, DT_REG},                       // No name.
      {1, 0, 0, 0, 0, 0, 0, 0, 99, 'a'},                      // Unknown type.
      {1, 0, 0, 0, 0, 0, 0, 0, DT_REG, 'a', '/'},             // Slash.
      {1, 0, 0, 0, 0, 0, 0, 0, DT_REG, 'a', 0},               // NUL.
      std::vector<uint8_t>(sizeof(DirRecord) + 256, DT_REG),  // Too long.
  };
  for (const std::vector<uint8_t>& value : bad_values) {
    TreeRoot root = GetTreeRoot(inode_, Fork::kData);
    Tree tree(reader_, space_, kDirectory, root);
    PBFS_EXPECT_OK(
        Commit([&](Transaction& transaction) { return tree.Put(transaction, key, value); }));
    EXPECT_TRUE(IsCorruption(
        Scan(0, [](uint64_t, InodeNumber, uint8_t, std::string_view) { return true; })));
    EXPECT_TRUE(IsCorruption(Directory(reader_, space_, hash_, inode_).Find("name7").status()));
    EXPECT_TRUE(IsCorruption(Insert("name7", Ino(7))));
    EXPECT_TRUE(IsCorruption(Remove("name7").status()));
  }
}

// An inode that its verifier accepts does no harm, whatever it holds.
TEST_F(DirectoryTest, MutilatedInlineContentIsSurvived) {
  space_.TolerateDamage();
  std::mt19937_64 random(37);
  for (uint64_t i = 0; i < 12; ++i) PBFS_EXPECT_OK(Insert(absl::StrCat("name", i), Ino(i)));
  int accepted = 0;
  for (int round = 0; round < 3000; ++round) {
    DiskInode copy = inode_;
    Mutilate(random, reinterpret_cast<uint8_t*>(&copy), sizeof copy);
    copy.entries = random() % 2 == 0 ? 12 : copy.entries;
    if (copy.mode == 0 || !S_ISDIR(copy.mode)) continue;
    if (!VerifyInode(copy, kDirectory, superblock_).ok()) continue;
    ++accepted;
    std::unique_ptr<Transaction> transaction = Begin();
    Directory directory(reader_, space_, hash_, copy);
    (void)directory.Find("name1");
    (void)directory.Insert(*transaction, "other", Ino(9), DT_REG);
    (void)directory.Replace(*transaction, "name2", Ino(9), DT_REG);
    for (uint64_t i = 0; i < 12; ++i) (void)directory.Remove(*transaction, absl::StrCat("name", i));
    (void)directory.Insert(*transaction, std::string(255, 'x'), Ino(9), DT_REG);
    (void)directory.Insert(*transaction, std::string(254, 'x'), Ino(9), DT_REG);
  }
  EXPECT_GT(accepted, 100);
}

TEST_F(DirectoryTest, EntriesCountThatIsTooSmallIsFound) {
  PBFS_EXPECT_OK(Insert("a", Ino(1)));
  inode_.entries = 0;
  EXPECT_TRUE(IsCorruption(Remove("a").status()));
}

}  // namespace
}  // namespace pbfs
