// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "tests/crash/step.h"

namespace pbfs {

// An operation of the bounded workloads and what it needs.
struct AceOp {
  // Something that must be there, or must not.
  struct Need {
    enum class What : uint8_t {
      kNothing,  // No such name.
      kFile,
      kDirectory,
      kEmptyDirectory,
      kXattr,  // `path` has the attribute of the steps' name, of `bytes`.
      kLink,   // `path` is another name of `of`.
    };
    What what;
    std::string path;
    std::string of = {};
    uint64_t bytes = 0;
  };
  std::vector<Need> needs;
  std::vector<Step> steps;
  // What an fsync may be called on afterwards.
  std::vector<std::string> files;        // fsync and fdatasync.
  std::vector<std::string> directories;  // fsync.
};

// A way to make something durable after an operation.
struct AceChoice {
  const AceOp* op;
  std::vector<Step> persist;  // Needs what `persist_needs` says.
  std::vector<AceOp::Need> persist_needs;
};

inline constexpr char kAceXattr[] = "user.a";

// Every operation with every persistence call.
const std::vector<AceChoice>& AceChoices();
// Those of them that differ in more than in names.
const std::vector<AceChoice>& AceFirstChoices();

}  // namespace pbfs
