// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>

namespace pbfs {

bool IsTerminal(int fd);

// Text from a disk or a command line, safe to print: control characters become \xNN.
std::string Printable(const std::string& text);

// A bar that redraws itself on one line of a terminal; prints nothing elsewhere. Single thread.
class ProgressBar {
 public:
  // `fd` is borrowed.
  ProgressBar(int fd, std::string label);
  // Clears the line.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // `done` of `total`; redraws at most ten times a second.
  void Update(uint64_t done, uint64_t total);

 private:
  void Clear();

  const int fd_;
  const std::string label_;
  const bool shown_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point drawn_at_;
};

}  // namespace pbfs
