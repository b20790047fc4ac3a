// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

namespace pbfs {

inline constexpr int kExitUsage = 1;
inline constexpr int kExitSystem = 2;
inline constexpr int kExitMountFailure = 32;

// The two halves of a process that goes to the background once it works. The parent stays until the
// child has said how it went, so that whoever called knows that the mount is there.
class Daemon {
 public:
  // Forks. In the child returns true. In the parent waits and returns false; `*exit_code` is what
  // the child reported.
  bool Split(int* exit_code);
  // Child: reports `exit_code`; on 0 also lets go of the terminal, the working directory and stdio.
  void Report(int exit_code);

 private:
  int pipe_ = -1;
};

}  // namespace pbfs
