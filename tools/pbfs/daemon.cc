// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfs/daemon.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace pbfs {

sigset_t EndingSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, number);
  return signals;
}

bool EndingSignalPending() {
  sigset_t pending;
  sigpending(&pending);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    if (sigismember(&pending, number) == 1) return true;
  }
  return false;
}

bool Daemon::Split(int* exit_code) {
  int ends[2];
  const bool piped = pipe2(ends, O_CLOEXEC) == 0;
  const pid_t child = piped ? fork() : -1;
  if (child < 0) {
    std::fprintf(stderr, "pbfs: cannot start a process: %s\n", strerror(errno));
    *exit_code = kExitSystem;
    return false;
  }
  if (child == 0) {
    close(ends[0]);
    pipe_ = ends[1];
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    return true;
  }
  close(ends[1]);
  unsigned char code = 0;
  ssize_t bytes;
  do {
    bytes = read(ends[0], &code, 1);
  } while (bytes < 0 && errno == EINTR);
  *exit_code = code;
  if (bytes != 1) {
    int status = 0;
    waitpid(child, &status, 0);
    std::fprintf(stderr, "pbfs: the server died while mounting (status 0x%x)\n",
                 static_cast<unsigned>(status));
    *exit_code = kExitMountFailure;
  }
  return false;
}

void Daemon::Report(int exit_code) {
  if (pipe_ < 0) return;
  prctl(PR_SET_PDEATHSIG, 0);
  if (exit_code == 0) {
    [[maybe_unused]] const int changed = chdir("/");
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (const int fd : {0, 1, 2}) {
      if (null >= 0) dup2(null, fd);
    }
    if (null > 2) close(null);
  }
  const auto code = static_cast<unsigned char>(exit_code);
  [[maybe_unused]] const ssize_t bytes = write(pipe_, &code, 1);
  close(std::exchange(pipe_, -1));
}

}  // namespace pbfs
