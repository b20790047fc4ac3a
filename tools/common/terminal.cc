// SPDX-License-Identifier: Apache-2.0
#include "tools/common/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>

#include "absl/strings/str_cat.h"

namespace pbfs {
namespace {

constexpr std::chrono::milliseconds kRedrawInterval{100};

size_t TerminalColumns(int fd) {
  winsize size = {};
  if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

// A terminal that does not take the text is no reason to fail.
void WriteQuietly(int fd, const std::string& text) {
  [[maybe_unused]] const ssize_t written = write(fd, text.data(), text.size());
}

}  // namespace

bool IsTerminal(int fd) { return isatty(fd) == 1; }

std::string Printable(const std::string& text) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      result += c;
      continue;
    }
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
    result += escaped;
  }
  return result;
}

ProgressBar::ProgressBar(int fd, std::string label)
    : fd_(fd), label_(std::move(label)), shown_(IsTerminal(fd)) {}

ProgressBar::~ProgressBar() { Clear(); }

void ProgressBar::Clear() {
  if (drawn_) WriteQuietly(fd_, "\r\033[K");
  drawn_ = false;
}

void ProgressBar::Update(uint64_t done, uint64_t total) {
  if (!shown_ || total == 0) return;
  const auto now = std::chrono::steady_clock::now();
  if (drawn_ && now - drawn_at_ < kRedrawInterval) return;
  drawn_at_ = now;
  drawn_ = true;
  const uint64_t percent = std::min<uint64_t>(100, done / (total / 100 + 1));
  const size_t columns = TerminalColumns(fd_);
  const size_t fixed = label_.size() + 10;
  std::string line = absl::StrCat("\r", label_, " ");
  if (columns > fixed + 10) {
    const size_t width = std::min<size_t>(columns - fixed, 50);
    const size_t filled = width * percent / 100;
    absl::StrAppend(&line, "[", std::string(filled, '#'), std::string(width - filled, ' '), "] ");
  }
  WriteQuietly(fd_, absl::StrCat(line, percent, "%\033[K"));
}

}  // namespace pbfs
