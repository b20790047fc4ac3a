// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

namespace pbfs {

// A number of bytes as users write it: "4096", "16M", "1.5G", "2TiB", "1GB" (units of 1024 all).
// EINVAL names the text.
StatusOr<uint64_t> ParseSize(const std::string& text);

// "512 bytes", "16 MiB", "1.5 GiB".
std::string FormatSize(uint64_t size_bytes);

}  // namespace pbfs
