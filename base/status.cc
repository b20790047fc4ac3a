// SPDX-License-Identifier: Apache-2.0
#include "base/status.h"

#include <cstring>

#include "absl/strings/cord.h"

namespace pbfs {
namespace {
constexpr char kErrnoPayload[] = "pbfs/errno";

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }
}  // namespace

Status ErrnoError(int error, std::string_view message) {
  Status status(error == 0 ? absl::StatusCode::kInternal : absl::ErrnoToStatusCode(error),
                View(message));
  if (status.ok()) status = Status(absl::StatusCode::kUnknown, View(message));
  char bytes[sizeof(int)];
  std::memcpy(bytes, &error, sizeof(int));
  status.SetPayload(kErrnoPayload, absl::Cord(absl::string_view(bytes, sizeof(int))));
  return status;
}

int ErrnoOf(const Status& status) {
  if (status.ok()) return 0;
  const auto payload = status.GetPayload(kErrnoPayload);
  if (!payload || payload->size() != sizeof(int)) return EIO;
  const std::string bytes(*payload);
  int error = 0;
  std::memcpy(&error, bytes.data(), sizeof(int));
  return error == 0 ? EIO : error;
}

Status CorruptionError(std::string_view message) { return ErrnoError(EUCLEAN, message); }

bool IsCorruption(const Status& status) { return ErrnoOf(status) == EUCLEAN; }

}  // namespace pbfs
