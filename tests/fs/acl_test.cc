// SPDX-License-Identifier: Apache-2.0
#include "fs/acl.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <cstring>
#include <regex>

#include "absl/strings/str_join.h"
#include "fs/checker.h"
#include "tests/support/fs_image.h"

namespace pbfs {
namespace {

using ::testing::HasSubstr;

constexpr AclTag kTags[] = {AclTag::kOwner, AclTag::kUser, AclTag::kOwningGroup,
                            AclTag::kGroup, AclTag::kMask, AclTag::kOther};

Acl Minimal(uint32_t mode) {
  return {{AclTag::kOwner, static_cast<uint16_t>(mode >> 6 & 7)},
          {AclTag::kOwningGroup, static_cast<uint16_t>(mode >> 3 & 7)},
          {AclTag::kOther, static_cast<uint16_t>(mode & 7)}};
}
Acl Extended(uint32_t mode, uint16_t group = 4) {
  return {{AclTag::kOwner, static_cast<uint16_t>(mode >> 6 & 7)},
          {AclTag::kUser, 6, 1000},
          {AclTag::kOwningGroup, group},
          {AclTag::kMask, static_cast<uint16_t>(mode >> 3 & 7)},
          {AclTag::kOther, static_cast<uint16_t>(mode & 7)}};
}

TEST(AclTest, ExactlyTheLegalSequencesOfTagsAreTaken) {
  const std::regex legal("ogx|ou*gh*mx");
  const char letters[] = {'o', 'u', 'g', 'h', 'm', 'x'};
  uint32_t accepted = 0;
  for (size_t length = 1; length <= 7; ++length) {
    size_t count = 1;
    for (size_t i = 0; i < length; ++i) count *= 6;
    for (size_t code = 0; code < count; ++code) {
      Acl acl;
      std::string text;
      for (size_t i = 0, rest = code; i < length; ++i, rest /= 6) {
        const AclTag tag = kTags[rest % 6];
        const bool named = tag == AclTag::kUser || tag == AclTag::kGroup;
        acl.push_back({tag, 4, named ? 5u : UINT32_MAX});
        text.push_back(letters[rest % 6]);
      }
      const auto parsed = ParseAcl(AclBytes(acl));
      ASSERT_EQ(parsed.ok(), std::regex_match(text, legal)) << text;
      if (!parsed.ok()) {
        ASSERT_EQ(ErrnoOf(parsed.status()), EINVAL);
        continue;
      }
      ++accepted;
      ASSERT_EQ(*parsed, acl) << text;
      ASSERT_EQ(IsModeOnly(acl), text == "ogx");
    }
  }
  // Without names: "ogx", "ogmx"; with n of them: n + 1 ways, up to 3.
  EXPECT_EQ(accepted, 1u + 1 + 2 + 3 + 4);
}

TEST(AclTest, BytesThatAreNoListAreRefused) {
  const std::string good = AclBytes(Extended(0640));
  EXPECT_EQ(good.size(), 4 + 5 * 8u);
  for (size_t size = 0; size < good.size(); ++size) {
    // Behind the head there is the empty list.
    const int error = size == 4 ? 0 : EINVAL;
    EXPECT_EQ(ErrnoOf(ParseAcl(good.substr(0, size)).status()), error) << size;
  }
  EXPECT_EQ(ErrnoOf(ParseAcl(good + "x").status()), EINVAL);
  for (const int version : {0, 1, 3, 255}) {
    std::string other = good;
    other[0] = static_cast<char>(version);
    EXPECT_EQ(ErrnoOf(ParseAcl(other).status()), EOPNOTSUPP);
  }
  Acl acl = Extended(0640);
  acl[1].id = UINT32_MAX;
  EXPECT_EQ(ErrnoOf(ParseAcl(AclBytes(acl)).status()), EINVAL);
  acl = Extended(0640);
  acl[0].permissions = 8;
  EXPECT_EQ(ErrnoOf(ParseAcl(AclBytes(acl)).status()), EINVAL);
  // The id of an entry that has none does not matter.
  acl = Extended(0640);
  acl[0].id = 17;
  EXPECT_EQ(*ParseAcl(AclBytes(acl)), Extended(0640));
}

TEST(AclTest, AListAndAModeSayTheSame) {
  for (uint32_t mode = 0; mode < 01000; ++mode) {
    const uint32_t full = S_IFREG | 06000 | (~mode & 0777);
    for (Acl acl : {Minimal(mode), Extended(mode)}) {
      ASSERT_EQ(ModeWithAcl(acl, full), S_IFREG | 06000 | mode);
      for (const uint32_t to : {0u, 0777u, 0640u, ~mode & 0777}) {
        Acl changed = acl;
        ApplyMode(changed, S_IFREG | to);
        ASSERT_EQ(changed, acl.size() == 3 ? Minimal(to) : Extended(to));
      }
    }
  }
}

TEST(AclTest, InheritingTakesNoMoreThanBothAllow) {
  for (uint32_t given = 0; given < 01000; ++given) {
    for (uint32_t mode = 0; mode < 01000; ++mode) {
      Acl minimal = Minimal(given);
      Acl extended = Extended(given);
      ASSERT_EQ(InheritAcl(minimal, S_IFDIR | S_ISVTX | mode), S_IFDIR | S_ISVTX | (given & mode));
      ASSERT_EQ(InheritAcl(extended, S_IFREG | mode), S_IFREG | (given & mode));
      ASSERT_EQ(minimal, Minimal(given & mode));
      ASSERT_EQ(extended, Extended(given & mode));
    }
  }
}

class AclFileTest : public FsFixture {
 protected:
  Attributes Make(InodeNumber dir, std::string_view name, uint32_t mode, uint32_t umask = 022) {
    NewInode request;
    request.mode = mode;
    request.umask = umask;
    const auto made = fs_->Create(dir, name, request);
    EXPECT_TRUE(made.ok()) << made.status();
    return *made;
  }
  Status Set(InodeNumber ino, std::string_view name, const Acl& acl, int flags = 0) {
    return fs_->SetXattr(ino, name, AclBytes(acl), flags);
  }
  // Empty: none.
  Acl Get(InodeNumber ino, std::string_view name) {
    const auto value = fs_->GetXattr(ino, name);
    if (!value.ok()) EXPECT_EQ(ErrnoOf(value.status()), ENODATA);
    return value.ok() ? *ParseAcl(*value) : Acl();
  }
  uint32_t Mode(InodeNumber ino) { return fs_->GetAttributes(ino)->mode; }
  void Chmod(InodeNumber ino, uint32_t mode) {
    SetAttributes request;
    request.mode = mode;
    EXPECT_TRUE(fs_->SetAttributesOf(ino, request).ok());
  }
  std::vector<std::string> Problems() {
    const auto report = CheckReplayed(*device_);
    EXPECT_TRUE(report.ok()) << report.status();
    return report->problems;
  }
};

TEST_F(AclFileTest, AnAccessListAndTheModeFollowEachOther) {
  MakeAndMount();
  const InodeNumber file = Make(root(), "f", S_IFREG | 0644).ino;
  ASSERT_TRUE(Set(file, kAclAccessXattr, Extended(0751)).ok());
  EXPECT_EQ(Mode(file), S_IFREG | 0751u);
  EXPECT_EQ(Get(file, kAclAccessXattr), Extended(0751));
  EXPECT_EQ(*fs_->ListXattr(file), std::vector<std::string>{std::string(kAclAccessXattr)});
  Chmod(file, 0604);
  EXPECT_EQ(Get(file, kAclAccessXattr), Extended(0604));
  SetAttributes owner;
  owner.uid = 5;
  owner.gid = 6;
  ASSERT_TRUE(fs_->SetAttributesOf(file, owner).ok());
  EXPECT_EQ(Get(file, kAclAccessXattr), Extended(0604));
  ASSERT_TRUE(client_->Sync().ok());
  CutPower(1);
  EXPECT_EQ(Problems(), std::vector<std::string>());
  Mount();
  EXPECT_EQ(Get(file, kAclAccessXattr), Extended(0604));
  // A list that is no more than a mode is not kept.
  ASSERT_TRUE(Set(file, kAclAccessXattr, Minimal(0432)).ok());
  EXPECT_EQ(Mode(file), S_IFREG | 0432u);
  EXPECT_EQ(Get(file, kAclAccessXattr), Acl());
  EXPECT_TRUE(fs_->ListXattr(file)->empty());
  // One that is removed leaves the mode.
  ASSERT_TRUE(Set(file, kAclAccessXattr, Extended(0777)).ok());
  ASSERT_TRUE(fs_->RemoveXattr(file, kAclAccessXattr).ok());
  EXPECT_EQ(Mode(file), S_IFREG | 0777u);
  EXPECT_TRUE(fs_->RemoveXattr(file, kAclAccessXattr).ok());  // There is none.
}

TEST_F(AclFileTest, OnlyLegalListsInLegalPlaces) {
  MakeAndMount();
  const InodeNumber file = Make(root(), "f", S_IFREG | 0644).ino;
  EXPECT_EQ(ErrnoOf(Set(file, kAclDefaultXattr, Extended(0777))), EACCES);
  EXPECT_EQ(ErrnoOf(Set(file, kAclAccessXattr, {{AclTag::kOwner, 7}})), EINVAL);
  EXPECT_EQ(ErrnoOf(fs_->SetXattr(file, kAclAccessXattr, "no list", 0)), EOPNOTSUPP);
  EXPECT_EQ(ErrnoOf(fs_->SetXattr(file, "system.other", "x", 0)), EOPNOTSUPP);
  EXPECT_EQ(ErrnoOf(Set(file, kAclAccessXattr, Extended(0777), XATTR_REPLACE)), ENODATA);
  EXPECT_EQ(Mode(file), S_IFREG | 0644u);
  EXPECT_TRUE(Set(file, kAclAccessXattr, Extended(0777), XATTR_CREATE).ok());
  EXPECT_EQ(ErrnoOf(Set(file, kAclAccessXattr, Extended(0700), XATTR_CREATE)), EEXIST);
  NewInode request;
  request.mode = S_IFLNK | 0777;
  request.symlink_target = "f";
  const auto link = fs_->Create(root(), "l", request);
  EXPECT_EQ(ErrnoOf(Set(link->ino, kAclAccessXattr, Extended(0777))), EOPNOTSUPP);
}

TEST_F(AclFileTest, SetgidGoesWhenAsked) {
  MakeAndMount();
  const InodeNumber file = Make(root(), "f", S_IFREG | 0644).ino;
  Chmod(file, 06755);
  ASSERT_TRUE(Set(file, kAclAccessXattr, Extended(0755)).ok());
  EXPECT_EQ(Mode(file), S_IFREG | 06755u);
  ASSERT_TRUE(Set(file, kAclAccessXattr, Extended(0755), kXattrKillSetgid).ok());
  EXPECT_EQ(Mode(file), S_IFREG | 04755u);
}

TEST_F(AclFileTest, NewObjectsInheritTheDefaultListInsteadOfTheUmask) {
  MakeAndMount();
  const InodeNumber dir = Make(root(), "d", S_IFDIR | 0777).ino;
  EXPECT_EQ(Mode(dir), S_IFDIR | 0755u);
  ASSERT_TRUE(Set(dir, kAclDefaultXattr, Extended(0775, 7)).ok());
  EXPECT_EQ(Mode(dir), S_IFDIR | 0755u);
  const Attributes file = Make(dir, "f", S_IFREG | 0662);
  EXPECT_EQ(file.mode, S_IFREG | 0660u);
  EXPECT_EQ(Get(file.ino, kAclAccessXattr), Extended(0660, 7));
  EXPECT_EQ(Get(file.ino, kAclDefaultXattr), Acl());
  const Attributes below = Make(dir, "d", S_IFDIR | 0777, 077);
  EXPECT_EQ(below.mode, S_IFDIR | 0775u);
  EXPECT_EQ(Get(below.ino, kAclAccessXattr), Extended(0775, 7));
  EXPECT_EQ(Get(below.ino, kAclDefaultXattr), Extended(0775, 7));
  const auto temporary = fs_->CreateTemporary(below.ino, {.mode = S_IFREG | 0600, .umask = 077});
  EXPECT_EQ(Get(temporary->ino, kAclAccessXattr), Extended(0600, 7));
  NewInode request;
  request.mode = S_IFLNK | 0777;
  request.symlink_target = "x";
  const auto link = fs_->Create(dir, "l", request);
  EXPECT_EQ(link->mode, S_IFLNK | 0777u);
  EXPECT_TRUE(fs_->ListXattr(link->ino)->empty());
  // Without ACLs, and with a default list that is just a mode.
  const auto plain = fs_->Create(dir, "p", {.mode = S_IFREG | 0666, .umask = 02, .no_acls = true});
  EXPECT_EQ(plain->mode, S_IFREG | 0664u);
  ASSERT_TRUE(Set(dir, kAclDefaultXattr, Minimal(0740)).ok());
  const Attributes simple = Make(dir, "s", S_IFREG | 0666, 0777);
  EXPECT_EQ(simple.mode, S_IFREG | 0640u);
  EXPECT_TRUE(fs_->ListXattr(simple.ino)->empty());
  ASSERT_TRUE(fs_->RemoveXattr(dir, kAclDefaultXattr).ok());
  EXPECT_EQ(Make(dir, "u", S_IFREG | 0666, 027).mode, S_IFREG | 0640u);
  Unmount();
  EXPECT_EQ(Problems(), std::vector<std::string>());
}

TEST_F(AclFileTest, LongListsAreInheritedToo) {
  MakeAndMount();
  Acl acl = Extended(0770);
  for (uint32_t id = 0; id < 506; ++id) acl.insert(acl.begin() + 2, {AclTag::kUser, 7, 5000 + id});
  ASSERT_TRUE(Set(root(), kAclDefaultXattr, acl).ok());
  for (int i = 0; i < 50; ++i) {
    const Attributes dir = Make(root(), "d" + std::to_string(i), S_IFDIR | 0770);
    EXPECT_EQ(Get(dir.ino, kAclAccessXattr), acl);
    Chmod(dir.ino, 0700);
    EXPECT_EQ(Get(dir.ino, kAclAccessXattr).size(), acl.size());
  }
  Unmount();
  EXPECT_EQ(Problems(), std::vector<std::string>());
}

// What is wrong with a stored list is said, not stumbled over.
class DamagedAclTest : public AclFileTest {
 protected:
  void SetUp() override {
    MakeAndMount();
    dir_ = Make(root(), "d", S_IFDIR | 0755).ino;
    file_ = Make(root(), "f", S_IFREG | 0755).ino;
  }
  // Unmounts, puts `to` in the place of `from` in the inode and checks; returns what was found.
  std::string Damage(InodeNumber ino, const std::string& from, const std::string& to) {
    Unmount();
    ImageEditor editor(*device_);
    editor.EditInode(ino, [&](DiskInode& inode) {
      const std::string_view bytes(reinterpret_cast<const char*>(inode.inline_area), kInlineBytes);
      const size_t at = bytes.find(from);
      ASSERT_NE(at, bytes.npos);
      std::memcpy(inode.inline_area + at, to.data(), to.size());
    });
    return absl::StrJoin(Problems(), "; ");
  }
  InodeNumber dir_ = 0;
  InodeNumber file_ = 0;
};

TEST_F(DamagedAclTest, AnIllegalListIsFoundAndNotInherited) {
  ASSERT_TRUE(Set(dir_, kAclDefaultXattr, Extended(0750)).ok());
  Acl illegal = Extended(0750);
  illegal[1].tag = AclTag::kGroup;
  illegal[1].id = 1000;
  EXPECT_THAT(Damage(dir_, AclBytes(Extended(0750)), AclBytes(illegal)),
              HasSubstr("default ACL is malformed"));
  Mount();
  EXPECT_EQ(ErrnoOf(fs_->Create(dir_, "x", {.mode = S_IFREG | 0600}).status()), EUCLEAN);
  EXPECT_TRUE(fs_->GetXattr(dir_, kAclDefaultXattr).ok());
}

TEST_F(DamagedAclTest, AModeThatIsNotTheListsIsFound) {
  ASSERT_TRUE(Set(file_, kAclAccessXattr, Extended(0750)).ok());
  EXPECT_THAT(Damage(file_, AclBytes(Extended(0750)), AclBytes(Extended(0700))),
              HasSubstr("mode is 81e8, by its ACL 81c0"));
}

TEST_F(DamagedAclTest, ADefaultListOfAFileIsFound) {
  const std::string name = "user.ttposix_acl_default";
  ASSERT_TRUE(fs_->SetXattr(file_, name, AclBytes(Extended(0750)), 0).ok());
  EXPECT_THAT(Damage(file_, name, std::string(kAclDefaultXattr)),
              HasSubstr("default ACL, but mode is 81ed"));
}

TEST_F(DamagedAclTest, ALongListIsCheckedAsAWhole) {
  Acl acl = Extended(0750);
  for (uint32_t id = 0; id < 500; ++id) acl.insert(acl.begin() + 2, {AclTag::kUser, 7, 5000 + id});
  ASSERT_TRUE(Set(file_, kAclAccessXattr, acl).ok());
  Unmount();
  EXPECT_EQ(Problems(), std::vector<std::string>());
  ImageEditor editor(*device_);
  const std::string from = AclBytes({{AclTag::kUser, 7, 5100}}).substr(4);
  int found = 0;
  for (const BlockNumber block : editor.MetadataBlocks()) {
    editor.Edit(block, [&](std::byte* data) {
      auto* text = reinterpret_cast<char*>(data);
      const size_t at = std::string_view(text, kBlockBytes).find(from);
      if (at == std::string_view::npos) return;
      text[at + 2] = 9;  // The permissions.
      ++found;
    });
  }
  EXPECT_EQ(found, 1);
  EXPECT_THAT(absl::StrJoin(Problems(), "; "), HasSubstr("access ACL is malformed"));
}

}  // namespace
}  // namespace pbfs
