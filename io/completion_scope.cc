// SPDX-License-Identifier: Apache-2.0
#include "io/completion_scope.h"

#include <vector>

namespace pbfs {
namespace {

struct Ended {
  IoRequest* request;
  int error;
};

thread_local int t_completion_depth = 0;
thread_local bool t_draining = false;
thread_local std::vector<Ended> t_ended;

}  // namespace

bool InCompletion() { return t_completion_depth > 0; }

CompletionScope::CompletionScope() { ++t_completion_depth; }
CompletionScope::~CompletionScope() { --t_completion_depth; }

void CompleteInline(IoRequest& request, int error) {
  if (t_draining) {
    t_ended.push_back({&request, error});
    return;
  }
  t_draining = true;
  {
    CompletionScope scope;
    request.Complete(error);
    for (size_t index = 0; index < t_ended.size(); ++index) {
      const Ended ended = t_ended[index];
      ended.request->Complete(ended.error);
    }
  }
  t_ended.clear();
  t_draining = false;
}

}  // namespace pbfs
