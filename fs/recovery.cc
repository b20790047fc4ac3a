// SPDX-License-Identifier: Apache-2.0
#include "fs/recovery.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/crc32c.h"
#include "base/event.h"
#include "cache/write_batch.h"
#include "fs/aligned_buffer.h"
#include "fs/rules.h"
#include "fs/verify.h"

namespace pbfs {
namespace {

constexpr uint64_t kScanBlocks = 256;

// Calls `visit` for each block of the ring that is a valid checkpoint header of this filesystem,
// with its position.
Status VisitHeaders(BlockDevice& device, const Superblock& superblock,
                    const std::function<void(const CheckpointHeader&, uint64_t)>& visit) {
  PBFS_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(kScanBlocks * kBlockBytes));
  const BlockNumber ring_start = superblock.log_start + kLogAnchorBlocks;
  const uint64_t ring_blocks = superblock.log_blocks - kLogAnchorBlocks;
  for (uint64_t position = 0; position < ring_blocks; position += kScanBlocks) {
    const uint64_t count = std::min(kScanBlocks, ring_blocks - position);
    const int error =
        ReadSync(device, (ring_start + position) * kBlockBytes, buffer.data(), count * kBlockBytes);
    if (error != 0) {
      return ErrnoError(EIO, absl::StrCat(device.geometry().name, ": block ", ring_start + position,
                                          ": reading the log: ", std::strerror(error)));
    }
    for (uint64_t i = 0; i < count; ++i) {
      const std::byte* block = buffer.data() + i * kBlockBytes;
      const auto* header = reinterpret_cast<const CheckpointHeader*>(block);
      if (header->header.magic != kMagicCheckpoint) continue;
      if (!VerifyCheckpointHeader(block, ring_start + position + i, superblock).ok()) continue;
      visit(*header, position + i);
    }
  }
  return OkStatus();
}

// One pass over the ring, then the chain of checkpoints from tail to newest, then their replay.
class Replay {
 public:
  Replay(BlockDevice& device, const Superblock& superblock, const LogAnchor& anchor)
      : device_(device),
        superblock_(superblock),
        anchor_(anchor),
        ring_blocks_(superblock.log_blocks - kLogAnchorBlocks) {}

  StatusOr<RecoveryResult> Run();

 private:
  struct Body {
    CheckpointHeader header;
    std::unique_ptr<AlignedBuffer> bytes;  // Everything behind the header.
  };

  BlockNumber RingBlock(uint64_t position) const {
    return superblock_.log_start + kLogAnchorBlocks + position % ring_blocks_;
  }
  Status FindHeaders();
  // nullopt: not whole.
  StatusOr<std::optional<Body>> ReadBody(uint64_t sequence, uint64_t position);
  Status Corrupt(uint64_t sequence, std::string_view what) const {
    return CorruptionError(absl::StrCat(device_.geometry().name, ": log checkpoint ", sequence,
                                        ": ", std::string(what)));
  }
  Status LoadChain();
  Status CollectCancels(const Body& body);
  Status Apply(const Body& body);
  Status ApplyRecord(uint64_t sequence, const LogRecord& record, const std::byte* data);
  Status CheckSkipped() const;
  Status WriteBlocks();

