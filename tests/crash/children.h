// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pbfs {

// Runs jobs in child processes, several at a time: each starts from the same memory, whatever ran
// before, and one that crashes or hangs takes only itself down. Single thread.
class Children {
 public:
  struct Ended {
    uint64_t id;
    std::string result;  // What the job returned.
    std::string death;   // Empty, or how it ended without a result, with the end of its stderr.
  };

  // A child that runs longer than `time_max` is killed.
  Children(size_t count_max, std::chrono::seconds time_max);
  // Kills those that run.
  ~Children();
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;

  size_t running() const;
  bool full() const { return running() == count_max_; }
  // REQUIRES: not full(). Buffered output of the caller has been flushed.
  void Start(uint64_t id, const std::function<std::string()>& job);
  // Waits until one has ended; nullopt: `timeout` passed, or a signal came.
  std::optional<Ended> Wait(std::chrono::milliseconds timeout);

 private:
  struct Child {
    uint64_t id;
    pid_t pid;
    int result_fd;
    int stderr_fd;
    std::string result;
    std::chrono::steady_clock::time_point started;
  };
  Ended Reap(size_t index, bool killed);

  const size_t count_max_;
  const std::chrono::seconds time_max_;
  std::vector<Child> children_;
  size_t started_ = 0;
};

// Runs one job to its end.
Children::Ended RunInChild(const std::function<std::string()>& job, std::chrono::seconds time_max);

}  // namespace pbfs
