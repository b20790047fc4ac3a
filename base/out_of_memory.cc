// SPDX-License-Identifier: Apache-2.0
#include "base/out_of_memory.h"

#include <syslog.h>
#include <unistd.h>

#include <atomic>
#include <new>

namespace pbfs {
namespace {

constexpr char kMessage[] = "pbfs: out of memory, the server ends as in a power cut\n";

std::atomic<int> g_exit_code{1};
std::atomic<int> g_log_fd{-1};

// Takes no memory itself, as far as the C library lets it.
[[noreturn]] void EndProcess() {
  for (const int fd : {STDERR_FILENO, g_log_fd.load()}) {
    if (fd < 0) continue;
    [[maybe_unused]] const ssize_t written = write(fd, kMessage, sizeof(kMessage) - 1);
  }
  syslog(LOG_DAEMON | LOG_CRIT, "out of memory, the server ends as in a power cut");
  _exit(g_exit_code.load());
}

}  // namespace

void InstallOutOfMemoryHandler(int exit_code) {
  g_exit_code = exit_code;
  std::set_new_handler(EndProcess);
}

void SetOutOfMemoryLog(int fd) { g_log_fd = fd; }

}  // namespace pbfs
