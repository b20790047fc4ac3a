// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "fs/filesystem.h"
#include "fs/fuse/in_flight.h"
#include "io/pipe.h"

namespace pbfs::fuse {

// When the kernel's own pages take what a large READ asks for.
enum class SplicePolicy : uint8_t {
  kAuto,    // As kNever: what is saved in copies is lost in fresh pages (docs/bench/splice.md).
  kAlways,  // Wherever it can be done.
  kNever,
};

// Shorter READs are not worth it.
inline constexpr size_t kSplicedBytesMin = size_t{128} << 10;

// The longest READ that fits into a pipe with its header: kWriteBytesMax, or a page less for those
// who may not have pipes longer than /proc/sys/fs/pipe-max-size. 0: none.
size_t SplicedBytesMax();

// Pipes for answers of that length, made when they are needed. Thread-safe.
class ReadPipes {
 public:
  // The greatest length of the data, that of SplicedBytesMax() at most.
  explicit ReadPipes(size_t length_bytes) : length_bytes_(length_bytes) {}
  size_t length_bytes() const { return length_bytes_; }
  // nullptr: so many are in use already, or there are no more to be had. Empty.
  std::unique_ptr<Pipe> Take() ABSL_LOCKS_EXCLUDED(mutex_);
  // REQUIRES: empty, or nullptr for one that was given up.
  void Return(std::unique_ptr<Pipe> pipe) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  static constexpr unsigned kInUseMax = 16;

  const size_t length_bytes_;
  Mutex mutex_;
  std::vector<std::unique_ptr<Pipe>> free_ ABSL_GUARDED_BY(mutex_);
  unsigned in_use_ ABSL_GUARDED_BY(mutex_) = 0;
  // Not allowed, or not enough descriptors: never tried again.
  bool refused_ ABSL_GUARDED_BY(mutex_) = false;
};

// The answer to one READ on its way through a pipe: its header, then pages that the device fills
// and that become pages of the kernel's cache. Nobody else ever sees them, so they cannot change
// there. One thread at a time.
class SplicedRead : public ReadPipe {
 public:
  // `pipes` is borrowed, and kept in place by `token`. `unique`: of the request.
  SplicedRead(ReadPipes& pipes, InFlight::Token token, uint64_t unique)
      : token_(std::move(token)), pipes_(pipes), unique_(unique) {}
  ~SplicedRead() override;

  int Open(size_t length_bytes) override;
  bool opened() const { return pipe_ != nullptr; }
  uint64_t unique() const { return unique_; }
  // Of the answer, which is to be read from the pipe to its end.
  int read_end() const { return pipe_->read_end(); }
  size_t size_bytes() const { return size_bytes_; }
  // Somebody has.
  void NoteEmpty() { empty_ = true; }

 private:
  const InFlight::Token token_;  // Goes last.
  ReadPipes& pipes_;
  const uint64_t unique_;
  std::unique_ptr<Pipe> pipe_;
  size_t size_bytes_ = 0;
  bool empty_ = false;
};

}  // namespace pbfs::fuse
