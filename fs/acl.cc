// SPDX-License-Identifier: Apache-2.0
#include "fs/acl.h"

#include <cstring>

#include "base/check.h"

namespace pbfs {
namespace {

// The attribute's bytes: a head, then entries.
constexpr uint32_t kVersion = 2;
struct StoredEntry {
  uint16_t tag;
  uint16_t permissions;
  uint32_t id;
};
static_assert(sizeof(StoredEntry) == 8);

constexpr uint16_t kAllPermissions = 7;
constexpr uint32_t kModePermissions = 0777;

Status Illegal() { return ErrnoError(EINVAL, "not a legal access control list"); }

// Where a tag comes in a list; 0: no tag.
int PlaceOf(AclTag tag) {
  switch (tag) {
    case AclTag::kOwner:
      return 1;
    case AclTag::kUser:
      return 2;
    case AclTag::kOwningGroup:
      return 3;
    case AclTag::kGroup:
      return 4;
    case AclTag::kMask:
      return 5;
    case AclTag::kOther:
      return 6;
  }
  return 0;
}

bool HasId(AclTag tag) { return tag == AclTag::kUser || tag == AclTag::kGroup; }

AclEntry* Find(Acl& acl, AclTag tag) {
  for (AclEntry& entry : acl) {
    if (entry.tag == tag) return &entry;
  }
  return nullptr;
}

bool IsLegal(const Acl& acl) {
  int count[7] = {};
  int place = 0;
  for (const AclEntry& entry : acl) {
    const int here = PlaceOf(entry.tag);
    if (here == 0 || here < place || entry.permissions > kAllPermissions) return false;
    if (HasId(entry.tag) && entry.id == UINT32_MAX) return false;
    place = here;
    ++count[here];
  }
  const int named = count[PlaceOf(AclTag::kUser)] + count[PlaceOf(AclTag::kGroup)];
  const int masks = count[PlaceOf(AclTag::kMask)];
  return count[PlaceOf(AclTag::kOwner)] == 1 && count[PlaceOf(AclTag::kOwningGroup)] == 1 &&
         count[PlaceOf(AclTag::kOther)] == 1 && masks <= 1 && (named == 0 || masks == 1);
}

// The three entries that stand for a mode's bits.
struct Classes {
  AclEntry* owner;
  AclEntry* group;  // The mask where there is one: it bounds the whole class.
  AclEntry* other;
};
Classes ClassesOf(Acl& acl) {
  AclEntry* mask = Find(acl, AclTag::kMask);
  const Classes classes = {Find(acl, AclTag::kOwner),
                           mask != nullptr ? mask : Find(acl, AclTag::kOwningGroup),
                           Find(acl, AclTag::kOther)};
  PBFS_CHECK(classes.owner != nullptr && classes.group != nullptr && classes.other != nullptr);
  return classes;
}

uint32_t ModeOf(const Classes& classes) {
  return uint32_t{classes.owner->permissions} << 6 | uint32_t{classes.group->permissions} << 3 |
         uint32_t{classes.other->permissions};
}

void SetClasses(const Classes& classes, uint32_t mode) {
  classes.owner->permissions = mode >> 6 & kAllPermissions;
  classes.group->permissions = mode >> 3 & kAllPermissions;
  classes.other->permissions = mode & kAllPermissions;
}

}  // namespace

StatusOr<Acl> ParseAcl(std::string_view value) {
  uint32_t version = 0;
  if (value.size() < sizeof version) return Illegal();
  std::memcpy(&version, value.data(), sizeof version);
  if (version != kVersion) return ErrnoError(EOPNOTSUPP, "unknown version of an ACL");
  value.remove_prefix(sizeof version);
  if (value.size() % sizeof(StoredEntry) != 0) return Illegal();
  Acl acl;
  acl.reserve(value.size() / sizeof(StoredEntry));
  for (; !value.empty(); value.remove_prefix(sizeof(StoredEntry))) {
    StoredEntry stored;
    std::memcpy(&stored, value.data(), sizeof stored);
    const auto tag = static_cast<AclTag>(stored.tag);
    acl.push_back({tag, stored.permissions, HasId(tag) ? stored.id : UINT32_MAX});
  }
  if (!acl.empty() && !IsLegal(acl)) return Illegal();
  return acl;
}

std::string AclBytes(const Acl& acl) {
  std::string bytes(sizeof kVersion, '\0');
  std::memcpy(bytes.data(), &kVersion, sizeof kVersion);
  for (const AclEntry& entry : acl) {
    const StoredEntry stored = {static_cast<uint16_t>(entry.tag), entry.permissions, entry.id};
    bytes.append(reinterpret_cast<const char*>(&stored), sizeof stored);
  }
  return bytes;
}

// A mask makes a difference even without names: the owning group's own entry may have more.
bool IsModeOnly(const Acl& acl) {
  for (const AclEntry& entry : acl) {
    if (HasId(entry.tag) || entry.tag == AclTag::kMask) return false;
  }
  return true;
}

uint32_t ModeWithAcl(const Acl& acl, uint32_t mode) {
  Acl copy = acl;
  return (mode & ~kModePermissions) | ModeOf(ClassesOf(copy));
}

void ApplyMode(Acl& acl, uint32_t mode) { SetClasses(ClassesOf(acl), mode); }

uint32_t InheritAcl(Acl& acl, uint32_t mode) {
  const Classes classes = ClassesOf(acl);
  const uint32_t both = ModeOf(classes) & mode;
  SetClasses(classes, both);
  return (mode & ~kModePermissions) | both;
}

}  // namespace pbfs
