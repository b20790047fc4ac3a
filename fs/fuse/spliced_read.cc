// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/spliced_read.h"

#include <utility>

#include "fs/fuse/protocol.h"

namespace pbfs::fuse {
namespace {

// The header takes one, each page of the data another.
size_t PagesFor(size_t length_bytes) { return length_bytes / kPageBytes + 1; }

}  // namespace

size_t SplicedBytesMax() {
  for (const size_t bytes : {size_t{kWriteBytesMax}, kWriteBytesMax - kPageBytes}) {
    if (Pipe::Create(PagesFor(bytes)).ok()) return bytes;
  }
  return 0;
}

std::unique_ptr<Pipe> ReadPipes::Take() {
  MutexLock lock(mutex_);
  if (in_use_ == kInUseMax) return nullptr;
  std::unique_ptr<Pipe> pipe;
  if (!free_.empty()) {
    pipe = std::move(free_.back());
    free_.pop_back();
  } else if (!refused_) {
    auto made = Pipe::Create(PagesFor(length_bytes_));
    refused_ = !made.ok();
    if (made.ok()) pipe = *std::move(made);
  }
  if (pipe != nullptr) ++in_use_;
  return pipe;
}

void ReadPipes::Return(std::unique_ptr<Pipe> pipe) {
  MutexLock lock(mutex_);
  --in_use_;
  if (pipe != nullptr) free_.push_back(std::move(pipe));
}

SplicedRead::~SplicedRead() {
  if (pipe_ == nullptr) return;
  // Something may be left in it: it goes, with that.
  if (!empty_) pipe_.reset();
  pipes_.Return(std::move(pipe_));
}

int SplicedRead::Open(size_t length_bytes) {
  if (length_bytes > pipes_.length_bytes()) return -1;
  pipe_ = pipes_.Take();
  if (pipe_ == nullptr) return -1;
  size_bytes_ = sizeof(fuse_out_header) + length_bytes;
  fuse_out_header header = {};
  header.len = static_cast<uint32_t>(size_bytes_);
  header.unique = unique_;
  if (WriteToPipe(pipe_->write_end(), &header, sizeof(header)) == 0) return pipe_->write_end();
  pipe_.reset();
  pipes_.Return(nullptr);
  return -1;
}

}  // namespace pbfs::fuse
