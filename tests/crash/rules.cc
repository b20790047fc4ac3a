// SPDX-License-Identifier: Apache-2.0
#include "fs/rules.h"

namespace pbfs {

uint32_t g_disabled_rules = 0;

}  // namespace pbfs
