// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <syslog.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "base/status.h"

namespace pbfs {

// Where a mount's messages go: warnings to stderr while somebody is there to read it, afterwards to
// syslog; notes to syslog, and when that is wanted to stderr too; both to the file of -o log= in
// any case. At most kBurstMax lines, refilled slowly. Thread-safe.
class Logger {
 public:
  // `speaker`: who speaks on stderr. `verbose`: notes are treated as warnings.
  Logger(std::string speaker, std::string device, bool verbose)
      : speaker_(std::move(speaker)), verbose_(verbose), name_(std::move(device)) {
    openlog("pbfs", LOG_PID, LOG_DAEMON);
  }
  ~Logger();
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  Status OpenFile(const std::string& path) ABSL_LOCKS_EXCLUDED(mutex_);
  // What lines begin with from now on: the device and its uuid.
  void SetUuid(const std::string& uuid) ABSL_LOCKS_EXCLUDED(mutex_);
  void GoToBackground() ABSL_LOCKS_EXCLUDED(mutex_);
  void Write(const std::string& line) ABSL_LOCKS_EXCLUDED(mutex_);
  // Something that is as it should be. mount(8) is silent about such things.
  void Note(const std::string& line) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int kBurstMax = 50;
  static constexpr std::chrono::milliseconds kRefillTime{500};

  bool MayWriteLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteAt(int level, const std::string& line) ABSL_LOCKS_EXCLUDED(mutex_);
  void WriteLocked(int level, const std::string& line) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string speaker_;
  const bool verbose_;
  Mutex mutex_;
  std::string name_ ABSL_GUARDED_BY(mutex_);
  std::string uuid_ ABSL_GUARDED_BY(mutex_);
  FILE* file_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool background_ ABSL_GUARDED_BY(mutex_) = false;
  int allowance_ ABSL_GUARDED_BY(mutex_) = kBurstMax;
  Clock::time_point refilled_ ABSL_GUARDED_BY(mutex_) = Clock::now();
  uint64_t suppressed_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace pbfs