  BlockDevice& device_;
  const Superblock& superblock_;
  const LogAnchor& anchor_;
  const uint64_t ring_blocks_;
  std::map<uint64_t, uint64_t> positions_;  // Sequence -> ring position of a good header.
  uint64_t durable_claimed_ = 0;            // Newest that any good header says was durable.
  std::vector<Body> chain_;                 // Tail to newest.
  absl::flat_hash_map<BlockNumber, uint64_t> cancelled_;  // Newest cancelling sequence.
  struct Image {
    std::unique_ptr<AlignedBuffer> bytes;
    Lsn lsn;
  };
  std::map<BlockNumber, Image> images_;
  // Blocks with ranges whose image lies before the tail; the newest such sequence.
  absl::flat_hash_map<BlockNumber, uint64_t> skipped_;
};

Status Replay::FindHeaders() {
  return VisitHeaders(device_, superblock_,
                      [this](const CheckpointHeader& header, uint64_t position) {
                        if (header.epoch != anchor_.epoch) return;
                        positions_[header.sequence] = position;
                        durable_claimed_ = std::max(durable_claimed_, header.durable_sequence);
                      });
}

StatusOr<std::optional<Replay::Body>> Replay::ReadBody(uint64_t sequence, uint64_t position) {
  Body body;
  PBFS_ASSIGN_OR_RETURN(AlignedBuffer first, AlignedBuffer::Create(kBlockBytes));
  int error = ReadSync(device_, RingBlock(position) * kBlockBytes, first.data(), kBlockBytes);
  if (error == 0) {
    body.header = *first.as<CheckpointHeader>();
    if (!VerifyCheckpointHeader(first.data(), RingBlock(position), superblock_).ok() ||
        body.header.sequence != sequence || body.header.total_blocks == 0 ||
        body.header.total_blocks > ring_blocks_) {
      return std::nullopt;
    }
    const uint64_t blocks = body.header.total_blocks - 1;
    PBFS_ASSIGN_OR_RETURN(body.bytes,
                          AlignedBuffer::CreateUnique(std::max<uint64_t>(blocks, 1) * kBlockBytes));
    const uint64_t start = (position + 1) % ring_blocks_;
    const uint64_t before_wrap = std::min(blocks, ring_blocks_ - start);
    if (before_wrap > 0) {
      error = ReadSync(device_, RingBlock(start) * kBlockBytes, body.bytes->data(),
                       before_wrap * kBlockBytes);
    }
    if (error == 0 && blocks > before_wrap) {
      error = ReadSync(device_, RingBlock(0) * kBlockBytes,
                       body.bytes->data() + before_wrap * kBlockBytes,
                       (blocks - before_wrap) * kBlockBytes);
    }
    if (error == 0) {
      if (Crc32c(body.bytes->data(), blocks * kBlockBytes) != body.header.body_crc) {
        return std::nullopt;
      }
      return std::optional<Body>(std::move(body));
    }
  }
  return ErrnoError(EIO, absl::StrCat(device_.geometry().name, ": reading log checkpoint ",
                                      sequence, ": ", std::strerror(error)));
}

Status Replay::LoadChain() {
  std::optional<Body> newest;
  while (!positions_.empty() && !newest) {
    const auto last = std::prev(positions_.end());
    PBFS_ASSIGN_OR_RETURN(newest, ReadBody(last->first, last->second));
    // A torn newest checkpoint was never acknowledged. One that a later header calls durable was.
    if (!newest) positions_.erase(last);
  }
  if (!newest) {
    // The first checkpoint of an epoch says that the one before the epoch was durable.
    if (durable_claimed_ < anchor_.first_sequence) return OkStatus();
    return Corrupt(durable_claimed_, "is damaged, though it was durable");
  }
  if (newest->header.sequence < durable_claimed_) {
    return Corrupt(durable_claimed_, "is damaged, though it was durable");
  }
  const uint64_t last = newest->header.sequence;
  const uint64_t first = newest->header.tail_sequence;
  if (first > last || last - first > ring_blocks_ || newest->header.durable_sequence != last - 1) {
    return Corrupt(last, "bad tail or durable sequence");
  }
  uint64_t position = newest->header.tail_position;
  uint32_t previous_crc = 0;
  for (uint64_t sequence = first; sequence <= last; ++sequence) {
    std::optional<Body> body;
    PBFS_ASSIGN_OR_RETURN(body, ReadBody(sequence, position % ring_blocks_));
    if (!body) return Corrupt(sequence, "is damaged, though it was durable");
    if (body->header.epoch != anchor_.epoch) return Corrupt(sequence, "is of another epoch");
    if (sequence > first && body->header.previous_crc != previous_crc) {
      return Corrupt(sequence, "does not follow the one before it");
    }
    previous_crc = body->header.header.crc;
    position += body->header.total_blocks;
    if (position - newest->header.tail_position > ring_blocks_) {
      return Corrupt(sequence, "the log is longer than its ring");
    }
    chain_.push_back(std::move(*body));
  }
  return OkStatus();
}

Status Replay::CollectCancels(const Body& body) {
  const CheckpointHeader& header = body.header;
  const uint64_t body_blocks = header.total_blocks - 1;
  if (header.descriptor_blocks > body_blocks ||
      header.record_count > uint64_t{header.descriptor_blocks} * kLogRecordsPerBlock ||
      header.data_bytes > (body_blocks - header.descriptor_blocks) * kBlockBytes) {
    return Corrupt(header.sequence, "record_count, descriptor_blocks or data_bytes out of range");
  }
  const auto* records = body.bytes->as<LogRecord>();
  for (uint32_t i = 0; i < header.record_count; ++i) {
    if (records[i].kind == LogRecordKind::kCancel) {
      uint64_t& newest = cancelled_[records[i].block];
      newest = std::max(newest, header.sequence);
    }
  }
  return OkStatus();
}

Status Replay::ApplyRecord(uint64_t sequence, const LogRecord& record, const std::byte* data) {
  if (record.block >= superblock_.total_blocks || record.block == 0) {
    return Corrupt(sequence, absl::StrCat("record for block ", record.block, " out of range"));
  }
  const auto cancelled = cancelled_.find(record.block);
  if (cancelled != cancelled_.end() && sequence <= cancelled->second) return OkStatus();
  const bool strict = RuleHolds(Rule::kWholeImage) && RuleHolds(Rule::kTail);
  if (strict && record.kind != LogRecordKind::kImage && !images_.contains(record.block)) {
    // The tail has passed the block's image: what this range changes was written back and flushed.
    skipped_[record.block] = sequence;
    return OkStatus();
  }
  Image& image = images_[record.block];
  if (image.bytes == nullptr) {
    if (record.kind != LogRecordKind::kImage) {
      // Test builds with the rule off: trust the device, as a log without images would.
      PBFS_ASSIGN_OR_RETURN(image.bytes, AlignedBuffer::CreateUnique(kBlockBytes));
      ReadSync(device_, record.block * kBlockBytes, image.bytes->data(), kBlockBytes);
    } else {
      PBFS_ASSIGN_OR_RETURN(image.bytes, AlignedBuffer::CreateUnique(kBlockBytes));
    }
  }
  for (uint32_t i = 0; i < kBlockBytes / kLogChunkBytes; ++i) {
    if ((record.chunks >> i & 1) == 0) continue;
    std::memcpy(image.bytes->data() + size_t{i} * kLogChunkBytes, data, kLogChunkBytes);
    data += kLogChunkBytes;
  }
  image.lsn = sequence;
  return OkStatus();
}

Status Replay::Apply(const Body& body) {
  const CheckpointHeader& header = body.header;
  const auto* records = body.bytes->as<LogRecord>();
  const std::byte* data = body.bytes->data() + size_t{header.descriptor_blocks} * kBlockBytes;
  uint64_t left = header.data_bytes;
  for (uint32_t i = 0; i < header.record_count; ++i) {
    const LogRecord& record = records[i];
    if (record.kind == LogRecordKind::kCancel) continue;
    const uint64_t bytes = static_cast<uint64_t>(std::popcount(record.chunks)) * kLogChunkBytes;
    const bool known = record.kind == LogRecordKind::kRange ||
                       (record.kind == LogRecordKind::kImage && record.chunks == kLogWholeBlock);
    if (bytes > left || !known) {
      return Corrupt(header.sequence, absl::StrCat("record ", i, ": bad chunks or kind"));
    }
    PBFS_RETURN_IF_ERROR(ApplyRecord(header.sequence, record, data));
    data += bytes;
    left -= bytes;
  }
  return OkStatus();
}

// A block whose ranges were skipped and that has no later image (a writeback after the tail, which
// may have torn it, would have one) must hold them already.
Status Replay::CheckSkipped() const {
  PBFS_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(kBlockBytes));
  for (const auto& [block, sequence] : skipped_) {
    if (images_.contains(block)) continue;
    const int error = ReadSync(device_, block * kBlockBytes, buffer.data(), kBlockBytes);
    if (error != 0) {
      return ErrnoError(EIO, absl::StrCat(device_.geometry().name, ": block ", block,
                                          ": replaying the log: ", std::strerror(error)));
    }
    if (!VerifyBlock(buffer.data(), block, superblock_).ok() ||
        buffer.as<BlockHeader>()->lsn < sequence) {
      return Corrupt(sequence, absl::StrCat("block ", block, ": range without an image"));
    }
  }
  return OkStatus();
}

