// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/rule_names.h"

namespace pbfs {

const std::vector<NamedRule>& NamedRules() {
  static const auto& rules = *new std::vector<NamedRule>{
      {"write-ahead-log", Rule::kWriteAheadLog, {"LateLogWrite"}},
      {"flush-before-log", Rule::kFlushBeforeLog, {"CreateWriteFsync"}},
      {"flush-after-log", Rule::kFlushAfterLog, {"CreateFsync"}},
      {"whole-image", Rule::kWholeImage, {"HotBlocks"}},
      {"tail", Rule::kTail, {"LateMetadataWrite"}},
      {"cancel", Rule::kCancel, {"MetadataBecomesData"}},
      {"busy-extents", Rule::kBusyExtents, {"FreedDataIsNeeded"}},
      {"data-before-metadata",
       Rule::kDataBeforeMetadata,
       {"LateDataWrite", "LateWriteToPreallocated"}},
      {"orphans", Rule::kOrphans, {"UnlinkWhileOpen"}},
      {"zero-tail", Rule::kZeroTail, {"TruncateDownUp", "WritePastEnd"}},
      {"replay-flush", Rule::kReplayFlush, {"CreateWriteSync"}},
      {"claims", Rule::kClaims, {"TwoGrowingFiles"}},
      {"unwritten", Rule::kUnwritten, {"Preallocate"}},
  };
  return rules;
}

std::optional<Rule> RuleNamed(std::string_view name) {
  for (const NamedRule& rule : NamedRules()) {
    if (rule.name == name) return rule.rule;
  }
  return std::nullopt;
}

}  // namespace pbfs
