// SPDX-License-Identifier: Apache-2.0
// absl::Status that keeps the exact errno. absl's own mapping is lossy (ENOTEMPTY, EISDIR, ...), so
// the errno travels as a payload; ErrnoOf() is the only way back.
#pragma once

#include <cerrno>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pbfs {

using absl::OkStatus;
using absl::Status;
using absl::StatusOr;

// An error that reaches the kernel or the user as `error` (a positive errno value).
Status ErrnoError(int error, std::string_view message);

// 0 for OK; the errno given to ErrnoError; EIO for any other error.
int ErrnoOf(const Status& status);

// Damaged on-disk structure: errno EUCLEAN, message "block N: FIELD ...". See IsCorruption.
Status CorruptionError(std::string_view message);
bool IsCorruption(const Status& status);

}  // namespace pbfs

#define PBFS_RETURN_IF_ERROR(expr)                                                     \
  do {                                                                                 \
    if (::absl::Status pbfs_status_ = (expr); !pbfs_status_.ok()) return pbfs_status_; \
  } while (0)

#define PBFS_CONCAT_INNER_(a, b) a##b
#define PBFS_CONCAT_(a, b) PBFS_CONCAT_INNER_(a, b)
#define PBFS_ASSIGN_OR_RETURN(lhs, expr) \
  PBFS_ASSIGN_OR_RETURN_IMPL_(PBFS_CONCAT_(pbfs_result_, __LINE__), lhs, expr)
#define PBFS_ASSIGN_OR_RETURN_IMPL_(result, lhs, expr) \
  auto result = (expr);                                \
  if (!result.ok()) return std::move(result).status(); \
  lhs = std::move(result).value()
