// SPDX-License-Identifier: Apache-2.0
// The kernel's FUSE protocol as far as pbfs looks at it itself: what libfuse's parsed API drops,
// and what the installed linux/fuse.h (7.38 on the reference machine) does not know yet.
#pragma once

#include <linux/fuse.h>

#include <cstddef>
#include <cstdint>

namespace pbfs::fuse {

// Opcodes after 7.38.
inline constexpr uint32_t kOpStatx = 52;

// STATX: fuse_statx_in, fuse_statx_out and what is in it.
struct StatxIn {
  uint32_t getattr_flags;
  uint32_t zero;
  uint64_t file_handle;
  uint32_t flags;
  uint32_t mask;
};
static_assert(sizeof(StatxIn) == 24);
struct StatxTime {
  int64_t seconds;
  uint32_t nanoseconds;
  int32_t zero;
};
struct StatxBody {
  uint32_t mask;
  uint32_t block_bytes;
  uint64_t attributes;
  uint32_t nlink;
  uint32_t uid;
  uint32_t gid;
  uint16_t mode;
  uint16_t zero;
  uint64_t ino;
  uint64_t size_bytes;
  uint64_t blocks_512;
  uint64_t attributes_mask;
  StatxTime atime, btime, ctime, mtime;
  uint32_t rdev_major, rdev_minor;
  uint32_t dev_major, dev_minor;
  uint64_t spare[14];
};
static_assert(sizeof(StatxBody) == 256 && offsetof(StatxBody, atime) == 64 &&
              offsetof(StatxBody, rdev_major) == 128);
struct StatxOut {
  uint64_t attr_valid;  // Seconds.
  uint32_t attr_valid_nanoseconds;
  uint32_t flags;
  uint64_t spare[2];
  StatxBody body;
};
static_assert(sizeof(StatxOut) == 288);

// TMPFILE is answered as CREATE is.
static_assert(FUSE_TMPFILE == 51 && sizeof(fuse_create_in) == 16 && sizeof(fuse_attr) == 88 &&
              sizeof(fuse_entry_out) == 128 && sizeof(fuse_open_out) == 16);

// A WRITE's header in front of the payload: fuse_in_header + fuse_write_in.
inline constexpr size_t kHeadBytes = sizeof(fuse_in_header) + sizeof(fuse_write_in);
static_assert(sizeof(fuse_in_header) == 40 && sizeof(fuse_write_in) == 40 && kHeadBytes == 80);
static_assert(offsetof(fuse_in_header, opcode) == 4 && offsetof(fuse_in_header, unique) == 8 &&
              offsetof(fuse_in_header, nodeid) == 16);
static_assert(offsetof(fuse_write_in, size) == 16 && offsetof(fuse_write_in, write_flags) == 20);
static_assert(sizeof(fuse_out_header) == 16 && sizeof(fuse_init_out) == 64 &&
              offsetof(fuse_init_out, flags) == 12);
static_assert(sizeof(fuse_setattr_in) == 88 && sizeof(fuse_open_in) == 8);

// Largest WRITE and READ we agree to in INIT, and how many pages that is. The kernel refuses a
// receive buffer shorter than kHeadBytes + kWriteBytesMax.
inline constexpr uint32_t kWriteBytesMax = 1 << 20;

// INIT flags patched into libfuse's reply when the kernel offers them: libfuse 3.14 knows one, but
// forgets to ask for it, and does not know the others.
inline constexpr uint32_t kInitFlagsPatched =
    FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT;
// The same in `flags2`, which libfuse leaves out: files that are opened FOPEN_DIRECT_IO can be
// mapped shared. Since Linux 6.6 (FUSE_DIRECT_IO_ALLOW_MMAP).
inline constexpr uint32_t kInitFlags2Patched = (uint64_t{1} << 36) >> 32;
static_assert(FUSE_HANDLE_KILLPRIV_V2 == 1u << 28 && FUSE_SETXATTR_EXT == 1u << 29);
static_assert(FUSE_COMPAT_SETXATTR_IN_SIZE == 8 && sizeof(fuse_setxattr_in) == 16 &&
              offsetof(fuse_setxattr_in, setxattr_flags) == 8);

// --- FUSE over io_uring (since Linux 6.14)

// In `flags2`.
inline constexpr uint32_t kInitOverUring = (uint64_t{1} << 41) >> 32;

// What goes ahead of a request's or a reply's payload, in memory the kernel was told of.
struct UringHeaders {
  std::byte in_out[128];  // fuse_in_header, fuse_out_header.
  std::byte op_in[128];   // The opcode's own struct.
  struct {
    uint64_t flags;
    uint64_t commit_id;
    uint32_t payload_bytes;
    uint32_t zero;
    uint64_t reserved;
  } entry;
};
static_assert(sizeof(UringHeaders) == 288);

enum class UringCommand : uint32_t { kRegister = 1, kCommitAndFetch = 2 };

// The command's body in the sqe.
struct UringCommandBody {
  uint64_t flags;
  uint64_t commit_id;
  uint16_t queue;
  uint8_t zero[6];
};
static_assert(sizeof(UringCommandBody) == 24);

// The number by which the kernel knows the root, whatever its inode number is.
inline constexpr uint64_t kRootNodeId = FUSE_ROOT_ID;

}  // namespace pbfs::fuse
