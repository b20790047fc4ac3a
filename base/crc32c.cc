// SPDX-License-Identifier: Apache-2.0
#include "base/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <limits>

namespace pbfs {

uint32_t Crc32c(const void* data, size_t length_bytes, uint32_t crc) {
  // isa-l wants a mutable pointer and an int length, and leaves inversion to the caller.
  auto* bytes = static_cast<unsigned char*>(const_cast<void*>(data));
  uint32_t state = ~crc;
  while (length_bytes > 0) {
    const size_t piece = std::min<size_t>(length_bytes, std::numeric_limits<int>::max());
    state = crc32_iscsi(bytes, static_cast<int>(piece), state);
    bytes += piece;
    length_bytes -= piece;
  }
  return ~state;
}

}  // namespace pbfs
