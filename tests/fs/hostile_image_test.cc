// SPDX-License-Identifier: Apache-2.0
// Images with damaged metadata under right checksums: neither the checker nor a mounted filesystem
// may crash, hang or read out of bounds, whatever they find. (Built with
// -fsanitize=address,undefined in CI.) PBFS_HOSTILE_IMAGES sets how many; PBFS_HOSTILE_SEED runs a
// single one.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "base/crc32c.h"
#include "fs/checker.h"
#include "io/overlay_device.h"
#include "tests/support/fs_image.h"

namespace pbfs {
namespace {

constexpr uint64_t kImagesDefault = 400;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Bytes that a careless program falls over.
void PutInterestingNumber(std::mt19937_64& random, std::byte* at, size_t bytes) {
  uint64_t value = 0;
  std::memcpy(&value, at, bytes);
  switch (random() % 7) {
    case 0:
      value = 0;
      break;
    case 1:
      value = UINT64_MAX;
      break;
    case 2:
      ++value;
      break;
    case 3:
      --value;
      break;
    case 4:
      value = random() % 10'000;  // A block of this device, or a count.
      break;
    case 5:
      value ^= uint64_t{1} << random() % (8 * bytes);
      break;
    default:
      value = random();
  }
  std::memcpy(at, &value, bytes);
}

void DamageBlock(std::mt19937_64& random, std::byte* data) {
  constexpr size_t kHeader = sizeof(BlockHeader);
  for (uint64_t i = 1 + random() % 3; i > 0; --i) {
    const size_t bytes = size_t{1} << random() % 4;
    // Where the fields are denser; sometimes in the header too.
    const size_t from = random() % 16 == 0 ? 8 : kHeader;
    const size_t span = random() % 2 == 0 ? 256 : kBlockBytes - from;
    const size_t at = (from + random() % span) / bytes * bytes;
    PutInterestingNumber(random, data + std::min(at, kBlockBytes - bytes), bytes);
  }
}

// Damages the log and makes its checksums right again, so that recovery takes it for durable.
class LogDamage {
 public:
  explicit LogDamage(ImageEditor& editor)
      : editor_(editor),
        ring_start_(editor.superblock().log_start + kLogAnchorBlocks),
        ring_blocks_(editor.superblock().log_blocks - kLogAnchorBlocks) {
    AlignedBuffer block = *AlignedBuffer::Create(kBlockBytes);
    for (uint64_t position = 0; position < ring_blocks_; ++position) {
      editor_.Load(ring_start_ + position, block);
      const auto* header = block.as<CheckpointHeader>();
      if (header->header.magic != kMagicCheckpoint) continue;
      headers_[header->sequence] = {ring_start_ + position, header->total_blocks};
    }
  }
  void Apply(std::mt19937_64& random) {
    ASSERT_FALSE(headers_.empty());
    const auto [header, blocks] =
        std::next(headers_.begin(), int(random() % headers_.size()))->second;
    // The header, the first descriptors, or any block.
    const uint64_t index = random() % 3 == 0 ? 0 : random() % 2 == 0 ? 1 : random() % blocks;
    AlignedBuffer block = *AlignedBuffer::Create(kBlockBytes);
    editor_.Load(At(header, index), block);
    if (index == 0) {
      PutInterestingNumber(random, block.data() + sizeof(BlockHeader) + random() % 16 * 4, 4);
    } else {
      DamageBlock(random, block.data());
      if (index == 1) PutInterestingNumber(random, block.data() + random() % 64 * 4, 4);
    }
    editor_.Store(At(header, index), block);
    Restamp();
  }

 private:
  struct Place {
    BlockNumber header;
    uint64_t blocks;
  };
  BlockNumber At(BlockNumber header, uint64_t index) const {
    return ring_start_ + (header - ring_start_ + index) % ring_blocks_;
  }
  void Restamp() {
    uint32_t previous = 0;
    for (const auto& [sequence, place] : headers_) {
      uint32_t crc = 0;
      AlignedBuffer block = *AlignedBuffer::Create(kBlockBytes);
      for (uint64_t i = 1; i < place.blocks; ++i) {
        editor_.Load(At(place.header, i), block);
        crc = Crc32c(block.data(), kBlockBytes, crc);
      }
      editor_.EditAs<CheckpointHeader>(place.header, [&](CheckpointHeader& header) {
        header.body_crc = crc;
        if (previous != 0) header.previous_crc = previous;
      });
      previous = editor_.Get<CheckpointHeader>(place.header).header.crc;
    }
  }

