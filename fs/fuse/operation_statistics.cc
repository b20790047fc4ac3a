// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/operation_statistics.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "fs/fuse/protocol.h"

namespace pbfs::fuse {
namespace {

constexpr unsigned kOpcodeBits = 6;

// The kernel's names, in small letters.
std::string NameOf(uint32_t opcode) {
  static constexpr std::pair<uint32_t, const char*> kNames[] = {
      {FUSE_LOOKUP, "lookup"},
      {FUSE_FORGET, "forget"},
      {FUSE_GETATTR, "getattr"},
      {FUSE_SETATTR, "setattr"},
      {FUSE_READLINK, "readlink"},
      {FUSE_SYMLINK, "symlink"},
      {FUSE_MKNOD, "mknod"},
      {FUSE_MKDIR, "mkdir"},
      {FUSE_UNLINK, "unlink"},
      {FUSE_RMDIR, "rmdir"},
      {FUSE_RENAME, "rename"},
      {FUSE_LINK, "link"},
      {FUSE_OPEN, "open"},
      {FUSE_READ, "read"},
      {FUSE_WRITE, "write"},
      {FUSE_STATFS, "statfs"},
      {FUSE_RELEASE, "release"},
      {FUSE_FSYNC, "fsync"},
      {FUSE_SETXATTR, "setxattr"},
      {FUSE_GETXATTR, "getxattr"},
      {FUSE_LISTXATTR, "listxattr"},
      {FUSE_REMOVEXATTR, "removexattr"},
      {FUSE_FLUSH, "flush"},
      {FUSE_INIT, "init"},
      {FUSE_OPENDIR, "opendir"},
      {FUSE_READDIR, "readdir"},
      {FUSE_RELEASEDIR, "releasedir"},
      {FUSE_FSYNCDIR, "fsyncdir"},
      {FUSE_ACCESS, "access"},
      {FUSE_CREATE, "create"},
      {FUSE_INTERRUPT, "interrupt"},
      {FUSE_BMAP, "bmap"},
      {FUSE_DESTROY, "destroy"},
      {FUSE_IOCTL, "ioctl"},
      {FUSE_BATCH_FORGET, "batch_forget"},
      {FUSE_FALLOCATE, "fallocate"},
      {FUSE_READDIRPLUS, "readdirplus"},
      {FUSE_RENAME2, "rename2"},
      {FUSE_LSEEK, "lseek"},
      {FUSE_COPY_FILE_RANGE, "copy_file_range"},
      {FUSE_SYNCFS, "syncfs"},
      {FUSE_TMPFILE, "tmpfile"},
      {kOpStatx, "statx"},
  };
  for (const auto& [number, name] : kNames) {
    if (number == opcode) return name;
  }
  return absl::StrCat("opcode_", opcode);
}

}  // namespace

OperationStatistics::Place& OperationStatistics::PlaceOf(uint64_t unique) {
  return places_[unique % kPlaces];
}

void OperationStatistics::Began(uint64_t unique, uint32_t opcode) {
  static_assert(kOpcodes == 1 << kOpcodeBits);
  Place& place = PlaceOf(unique);
  const auto now = static_cast<uint64_t>(NowNs());
  place.begin_and_opcode.store(now << kOpcodeBits | opcode % kOpcodes, std::memory_order_relaxed);
  place.unique.store(unique, std::memory_order_release);
}

uint64_t OperationStatistics::Find(uint64_t unique) {
  Place& place = PlaceOf(unique);
  if (unique == 0 || place.unique.load(std::memory_order_acquire) != unique) return 0;
  return place.begin_and_opcode.load(std::memory_order_relaxed);
}

void OperationStatistics::Ended(uint64_t begin) {
  if (begin == 0) return;
  const auto now = static_cast<uint64_t>(NowNs());
  latencies_ns_[begin % kOpcodes].Add(now - (begin >> kOpcodeBits));
}

std::string OperationStatistics::Json() const {
  std::string text = "{";
  const char* separator = "";
  for (uint32_t opcode = 0; opcode < kOpcodes; ++opcode) {
    const Histogram::Snapshot latencies = latencies_ns_[opcode].Take();
    if (latencies.count == 0) continue;
    absl::StrAppend(&text, std::exchange(separator, ","), "\"", NameOf(opcode),
                    "\":", latencies.Json());
  }
  return text + "}";
}

}  // namespace pbfs::fuse
