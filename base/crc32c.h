// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace pbfs {

// CRC-32C (Castagnoli), as iSCSI and XFS use it. Crc32c(data, n) starts a sum; pass a former result
// as `crc` to continue it over the next piece.
uint32_t Crc32c(const void* data, size_t length_bytes, uint32_t crc = 0);

}  // namespace pbfs
