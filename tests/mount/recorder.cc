// SPDX-License-Identifier: Apache-2.0
// A disk that remembers what was done to it: a FUSE filesystem with one file, `disk`, to be put
// under a loop device. Every write, with its data, and every flush goes into a log, in order, so
// that the disk can be rebuilt as a power cut at any moment would have left it. It can also fail on
// demand.
//
//   recorder [-f] DIRECTORY MOUNTPOINT
//
// DIRECTORY holds, made by the caller:
//   image     what the disk contains; its size is the disk's size
//   control   one page, shared in memory by everyone: see Control
// and, made here:
//   log       entries, each an Entry, that of a write followed by its data
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

namespace {

enum class Kind : uint64_t {
  kWriteBegin = 1,  // The data follows.
  kWriteEnd = 2,    // Answered: a flush that begins later makes it durable.
  kFlushBegin = 3,
  kFlushEnd = 4,         // Answered: what had ended at its beginning is durable.
  kZeroBegin = 5,        // A write of zeroes; ends with kWriteEnd. No data follows.
  kDurableWriteEnd = 6,  // Answered, and durable by itself: a write with O_DSYNC.
};

// What the log consists of.
struct Entry {
  Kind kind;
  uint64_t id;  // The same for the beginning and the end of a request.
  uint64_t offset_bytes;
  uint64_t length_bytes;
};
static_assert(sizeof(Entry) == 32);

// The control file. Counters are ahead of the answer to the request they count.
struct Control {
  std::atomic<uint64_t> entries;  // In the log: a position in time.
  std::atomic<uint64_t> writes;   // Begun.
  std::atomic<uint64_t> reads;
  std::atomic<uint64_t> flushes;
  // Written by the test: a request fails with EIO when the counter above, itself included, has
  // reached this. 0: never.
  std::atomic<uint64_t> fail_writes_from;
  std::atomic<uint64_t> fail_reads_from;
  std::atomic<uint64_t> fail_flushes_from;
  // Only reads and writes that touch these bytes fail; end 0: all of them.
  std::atomic<uint64_t> fail_begin;
  std::atomic<uint64_t> fail_end;
  // Every fourth write takes up to so much longer: a flush that does not wait for it overtakes it.
  std::atomic<uint64_t> hold_us;
};
static_assert(sizeof(Control) == 80 && std::atomic<uint64_t>::is_always_lock_free);

constexpr char kName[] = "/disk";

class Recorder {
 public:
  bool Open(const std::string& directory) {
    image_ = open((directory + "/image").c_str(), O_RDWR | O_CLOEXEC);
    log_ = open((directory + "/log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    const int control = open((directory + "/control").c_str(), O_RDWR | O_CLOEXEC);
    struct stat status = {};
    if (image_ < 0 || log_ < 0 || control < 0 || fstat(image_, &status) != 0) return false;
    size_bytes_ = status.st_size;
    void* const page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, control, 0);
    close(control);
    if (page == MAP_FAILED) return false;
    control_ = static_cast<Control*>(page);
    return true;
  }

  off_t size_bytes() const { return size_bytes_; }

  int Read(char* buffer, size_t length, off_t offset) {
    const uint64_t number = ++control_->reads;
    if (MustFail(number, control_->fail_reads_from, offset, length)) return -EIO;
    const ssize_t got = pread(image_, buffer, length, offset);
    return got < 0 ? -errno : static_cast<int>(got);
  }

  int Write(const char* data, size_t length, off_t offset, bool durable) {
    const uint64_t number = ++control_->writes;
    if (MustFail(number, control_->fail_writes_from, offset, length)) return -EIO;
    const uint64_t id = Begin(Kind::kWriteBegin, offset, length, data);
    if (number % 4 == 0) Hold(number);
    if (id == 0 || pwrite(image_, data, length, offset) != static_cast<ssize_t>(length))
      return -EIO;
    const Kind end = durable ? Kind::kDurableWriteEnd : Kind::kWriteEnd;
    return End(end, id) ? static_cast<int>(length) : -EIO;
  }

  int Zero(off_t offset, off_t length) {
    const auto bytes = static_cast<size_t>(length);
    const uint64_t number = ++control_->writes;
    if (MustFail(number, control_->fail_writes_from, offset, bytes)) return -EIO;
    const uint64_t id = Begin(Kind::kZeroBegin, offset, bytes, nullptr);
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (id == 0 || fallocate(image_, mode, offset, length) != 0) return -EIO;
    return End(Kind::kWriteEnd, id) ? 0 : -EIO;
  }

  int Flush() {
    const uint64_t number = ++control_->flushes;
    if (MustFail(number, control_->fail_flushes_from, 0, 0)) return -EIO;
    const uint64_t id = Begin(Kind::kFlushBegin, 0, 0, nullptr);
    return id != 0 && End(Kind::kFlushEnd, id) ? 0 : -EIO;
  }

 private:
  bool MustFail(uint64_t number, uint64_t from, off_t offset, size_t length) const {
    if (from == 0 || number < from) return false;
    const auto begin = static_cast<uint64_t>(offset);
    return length == 0 || control_->fail_end == 0 ||
           (begin < control_->fail_end && begin + length > control_->fail_begin);
  }

  void Hold(uint64_t number) const {
    const uint64_t most_us = control_->hold_us;
    if (most_us == 0) return;
    // Scrambled by the golden ratio; any spread would do.
    const uint64_t hold_us = ((number * 0x9e3779b97f4a7c15) >> 32) % most_us;
    std::this_thread::sleep_for(std::chrono::microseconds(hold_us));
  }

  // Returns the id of the request, 0 when the log cannot be written.
  uint64_t Begin(Kind kind, off_t offset, size_t length, const char* data) {
    const std::lock_guard lock(mutex_);
    const uint64_t id = ++last_id_;
    const Entry entry = {kind, id, static_cast<uint64_t>(offset), length};
    return Append(entry, data, data != nullptr ? length : 0) ? id : 0;
  }

  bool End(Kind kind, uint64_t id) {
    const std::lock_guard lock(mutex_);
    return Append({kind, id, 0, 0}, nullptr, 0);
  }

  bool Append(const Entry& entry, const char* data, size_t length) {
    iovec parts[2] = {{const_cast<Entry*>(&entry), sizeof(entry)},
                      {const_cast<char*>(data), length}};
    const auto wanted = static_cast<ssize_t>(sizeof(entry) + length);
    if (writev(log_, parts, length > 0 ? 2 : 1) != wanted) {
      std::fprintf(stderr, "recorder: the log cannot be written: %s\n", strerror(errno));
      return false;
    }
    ++control_->entries;
    return true;
  }

  std::mutex mutex_;  // The order of the log; last_id_.
  uint64_t last_id_ = 0;
  int image_ = -1;
  int log_ = -1;
  off_t size_bytes_ = 0;
  Control* control_ = nullptr;
};

Recorder& TheRecorder() {
  static auto& recorder = *new Recorder;
  return recorder;
}

int GetAttributes(const char* path, struct stat* status, fuse_file_info*) {
  if (std::strcmp(path, "/") == 0) {
    status->st_mode = S_IFDIR | 0755;
    status->st_nlink = 2;
    return 0;
  }
  if (std::strcmp(path, kName) != 0) return -ENOENT;
  status->st_mode = S_IFREG | 0600;
  status->st_nlink = 1;
  status->st_size = TheRecorder().size_bytes();
  return 0;
}

int Open(const char* path, fuse_file_info* file) {
  if (std::strcmp(path, kName) != 0) return -ENOENT;
  file->direct_io = 1;
  return 0;
}

int Read(const char*, char* buffer, size_t length, off_t offset, fuse_file_info*) {
  return TheRecorder().Read(buffer, length, offset);
}

int Write(const char*, const char* data, size_t length, off_t offset, fuse_file_info* file) {
  // The kernel sends no fsync after such a write.
  return TheRecorder().Write(data, length, offset, (file->flags & O_DSYNC) != 0);
}

int Flush(const char*, int, fuse_file_info*) { return TheRecorder().Flush(); }

int Allocate(const char*, int mode, off_t offset, off_t length, fuse_file_info*) {
  if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) == 0) return -EOPNOTSUPP;
  return TheRecorder().Zero(offset, length);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "Usage: recorder DIRECTORY MOUNTPOINT\n");
    return 1;
  }
  if (!TheRecorder().Open(argv[argc - 2])) {
    std::perror(argv[argc - 2]);
    return 1;
  }
  std::copy(argv + argc - 1, argv + argc, argv + argc - 2);
  fuse_operations operations = {};
  operations.getattr = GetAttributes;
  operations.open = Open;
  operations.read = Read;
  operations.write = Write;
  operations.fsync = Flush;
  operations.fallocate = Allocate;
  return fuse_main(argc - 1, argv, &operations, nullptr);
}
