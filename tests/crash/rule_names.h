// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "fs/rules.h"

namespace pbfs {

// A rule and the hand-written workloads that open its window.
struct NamedRule {
  const char* name;
  Rule rule;
  std::vector<const char*> workloads;
};

const std::vector<NamedRule>& NamedRules();
std::optional<Rule> RuleNamed(std::string_view name);

}  // namespace pbfs
