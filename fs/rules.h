// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace pbfs {

// The ordering rules that crash safety rests on (ARCHITECTURE.md, "What each crash leaves"). In the
// test build (PBFS_SIMULATION) each can be switched off, and then the crash checkers must fail: a
// checker that cannot fail proves nothing. In the product they are constants.
enum class Rule : uint32_t {
  kWriteAheadLog = 1 << 0,   // Metadata is written back only after its checkpoint is durable.
  kFlushBeforeLog = 1 << 1,  // A device flush precedes each checkpoint write.
  kFlushAfterLog = 1 << 2,   // A checkpoint is on stable media before it counts as durable.
  kWholeImage = 1 << 3,      // A block is logged whole after any writeback of it was submitted.
  kTail = 1 << 4,            // The tail passes a block only once its writeback is flushed.
  kCancel = 1 << 5,          // Freed metadata blocks leave cancel records.
  kBusyExtents = 1 << 6,     // Freed extents are not reused before the freeing is durable.
  // Extents, the conversion of unwritten ones, and sizes are logged after their data I/O completed.
  kDataBeforeMetadata = 1 << 7,
  kOrphans = 1 << 8,       // Unlinked but referenced inodes are on the orphan tree.
  kZeroTail = 1 << 9,      // Raising a size zeroes the old end's block first.
  kReplayFlush = 1 << 10,  // Replay flushes its writes before it retires the log.
  kClaims = 1 << 11,       // Data blocks are claimed in memory until their I/O completed.
  kUnwritten = 1 << 12,    // Space that is allocated without data reads as zeroes.
};

#ifdef PBFS_SIMULATION
extern uint32_t g_disabled_rules;
inline bool RuleHolds(Rule rule) { return (g_disabled_rules & static_cast<uint32_t>(rule)) == 0; }
#else
constexpr bool RuleHolds(Rule) { return true; }
#endif

}  // namespace pbfs