Status Replay::WriteBlocks() {
  WriteBatch batch(device_, 1 << 20);
  for (auto& [block, image] : images_) {
    StampBlock(image.bytes->data(), image.lsn);
    PBFS_RETURN_IF_ERROR(VerifyBlock(image.bytes->data(), block, superblock_));
    batch.Add(block, image.bytes->data(), 0);
  }
  Event done;
  batch.Start([&done](WriteBatch&) { done.Set(); });
  done.Wait();
  for (const WriteBatch::Piece& piece : batch.pieces()) {
    if (piece.error == 0) continue;
    return ErrnoError(EIO, absl::StrCat(device_.geometry().name, ": block ", piece.block,
                                        ": replaying the log: ", std::strerror(piece.error)));
  }
  return OkStatus();
}

StatusOr<RecoveryResult> Replay::Run() {
  PBFS_RETURN_IF_ERROR(FindHeaders());
  PBFS_RETURN_IF_ERROR(LoadChain());
  RecoveryResult result;
  result.replayed = true;
  result.anchor_generation = anchor_.generation;
  result.next_sequence = anchor_.first_sequence;
  result.checkpoints = chain_.size();
  for (const Body& body : chain_) PBFS_RETURN_IF_ERROR(CollectCancels(body));
  for (const Body& body : chain_) PBFS_RETURN_IF_ERROR(Apply(body));
  PBFS_RETURN_IF_ERROR(CheckSkipped());
  if (!chain_.empty()) result.next_sequence = chain_.back().header.sequence + 1;
  result.blocks_written = images_.size();
  PBFS_RETURN_IF_ERROR(WriteBlocks());
  int error = RuleHolds(Rule::kReplayFlush) ? FlushSync(device_) : 0;
  if (error == 0) {
    PBFS_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(kBlockBytes));
    auto* anchor = buffer.as<LogAnchor>();
    *anchor = anchor_;
    anchor->generation = ++result.anchor_generation;
    anchor->header.block = superblock_.log_start + anchor->generation % kLogAnchorBlocks;
    anchor->epoch = anchor_.epoch * 6364136223846793005u + 1442695040888963407u;
    anchor->first_sequence = result.next_sequence;
    anchor->clean = 1;
    StampBlock(buffer.data(), result.next_sequence - 1);
    error =
        WriteSync(device_, anchor->header.block * kBlockBytes, buffer.data(), kBlockBytes, true);
  }
  if (error == 0) error = FlushSync(device_);
  if (error != 0) {
    return ErrnoError(EIO, absl::StrCat(device_.geometry().name,
                                        ": finishing log replay: ", std::strerror(error)));
  }
  return result;
}

