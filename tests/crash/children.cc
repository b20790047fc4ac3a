// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/children.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace pbfs {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kStderrBytesMax = 4000;

// Its threads run one at a time: on one processor they need not be woken on another.
void StayOnProcessor(size_t number) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  size_t skip = number % static_cast<size_t>(CPU_COUNT(&allowed));
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || skip-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
    return;
  }
}

void WriteAll(int fd, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t written = write(fd, text.data() + done, text.size() - done);
    if (written < 0 && errno != EINTR) return;
    if (written > 0) done += static_cast<size_t>(written);
  }
}

std::string EndOf(int fd) {
  const off_t size = lseek(fd, 0, SEEK_END);
  if (size <= 0) return "";
  std::string text(std::min<size_t>(static_cast<size_t>(size), kStderrBytesMax), '\0');
  const ssize_t got = pread(fd, text.data(), text.size(), size - static_cast<off_t>(text.size()));
  text.resize(got < 0 ? 0 : static_cast<size_t>(got));
  return text;
}

}  // namespace

Children::Children(size_t count_max, std::chrono::seconds time_max)
    : count_max_(count_max), time_max_(time_max) {}

size_t Children::running() const { return children_.size(); }

Children::~Children() {
  while (!children_.empty()) Reap(children_.size() - 1, /*killed=*/true);
}

void Children::Start(uint64_t id, const std::function<std::string()>& job) {
  PBFS_CHECK(!full());
  int fds[2];
  PBFS_CHECK(pipe2(fds, O_CLOEXEC) == 0);
  const int stderr_fd = memfd_create("stderr", MFD_CLOEXEC);
  PBFS_CHECK(stderr_fd >= 0);
  const size_t slot = started_++;
  const pid_t parent = getpid();
  const pid_t pid = fork();
  PBFS_CHECK(pid >= 0);
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    signal(SIGINT, SIG_IGN);
    dup2(stderr_fd, STDERR_FILENO);
    StayOnProcessor(slot);
    WriteAll(fds[1], job());
    _exit(0);
  }
  close(fds[1]);
  children_.push_back({id, pid, fds[0], stderr_fd, "", Clock::now()});
}

std::optional<Children::Ended> Children::Wait(std::chrono::milliseconds timeout) {
  const auto end = Clock::now() + timeout;
  for (;;) {
    for (size_t i = 0; i < children_.size(); ++i) {
      if (Clock::now() - children_[i].started > time_max_) return Reap(i, /*killed=*/true);
    }
    std::vector<pollfd> fds;
    for (const Child& child : children_) fds.push_back({child.result_fd, POLLIN, 0});
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0) return std::nullopt;
    const auto wait = static_cast<int>(std::min<int64_t>(left, 1000));
    if (poll(fds.data(), fds.size(), wait) < 0) return std::nullopt;
    for (size_t i = 0; i < children_.size(); ++i) {
      if (fds[i].revents == 0) continue;
      char buffer[65536];
      const ssize_t got = read(fds[i].fd, buffer, sizeof(buffer));
      if (got > 0) {
        children_[i].result.append(buffer, static_cast<size_t>(got));
      } else if (got == 0) {
        return Reap(i, /*killed=*/false);
      }
    }
  }
}

Children::Ended Children::Reap(size_t index, bool killed) {
  Child child = std::move(children_[index]);
  children_.erase(children_.begin() + static_cast<ptrdiff_t>(index));
  if (killed) kill(child.pid, SIGKILL);
  int status = 0;
  while (waitpid(child.pid, &status, 0) < 0 && errno == EINTR) continue;
  Ended ended{child.id, std::move(child.result), ""};
  if (killed) {
    ended.death = absl::StrCat("no end after ", time_max_.count(), " s");
  } else if (WIFSIGNALED(status)) {
    ended.death =
        absl::StrCat("ended by signal ", WTERMSIG(status), " (", strsignal(WTERMSIG(status)), ")");
  } else if (WEXITSTATUS(status) != 0) {
    ended.death = absl::StrCat("exit code ", WEXITSTATUS(status));
  }
  if (!ended.death.empty()) {
    ended.result.clear();
    absl::StrAppend(&ended.death, "\n", EndOf(child.stderr_fd));
  }
  close(child.result_fd);
  close(child.stderr_fd);
  return ended;
}

Children::Ended RunInChild(const std::function<std::string()>& job, std::chrono::seconds time_max) {
  Children children(1, time_max);
  children.Start(0, job);
  for (;;) {
    if (auto ended = children.Wait(time_max)) return *std::move(ended);
  }
}

}  // namespace pbfs
