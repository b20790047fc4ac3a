// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "fs/fuse/transport.h"

namespace pbfs::fuse {

// The classic one: read(2) and write(2) on a /dev/fuse descriptor. All loops share the descriptor:
// a reply has to go where its request was read.
class DevTransport : public Transport {
 public:
  // `fd` is borrowed; made non-blocking.
  explicit DevTransport(int fd);

  StatusOr<std::unique_ptr<IoRing>> MakeRing() override;
  StatusOr<std::unique_ptr<Channel>> OpenChannel(IoRing& ring) override;
  int Send(const iovec* segments, int count, Delivery delivery) override;
  int SendPipe(int read_end, size_t size_bytes) override;
  bool takes_pipes() const override { return true; }

 private:
  const int fd_;
};

}  // namespace pbfs::fuse
