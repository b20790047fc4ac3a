// SPDX-License-Identifier: Apache-2.0
#include "fs/uuid.h"

#include <uuid.h>

#include "absl/strings/str_cat.h"

namespace pbfs {

Uuid RandomUuid() {
  Uuid uuid;
  uuid_generate_random(uuid.bytes);
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
