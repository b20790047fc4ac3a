// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/status.h"
#include "fs/format.h"

namespace pbfs {

Uuid RandomUuid();
// "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", lower case.
std::string FormatUuid(const Uuid& uuid);
// EINVAL unless `text` is in that form (any case).
StatusOr<Uuid> ParseUuid(const std::string& text);

}  // namespace pbfs