// A clean anchor beside a bad one: either the power went while the bad one was written, then the
// log is as the clean one says; or the bad one was durable once, and checkpoints followed it.
Status CheckNothingFollows(BlockDevice& device, const Superblock& superblock,
                           const LogAnchor& clean, const Status& problem) {
  bool follows = false;
  PBFS_RETURN_IF_ERROR(
      VisitHeaders(device, superblock, [&](const CheckpointHeader& header, uint64_t) {
        follows |= header.sequence >= clean.first_sequence;
      }));
  if (!follows) return OkStatus();
  if (!IsCorruption(problem)) return problem;  // It could not be read.
  return CorruptionError(absl::StrCat(std::string(problem.message()),
                                      ": this log anchor is needed: checkpoints follow the other"));
}

}  // namespace

StatusOr<LogAnchor> ReadLogAnchor(BlockDevice& device, const Superblock& superblock) {
  std::optional<LogAnchor> best;
  Status problem;
  for (uint32_t i = 0; i < kLogAnchorBlocks; ++i) {
    PBFS_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Create(kBlockBytes));
    const BlockNumber block = superblock.log_start + i;
    const int error = ReadSync(device, block * kBlockBytes, buffer.data(), kBlockBytes);
    Status status =
        error != 0
            ? ErrnoError(EIO, absl::StrCat(device.geometry().name, ": block ", block,
                                           ": reading the log anchor: ", std::strerror(error)))
            : VerifyLogAnchor(buffer.data(), block, superblock);
    if (!status.ok()) {
      problem = status;
      continue;
    }
    const auto* anchor = buffer.as<LogAnchor>();
    if (!best || anchor->generation > best->generation) best = *anchor;
  }
  if (!best) return problem;
  if (!problem.ok() && best->clean != 0) {
    PBFS_RETURN_IF_ERROR(CheckNothingFollows(device, superblock, *best, problem));
  }
  return *best;
}

StatusOr<RecoveryResult> ReplayLog(BlockDevice& device, const Superblock& superblock) {
  LogAnchor anchor;
  PBFS_ASSIGN_OR_RETURN(anchor, ReadLogAnchor(device, superblock));
  if (anchor.clean != 0) {
    RecoveryResult result;
    result.anchor_generation = anchor.generation;
    result.next_sequence = anchor.first_sequence;
    return result;
  }
  return Replay(device, superblock, anchor).Run();
}

}  // namespace pbfs
