// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <signal.h>

namespace pbfs {

inline constexpr int kExitUsage = 1;
inline constexpr int kExitSystem = 2;
inline constexpr int kExitMountFailure = 32;

// The signals that end a mount; blocked in every thread but the one that waits for them.
sigset_t EndingSignals();
bool EndingSignalPending();

// The two halves of a process that goes to the background once it works. The parent stays until the
// child has said how it went, so that whoever called knows that the mount is there.
class Daemon {
 public:
  // Forks. In the child returns true; until its report a SIGTERM tells it that nobody waits any
  // more. In the parent waits and returns false; `*exit_code` is what the child reported.
  bool Split(int* exit_code);
  // Child: reports `exit_code`; on 0 also lets go of the terminal, the working directory and stdio.
  void Report(int exit_code);

 private:
  int pipe_ = -1;
};

}  // namespace pbfs
