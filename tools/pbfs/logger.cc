// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfs/logger.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "tools/common/terminal.h"

namespace pbfs {

Logger::~Logger() {
  MutexLock lock(mutex_);
  if (file_ != nullptr) fclose(file_);
}

Status Logger::OpenFile(const std::string& path) {
  FILE* const file = fopen(path.c_str(), "ae");
  if (file == nullptr) return ErrnoError(errno, absl::StrCat(path, ": ", strerror(errno)));
  setvbuf(file, nullptr, _IOLBF, 0);
  SetOutOfMemoryLog(fileno(file));
  MutexLock lock(mutex_);
  file_ = file;
  return OkStatus();
}

void Logger::SetUuid(const std::string& uuid) {
  MutexLock lock(mutex_);
  uuid_ = uuid;
}

void Logger::GoToBackground() {
  MutexLock lock(mutex_);
  background_ = true;
}

void Logger::Write(const std::string& line) { WriteAt(LOG_WARNING, line); }

void Logger::Note(const std::string& line) { WriteAt(verbose_ ? LOG_WARNING : LOG_INFO, line); }

void Logger::WriteAt(int level, const std::string& line) {
  MutexLock lock(mutex_);
  if (!MayWriteLocked()) {
    ++suppressed_;
    return;
  }
  if (suppressed_ > 0) {
    WriteLocked(LOG_WARNING, absl::StrCat(suppressed_, " messages suppressed"));
    suppressed_ = 0;
  }
  WriteLocked(level, line);
}

bool Logger::MayWriteLocked() {
  const auto steps = (Clock::now() - refilled_) / kRefillTime;
  if (steps > 0) {
    allowance_ = static_cast<int>(std::min<int64_t>(kBurstMax, allowance_ + steps));
    refilled_ = Clock::now();
  }
  if (allowance_ == 0) return false;
  --allowance_;
  return true;
}

void Logger::WriteLocked(int level, const std::string& line) {
  const std::string short_text = absl::StrCat(Printable(name_), ": ", Printable(line));
  const std::string text =
      uuid_.empty() ? short_text
                    : absl::StrCat(Printable(name_), " (", uuid_, "): ", Printable(line));
  if (file_ != nullptr) {
    char stamp[32] = {};
    const time_t now = time(nullptr);
    tm parts = {};
    localtime_r(&now, &parts);
    strftime(stamp, sizeof(stamp), "%F %T", &parts);
    fprintf(file_, "%s pbfs[%d]: %s\n", stamp, getpid(), text.c_str());
  }
  if (background_ || level == LOG_INFO) {
    syslog(level, "%s", text.c_str());
  } else {
    fprintf(stderr, "%s: %s\n", speaker_.c_str(), short_text.c_str());
  }
}

}  // namespace pbfs
