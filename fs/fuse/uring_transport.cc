// SPDX-License-Identifier: Apache-2.0
#include "fs/fuse/uring_transport.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"

namespace pbfs::fuse {
namespace {

// Of one queue. Each costs little until it is used: the kernel takes the one that was used last.
constexpr unsigned kEntriesMax = 64;
// With fewer free ones, no handler waits for the kernel; so many must there be at least.
constexpr unsigned kEntriesSpared = 8;
// The kernel wants room for the longest WRITE and READ.
constexpr size_t kPayloadBytes = kWriteBytesMax;
constexpr size_t kEntryBytes = kPayloadBytes + sizeof(UringHeaders);
// Marks numbers of ours in a request's `unique`: the entry's index, and this.
constexpr uint64_t kOursBit = uint64_t{1} << 63;

// The kernel has a queue for each processor that may ever be there.
unsigned PossibleProcessors() {
  // "0-3", or just "0".
  std::ifstream file("/sys/devices/system/cpu/possible");
  std::string text;
  file >> text;
  const size_t last = text.find_last_of("-,");
  const std::string number = last == std::string::npos ? text : text.substr(last + 1);
  const long configured = sysconf(_SC_NPROCESSORS_CONF);
  if (number.empty()) return static_cast<unsigned>(std::max(1L, configured));
  return static_cast<unsigned>(std::strtoul(number.c_str(), nullptr, 10)) + 1;
}

}  // namespace

struct UringTransport::Entry {
  UringHeaders* headers = nullptr;
  std::byte* payload = nullptr;
  iovec places[2];  // What the kernel is told of: both of them.
  UringChannel* channel = nullptr;
  uint16_t queue = 0;
  uint64_t unique = 0;  // The kernel's number of the request.
  Transport::Delivery delivery = Transport::Delivery::kHere;
  Entry* next = nullptr;
};

// Serves the queues of some processors on one ring.
class UringTransport::UringChannel : public Channel {
 public:
  UringChannel(UringTransport& transport, IoRing& ring, std::unique_ptr<Channel> dev)
      : transport_(transport), ring_(ring), dev_(std::move(dev)) {}

  void Add(Entry& entry) { entries_.push_back(&entry); }
  // Calls of the watch on /dev/fuse, which only the first channel has.
  void DevReadable() { dev_readable_ = true; }

  Received TryReceive(Request& request, ReceiveFrames& frames) override;
  bool HasMore() override { return false; }
  bool HasFetched() const override { return first_ != nullptr; }
  void Flush() override;
  // The reply is in the entry. Any thread.
  void Commit(Entry& entry);

 private:
  void Register();
  void QueueCommit(Entry& entry);
  static void Fetched(void* context, int result);
  static void Unpack(Entry& entry, uint64_t unique, Request& request, ReceiveFrames& frames);

  UringTransport& transport_;
  IoRing& ring_;
  const std::unique_ptr<Channel> dev_;  // nullptr: another channel has it.
  std::vector<Entry*> entries_;
  // Answered by other threads; a stack.
  std::atomic<Entry*> answered_{nullptr};