  ImageEditor& editor_;
  const BlockNumber ring_start_;
  const uint64_t ring_blocks_;
  std::map<uint64_t, Place> headers_;  // By sequence.
};

class Victim {
 public:
  // One or two of `blocks` are damaged; without any, the log is.
  Victim(const RichImage& image, const std::vector<BlockNumber>& blocks, uint64_t seed)
      : device_(image.device->Clone()), random_(seed) {
    ImageEditor editor(*device_);
    if (blocks.empty()) LogDamage(editor).Apply(random_);
    for (uint64_t i = 1 + random_() % 2; i > 0 && !blocks.empty(); --i) {
      const BlockNumber block = blocks[random_() % blocks.size()];
      editor.Edit(block, [this](std::byte* data) { DamageBlock(random_, data); });
    }
  }
  MemoryDevice& device() { return *device_; }

  // Reads everything; the first error, if any.
  Status Walk(FileSystem& fs) {
    std::set<InodeNumber> seen;
    std::vector<InodeNumber> dirs = {fs.root()};
    Status status;
    const auto note = [&status](const Status& more) {
      if (status.ok()) status = more;
    };
    while (!dirs.empty() && seen.size() < 5'000) {
      const InodeNumber dir = dirs.back();
      dirs.pop_back();
      if (!seen.insert(dir).second) continue;
      std::vector<std::string> names;
      note(fs.ReadDir(dir, 0, [&](const DirEntry& entry) {
        if (entry.name != "." && entry.name != "..") names.emplace_back(entry.name);
        return names.size() < 2'000;
      }));
      for (const std::string& name : names) {
        const auto found = fs.Lookup(dir, name);
        note(found.status());
        if (!found.ok() || !*found) continue;
        note(ReadInode(fs, **found));
        if (S_ISDIR((*found)->mode)) dirs.push_back((*found)->ino);
      }
    }
    return status;
  }

  // Changes what it finds in the root; errors are fine.
  void Change(FileSystem& fs) {
    FsClient client(fs);
    const auto names = client.List(fs.root());
    if (!names.ok()) return;
    for (const std::string& name : *names) {
      const auto found = client.Find(fs.root(), name);
      if (found.ok() && *found != 0) ChangeInode(fs, client, *found, name);
    }
    (void)client.Mkdir(fs.root(), "new directory");
    (void)client.Sync();
  }

