// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace pbfs {

// POSIX.1e access control lists: what acl(5) says about them, as pure functions.

inline constexpr std::string_view kAclAccessXattr = "system.posix_acl_access";
inline constexpr std::string_view kAclDefaultXattr = "system.posix_acl_default";
constexpr bool IsAclXattr(std::string_view name) {
  return name == kAclAccessXattr || name == kAclDefaultXattr;
}

// On disk and towards the kernel: never renumber.
enum class AclTag : uint16_t {
  kOwner = 0x01,
  kUser = 0x02,
  kOwningGroup = 0x04,
  kGroup = 0x08,
  kMask = 0x10,
  kOther = 0x20,
};

struct AclEntry {
  AclTag tag;
  uint16_t permissions;      // 4 read, 2 write, 1 execute.
  uint32_t id = UINT32_MAX;  // Of a user or group; UINT32_MAX for the other tags.
  friend bool operator==(const AclEntry&, const AclEntry&) = default;
};
// A legal list has the owner, users, the owning group, groups, the mask and the others, in this
// order; users, groups and (without these) the mask may be missing.
using Acl = std::vector<AclEntry>;

// From the bytes of an extended attribute, which are those on disk. EINVAL if they are not a legal
// list, EOPNOTSUPP for another version of the format. An empty list is legal here.
StatusOr<Acl> ParseAcl(std::string_view value);
std::string AclBytes(const Acl& acl);

// The functions below take legal lists that are not empty. Of a mode they see the permission bits
// of owner, group and others; all other bits stay.

// The list says no more than a mode does, and need not be stored.
bool IsModeOnly(const Acl& acl);
// `mode` with the permissions that the list gives to the owner, the group class and others.
uint32_t ModeWithAcl(const Acl& acl, uint32_t mode);
// chmod(2): `acl` follows the mode.
void ApplyMode(Acl& acl, uint32_t mode);
// What a new object gets from its directory's default list and the mode that it is created with:
// `acl` becomes its access list; returns its mode.
uint32_t InheritAcl(Acl& acl, uint32_t mode);

}  // namespace pbfs
