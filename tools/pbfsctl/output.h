// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "fs/dump.h"

namespace pbfs {

// Keeps the order of fields.
using Json = nlohmann::ordered_json;

// Groups become objects, lists arrays.
Json ToJson(const DumpNode& node);
// The other way round, for output as text.
DumpNode FromJson(const std::string& name, const Json& json);

// As text or as JSON.
void Print(const DumpNode& node, bool json);

}  // namespace pbfs