 private:
  Status ReadInode(FileSystem& fs, const Attributes& attributes) {
    FsClient client(fs);
    Status status;
    if (S_ISREG(attributes.mode)) {
      for (const uint64_t offset : {uint64_t{0}, attributes.size_bytes / 2}) {
        status = client.Read(attributes.ino, offset, 100'000).status();
        if (!status.ok()) return status;
      }
      const auto data = fs.Seek(attributes.ino, 0, SEEK_DATA);
      if (!data.ok() && ErrnoOf(data.status()) != ENXIO) return data.status();
    } else if (S_ISLNK(attributes.mode)) {
      PBFS_RETURN_IF_ERROR(fs.ReadLink(attributes.ino).status());
    }
    const auto names = fs.ListXattr(attributes.ino);
    PBFS_RETURN_IF_ERROR(names.status());
    for (const std::string& name : *names) {
      const Status got = fs.GetXattr(attributes.ino, name).status();
      // Which names may be asked for is no matter of the format.
      if (ErrnoOf(got) != EOPNOTSUPP) PBFS_RETURN_IF_ERROR(got);
    }
    return OkStatus();
  }

  void ChangeInode(FileSystem& fs, FsClient& client, InodeNumber ino, const std::string& name) {
    switch (random_() % 8) {
      case 0:
        (void)fs.Unlink(fs.root(), name);
        fs.Forget(ino, 1);
        break;
      case 1:
        (void)client.Truncate(ino, random_() % 10'000);
        break;
      case 2:
        (void)client.Write(ino, random_() % 100'000, std::string(30'000, 'h'));
        break;
      case 3:
        (void)fs.SetXattr(ino, "user.large", std::string(random_() % 3'000, 'h'), 0);
        (void)fs.RemoveXattr(ino, "user.one");
        break;
      case 4:
        for (const int mode : {FALLOC_FL_ZERO_RANGE, 0, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE})
          (void)client.Fallocate(ino, mode, random_() % 100'000, random_() % 1'000'000);
        break;
      case 5:
        (void)client.Fallocate(ino, FALLOC_FL_KEEP_SIZE, random_() % 100'000, 1'000'000);
        (void)client.Write(ino, random_() % 100'000, std::string(30'000, 'h'));
        (void)client.Fsync(ino);
        break;
      case 6:
        (void)fs.Rename(fs.root(), name, fs.root(), "renamed", 0);
        break;
      default:
        EmptyDirectory(fs, client, ino);
    }
  }

  void EmptyDirectory(FileSystem& fs, FsClient& client, InodeNumber dir) {
    const auto names = client.List(dir);
    if (!names.ok()) return;
    for (size_t i = 0; i < names->size() && i < 300; ++i) {
      (void)fs.Unlink(dir, (*names)[i]);
      if (i % 3 == 0) (void)client.Create(dir, absl::StrCat("new ", i));
    }
  }

  std::unique_ptr<MemoryDevice> device_;
  std::mt19937_64 random_;
};

std::vector<BlockNumber> Targets(ImageEditor& editor) {
  std::vector<BlockNumber> blocks;
  for (const BlockNumber block : editor.MetadataBlocks()) {
    // The log is clean: what is in the ring does not count.
    if (editor.Get<BlockHeader>(block).magic != kMagicCheckpoint) blocks.push_back(block);
  }
  return blocks;
}

MountOptions SmallMount() {
  MountOptions options;
  options.cache_bytes = 16 << 20;
  return options;
}

void TryImage(const RichImage& image, const std::vector<BlockNumber>& blocks, uint64_t seed) {
  Victim victim(image, blocks, seed);
  const auto report = CheckReplayed(victim.device());
  const bool clean = report.ok() && report->clean();
  {
    auto read_only = SmallMount();
    read_only.read_only = true;
    OverlayDevice overlay(victim.device());  // A mount replays the log.
    const auto fs = FileSystem::Mount(overlay, read_only);
    if (fs.ok()) {
      const Status walked = victim.Walk(**fs);
      EXPECT_TRUE(walked.ok() || !clean) << "seed " << seed << ": checked clean, but: " << walked;
    } else if (clean) {
      ADD_FAILURE() << "seed " << seed << ": checked clean, but: " << fs.status();
    }
  }
  const auto fs = FileSystem::Mount(victim.device(), SmallMount());
  if (!fs.ok()) return;
  victim.Change(**fs);
  (void)victim.Walk(**fs);
  (void)(*fs)->Unmount();
}

void TryImages(const RichImage& image, const std::vector<BlockNumber>& blocks) {
  const uint64_t first = FromEnvironment("PBFS_HOSTILE_SEED", 1);
  const uint64_t images = FromEnvironment("PBFS_HOSTILE_IMAGES", kImagesDefault);
  const bool verbose = std::getenv("PBFS_HOSTILE_VERBOSE") != nullptr;
  for (uint64_t seed = first; seed < first + images; ++seed) {
    if (verbose) std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(seed));
    TryImage(image, blocks, seed);
  }
}

TEST(HostileImageTest, DamagedMetadataNeitherCrashesNorHangsNorPassesAsClean) {
  const RichImage image = MakeRichImage();
  ImageEditor editor(*image.device);
  TryImages(image, Targets(editor));
}

TEST(HostileImageTest, ADamagedLogNeitherCrashesNorHangsNorPassesAsClean) {
  TryImages(MakeDirtyRichImage(), {});
}

}  // namespace
}  // namespace pbfs
