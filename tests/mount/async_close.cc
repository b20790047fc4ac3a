// SPDX-License-Identifier: Apache-2.0
// Closes a file again and again while its asynchronous direct I/O is under way, and another thread
// goes on writing to it through the page cache. Whoever answers that I/O then closes the file in
// the kernel, and waits there for pages that have to be written first: a server whose worker it is
// would wait for itself.
//
//   async-close FILE SECONDS        prints how often
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

namespace {

constexpr size_t kBytes = 4096;
constexpr size_t kPieceBytes = 64 << 10;
constexpr size_t kPieces = 64;

[[noreturn]] void Fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

void WriteThroughCache(const char* path, const std::atomic<bool>& stop) {
  const int fd = open(path, O_RDWR);
  if (fd < 0) Fail("open");
  std::string piece(kPieceBytes, 'x');
  for (size_t i = 0; !stop; ++i) {
    piece[0] = static_cast<char>(i);
    const auto offset = static_cast<off_t>((1 + i % kPieces) * kPieceBytes);
    if (pwrite(fd, piece.data(), piece.size(), offset) < 0) Fail("pwrite");
  }
  close(fd);
}

void CloseDuringDirectIo(const char* path, aio_context_t context, void* memory, bool write) {
  const int fd = open(path, O_RDWR | O_DIRECT);
  if (fd < 0) Fail("open, direct");
  iocb request = {};
  request.aio_fildes = static_cast<uint32_t>(fd);
  request.aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
  request.aio_buf = reinterpret_cast<uint64_t>(memory);
  request.aio_nbytes = kBytes;
  iocb* requests[] = {&request};
  if (syscall(SYS_io_submit, context, 1, requests) != 1) Fail("io_submit");
  close(fd);
  io_event event = {};
  if (syscall(SYS_io_getevents, context, 1, 1, &event, nullptr) != 1) Fail("io_getevents");
  if (event.res != static_cast<int64_t>(kBytes)) {
    std::fprintf(stderr, "the I/O returned %lld\n", static_cast<long long>(event.res));
    std::exit(1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const char* const path = argv[1];
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(argv[2]));
  const int fd = open(path, O_RDWR | O_CREAT, 0644);
  void* const memory = std::aligned_alloc(kBytes, kBytes);
  aio_context_t context = 0;
  if (fd < 0 || memory == nullptr || syscall(SYS_io_setup, 1, &context) != 0) Fail("setup");
  std::memset(memory, 'y', kBytes);
  if (pwrite(fd, memory, kBytes, 0) != static_cast<ssize_t>(kBytes)) Fail("pwrite");
  close(fd);
  std::atomic<bool> stop{false};
  std::thread writer([path, &stop] { WriteThroughCache(path, stop); });
  int count = 0;
  for (; std::chrono::steady_clock::now() < end; ++count) {
    CloseDuringDirectIo(path, context, memory, count % 2 == 0);
  }
  stop = true;
  writer.join();
  syscall(SYS_io_destroy, context);
  std::free(memory);
  std::printf("%d times\n", count);
  return 0;
}
