// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <utility>

namespace pbfs::fuse {

// Counts what still uses the filesystem: requests being received or handled, and callbacks that
// will answer one. Thread-safe.
class InFlight {
 public:
  // One unit; a copy is one more.
  class Token {
   public:
    Token() = default;
    Token(const Token& other) : owner_(other.owner_) {
      if (owner_ != nullptr) owner_->count_.fetch_add(1, std::memory_order_relaxed);
    }
    Token(Token&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)) {}
    Token& operator=(Token other) noexcept {
      std::swap(owner_, other.owner_);
      return *this;
    }
    ~Token() {
      if (owner_ != nullptr) owner_->count_.fetch_sub(1, std::memory_order_seq_cst);
    }

   private:
    friend class InFlight;
    explicit Token(InFlight& owner) : owner_(&owner) {
      owner_->count_.fetch_add(1, std::memory_order_seq_cst);
    }
    InFlight* owner_ = nullptr;
  };

  Token Begin() { return Token(*this); }
  // Polls: a token's end must not touch anything after its count.
  void WaitUntilNone() const {
    while (count_.load(std::memory_order_seq_cst) != 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }

 private:
  std::atomic<int64_t> count_{0};
};

}  // namespace pbfs::fuse
