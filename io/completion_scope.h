// SPDX-License-Identifier: Apache-2.0
// How completions run on a thread: marked, so that one that waits is caught, and flat, so that a
// chain of requests each submitted by the completion of the last does not grow the stack.
#pragma once

#include "io/io_request.h"

namespace pbfs {

// True while the calling thread runs a completion function. Such code never waits: WaitUntil() and
// IoRing::RunOnce() check it.
bool InCompletion();

// Marks the calling thread as running completions.
class CompletionScope {
 public:
  CompletionScope();
  ~CompletionScope();
  CompletionScope(const CompletionScope&) = delete;
  CompletionScope& operator=(const CompletionScope&) = delete;
};

// Completes a request that ended inside Submit(): at once, or, when the caller is itself inside
// such a completion, after that one has returned.
void CompleteInline(IoRequest& request, int error);

}  // namespace pbfs
