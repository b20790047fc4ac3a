// SPDX-License-Identifier: Apache-2.0
#include "base/status.h"

#include <gtest/gtest.h>

#include <memory>

namespace pbfs {
namespace {

TEST(ErrnoError, KeepsEveryErrnoThatAbslWouldMerge) {
  for (int error = 1; error < 134; ++error) {
    const Status status = ErrnoError(error, "text");
    EXPECT_FALSE(status.ok()) << error;
    EXPECT_EQ(ErrnoOf(status), error);
    EXPECT_EQ(status.message(), "text");
  }
}

TEST(ErrnoError, IsAnErrorEvenForErrnoZero) {
  const Status status = ErrnoError(0, "no errno was set");
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(ErrnoOf(status), EIO);
}

TEST(ErrnoOf, IsZeroForOkAndEioForForeignErrors) {
  EXPECT_EQ(ErrnoOf(OkStatus()), 0);
  EXPECT_EQ(ErrnoOf(absl::InternalError("not ours")), EIO);
}

TEST(ErrnoOf, SurvivesACopyOfTheStatus) {
  Status copy;
  {
    const Status status = ErrnoError(ENOTEMPTY, "directory");
    copy = status;
  }
  EXPECT_EQ(ErrnoOf(copy), ENOTEMPTY);
}

TEST(CorruptionError, IsRecognisedAndOthersAreNot) {
  EXPECT_TRUE(IsCorruption(CorruptionError("block 7: magic")));
  EXPECT_FALSE(IsCorruption(ErrnoError(EIO, "read")));
  EXPECT_FALSE(IsCorruption(OkStatus()));
}

StatusOr<std::unique_ptr<int>> MakeInt(int error) {
  if (error != 0) return ErrnoError(error, "refused");
  return std::make_unique<int>(42);
}

StatusOr<int> Unwrap(int error) {
  PBFS_ASSIGN_OR_RETURN(const std::unique_ptr<int> made, MakeInt(error));
  PBFS_ASSIGN_OR_RETURN(const std::unique_ptr<int> again, MakeInt(0));
  return *made + *again;
}

Status Check(int error) {
  PBFS_RETURN_IF_ERROR(Unwrap(error).status());
  return OkStatus();
}

TEST(StatusMacros, PassValuesOnAndReturnTheFirstErrorWithItsErrno) {
  EXPECT_EQ(*Unwrap(0), 84);
  EXPECT_EQ(ErrnoOf(Unwrap(ENOSPC).status()), ENOSPC);
  EXPECT_TRUE(Check(0).ok());
  EXPECT_EQ(ErrnoOf(Check(EXDEV)), EXDEV);
}

}  // namespace
}  // namespace pbfs
