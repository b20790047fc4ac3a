// SPDX-License-Identifier: Apache-2.0
#include "fs/uuid.h"

#include <uuid.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/random.h"

namespace pbfs {

Uuid RandomUuid() {
  Uuid uuid;
  for (size_t at = 0; at < sizeof(uuid.bytes); at += sizeof(uint64_t)) {
    const uint64_t bits = RandomBits();
    std::memcpy(uuid.bytes + at, &bits, sizeof(bits));
  }
  // Version 4, variant 1, as RFC 4122 has them.
  uuid.bytes[6] = static_cast<uint8_t>((uuid.bytes[6] & 0x0f) | 0x40);
  uuid.bytes[8] = static_cast<uint8_t>((uuid.bytes[8] & 0x3f) | 0x80);
  return uuid;
}

std::string FormatUuid(const Uuid& uuid) {
  char text[UUID_STR_LEN];
  uuid_unparse_lower(uuid.bytes, text);
  return text;
}

StatusOr<Uuid> ParseUuid(const std::string& text) {
  Uuid uuid;
  if (uuid_parse(text.c_str(), uuid.bytes) != 0) {
    return ErrnoError(EINVAL, absl::StrCat("not a UUID: '", text, "'"));
  }
  return uuid;
}

}  // namespace pbfs
