// SPDX-License-Identifier: Apache-2.0
// Images with damaged metadata under right checksums: neither the checker nor a mounted filesystem
// may crash, hang or read out of bounds, whatever they find. (Built with
// -fsanitize=address,undefined in CI.) PBFS_HOSTILE_IMAGES sets how many; PBFS_HOSTILE_SEED runs a
// single one.
#include <sys/xattr.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "fs/checker.h"
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

class Victim {
 public:
  Victim(const RichImage& image, const std::vector<BlockNumber>& blocks, uint64_t seed)
      : device_(image.device->Clone()), random_(seed) {
    ImageEditor editor(*device_);
    for (uint64_t i = 1 + random_() % 2; i > 0; --i) {
      const BlockNumber block = blocks[random_() % blocks.size()];
      const auto damage = [this](std::byte* data) { DamageBlock(random_, data); };
      editor.Edit(block, damage);
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
      PBFS_RETURN_IF_ERROR(fs.GetXattr(attributes.ino, name).status());
    }
    return OkStatus();
  }

  void ChangeInode(FileSystem& fs, FsClient& client, InodeNumber ino, const std::string& name) {
    switch (random_() % 6) {
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
  const auto report = CheckFilesystem(victim.device());
  const bool clean = report.ok() && report->clean();
  {
    auto read_only = SmallMount();
    read_only.read_only = true;
    const auto fs = FileSystem::Mount(victim.device(), read_only);
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

TEST(HostileImageTest, NeitherCrashesNorHangsNorPassesAsCleanWhenItIsNot) {
  const RichImage image = MakeRichImage();
  ImageEditor editor(*image.device);
  const std::vector<BlockNumber> blocks = Targets(editor);
  const uint64_t single = FromEnvironment("PBFS_HOSTILE_SEED", 0);
  const uint64_t images = FromEnvironment("PBFS_HOSTILE_IMAGES", kImagesDefault);
  const bool verbose = std::getenv("PBFS_HOSTILE_VERBOSE") != nullptr;
  for (uint64_t seed = 1; seed <= images; ++seed) {
    if (verbose) std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(seed));
    TryImage(image, blocks, single != 0 ? single : seed);
    if (single != 0) break;
  }
}

}  // namespace
}  // namespace pbfs