  // The rest belongs to the driving thread. Entries with a request that was not received yet,
  // oldest first.
  bool registered_ = false;
  bool dev_readable_ = false;
  bool closed_ = false;
  Entry* first_ = nullptr;
  Entry* last_ = nullptr;
};

void UringTransport::UringChannel::Register() {
  registered_ = true;
  for (Entry* entry : entries_) {
    const UringCommandBody body = {.flags = 0, .commit_id = 0, .queue = entry->queue, .zero = {}};
    ring_.QueueCommand(transport_.fd_, static_cast<uint32_t>(UringCommand::kRegister),
                       entry->places, 2, &body, sizeof(body), Fetched, entry);
  }
  ring_.SubmitQueued();
}

void UringTransport::UringChannel::QueueCommit(Entry& entry) {
  const UringCommandBody body = {
      .flags = 0, .commit_id = entry.headers->entry.commit_id, .queue = entry.queue, .zero = {}};
  // Where the entry's next request comes to does not depend on who hands in this answer.
  ring_.QueueCommand(transport_.fd_, static_cast<uint32_t>(UringCommand::kCommitAndFetch),
                     entry.places, 2, &body, sizeof(body), Fetched, &entry,
                     entry.delivery == Delivery::kAside ? IoRing::Runner::kKernelThread
                                                        : IoRing::Runner::kSubmitter);
}

// Runs as a completion of the ring.
void UringTransport::UringChannel::Fetched(void* context, int result) {
  auto& entry = *static_cast<Entry*>(context);
  UringChannel& channel = *entry.channel;
  if (result < 0) {
    // ENOTCONN: unmounted or aborted; and a kernel that refuses an entry will not serve us at all.
    channel.closed_ = true;
    return;
  }
  entry.next = nullptr;
  (channel.first_ == nullptr ? channel.first_ : channel.last_->next) = &entry;
  channel.last_ = &entry;
}

void UringTransport::UringChannel::Commit(Entry& entry) {
  if (IoRing::Current() == &ring_) {
    QueueCommit(entry);
    ring_.SubmitQueued();
    return;
  }
  Entry* head = answered_.load(std::memory_order_relaxed);
  do {
    entry.next = head;
  } while (!answered_.compare_exchange_weak(head, &entry, std::memory_order_release,
                                            std::memory_order_relaxed));
  if (head == nullptr) ring_.Wake();
}

void UringTransport::UringChannel::Flush() {
  if (!registered_) Register();
  if (answered_.load(std::memory_order_relaxed) == nullptr) return;
  Entry* entry = answered_.exchange(nullptr, std::memory_order_acquire);
  while (entry != nullptr) QueueCommit(*std::exchange(entry, entry->next));
  ring_.SubmitQueued();
}

Channel::Received UringTransport::UringChannel::TryReceive(Request& request,
                                                           ReceiveFrames& frames) {
  if (first_ != nullptr) {
    Entry& entry = *std::exchange(first_, first_->next);
    transport_.held_[entry.queue].fetch_add(1, std::memory_order_relaxed);
    Unpack(entry, kOursBit | static_cast<uint64_t>(&entry - transport_.entries_.get()), request,
           frames);
    return Received::kRequest;
  }
  if (dev_readable_) {
    const Received received = dev_->TryReceive(request, frames);
    dev_readable_ = received == Received::kRequest;
    if (received != Received::kNothing) return received;
  }
  return closed_ ? Received::kClosed : Received::kNothing;
}

// As it would have come through /dev/fuse, but with a number by which the reply finds the entry.
void UringTransport::UringChannel::Unpack(Entry& entry, uint64_t unique, Request& request,
                                          ReceiveFrames& frames) {
  fuse_in_header header;
  std::memcpy(&header, entry.headers->in_out, sizeof(header));
  entry.unique = std::exchange(header.unique, unique);
  // What others wrote into our memory meanwhile would be their own fault, but not past its end.
  const size_t payload_bytes = std::min<size_t>(entry.headers->entry.payload_bytes, kPayloadBytes);
  const size_t op_bytes =
      std::min<size_t>(header.len - std::min<size_t>(header.len, sizeof(header) + payload_bytes),
                       sizeof(entry.headers->op_in));
  header.len = static_cast<uint32_t>(sizeof(header) + op_bytes + payload_bytes);
  request.size_bytes = header.len;
  request.is_write = header.opcode == FUSE_WRITE && op_bytes == sizeof(fuse_write_in);
  if (request.is_write) {
    std::memcpy(request.head.data(), &header, sizeof(header));
    std::memcpy(request.head.data() + sizeof(header), entry.headers->op_in, op_bytes);
    frames.CopyFrom(entry.payload, payload_bytes);
    frames.Take(payload_bytes, request.frames);
    return;
  }
  request.flat.resize(header.len);
  std::byte* out = request.flat.data();
  std::memcpy(out, &header, sizeof(header));
  std::memcpy(out + sizeof(header), entry.headers->op_in, op_bytes);
  std::memcpy(out + sizeof(header) + op_bytes, entry.payload, payload_bytes);
}

UringTransport::UringTransport(int fd, unsigned loops, unsigned queues)
    : fd_(fd),
      dev_(fd),
      loops_(loops),
      queues_(queues),
      entries_per_queue_(std::min(kRingEntries * loops / queues, kEntriesMax)),
      entries_(std::make_unique<Entry[]>(size_t{queues} * entries_per_queue_)),
      held_(std::make_unique<std::atomic<unsigned>[]>(queues)) {}

UringTransport::~UringTransport() {
  if (memory_ != nullptr) munmap(memory_, size_t{queues_} * entries_per_queue_ * kEntryBytes);
}

StatusOr<std::unique_ptr<UringTransport>> UringTransport::Create(int fd, unsigned loops) {
  std::unique_ptr<UringTransport> transport(new UringTransport(fd, loops, PossibleProcessors()));
  if (transport->entries_per_queue_ < 2 * kEntriesSpared) {
    return ErrnoError(EOPNOTSUPP, "transport=uring: too many processors for the worker threads");
  }
  // Once the kernel was told in INIT, nothing is served without it: so all is tried before.
  if (auto ring = transport->MakeRing(); !ring.ok()) return ring.status();
  if (!transport->MapMemory()) return ErrnoError(errno, "no memory for requests");
  return transport;
}

bool UringTransport::MapMemory() {
  const size_t count = size_t{queues_} * entries_per_queue_;
  void* const memory = mmap(nullptr, count * kEntryBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  memory_ = static_cast<std::byte*>(memory);
  for (size_t i = 0; i < count; ++i) {
    Entry& entry = entries_[i];
    entry.payload = memory_ + i * kPayloadBytes;
    entry.headers = reinterpret_cast<UringHeaders*>(memory_ + count * kPayloadBytes) + i;
    entry.places[0] = {entry.headers, sizeof(UringHeaders)};
    entry.places[1] = {entry.payload, kPayloadBytes};
    entry.queue = static_cast<uint16_t>(i / entries_per_queue_);
  }
  return true;
}

StatusOr<std::unique_ptr<IoRing>> UringTransport::MakeRing() {
  return IoRing::Create(kRingEntries, /*long_commands=*/true);
}

StatusOr<std::unique_ptr<Channel>> UringTransport::OpenChannel(IoRing& ring) {
  const unsigned number = channels_opened_++;
  PBFS_CHECK(number < loops_);
  std::unique_ptr<Channel> dev;
  if (number == 0) {
    PBFS_ASSIGN_OR_RETURN(dev, dev_.OpenChannel(ring));
  }
  auto channel = std::make_unique<UringChannel>(*this, ring, std::move(dev));
  if (number == 0) ring.WatchReadable(fd_, [channel = channel.get()] { channel->DevReadable(); });
  for (size_t i = 0; i < size_t{queues_} * entries_per_queue_; ++i) {
    if (entries_[i].queue % loops_ != number) continue;
    entries_[i].channel = channel.get();
    channel->Add(entries_[i]);
  }
  return channel;
}

int UringTransport::Send(const iovec* segments, int count, Delivery delivery) {
  fuse_out_header header;
  PBFS_CHECK(segments[0].iov_len == sizeof(header));
  std::memcpy(&header, segments[0].iov_base, sizeof(header));
  if ((header.unique & kOursBit) == 0) return dev_.Send(segments, count, Delivery::kHere);
  Entry& entry = entries_[header.unique & ~kOursBit];
  header.unique = entry.unique;
  entry.delivery = delivery;
  std::memcpy(entry.headers->in_out, &header, sizeof(header));
  size_t bytes = 0;
  for (int i = 1; i < count; ++i) {
    PBFS_CHECK(bytes + segments[i].iov_len <= kPayloadBytes);
    std::memcpy(entry.payload + bytes, segments[i].iov_base, segments[i].iov_len);
    bytes += segments[i].iov_len;
  }
  entry.headers->entry.payload_bytes = static_cast<uint32_t>(bytes);
  held_[entry.queue].fetch_sub(1, std::memory_order_relaxed);
  entry.channel->Commit(entry);
  return 0;
}

bool UringTransport::IsShort() const {
  for (unsigned queue = 0; queue < queues_; ++queue) {
    if (held_[queue].load(std::memory_order_relaxed) + kEntriesSpared > entries_per_queue_) {
      return true;
    }
  }
  return false;
}

}  // namespace pbfs::fuse
