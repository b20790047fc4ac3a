// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/crash/model.h"

namespace pbfs {

// Where a crash came in what one client did.
struct Bounds {
  uint32_t ops_begun = 0;
  size_t acks = 0;
};

// Marks in a recording: a client has begun an operation, or got so many acknowledgements.
inline constexpr size_t kClientsMax = 16;
inline uint64_t MarkOfOp(size_t client, uint32_t op) {
  return (uint64_t{op} * kClientsMax + client) * 2;
}
inline uint64_t MarkOfAck(size_t client, size_t acks) {
  return (uint64_t{acks} * kClientsMax + client) * 2 + 1;
}

// The models of all clients of a filesystem, and how their operations lay in time.
//
// Metadata has one log. So a crash leaves of each client the first k operations, for some k, such
// that with an operation of one client everything is there that any client had finished before that
// one began.
class Oracle {
 public:
  // The first is the one at the root; the others have a directory there. Borrowed.
  void Add(const Model& model, const std::string& directory);
  const std::string& DirectoryOf(size_t client) const { return clients_[client].directory; }
  // The client begins its operation `op`.
  void NoteBegin(size_t client, uint32_t op);

  size_t client_count() const { return clients_.size(); }
  const Model& model(size_t client) const { return *clients_[client].model; }

  // Bounds of each client, from the marks before a crash.
  std::vector<Bounds> BoundsOf(const std::vector<uint64_t>& marks) const;
  // Empty if `observed` may be what a crash left, else what is wrong.
  std::string Explain(const Observed& observed, const std::vector<Bounds>& bounds) const;
  std::string ExplainLive(const Observed& observed) const;

 private:
  struct Seen {  // Of one client.
    const Model* model;
    std::string directory;
    // For each operation, from 1: what of each client had ended when it began.
    std::vector<std::vector<uint32_t>> ended_before = {{}};
  };
  // The inode of a client's directory. 0: it is not there.
  InodeNumber RootOf(const Observed& observed, size_t client) const;

  std::vector<Seen> clients_;
};

}  // namespace pbfs
