// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "fs/fuse/request.h"
#include "gtest/gtest.h"

namespace pbfs::fuse {
namespace {

class ReceiveFramesTest : public testing::Test {
 protected:
  // A cache whose free frames are not neighbours.
  ReceiveFramesTest() {
    std::vector<PageBuf*> all;
    cache_.AllocateMany(cache_.data_frames_max() / 2, all, PageUse::kData);
    for (size_t i = 0; i < all.size(); ++i) {
      if (i % 2 == 0) {
        cache_.Unpin(*all[i]);
      } else {
        kept_.push_back(all[i]);
      }
    }
    frames_.emplace(cache_);
    frames_->Refill();
  }
  ~ReceiveFramesTest() override {
    frames_.reset();
    for (PageBuf* frame : kept_) cache_.Unpin(*frame);
  }

  // As readv(2) does. Returns how many places it was given.
  size_t Receive(const std::string& payload) {
    char head[kHeadBytes] = {};
    const auto segments = frames_->Segments(head, sizeof(head));
    size_t room = 0;
    for (const iovec& segment : segments) room += segment.iov_len;
    EXPECT_EQ(room, sizeof(head) + kWriteBytesMax + kPageBytes);
    size_t done = 0;
    for (const iovec& segment : segments.subspan(1)) {
      const size_t bytes = std::min(segment.iov_len, payload.size() - done);
      std::memcpy(segment.iov_base, payload.data() + done, bytes);
      done += bytes;
    }
    return segments.size();
  }
  std::string TakeWrite(size_t size_bytes) {
    std::vector<PageBuf*> taken;
    frames_->Take(size_bytes, taken);
    std::string got;
    for (PageBuf* frame : taken) {
      got.append(reinterpret_cast<char*>(frame->data),
                 std::min(kPageBytes, size_bytes - got.size()));
    }
    frames_->Return(taken);
    return got;
  }
  static std::string Payload(size_t size_bytes, unsigned seed) {
    std::string text(size_bytes, '\0');
    for (size_t i = 0; i < size_bytes; ++i) text[i] = static_cast<char>(seed + i + i / 251);
    return text;
  }

  PageCache cache_{16 << 20};
  std::vector<PageBuf*> kept_;
  std::optional<ReceiveFrames> frames_;
};

TEST_F(ReceiveFramesTest, WhateverThePlacesThePayloadArrives) {
  constexpr size_t kSizes[] = {1,      4096,    8 * 4096, 8 * 4096 + 1, 9 * 4096,
                               60'000, 1 << 20, 4097,     (1 << 20) - 5};
  size_t fewest = SIZE_MAX;
  size_t most = 0;
  unsigned seed = 0;
  for (int round = 0; round < 5; ++round) {
    for (const size_t size : kSizes) {
      for (int small = 0; small < 5 * round; ++small) {
        const std::string payload = Payload(100, ++seed);
        Receive(payload);
        std::string got(payload.size(), '\0');
        frames_->CopyTo(got.data(), got.size());
        ASSERT_EQ(got, payload);
      }
      const std::string payload = Payload(size, ++seed);
      const size_t places = Receive(payload);
      fewest = std::min(fewest, places);
      most = std::max(most, places);
      ASSERT_EQ(TakeWrite(size), payload) << size << " bytes, " << places << " places";
    }
  }
  EXPECT_LE(fewest, 10u);
  EXPECT_GT(most, 100u);
}

TEST_F(ReceiveFramesTest, LongRequestsThatAreNoWrites) {
  for (int i = 0; i < 100; ++i) {
    const std::string payload = Payload(size_t{1000} * i + 1, i);
    Receive(payload);
    std::string got(payload.size(), '\0');
    frames_->CopyTo(got.data(), got.size());
    ASSERT_EQ(got, payload);
  }
}

}  // namespace
}  // namespace pbfs::fuse
